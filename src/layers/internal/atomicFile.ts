/**
 * Small files that several processes write, renew and remove under one name without a lock, and nobody ever sees a half.
 *
 * Every function is one short run of synchronous calls on a directory that only we may enter: microseconds, and nothing of
 * this process comes between. Between processes the rules are: a file comes into place by rename or link only; what has
 * been looked at is held open, so its inode stays its own; and who is about to remove it moves it aside first and looks
 * again. Only regular files are ever opened, and never through a link.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  openSync,
  readSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  writeSync
} from "node:fs"
import { errorCode } from "./errorCode.ts"

export interface Glance {
  /** The first `limit + 1` bytes, so that a longer file shows. */
  readonly text: string
  readonly modifiedAt: number
}

/** Null when there is no such file, or it is none that may be read: a link, a directory, a pipe, a device. */
export const glance = (path: string, limit: number): Glance | null =>
  withFile(path, constants.O_RDONLY, (fd) => ({
    text: readText(fd, limit),
    modifiedAt: fstatSync(fd).mtimeMs
  }))

/** Puts a file into place, over whatever has the name. */
export const replaceFile = (path: string, beside: string, text: string): void => {
  writeBeside(beside, text, () => renameSync(beside, path))
}

/** Puts a file into place; false when the name is taken. */
export const createFile = (path: string, beside: string, text: string): boolean =>
  writeBeside(beside, text, () => {
    const linked = linkedUnlessTaken(beside, path)
    unlinkSync(beside)
    return linked
  })

/**
 * Changes the tail of a file where it lies; `edit` returns null to leave it alone. Not by rename: between a look and a
 * rename another process may have put its own file there, which would be lost. A write into the inode that was looked at
 * can only miss: then the name no longer leads to it afterwards, which is `absent` or `left`, and the caller looks again.
 */
export const editFile = (
  path: string,
  limit: number,
  edit: (text: string) => string | null
): "edited" | "left" | "absent" => {
  const outcome = withFile(path, constants.O_RDWR, (fd) => {
    const before = readText(fd, limit)
    const after = edit(before)
    if (after === null) return "left"
    // From the first byte that differs: a reader in the midst of it sees a few older digits at worst.
    const [old, fresh] = [Buffer.from(before), Buffer.from(after)]
    let same = 0
    while (same < old.length && same < fresh.length && old[same] === fresh[same]) same++
    writeSync(fd, fresh, same, fresh.length - same, same)
    if (fresh.length < old.length) ftruncateSync(fd, fresh.length)
    return leadsTo(path, fd) ? "edited" : "absent"
  })
  if (outcome !== null) return outcome
  return lstatSync(path, { throwIfNoEntry: false }) === undefined ? "absent" : "left"
}

/**
 * Removes a file if `doomed` says so of its text. Whether it did.
 *
 * Between the look and the removal a successor may put its file there, or the owner renew it where it lies. So it is moved
 * aside, and must then still be the same inode with a doomed text; else it goes back, unless the name is taken again, when
 * it has been replaced. An owner that renews later than that second look finds its name empty and puts the file back.
 */
export const removeFile = (
  path: string,
  aside: string,
  limit: number,
  doomed: (text: string) => boolean
): boolean =>
  withFile(path, constants.O_RDONLY, (fd) => {
    if (!doomed(readText(fd, limit))) return false
    try {
      renameSync(path, aside)
    } catch (error) {
      if (errorCode(error) === "ENOENT") return false
      throw error
    }
    const removed = leadsTo(aside, fd) && doomed(readText(fd, limit))
    if (!removed) linkedUnlessTaken(aside, path)
    unlinkSync(aside)
    return removed
  }) ?? false

const withFile = <A>(path: string, access: number, use: (fd: number) => A): A | null => {
  let fd: number
  try {
    // O_NONBLOCK: opening a pipe that nobody writes to would hang.
    fd = openSync(path, access | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    // ELOOP: a link (EMLINK on FreeBSD). EISDIR, ENXIO: a directory, or a pipe without a reader or socket.
    if (["ENOENT", "ELOOP", "EMLINK", "EISDIR", "ENXIO", "EOPNOTSUPP"].includes(errorCode(error) ?? ""))
      return null
    throw error
  }
  try {
    return fstatSync(fd).isFile() ? use(fd) : null
  } finally {
    closeSync(fd)
  }
}

/** A buffer a read, just above Node's pooled size, made a walk over 10,000 records a string of major collections. */
const scratch = Buffer.allocUnsafeSlow(8192)

const readText = (fd: number, limit: number): string => {
  const buffer = limit < scratch.length ? scratch.subarray(0, limit + 1) : Buffer.allocUnsafe(limit + 1)
  let length = 0
  while (length < buffer.length) {
    const read = readSync(fd, buffer, length, buffer.length - length, length)
    if (read === 0) break
    length += read
  }
  return buffer.toString("utf8", 0, length)
}

/** Inodes as bigint: those of overlay and network file systems pass 2^53. */
const leadsTo = (path: string, fd: number): boolean => {
  const there = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  const held = fstatSync(fd, { bigint: true })
  return there !== undefined && there.ino === held.ino && there.dev === held.dev
}

const linkedUnlessTaken = (from: string, to: string): boolean => {
  try {
    linkSync(from, to)
    return true
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false
    throw error
  }
}

/** Writes a new file, hands it to `place`, and leaves nothing of it when either fails. */
const writeBeside = <A>(beside: string, text: string, place: () => A): A => {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants
  const fd = openSync(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    try {
      // The umask may have taken bits from us.
      fchmodSync(fd, 0o600)
      writeFileSync(fd, text)
    } finally {
      closeSync(fd)
    }
    return place()
  } catch (error) {
    try {
      unlinkSync(beside)
    } catch {
      // A leftover, then; the next prune but one collects it.
    }
    throw error
  }
}
