/**
 * Reads a log from a cursor on: what is on disk from there, what is not yet from memory. A reader holds a cursor and nothing
 * else, so history and live are one thing to it, and one that stands still costs nobody anything.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import {
  keptBytes,
  locate,
  logEnd,
  type LogChunk,
  type LogPosition,
  LogReaderSlow,
  type LogState,
  marksFrom,
  maxTailLines,
  type ResizeMark,
  type RunLogReadError,
  RunLogUnreadable,
  type Segment,
  segmentEnd,
  tailLinesOffset
} from "../../services/RunLog.ts"
import { type DiskRefused, listSegments, readMarks, readSegment, segmentPath } from "./logFiles.ts"
import { makeSignal, type Signal } from "./signal.ts"

/** The largest chunk: one read of the disk, one message to a client. */
const chunkBytes = 64 * 1024

/** A log as readers see it, being written or not. */
export interface LogView {
  readonly directory: string
  readonly segments: () => ReadonlyArray<Segment>
  readonly marks: () => ReadonlyArray<ResizeMark>
  readonly state: () => LogState
  readonly end: () => number
  /** Shows what has just been appended: a busy log shows it with the next write. */
  readonly show: () => void
  /** Of the oldest byte there is. */
  readonly keptFrom: () => number
  /** A copy of bytes that are not on disk; null when that cursor's are, or are lost. */
  readonly unwritten: (cursor: number, limit: number) => Uint8Array | null
  /** Of the oldest byte that is not on disk. */
  readonly unwrittenFrom: () => number
  /** Nothing more will come. */
  readonly isOver: () => boolean
  readonly signal: Signal
  /** A segment that is there no more. */
  readonly forget: (segment: Segment) => void
}

/** Of a run that nobody writes for; null when nothing of it is kept. Throws what the disk says. */
export const viewOfFiles = (directory: string): LogView | null => {
  const found = listSegments(directory)
  if (found === null || found.length === 0) return null
  const segments = [...found]
  const end = logEnd(segments)
  const keptFrom = (): number => segments.find(({ bytes }) => bytes > 0)?.start ?? end
  const marks = marksFrom(readMarks(directory, end), keptFrom())
  return {
    directory,
    segments: () => segments,
    marks: () => marks,
    state: () => ({ _tag: "ok" }),
    end: () => end,
    show: () => undefined,
    keptFrom,
    unwritten: () => null,
    unwrittenFrom: () => end,
    isOver: () => true,
    signal: makeSignal(),
    forget: (gone) => {
      const index = segments.findIndex(({ start }) => start === gone.start)
      if (index !== -1) segments.splice(index, 1)
    }
  }
}

interface ReadOptions {
  readonly runId: string
  readonly from: LogPosition
  readonly follow: boolean
  readonly resizes: boolean
  readonly followerLagBytes: number
}

interface Place {
  readonly cursor: number
  /** Skipped right before the cursor. */
  readonly missing: number
  /** The last one delivered. */
  readonly mark: ResizeMark | null
  /** Not further than this. */
  readonly until: number
  /** It had caught up with the writer. */
  readonly live: boolean
  readonly started: boolean
}

/** The bytes at a cursor or, when they are lost, the next ones; null at the end. */
const readAt = (
  view: LogView,
  cursor: number,
  limit: number
): Effect.Effect<{ readonly cursor: number; readonly bytes: Uint8Array } | null, DiskRefused> =>
  Effect.suspend(() => {
    const held = view.unwritten(cursor, limit)
    if (held !== null) return Effect.succeed({ cursor, bytes: held })
    const found = locate(view.segments(), cursor)
    if (found === null) {
      const from = view.unwrittenFrom()
      return from > cursor && from < view.end() ? readAt(view, from, limit) : Effect.succeed(null)
    }
    const { segment, cursor: at } = found
    const length = Math.min(limit, segmentEnd(segment) - at)
    return Effect.flatMap(
      readSegment(segmentPath(view.directory, segment.start), at - segment.start, length),
      (bytes) => {
        if (bytes !== null && bytes.length > 0) return Effect.succeed({ cursor: at, bytes })
        // Rotated away since, or somebody cut it short.
        view.forget(segment)
        return readAt(view, cursor, limit)
      }
    )
  })

/** Backwards, a piece at a time. */
const tailLines = Effect.fnUntraced(function* (view: LogView, lines: number) {
  const end = view.end()
  if (lines === 0) return end
  let left = Math.min(lines, maxTailLines)
  for (let to = end; to > view.keptFrom();) {
    const from = Math.max(view.keptFrom(), to - chunkBytes)
    const pieces: Array<{ readonly cursor: number; readonly bytes: Uint8Array }> = []
    for (let at = from; at < to;) {
      const piece = yield* readAt(view, at, to - at)
      if (piece === null || piece.cursor >= to) break
      pieces.push(piece)
      at = piece.cursor + piece.bytes.length
    }
    for (const { cursor, bytes } of pieces.toReversed()) {
      const found = tailLinesOffset(bytes, left, cursor + bytes.length === end)
      if (found.offset !== null) return cursor + found.offset
      left = found.left
    }
    to = from
  }
  return view.keptFrom()
})

const cursorOf = (view: LogView, from: LogPosition): Effect.Effect<number, DiskRefused> => {
  switch (from._tag) {
    case "start":
      return Effect.sync(view.keptFrom)
    case "end":
      return Effect.sync(view.end)
    case "cursor":
      return Effect.succeed(from.cursor)
    case "tail-bytes":
      return Effect.sync(() => Math.max(view.keptFrom(), view.end() - from.bytes))
    case "tail-lines":
      return tailLines(view, from.lines)
  }
}

/** The next mark that has not been delivered. */
const markAfter = (marks: ReadonlyArray<ResizeMark>, place: Place): ResizeMark | null => {
  if (place.mark === null) return marksFrom(marks, place.cursor)[0] ?? null
  const index = marks.lastIndexOf(place.mark)
  return index === -1
    ? (marks.find(({ cursor }) => cursor >= place.cursor) ?? null)
    : (marks[index + 1] ?? null)
}

export const readLog = (
  view: LogView,
  options: ReadOptions
): Stream.Stream<LogChunk | ResizeMark, RunLogReadError> => {
  const { runId, follow, followerLagBytes } = options
  const unreadable = Effect.mapError(
    (error: DiskRefused) => new RunLogUnreadable({ runId, cause: error.cause })
  )
  const slow = (cursor: number): LogReaderSlow =>
    new LogReaderSlow({ runId, cursor, behind: view.end() - cursor })

  const next = Effect.fnUntraced(function* (
    from: Place
  ): Effect.fn.Return<readonly [LogChunk | ResizeMark, Place] | undefined, RunLogReadError> {
    const place: { -readonly [K in keyof Place]: Place[K] } = { ...from }
    for (;;) {
      const mark = options.resizes ? markAfter(view.marks(), place) : null
      if (mark !== null && mark.cursor <= place.cursor) return [mark, { ...place, mark }] as const
      const { cursor } = place
      if (cursor >= Math.min(place.until, view.end())) {
        if (!follow || view.isOver()) return undefined
        yield* view.signal.until(
          () =>
            view.end() > cursor ||
            view.isOver() ||
            (options.resizes && markAfter(view.marks(), place) !== mark)
        )
        place.live = true
        continue
      }
      const behind = view.end() - cursor
      const overtaken = cursor < view.keptFrom() && place.started
      if (follow && (overtaken || (place.live && behind > followerLagBytes))) return yield* slow(cursor)
      const limit = Math.min(chunkBytes, place.until - cursor, (mark?.cursor ?? Infinity) - cursor)
      const found = yield* unreadable(readAt(view, cursor, limit))
      if (found === null) return undefined
      if (found.cursor > cursor) {
        // There may be marks between.
        place.missing += found.cursor - cursor
        place.cursor = found.cursor
        continue
      }
      const chunk: LogChunk = { _tag: "chunk", cursor, bytes: found.bytes, missing: place.missing }
      return [chunk, { ...place, cursor: cursor + found.bytes.length, missing: 0, started: true }] as const
    }
  })

  return Stream.unwrap(
    unreadable(cursorOf(view, options.from)).pipe(
      Effect.map((cursor) =>
        Stream.unfold(
          {
            cursor,
            missing: 0,
            mark: null,
            until: follow ? Infinity : view.end(),
            live: false,
            started: false
          },
          next
        )
      )
    )
  )
}

export const keptIn = (view: LogView): number =>
  keptBytes(view.segments()) + Math.max(0, view.end() - view.unwrittenFrom())
