/**
 * Writes one log: bytes gather while a write is under way or has just been, and go to the disk together.
 *
 * A disk that takes nothing leaves the newest bytes in memory, said once; when it takes some again they are written, and
 * what they pushed out is the gap before a new segment.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { fstatSync, lstatSync } from "node:fs"
import {
  type LogLimits,
  type LogState,
  logEnd,
  marksFrom,
  maxResizeMarks,
  type ResizeMark,
  type RunLogWriter,
  type Segment,
  segmentEnd
} from "../../services/RunLog.ts"
import { type BlockPool, makeLogBuffer } from "./logBuffer.ts"
import {
  appendMarks,
  closeFile,
  DiskRefused,
  type LogDisk,
  onDisk,
  readMarks,
  removeSegment,
  replaceMarks,
  segmentPath
} from "./logFiles.ts"
import type { LogView } from "./logReader.ts"
import { makeSignal } from "./signal.ts"

/** Between two writes of a busy log; the first after a pause goes at once. At 70 MB/s it gathers 280 KB. */
const lingerMs = 4

/** Enough for one write; a busier log does not wait for more. */
const batchBytes = 256 * 1024

/** How long the end of a writer waits for the disk to take the rest. */
const closeTimeoutMs = 5_000

export interface LogWriterOptions {
  readonly runId: string
  readonly directory: string
  readonly found: ReadonlyArray<Segment>
  readonly disk: LogDisk
  readonly pool: BlockPool
  readonly limits: LogLimits
  /** Called before a new segment is begun: makes room for it. */
  readonly makeRoom: (log: LogView, now: number) => void
}

type Writable = { -readonly [K in keyof Segment]: Segment[K] }

export const startLogWriter = Effect.fnUntraced(function* (options: LogWriterOptions) {
  const { directory, disk, limits, runId } = options
  const segments: Array<Writable> = options.found.map((segment) => ({ ...segment }))
  const buffer = makeLogBuffer(logEnd(segments), options.pool)
  const signal = makeSignal()
  let fd: number | null = null
  let state: LogState = { _tag: "ok" }
  let visible = buffer.end()
  let writing = false
  let urgent = false
  let closing = false
  let over = false
  let lost = 0
  let lastWriteAt = Number.NEGATIVE_INFINITY
  let marks: ReadonlyArray<ResizeMark> = []
  let marksWritten = 0
  // A lost mark draws a screen a little wrong; it is no reason to refuse the log.
  yield* onDisk(() => {
    marks = marksFrom(readMarks(directory, buffer.end()), segments[0]?.start ?? 0)
    replaceMarks(directory, marks)
    marksWritten = marks.length
  }).pipe(Effect.ignore)

  const show = (): void => {
    visible = buffer.end()
    signal.notify()
  }

  const live: LogView = {
    directory,
    segments: () => segments,
    marks: () => marks,
    state: () => state,
    end: () => visible,
    show,
    keptFrom: () => segments.find(({ bytes }) => bytes > 0)?.start ?? buffer.start(),
    unwritten: (cursor, limit) =>
      cursor >= buffer.start() && cursor < visible
        ? buffer.copy(cursor, Math.min(limit, visible - cursor))
        : null,
    unwrittenFrom: () => buffer.start(),
    isOver: () => over,
    signal,
    forget: (gone) => {
      const index = segments.findIndex(({ start }) => start === gone.start)
      if (index !== -1) segments.splice(index, 1)
    }
  }

  const shrinkToTail = (): void => {
    const excess = buffer.size() - limits.tailBytes
    if (excess <= 0) return
    buffer.drop(excess)
    lost += excess
  }

  /** A refused disk holds nobody up; but what a write is reading from must not be dropped. */
  const takesAll = (): boolean => over || (state._tag === "degraded" && !writing)

  const push = (bytes: Uint8Array, from: number): number => {
    if (over) return bytes.length
    const room = takesAll() ? bytes.length - from : Math.max(0, limits.bufferBytes - buffer.size())
    const to = Math.min(bytes.length, from + room)
    if (!takesAll()) buffer.push(bytes, from, to)
    else
      // In pieces, so that one large chunk needs no more memory than many small ones.
      for (let at = from; at < to; at += limits.tailBytes) {
        buffer.push(bytes, at, Math.min(to, at + limits.tailBytes))
        shrinkToTail()
      }
    if (state._tag === "degraded") show()
    else signal.notify()
    return to
  }

  /** The segment that the next byte belongs to, opened. */
  const current = (now: number): Writable => {
    const last = segments.at(-1)
    if (last !== undefined && segmentEnd(last) === buffer.start() && last.bytes < limits.segmentBytes) {
      fd ??= disk.open(segmentPath(directory, last.start))
      return last
    }
    if (fd !== null) closeFile(fd)
    fd = null
    options.makeRoom(live, now)
    const next = { start: buffer.start(), bytes: 0, modifiedAt: now }
    fd = disk.open(segmentPath(directory, next.start))
    if (fstatSync(fd).size !== 0) throw new Error(`${segmentPath(directory, next.start)} is there already`)
    if (last?.bytes === 0) {
      removeSegment(directory, last.start)
      live.forget(last)
    }
    segments.push(next)
    return next
  }

  // There from now on, so that a run that prints nothing has an empty log and not none.
  if (segments.length === 0) {
    const now = yield* Clock.currentTimeMillis
    yield* onDisk(() => current(now)).pipe(Effect.ignore)
  }

  const writeMarks = (): void => {
    if (marksWritten === marks.length) return
    if (marks.length > maxResizeMarks) {
      marks = marksFrom(marks, live.keptFrom()).slice(-maxResizeMarks / 2)
      replaceMarks(directory, marks)
    } else appendMarks(directory, marks.slice(marksWritten))
    marksWritten = marks.length
  }

  const writeSome = Effect.fnUntraced(function* () {
    const now = yield* Clock.currentTimeMillis
    lastWriteAt = now
    urgent = false
    const segment = yield* onDisk(() => {
      // Before the bytes: a mark past the end is moved to it, one that is missing is missed.
      writeMarks()
      return buffer.size() === 0 ? null : current(now)
    })
    if (segment === null) return
    const slices = buffer.slices(limits.segmentBytes - segment.bytes)
    const written = yield* disk.write(fd!, slices)
    if (written <= 0) return yield* new DiskRefused({ cause: "it takes no bytes" })
    segment.bytes += written
    segment.modifiedAt = now
    buffer.drop(written)
  })

  const refused = Effect.fnUntraced(function* (reason: string) {
    const last = segments.at(-1)
    if (fd !== null) closeFile(fd)
    fd = null
    if (last !== undefined) {
      // What did arrive of a write that failed is there, and must not come twice.
      const size = yield* onDisk(() => lstatSync(segmentPath(directory, last.start)).size).pipe(
        Effect.orElseSucceed(() => last.bytes)
      )
      const arrived = Math.min(size - last.bytes, buffer.size())
      if (arrived > 0 && segmentEnd(last) === buffer.start()) {
        last.bytes += arrived
        buffer.drop(arrived)
      }
    }
    const since = state._tag === "degraded" ? state.since : yield* Clock.currentTimeMillis
    const first = state._tag === "ok"
    state = { _tag: "degraded", reason, since }
    shrinkToTail()
    if (first)
      yield* Effect.logWarning(
        `The log of run ${runId} cannot be written (${reason}); only its last ${limits.tailBytes} bytes are held until it can.`
      )
  })

  const write = Effect.fnUntraced(function* () {
    writing = true
    show()
    const result = yield* Effect.exit(writeSome())
    writing = false
    if (result._tag === "Failure") {
      const error = Cause.squash(result.cause)
      yield* refused(error instanceof DiskRefused ? error.reason : String(error))
    } else if (state._tag === "degraded") {
      state = { _tag: "ok" }
      yield* Effect.logInfo(`The log of run ${runId} is written again; ${lost} bytes of it are lost.`)
    }
    signal.notify()
    return result._tag === "Success"
  }, Effect.uninterruptible)

  const idle = (): boolean => buffer.size() === 0 && marksWritten === marks.length

  const loop = Effect.gen(function* () {
    for (;;) {
      yield* signal.until(() => closing || !idle())
      if (closing && idle()) return
      const now = yield* Clock.currentTimeMillis
      const wait = lastWriteAt + lingerMs - now
      if (wait > 0)
        yield* Effect.timeoutOption(
          signal.until(() => closing || urgent || buffer.size() >= batchBytes),
          wait
        )
      if (yield* write()) continue
      if (closing) return
      yield* Effect.timeoutOption(
        signal.until(() => closing),
        limits.retryMs
      )
    }
  })

  const fiber = yield* loop.pipe(
    Effect.tapCause((cause) => Effect.logError(`The writer of the log of run ${runId} is broken`, cause)),
    Effect.ensuring(
      Effect.sync(() => {
        over = true
        if (fd !== null) closeFile(fd)
        signal.notify()
      })
    ),
    // Not of the scope: the scope does not wait longer than the timeout for a disk that hangs.
    Effect.forkDetach
  )
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      closing = true
      signal.notify()
      return Effect.interruptible(Fiber.await(fiber)).pipe(
        Effect.timeoutOption(closeTimeoutMs),
        Effect.andThen(Effect.sync(() => void (over = true))),
        Effect.andThen(Effect.sync(signal.notify))
      )
    })
  )

  const append = (bytes: Uint8Array): Effect.Effect<void> => {
    const from = (at: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        const next = push(bytes, at)
        return next === bytes.length
          ? Effect.void
          : Effect.flatMap(
              signal.until(() => takesAll() || buffer.size() < limits.bufferBytes),
              () => from(next)
            )
      })
    return from(0)
  }

  const writer: RunLogWriter = {
    end: Effect.sync(() => buffer.end()),
    append,
    offerUnsafe: (bytes) => {
      if (!takesAll() && buffer.size() + bytes.length > limits.bufferBytes) return false
      push(bytes, 0)
      return true
    },
    resize: ({ cols, rows }) =>
      Effect.sync(() => {
        marks = [...marks, { _tag: "resize", cursor: buffer.end(), cols, rows }]
        signal.notify()
      }),
    flush: Effect.suspend(() => {
      const target = buffer.end()
      urgent = true
      signal.notify()
      return signal.until(() => over || state._tag === "degraded" || buffer.start() >= target)
    })
  }
  return { view: live, writer }
})
