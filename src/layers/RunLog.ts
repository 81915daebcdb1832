/** RunLog, live: one directory a run below `<state>/runs`, one writer fiber a log, readers that hold a cursor only. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import {
  gapBytes,
  isRunId,
  type KeptLog,
  type LogInfo,
  type LogPosition,
  overBudget,
  rotatedAway,
  RunLog,
  RunLogLimits,
  RunLogMissing,
  RunLogRefused,
  RunLogUnreadable,
  type Segment
} from "../services/RunLog.ts"
import { Settings } from "../services/Settings.ts"
import { makeBlockPool } from "./internal/logBuffer.ts"
import {
  listRuns,
  listSegments,
  type LogDisk,
  nodeDisk,
  onDisk,
  removeRest,
  removeSegment
} from "./internal/logFiles.ts"
import { keptIn, type LogView, readLog, viewOfFiles } from "./internal/logReader.ts"
import { startLogWriter } from "./internal/logWriter.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/RunLog.ts"

/** Directories looked at between two turns of the event loop, about a millisecond. */
const scannedAtOnce = 16

export const makeWith = Effect.fnUntraced(function* (disk: LogDisk) {
  const { paths } = yield* Settings
  const limits = yield* RunLogLimits
  const root = `${paths.state}/runs`
  const pool = makeBlockPool()
  const live = new Map<string, LogView>()
  const opening = new Set<string>()
  const finished = new Map<string, ReadonlyArray<Segment>>()

  const directoryOf = (runId: string): string => `${root}/${runId}`

  const forget = (runId: string, segment: Segment): void => {
    live.get(runId)?.forget(segment)
    const left = (finished.get(runId) ?? []).filter(({ start }) => start !== segment.start)
    if (left.length > 0) finished.set(runId, left)
    else if (finished.delete(runId)) removeRest(directoryOf(runId))
  }

  const keptLogs = (): ReadonlyArray<KeptLog> => [
    ...[...finished].map(([runId, segments]) => ({ runId, live: false, segments })),
    ...[...live].map(([runId, view]) => ({ runId, live: true, segments: view.segments() }))
  ]

  const keepBudget = (now: number): void => {
    for (const { runId, segment } of overBudget(keptLogs(), limits, now)) {
      try {
        removeSegment(directoryOf(runId), segment.start)
        forget(runId, segment)
      } catch {
        // It counts on, and is tried again with the next.
      }
    }
  }

  const makeRoom = (log: LogView, now: number): void => {
    for (const segment of rotatedAway(log.segments(), limits)) {
      removeSegment(log.directory, segment.start)
      log.forget(segment)
    }
    keepBudget(now)
  }

  const budget = Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => keepBudget(now)))

  // What earlier gateways left is counted while this one works already.
  yield* onDisk(() => listRuns(root)).pipe(
    Effect.orElseSucceed(() => []),
    Effect.flatMap((names) =>
      Effect.forEach(
        names.filter(isRunId),
        (runId, index) =>
          onDisk(() => {
            const segments = listSegments(directoryOf(runId)) ?? []
            if (segments.length > 0 && !live.has(runId) && !opening.has(runId)) finished.set(runId, segments)
          }).pipe(
            Effect.ignore,
            Effect.andThen(index % scannedAtOnce === scannedAtOnce - 1 ? Effect.yieldNow : Effect.void)
          ),
        { discard: true }
      )
    ),
    Effect.andThen(budget),
    Effect.forkScoped
  )

  const viewOf = Effect.fnUntraced(function* (runId: string) {
    yield* checked(runId)
    const view =
      live.get(runId) ??
      (yield* onDisk(() => viewOfFiles(directoryOf(runId))).pipe(
        Effect.mapError(({ cause }) => new RunLogUnreadable({ runId, cause }))
      ))
    view?.show()
    return view ?? (yield* new RunLogMissing({ runId }))
  })

  const open = Effect.fn("RunLog.open")(function* (runId: string) {
    yield* checked(runId)
    const directory = directoryOf(runId)
    yield* Effect.acquireRelease(
      Effect.suspend(() => {
        if (opening.has(runId)) return Effect.fail(new RunLogRefused({ runId, problem: "in-use" }))
        opening.add(runId)
        return Effect.void
      }),
      () =>
        Effect.sync(() => {
          const kept = live.get(runId)?.segments() ?? []
          live.delete(runId)
          opening.delete(runId)
          if (kept.length > 0) finished.set(runId, kept)
        }).pipe(Effect.andThen(budget))
    )
    yield* Effect.forEach([root, directory], ensurePrivateDirectory, { discard: true }).pipe(
      // A full or broken disk is no reason not to run; the log says so, and begins when it can.
      Effect.catchIf(
        ({ problem }) => problem === "unusable",
        () => Effect.void
      )
    )
    const found = yield* onDisk(() => listSegments(directory) ?? []).pipe(Effect.orElseSucceed(() => []))
    finished.delete(runId)
    const { view, writer } = yield* startLogWriter({ runId, directory, found, disk, pool, limits, makeRoom })
    live.set(runId, view)
    return writer
  })

  const replay = (runId: string, from: LogPosition, follow: boolean, resizes: boolean) =>
    Stream.unwrap(
      Effect.map(viewOf(runId), (view) =>
        readLog(view, { runId, from, follow, resizes, followerLagBytes: limits.followerLagBytes })
      )
    )

  return RunLog.of({
    open,
    read: (runId, from, { follow }) =>
      replay(runId, from, follow, false).pipe(Stream.filter((item) => item._tag === "chunk")),
    replay: (runId, from, { follow }) => replay(runId, from, follow, true),
    info: Effect.fn("RunLog.info")(function* (runId: string) {
      const view = yield* viewOf(runId)
      const segments = view.segments()
      const info: LogInfo = {
        runId,
        live: live.has(runId),
        state: view.state(),
        oldest: view.keptFrom(),
        end: view.end(),
        keptBytes: keptIn(view),
        lostBytes: gapBytes([
          ...segments,
          { start: view.unwrittenFrom(), bytes: view.end() - view.unwrittenFrom(), modifiedAt: 0 }
        ])
      }
      return info
    }),
    remove: Effect.fn("RunLog.remove")(function* (runId: string) {
      yield* checked(runId)
      if (opening.has(runId)) return yield* new RunLogRefused({ runId, problem: "in-use" })
      yield* onDisk(() => {
        const directory = directoryOf(runId)
        for (const { start } of listSegments(directory) ?? []) removeSegment(directory, start)
        finished.delete(runId)
        removeRest(directory)
      }).pipe(Effect.mapError(({ cause }) => new RunLogUnreadable({ runId, cause })))
    })
  })
})

export const make = makeWith(nodeDisk)

export const layer = Layer.effect(RunLog, make)

const checked = (runId: string): Effect.Effect<void, RunLogRefused> =>
  isRunId(runId) ? Effect.void : Effect.fail(new RunLogRefused({ runId, problem: "invalid-id" }))
