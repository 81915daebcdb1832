/**
 * RunLog: what a run has printed, byte for byte, on disk and bounded.
 *
 * A cursor is the number of bytes that the run had printed before: it never goes back, survives every restart, and means
 * the same to whoever holds it. A log is usable after any death of its writer: a torn last write is fewer bytes. Nothing is
 * synced, because what loses the page cache has killed the run too. One process writes below a state directory at a time.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { DirectoryRefused } from "./PrivateDirectory.ts"
import { WindowSize } from "./Run.ts"

/** The name of a run's directory: nothing that a path could be made of. */
export const isRunId = (runId: string): boolean => /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(runId)

/** Where a reader begins. */
export const LogPosition = Schema.Union([
  /** The oldest byte that is kept. */
  Schema.TaggedStruct("start", {}),
  /** What comes from now on. */
  Schema.TaggedStruct("end", {}),
  Schema.TaggedStruct("cursor", { cursor: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)) }),
  Schema.TaggedStruct("tail-lines", { lines: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)) }),
  Schema.TaggedStruct("tail-bytes", { bytes: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)) })
])
export type LogPosition = typeof LogPosition.Type

export const LogChunk = Schema.TaggedStruct("chunk", {
  /** Of the first byte. */
  cursor: Schema.Int,
  bytes: Schema.Uint8Array,
  /** So many bytes right before these were asked for and are kept no more; zero but after a gap. */
  missing: Schema.Int
})
export type LogChunk = typeof LogChunk.Type

/** The terminal has had this size since this cursor. */
export const ResizeMark = Schema.TaggedStruct("resize", { cursor: Schema.Int, ...WindowSize.fields })
export type ResizeMark = typeof ResizeMark.Type

export const LogState = Schema.Union([
  Schema.TaggedStruct("ok", {}),
  /** The disk takes nothing: only the newest bytes are held, in memory, and what they push out is lost. */
  Schema.TaggedStruct("degraded", { reason: Schema.String, since: Schema.Finite })
])
export type LogState = typeof LogState.Type

export const LogInfo = Schema.Struct({
  runId: Schema.String,
  /** Somebody writes to it. */
  live: Schema.Boolean,
  state: LogState,
  /** Of the oldest byte that is kept; `end` when none is. */
  oldest: Schema.Int,
  /** Of the next byte. */
  end: Schema.Int,
  keptBytes: Schema.Int,
  /** Printed while the disk took nothing, between `oldest` and `end`. */
  lostBytes: Schema.Int
})
export type LogInfo = typeof LogInfo.Type

export interface LogLimits {
  readonly bytesPerRun: number
  /** What goes at once when a log is full. */
  readonly segmentBytes: number
  /** Over all runs. */
  readonly totalBytes: number
  /** Output older than this goes, and with a run that is over all that is left of it. */
  readonly maxAgeMs: number
  /** Runs that are over and whose logs are kept. */
  readonly finishedLogs: number
  /** What may wait for the disk; then the run waits. */
  readonly bufferBytes: number
  /** What is held when the disk takes nothing. */
  readonly tailBytes: number
  /** How far a reader that had caught up may fall behind again. */
  readonly followerLagBytes: number
  /** Between two attempts to write to a disk that refused. */
  readonly retryMs: number
}

export const logLimits: LogLimits = {
  // About 200,000 lines, more than a terminal's owner scrolls back and an agent reads.
  bytesPerRun: 16 * 1024 * 1024,
  segmentBytes: 2 * 1024 * 1024,
  totalBytes: 512 * 1024 * 1024,
  maxAgeMs: 14 * 24 * 3_600_000,
  finishedLogs: 2_000,
  // 15 ms of the fastest PTY; a slower disk than that pauses it.
  bufferBytes: 1024 * 1024,
  tailBytes: 256 * 1024,
  // 60 ms of the fastest PTY: a reader on this machine is never so late, unless it stands still.
  followerLagBytes: 4 * 1024 * 1024,
  retryMs: 1_000
}

/** Resizes that one log remembers. A window that is dragged sends some tens. */
export const maxResizeMarks = 4_096

/** Asking for more lines than this is asking for the whole log. */
export const maxTailLines = 1_000_000

export class RunLogRefused extends Schema.TaggedError<RunLogRefused>()("RunLogRefused", {
  runId: Schema.String,
  problem: Schema.Literals(["invalid-id", "in-use"])
}) {
  override get message(): string {
    return this.problem === "in-use"
      ? `The log of run ${this.runId} is being written. Stop the run first.`
      : `${JSON.stringify(this.runId.slice(0, 80))} is no run id: letters, digits, - and _ only, at most 64.`
  }
}

export class RunLogMissing extends Schema.TaggedError<RunLogMissing>()("RunLogMissing", {
  runId: Schema.String
}) {
  override get message(): string {
    return `No log of run ${this.runId} is kept: it was removed, or made room for newer ones. \`holdfast ps -a\` lists the runs.`
  }
}

export class RunLogUnreadable extends Schema.TaggedError<RunLogUnreadable>()("RunLogUnreadable", {
  runId: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `The log of run ${this.runId} cannot be read. Check the disk under the state directory.`
  }
}

/** This reader only: the run and the other readers have not noticed. */
export class LogReaderSlow extends Schema.TaggedError<LogReaderSlow>()("LogReaderSlow", {
  runId: Schema.String,
  /** Of the first byte that was not delivered; reading on from here is possible as long as it is kept. */
  cursor: Schema.Int,
  behind: Schema.Int
}) {
  override get message(): string {
    return `This reader of run ${this.runId} is ${this.behind} bytes behind and was dropped. Read again from cursor ${this.cursor}, or attach anew.`
  }
}

/** Whoever writes it cannot be asked. */
export class RunLogUnavailable extends Schema.TaggedError<RunLogUnavailable>()("RunLogUnavailable", {
  runId: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `The log of run ${this.runId} cannot be read now. ${this.detail}`
  }
}

export type RunLogReadError =
  RunLogRefused | RunLogMissing | RunLogUnreadable | LogReaderSlow | RunLogUnavailable

/** A piece of a log: one file. */
export interface Segment {
  readonly start: number
  readonly bytes: number
  readonly modifiedAt: number
}

const segmentPattern = /^output\.(\d{16})\.log$/

/** Sixteen digits, as many as 2^53 has, so that names sort as cursors do. */
export const segmentName = (start: number): string => `output.${String(start).padStart(16, "0")}.log`

export const segmentStart = (name: string): number | null => {
  const digits = segmentPattern.exec(name)?.[1]
  return digits === undefined ? null : Number(digits)
}

export const segmentEnd = ({ start, bytes }: Segment): number => start + bytes

export const keptBytes = (segments: ReadonlyArray<Segment>): number =>
  segments.reduce((sum, { bytes }) => sum + bytes, 0)

export const logEnd = (segments: ReadonlyArray<Segment>): number => {
  const last = segments.at(-1)
  return last === undefined ? 0 : segmentEnd(last)
}

/** Where the byte of a cursor lies, or else the next one that is kept; null at the end. */
export const locate = (
  segments: ReadonlyArray<Segment>,
  cursor: number
): { readonly segment: Segment; readonly cursor: number } | null => {
  const segment = segments.find((segment) => segmentEnd(segment) > cursor)
  return segment === undefined ? null : { segment, cursor: Math.max(cursor, segment.start) }
}

/** Bytes that lie in no segment although later ones do. */
export const gapBytes = (segments: ReadonlyArray<Segment>): number =>
  segments.reduce((sum, segment, index) => {
    const before = segments[index - 1]
    return before === undefined ? sum : sum + Math.max(0, segment.start - segmentEnd(before))
  }, 0)

/** The oldest segments that must go so that one more fits; never the last. */
export const rotatedAway = (
  segments: ReadonlyArray<Segment>,
  limits: Pick<LogLimits, "bytesPerRun" | "segmentBytes">
): ReadonlyArray<Segment> => {
  let excess = keptBytes(segments) + limits.segmentBytes - limits.bytesPerRun
  return segments.slice(0, -1).filter(({ bytes }) => {
    if (excess <= 0) return false
    excess -= bytes
    return true
  })
}

export interface KeptLog {
  readonly runId: string
  readonly live: boolean
  /** Oldest first. */
  readonly segments: ReadonlyArray<Segment>
}

export interface Removal {
  readonly runId: string
  readonly segment: Segment
}

/**
 * What goes, so that all logs together keep to their limits: what is too old, then whole logs of runs that are over, the
 * one that ended first going first, then the oldest output of live ones; never a live run's last segment.
 */
export const overBudget = (
  logs: ReadonlyArray<KeptLog>,
  limits: Pick<LogLimits, "totalBytes" | "maxAgeMs" | "finishedLogs">,
  now: number
): ReadonlyArray<Removal> => {
  const removals: Array<Removal> = []
  let total = 0
  const finished: Array<KeptLog> = []
  const spare: Array<Removal> = []
  for (const log of logs) {
    total += keptBytes(log.segments)
    if (!log.live) finished.push(log)
    else for (const segment of log.segments.slice(0, -1)) spare.push({ runId: log.runId, segment })
  }
  const drop = (removal: Removal): void => {
    removals.push(removal)
    total -= removal.segment.bytes
  }
  const newest = ({ segments }: KeptLog): number => segments.at(-1)?.modifiedAt ?? 0
  let kept = finished.length
  for (const log of finished.toSorted((a, b) => newest(a) - newest(b))) {
    const old = newest(log) < now - limits.maxAgeMs
    if (!old && kept <= limits.finishedLogs && total <= limits.totalBytes) break
    kept--
    for (const segment of log.segments) drop({ runId: log.runId, segment })
  }
  for (const removal of spare.toSorted((a, b) => a.segment.modifiedAt - b.segment.modifiedAt)) {
    if (removal.segment.modifiedAt >= now - limits.maxAgeMs && total <= limits.totalBytes) break
    drop(removal)
  }
  return removals
}

export const encodeMark = ({ cursor, cols, rows }: ResizeMark): string => `${cursor} ${cols} ${rows}\n`

/** A torn last line is none; a mark past the end was written ahead of bytes that never came. */
export const decodeMarks = (text: string, end: number): ReadonlyArray<ResizeMark> =>
  [...text.matchAll(/^(\d{1,16}) (\d{1,4}) (\d{1,4})\n/gm)].map(([, cursor, cols, rows]) => ({
    _tag: "resize",
    cursor: Math.min(Number(cursor), end),
    cols: Number(cols),
    rows: Number(rows)
  }))

/** The marks that say something about bytes from `oldest` on: those after it, and the one in force there. */
export const marksFrom = (marks: ReadonlyArray<ResizeMark>, oldest: number): ReadonlyArray<ResizeMark> => {
  const after = marks.findIndex(({ cursor }) => cursor > oldest)
  const first = Math.max(0, (after === -1 ? marks.length : after) - 1)
  // Several at one place are one after the other in force there; what they did to the screen in between counts.
  let from = first
  while (from > 0 && marks[from - 1]!.cursor === marks[first]!.cursor && marks[first]!.cursor === oldest)
    from--
  return marks.slice(Math.max(from, marks.length - maxResizeMarks))
}

/**
 * Where in a piece of a log, read backwards, the last `lines` lines begin; null with the lines still to find before it. The
 * newline that ends the log begins no line.
 */
export const tailLinesOffset = (
  piece: Uint8Array,
  lines: number,
  endsLog: boolean
): { readonly offset: number | null; readonly left: number } => {
  let left = lines
  for (let at = piece.length - 1; at >= 0; at--) {
    if (piece[at] !== 0x0a || (endsLog && at === piece.length - 1)) continue
    if (--left === 0) return { offset: at + 1, left }
  }
  return { offset: null, left }
}

export interface RunLogWriter {
  /** Of the next byte. */
  readonly end: Effect.Effect<number>
  /**
   * Takes the bytes, in full, and copies them; waits only while more than `bufferBytes` wait for the disk. One fiber appends
   * at a time. Interrupting it may leave a part of them behind.
   */
  readonly append: (bytes: Uint8Array) => Effect.Effect<void>
  /** The same at the edge, for a callback: false, and nothing taken, when they must wait. Then pause, and `append` them. */
  readonly offerUnsafe: (bytes: Uint8Array) => boolean
  /** The terminal's size from here on. */
  readonly resize: (size: WindowSize) => Effect.Effect<void>
  /** All that was appended before is on disk, or, on a disk that takes nothing, in the tail. */
  readonly flush: Effect.Effect<void>
}

export class RunLog extends Context.Service<
  RunLog,
  {
    /** Opens a log to write on where it ends, and creates it. It is over, and its followers are, with the scope. */
    readonly open: (
      runId: string
    ) => Effect.Effect<RunLogWriter, RunLogRefused | DirectoryRefused, Scope.Scope>
    /**
     * The bytes from a position on; with `follow` also those that come until the writer is gone. No gap but those that
     * `missing` counts, and no byte twice. A follower that falls behind is dropped; it never slows the writer.
     */
    readonly read: (
      runId: string,
      from: LogPosition,
      options: { readonly follow: boolean }
    ) => Stream.Stream<LogChunk, RunLogReadError>
    /** The same with the resizes in their places, the size in force at the position first. */
    readonly replay: (
      runId: string,
      from: LogPosition,
      options: { readonly follow: boolean }
    ) => Stream.Stream<LogChunk | ResizeMark, RunLogReadError>
    readonly info: (
      runId: string
    ) => Effect.Effect<LogInfo, RunLogRefused | RunLogMissing | RunLogUnreadable | RunLogUnavailable>
    /** Gone for good; no error when there is none. Refused while it is being written. */
    readonly remove: (runId: string) => Effect.Effect<void, RunLogRefused | RunLogUnreadable>
  }
>()("holdfast/RunLog") {}

/** Embedders and tests may provide their own. */
export class RunLogLimits extends Context.Reference<LogLimits>("holdfast/RunLogLimits", {
  defaultValue: () => logLimits
}) {}
