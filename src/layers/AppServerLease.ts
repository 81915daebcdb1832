/** AppServerLease, live: the lease's actor under the supervisor `leases`, a scope per child generation. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import type * as Actor from "../services/Actor.ts"
import {
  absentLease,
  AppServerLease,
  describeLease,
  type LeaseAction,
  type LeaseEvent,
  type LeaseInfo,
  type LeaseState,
  LeaseTimeout,
  nextLease
} from "../services/AppServerLease.ts"
import {
  type AppServerConnection,
  AppServerProcess,
  AppServerUnavailable
} from "../services/AppServerProcess.ts"
import { Settings } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"

export * from "../services/AppServerLease.ts"

/** More borrows in flight than any machine can run agents; borrowers wait when it is full. */
const mailboxCapacity = 1024

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const { start } = yield* AppServerProcess
  const supervisor = yield* (yield* SupervisionTree).supervisor("leases")
  const key = settings.codex.home
  const { idleGraceMs, handshakeTimeoutMs, exitGraceMs } = settings.lease
  const waiters = new Map<number, Deferred.Deferred<AppServerConnection, AppServerUnavailable>>()
  const children = new Map<number, Scope.Closeable>()
  let lastClaim = 0
  let lastGeneration = 0
  let lastLost: LeaseInfo["lastLost"] = null

  const startChild = (generation: number, self: Actor.Self<LeaseEvent>) =>
    Effect.gen(function* () {
      lastGeneration = generation
      const scope = yield* Scope.fork(self.scope)
      children.set(generation, scope)
      const exit = yield* Effect.exit(Scope.provide(start(generation), scope))
      if (Exit.isFailure(exit)) {
        const error = Option.getOrElse(
          Cause.findErrorOption(exit.cause),
          () =>
            new AppServerUnavailable({
              stage: "spawn",
              problem: "starting it broke; the gateway's log says how."
            })
        )
        if (Cause.hasDies(exit.cause)) yield* Effect.logError("starting the app-server broke", exit.cause)
        yield* self.tell({ _tag: "StartFailed", generation, error })
        return
      }
      yield* self.tell({ _tag: "Started", generation, connection: exit.value })
      yield* self.tell({ _tag: "Lost", generation, error: yield* exit.value.lost })
    })

  const stopChild = (generation: number, self: Actor.Self<LeaseEvent>) =>
    Effect.suspend(() => {
      const scope = children.get(generation)
      children.delete(generation)
      return scope ? Scope.close(scope, Exit.void) : Effect.void
    }).pipe(Effect.andThen(self.tell({ _tag: "Stopped", generation })))

  const settle = (
    claim: number,
    outcome: Effect.Effect<AppServerConnection, AppServerUnavailable>
  ): Effect.Effect<void> =>
    Effect.suspend(() => {
      const waiter = waiters.get(claim)
      return waiter ? Deferred.complete(waiter, outcome) : Effect.void
    }).pipe(Effect.asVoid)

  const perform = (action: LeaseAction, self: Actor.Self<LeaseEvent>): Effect.Effect<void> => {
    const fork = (effect: Effect.Effect<unknown, unknown>) =>
      effect.pipe(Effect.ignore, Effect.forkIn(self.scope), Effect.asVoid)
    switch (action._tag) {
      case "Start":
        return fork(startChild(action.generation, self))
      case "Stop":
        return fork(stopChild(action.generation, self))
      case "Grant":
        return settle(action.claim, Effect.succeed(action.connection))
      case "Refuse":
        return settle(action.claim, Effect.fail(action.error))
      case "StartIdleTimer":
        return fork(
          Effect.andThen(
            Effect.sleep(idleGraceMs),
            self.tell({ _tag: "IdleElapsed", generation: action.generation, idleTimer: action.idleTimer })
          )
        )
      case "NoteLost":
        return Effect.gen(function* () {
          const { generation, reason, stderrTail } = action.error
          lastLost = { generation, reason, stderrTail, at: yield* Clock.currentTimeMillis }
          yield* Effect.annotateLogs(Effect.logWarning(action.error.message), { generation, stderrTail })
        })
    }
  }

  const actor = yield* supervisor
    .start<LeaseState, LeaseEvent, LeaseAction, never>(
      { id: key, restart: "permanent", shutdownMs: exitGraceMs + 5000 },
      {
        name: "the app-server lease",
        initial: () => absentLease(lastGeneration),
        next: nextLease,
        perform,
        mailbox: { capacity: mailboxCapacity, overflow: "wait" },
        describe: describeLease
      }
    )
    .pipe(Effect.orDie)

  const borrow = Effect.gen(function* () {
    const claim = ++lastClaim
    const waiter = yield* Deferred.make<AppServerConnection, AppServerUnavailable>()
    // The claim is given back on every way out, in the step that made it: no interruption can fall in between.
    yield* Effect.acquireRelease(
      Effect.suspend(() => {
        waiters.set(claim, waiter)
        return Effect.orDie(actor.tell({ _tag: "Borrow", claim }))
      }),
      () =>
        Effect.suspend(() => {
          waiters.delete(claim)
          return Effect.ignore(actor.tell({ _tag: "GiveBack", claim }))
        })
    )
    return yield* Effect.timeoutOrElse(Deferred.await(waiter), {
      duration: handshakeTimeoutMs,
      orElse: () => Effect.fail(new LeaseTimeout({ timeoutMs: handshakeTimeoutMs }))
    })
  })

  return AppServerLease.of({
    borrow,
    list: Effect.map(actor.state, (state): ReadonlyArray<LeaseInfo> => {
      const connection = state._tag === "Ready" ? state.connection : null
      return [
        {
          key,
          state: state._tag,
          generation: state.generation,
          borrowers: state._tag === "Ready" ? state.holding.size : 0,
          pid: connection?.pid ?? null,
          version: connection?.version ?? null,
          lastLost
        }
      ]
    })
  })
})

export const layer = Layer.effect(AppServerLease, make)
