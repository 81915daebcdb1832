/** The files of a run's log: segments named by their first cursor, and the resize marks beside them. All are 0600. */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import {
  close,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  read,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
  writev
} from "node:fs"
import {
  decodeMarks,
  encodeMark,
  type ResizeMark,
  type Segment,
  segmentName,
  segmentStart
} from "../../services/RunLog.ts"
import { replaceFile } from "./atomicFile.ts"
import { errorCode } from "./errorCode.ts"

/** What the system said to a call on a log's files. */
export class DiskRefused extends Data.TaggedError("DiskRefused")<{ readonly cause: unknown }> {
  get reason(): string {
    const { cause } = this
    return errorCode(cause) ?? (cause instanceof Error ? cause.message : String(cause))
  }
}

/** How bytes reach the disk; a test puts a full or broken one here. */
export interface LogDisk {
  /** Opens a file to append to, creating it; throws as `openSync` does. */
  readonly open: (path: string) => number
  /** How many of the bytes were taken. */
  readonly write: (fd: number, buffers: ReadonlyArray<Uint8Array>) => Effect.Effect<number, DiskRefused>
}

export const onDisk = <A>(call: () => A): Effect.Effect<A, DiskRefused> =>
  Effect.try({ try: call, catch: (cause) => new DiskRefused({ cause }) })

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants

const openToAppend = (path: string): number => {
  const fd = openSync(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    if (!fstatSync(fd).isFile()) throw new Error(`${path} is not a regular file`)
    // The umask may have taken bits from us.
    fchmodSync(fd, 0o600)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

export const nodeDisk: LogDisk = {
  open: openToAppend,
  write: (fd, buffers) =>
    Effect.callback<number, DiskRefused>((resume) => {
      writev(fd, buffers, (cause, written) =>
        resume(cause ? Effect.fail(new DiskRefused({ cause })) : Effect.succeed(written))
      )
    })
}

/** In the thread pool: a close may wait for a slow disk. Nobody waits for it. */
export const closeFile = (fd: number): void => close(fd, () => undefined)

export const segmentPath = (directory: string, start: number): string => `${directory}/${segmentName(start)}`

const marksPath = (directory: string): string => `${directory}/output.marks`

/** Oldest first; null when there is no such directory. */
export const listSegments = (directory: string): Array<Segment> | null => {
  const names = unless("ENOENT", () => readdirSync(directory))
  if (names === null) return null
  return names.toSorted().flatMap((name) => {
    const start = segmentStart(name)
    if (start === null) return []
    const stats = lstatSync(`${directory}/${name}`, { throwIfNoEntry: false })
    return stats?.isFile() ? [{ start, bytes: stats.size, modifiedAt: stats.mtimeMs }] : []
  })
}

/** The bytes of a file that is still there; null when it is not. */
export const readSegment = (
  path: string,
  offset: number,
  length: number
): Effect.Effect<Uint8Array | null, DiskRefused> =>
  Effect.callback((resume) => {
    let fd: number
    try {
      fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    } catch (cause) {
      return resume(
        errorCode(cause) === "ENOENT" ? Effect.succeed(null) : Effect.fail(new DiskRefused({ cause }))
      )
    }
    // Opened and read at once, and not held: a reader that stands still must not keep a removed file's blocks.
    read(fd, Buffer.allocUnsafeSlow(length), 0, length, offset, (cause, count, buffer) => {
      closeFile(fd)
      resume(cause ? Effect.fail(new DiskRefused({ cause })) : Effect.succeed(buffer.subarray(0, count)))
    })
  })

export const removeSegment = (directory: string, start: number): void => {
  unless("ENOENT", () => unlinkSync(segmentPath(directory, start)))
}

/** Names below the directory of all runs; none when there is no such directory. */
export const listRuns = (root: string): ReadonlyArray<string> =>
  unless("ENOENT", () => readdirSync(root)) ?? []

export const readMarks = (directory: string, end: number): ReadonlyArray<ResizeMark> =>
  decodeMarks(unless("ENOENT", () => readFileSync(marksPath(directory), "latin1")) ?? "", end)

export const appendMarks = (directory: string, marks: ReadonlyArray<ResizeMark>): void => {
  const fd = openToAppend(marksPath(directory))
  try {
    writeFileSync(fd, marks.map(encodeMark).join(""))
  } finally {
    closeSync(fd)
  }
}

export const replaceMarks = (directory: string, marks: ReadonlyArray<ResizeMark>): void => {
  const beside = `${marksPath(directory)}.new`
  unless("ENOENT", () => unlinkSync(beside))
  replaceFile(marksPath(directory), beside, marks.map(encodeMark).join(""))
}

/** What is beside the segments; and the directory, when nothing of others is in it. */
export const removeRest = (directory: string): void => {
  unless("ENOENT", () => unlinkSync(marksPath(directory)))
  try {
    rmdirSync(directory)
  } catch (error) {
    if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(errorCode(error) ?? "")) throw error
  }
}

const unless = <A>(code: string, look: () => A): A | null => {
  try {
    return look()
  } catch (error) {
    if (errorCode(error) === code) return null
    throw error
  }
}
