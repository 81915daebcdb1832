/**
 * Private files that are there for good: on the disk before anybody relies on them, never seen half, and believed only as
 * long as nobody else could have read or written them. They lie in directories that only we may enter.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { errorCode } from "./errorCode.ts"
import { effectiveUid } from "./privateDirectory.ts"

const fileMode = 0o600

type FileProblem = "unreadable" | "refused" | "wrong-mode"

export type PrivateFile =
  | { readonly _tag: "absent" }
  | { readonly _tag: "text"; readonly text: string }
  | { readonly _tag: "problem"; readonly problem: FileProblem }

const problemOf = (problem: FileProblem): PrivateFile => ({ _tag: "problem", problem })

/** A link, or what cannot be opened as a file: EMLINK is FreeBSD's word for the first. */
const noFile = new Set(["ELOOP", "EMLINK", "EISDIR", "ENXIO", "EOPNOTSUPP"])

/** A file of ours that is 0600; longer than `limit` bytes is unreadable. */
export const readPrivateFile = (file: string, limit: number): PrivateFile => {
  let fd: number
  try {
    // O_NONBLOCK: opening a pipe that nobody writes to would hang.
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
  } catch (error) {
    const code = errorCode(error) ?? ""
    if (code === "ENOENT") return { _tag: "absent" }
    return problemOf(noFile.has(code) ? "refused" : "unreadable")
  }
  try {
    const stats = fs.fstatSync(fd)
    if (!stats.isFile() || stats.uid !== effectiveUid()) return problemOf("refused")
    if ((stats.mode & 0o7777) !== fileMode) return problemOf("wrong-mode")
    const text = readBounded(fd, limit)
    return text === null ? problemOf("unreadable") : { _tag: "text", text }
  } catch {
    return problemOf("unreadable")
  } finally {
    fs.closeSync(fd)
  }
}

/** Null when there is more than `limit` bytes. */
export const readBounded = (fd: number, limit: number): string | null => {
  const buffer = Buffer.alloc(limit + 1)
  let length = 0
  while (length < buffer.length) {
    const read = fs.readSync(fd, buffer, length, buffer.length - length, length)
    if (read === 0) break
    length += read
  }
  return length > limit ? null : buffer.toString("utf8", 0, length)
}

/** Puts a file into place durably, and reads it back; false when the name is taken, whatever by. Throws when it cannot. */
export const createDurable = (file: string, beside: string, text: string): boolean => {
  const created = writeBeside(beside, text, () => {
    try {
      // Not by rename, which would take the place of whoever was faster.
      fs.linkSync(beside, file)
      return true
    } catch (error) {
      if (errorCode(error) === "EEXIST") return false
      throw error
    } finally {
      fs.unlinkSync(beside)
    }
  })
  syncDirectories(file)
  if (created) verifyWritten(file, text)
  return created
}

/** The same over a file that is there. Another process may replace it at once, so that it is not read back here. */
export const replaceDurable = (file: string, beside: string, text: string): void => {
  writeBeside(beside, text, () => fs.renameSync(beside, file))
  syncDirectories(file)
}

const writeBeside = <A>(beside: string, text: string, place: () => A): A => {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = fs.constants
  const fd = fs.openSync(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, fileMode)
  try {
    try {
      // The umask may have taken bits from us.
      fs.fchmodSync(fd, fileMode)
      fs.writeFileSync(fd, text)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    return place()
  } catch (error) {
    fs.rmSync(beside, { force: true })
    throw error
  }
}

/** The name of the file, and of its directory, which may be new too. */
const syncDirectories = (file: string): void => {
  for (const directory of [path.dirname(file), path.dirname(path.dirname(file))]) {
    const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
    try {
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  }
}

const verifyWritten = (file: string, text: string): void => {
  const found = readPrivateFile(file, Buffer.byteLength(text))
  if (found._tag !== "text" || found.text !== text) throw new Error(`${file} does not hold what was written`)
}
