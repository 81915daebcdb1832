/**
 * The runs of a keeper, as PtySupervisor says it. Where there is no keeper there is no live run, and the ledger knows the rest;
 * what a lost one held is told from the ledger as soon as it has been dealt with.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Keeper, KeeperLink } from "../../services/Keeper.ts"
import {
  findRun,
  infoOfRecord,
  KeeperUnavailable,
  maxRuns,
  newestFirst,
  type PtySupervisor,
  type RunInfo,
  RunInputRefused,
  RunNotFound,
  RunStillLive
} from "../../services/PtySupervisor.ts"
import type { RunLog } from "../../services/RunLog.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { passed } from "./passedVariables.ts"
import type { Ledger } from "./runLedger.ts"

export interface KeptRunsOptions {
  readonly keeper: Keeper["Service"]
  readonly ledger: Ledger
  readonly log: Pick<RunLog["Service"], "remove">
  /** Of this process: what a run gets of it is chosen by name, here and not by a keeper that an earlier one started. */
  readonly environment: SettingsShape["environment"]
}

const isLost = (error: unknown): error is KeeperUnavailable =>
  error instanceof KeeperUnavailable && error.problem === "lost"

export const makeKeptRuns = ({
  keeper,
  ledger,
  log,
  environment
}: KeptRunsOptions): PtySupervisor["Service"] => {
  const past = ledger.past("", maxRuns).pipe(
    Effect.map((records) => newestFirst(records.map(infoOfRecord))),
    Effect.catch((error) => Effect.as(Effect.logWarning(error.message, error.cause), []))
  )
  const pastRun = (runId: string): Effect.Effect<RunInfo, RunNotFound> =>
    Effect.flatMap(past, (all) => {
      const found = all.find(({ id }) => id === runId)
      return found === undefined ? Effect.fail(new RunNotFound({ ref: runId })) : Effect.succeed(found)
    })

  /** Asks the keeper there is; without one, or when it was lost while it was asked, the ledger. */
  const ask = <A, E, E2>(
    question: (link: KeeperLink) => Effect.Effect<A, E>,
    otherwise: Effect.Effect<A, E2>
  ): Effect.Effect<A, E | E2 | KeeperUnavailable> =>
    Effect.flatMap(keeper.current, (link): Effect.Effect<A, E | E2> => {
      if (link === null) return otherwise
      return Effect.catchIf(question(link), isLost, () =>
        Effect.andThen(link.settled, otherwise)
      ) as Effect.Effect<A, E | E2>
    })

  const notRunning = (runId: string) =>
    Effect.andThen(pastRun(runId), Effect.fail(new RunInputRefused({ runId, problem: "not-running" })))

  const list = ask<ReadonlyArray<RunInfo>, KeeperUnavailable, never>(({ client }) => client.List(), past)

  const start: PtySupervisor["Service"]["start"] = Effect.fn("PtySupervisor.start")(function* (
    spec,
    variables = {}
  ) {
    const { client } = yield* keeper.link
    return yield* client.Start({ spec, variables: { ...passed(environment), ...spec.env, ...variables } })
  })

  const end: PtySupervisor["Service"]["end"] = Effect.fn("PtySupervisor.end")(function* (runId, how) {
    return yield* ask(({ client }) => client.End({ runId, ...how }), pastRun(runId))
  })

  return {
    reconciled: keeper.reconciled,
    start,
    spawn: Effect.fn("PtySupervisor.spawn")(function* (spec, variables = {}) {
      return yield* Effect.acquireRelease(start(spec, variables), ({ id }) =>
        Effect.ignore(end(id, { by: "scope", graceMs: null }))
      )
    }),
    list,
    find: Effect.fn("PtySupervisor.find")(function* (ref) {
      return yield* ask(
        ({ client }) => client.Find({ ref }),
        Effect.flatMap(past, (all) => Effect.fromResult(findRun(all, ref)))
      )
    }),
    watch: (runId) =>
      Stream.unwrap(
        Effect.map(keeper.current, (link) => {
          const told = Stream.fromEffect(pastRun(runId))
          if (link === null) return told
          const ended = Stream.unwrap(Effect.as(link.settled, told))
          return Stream.catchIf(link.client.Watch({ runId }), isLost, () => ended)
        })
      ),
    end,
    write: Effect.fn("PtySupervisor.write")(function* (runId, bytes) {
      return yield* ask(({ client }) => client.Write({ runId, bytes }), notRunning(runId))
    }),
    closeInput: Effect.fn("PtySupervisor.closeInput")(function* (runId) {
      return yield* ask(({ client }) => client.CloseInput({ runId }), notRunning(runId))
    }),
    resize: Effect.fn("PtySupervisor.resize")(function* (runId, size) {
      return yield* ask(({ client }) => client.Resize({ runId, size }), Effect.asVoid(pastRun(runId)))
    }),
    remove: Effect.fn("PtySupervisor.remove")(function* (runId) {
      const removed = Effect.gen(function* () {
        if ((yield* pastRun(runId)).endedAt === null) return yield* new RunStillLive({ runId })
        yield* ledger.remove(runId)
        yield* Effect.catch(log.remove(runId), (error) => Effect.logWarning(error.message))
      })
      return yield* ask(({ client }) => client.Remove({ runId }), removed)
    })
  }
}
