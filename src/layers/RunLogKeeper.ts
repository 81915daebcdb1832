/**
 * RunLog, of a gateway: the keeper writes the logs and is asked for them; without one nobody writes, and they are read where
 * they lie.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as path from "node:path"
import { Keeper, type KeeperLink } from "../services/Keeper.ts"
import { KeeperUnavailable } from "../services/PtySupervisor.ts"
import {
  gapBytes,
  isRunId,
  type LogChunk,
  type LogInfo,
  type LogPosition,
  type ResizeMark,
  RunLog,
  RunLogLimits,
  RunLogMissing,
  type RunLogReadError,
  RunLogRefused,
  RunLogUnavailable,
  RunLogUnreadable
} from "../services/RunLog.ts"
import { Settings } from "../services/Settings.ts"
import { listSegments, onDisk, removeRest, removeSegment } from "./internal/logFiles.ts"
import { keptIn, readLog, viewOfFiles } from "./internal/logReader.ts"

export * from "../services/RunLog.ts"

export const make = Effect.gen(function* () {
  const keeper = yield* Keeper
  const limits = yield* RunLogLimits
  const root = path.join((yield* Settings).paths.state, "runs")
  const directoryOf = (runId: string) => path.join(root, runId)

  const viewOf = Effect.fnUntraced(function* (runId: string) {
    yield* checked(runId)
    const view = yield* onDisk(() => viewOfFiles(directoryOf(runId))).pipe(
      Effect.mapError(({ cause }) => new RunLogUnreadable({ runId, cause }))
    )
    return view ?? (yield* new RunLogMissing({ runId }))
  })

  const ask = <A, E, E2>(
    runId: string,
    question: (link: KeeperLink) => Effect.Effect<A, E | KeeperUnavailable>,
    otherwise: Effect.Effect<A, E2>
  ): Effect.Effect<A, E | E2 | RunLogUnavailable> =>
    keeper.current.pipe(
      Effect.flatMap((link): Effect.Effect<A, E | E2 | KeeperUnavailable> =>
        link === null ? otherwise : question(link)
      ),
      Effect.catch((error): Effect.Effect<never, E | E2 | RunLogUnavailable> =>
        Effect.fail(
          error instanceof KeeperUnavailable
            ? unavailable(runId)(error)
            : (error as Exclude<E | E2, KeeperUnavailable>)
        )
      )
    )

  const items = (
    runId: string,
    from: LogPosition,
    follow: boolean,
    resizes: boolean
  ): Stream.Stream<LogChunk | ResizeMark, RunLogReadError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        const link = yield* Effect.mapError(keeper.current, unavailable(runId))
        if (link === null)
          return readLog(yield* viewOf(runId), {
            runId,
            from,
            follow,
            resizes,
            followerLagBytes: limits.followerLagBytes
          })
        return Stream.mapError(
          link.client.ReadLog({ runId, from, follow, resizes }),
          (error): RunLogReadError => (error instanceof KeeperUnavailable ? unavailable(runId)(error) : error)
        )
      })
    )

  return RunLog.of({
    open: (runId) => Effect.fail(new RunLogRefused({ runId, problem: "in-use" })),
    read: (runId, from, { follow }) =>
      items(runId, from, follow, false).pipe(Stream.filter((item) => item._tag === "chunk")),
    replay: (runId, from, { follow }) => items(runId, from, follow, true),
    info: Effect.fn("RunLog.info")(function* (runId) {
      return yield* ask(
        runId,
        ({ client }) => client.LogInfo({ runId }),
        Effect.map(viewOf(runId), (view): LogInfo => ({
          runId,
          live: false,
          state: view.state(),
          oldest: view.keptFrom(),
          end: view.end(),
          keptBytes: keptIn(view),
          lostBytes: gapBytes(view.segments())
        }))
      )
    }),
    remove: Effect.fn("RunLog.remove")(function* (runId) {
      yield* checked(runId)
      const removed = onDisk(() => {
        const directory = directoryOf(runId)
        for (const { start } of listSegments(directory) ?? []) removeSegment(directory, start)
        removeRest(directory)
      }).pipe(Effect.mapError(({ cause }) => new RunLogUnreadable({ runId, cause })))
      return yield* ask(runId, ({ client }) => client.RemoveLog({ runId }), removed).pipe(
        Effect.catchTag("RunLogUnavailable", ({ message }) =>
          Effect.fail(new RunLogUnreadable({ runId, cause: new Error(message) }))
        )
      )
    })
  })
})

export const layer = Layer.effect(RunLog, make)

const unavailable = (runId: string) => (error: KeeperUnavailable) =>
  new RunLogUnavailable({ runId, detail: error.message })
const checked = (runId: string) =>
  isRunId(runId) ? Effect.void : Effect.fail(new RunLogRefused({ runId, problem: "invalid-id" }))
