/**
 * Worlds of fake children, each on a ledger of its own, and what only the tests of PtySupervisor look at: which output was kept
 * before the ledger knew its run, and a child that prints while somebody else writes.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { PtySupervisor } from "../../src/services/PtySupervisor.ts"
import { FakeChildren, layer } from "../../src/testing/PtySupervisor.ts"
import { FakeRunLog } from "../../src/testing/RunLog.ts"

/** `hasty*` prints at once, while a transaction is open that ends by `letWrite`. */
export const fakeSupervisor = Effect.gen(function* () {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const services = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
  const children = Context.get(services, FakeChildren)
  const logs = Context.get(services, FakeRunLog)
  const sql = Context.get(services, SqlClient)
  const writable = Deferred.makeUnsafe<void>()
  let early = 0
  let kept = 0

  yield* children.whenStarted((command) =>
    Effect.gen(function* () {
      if (!command.startsWith("hasty")) return
      yield* children.prints(command, "up")
      const held = yield* Deferred.make<void>()
      yield* Deferred.succeed(held, undefined).pipe(
        Effect.andThen(Deferred.await(writable)),
        sql.withTransaction,
        Effect.orDie,
        Effect.forkIn(scope)
      )
      yield* Deferred.await(held)
    })
  )
  yield* logs.whenKept((runId) => {
    // At this very moment: a look that has to wait for somebody's write would see what that wrote.
    const look = Effect.runSyncExit(
      sql<{ readonly pid: number | null }>`SELECT pid FROM runs WHERE run_id = ${runId}`
    )
    if (Exit.isFailure(look) || look.value[0]?.pid == null) early += 1
    kept += 1
  })
  return {
    ...children,
    runs: Context.get(services, PtySupervisor),
    sql,
    removedLogs: logs.removed,
    /** Pieces of output that were kept, and those of them while the ledger did not know the run's leader. */
    output: () => ({ kept, early }),
    /** What a `hasty` one, which prints at once, has kept others from writing is written. */
    letWrite: Deferred.succeed(writable, undefined),
    close: Scope.close(scope, Exit.void)
  }
})

type FakeWorld = Effect.Success<typeof fakeSupervisor>

/** Waits until the run is in a state. */
export const until = ({ runs }: FakeWorld, runId: string, state: string) =>
  runs.watch(runId).pipe(
    Stream.takeUntil((info) => info.state === state),
    Stream.runLast
  )

/** As it is when it is over. */
export const last = ({ runs }: FakeWorld, runId: string) =>
  Effect.map(Stream.runCollect(runs.watch(runId)), (all) => all.at(-1)!)
