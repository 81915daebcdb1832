/** AppServerLease, live: an actor per key under the supervisor `leases`, and in it a scope per child generation. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as crypto from "node:crypto"
import type * as Actor from "../services/Actor.ts"
import { AppServerUnavailable, type LeaseCircuitOpen, LeaseTimeout } from "../services/AppServerFailure.ts"
import {
  AppServerLease,
  type Borrower,
  type BorrowRequest,
  type LeaseInfo,
  type Retirement
} from "../services/AppServerLease.ts"
import { type AppServerConnection, AppServerProcess } from "../services/AppServerProcess.ts"
import { CodexAuth } from "../services/CodexAuth.ts"
import {
  absentLease,
  describeLease,
  isCircuitOpen,
  type LeaseAction,
  type LeaseEvent,
  type LeaseState,
  nextLease
} from "../services/LeaseState.ts"
import { Settings } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"
import { goneOf, lostNow } from "./internal/connectionEnd.ts"

export * from "../services/AppServerLease.ts"

/** More borrows in flight than any machine can run agents; borrowers wait when it is full. */
const mailboxCapacity = 1024
/** Logins in use at the same time. One whose child is gone makes room; with all in use, another login is refused. */
const maxLeases = 8
/** Characters of a key that an operator is shown: enough to tell `maxLeases` apart. */
const shownKeyLength = 12
/** From SIGTERM to SIGKILL to the reaping, beside the grace and the sweep that have settings of their own. */
const killBudgetMs = 8000

type BorrowFailure = AppServerUnavailable | LeaseCircuitOpen

interface Claim {
  readonly borrower: Borrower
  readonly answer: Deferred.Deferred<AppServerConnection, BorrowFailure>
}

interface Child {
  readonly scope: Scope.Closeable
  starting: Fiber.Fiber<void> | null
  connection: AppServerConnection | null
}

interface Lease {
  readonly key: string
  readonly actor: Actor.Actor<LeaseState, LeaseEvent>
  /** Every borrow from before it is told until it is given back. */
  readonly claims: Map<number, Claim>
  /** Those whose scopes have not closed entirely. */
  readonly children: Map<number, Child>
  readonly retired: () => Retirement | null
}

const shown = (key: string): string => key.slice(0, shownKeyLength)

const unavailable = (problem: string) => new AppServerUnavailable({ stage: "spawn", problem })
const ended = unavailable("its lease has ended. Is the gateway stopping? Its log says more.")

export const make = Effect.gen(function* () {
  const { codex, appServer, lease: times, mark } = yield* Settings
  const { start } = yield* AppServerProcess
  const auth = yield* CodexAuth
  const supervisor = yield* (yield* SupervisionTree).supervisor("leases")
  const leases = new Map<string, Lease>()
  const creating = yield* Semaphore.make(1)
  let lastClaim = 0
  let lastGeneration = 0
  let current: string | null = null

  const currentKey = Effect.map(auth.identity, (identity) =>
    crypto
      .createHash("sha256")
      .update(JSON.stringify([codex.home, identity, codex.command, appServer.connect, appServer.tokenFile]))
      .digest("hex")
  )

  const startChild = (key: string, generation: number, child: Child, self: Actor.Self<LeaseEvent>) =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(Scope.provide(start(generation, key), child.scope))
      const at = yield* Clock.currentTimeMillis
      if (Exit.isSuccess(exit)) {
        const connection = exit.value
        child.connection = connection
        yield* self.tell({ _tag: "Started", generation, connection, at })
        const error = yield* connection.lost
        yield* self.tell({ _tag: "Lost", generation, error, at: yield* Clock.currentTimeMillis })
        return
      }
      if (Cause.hasDies(exit.cause)) yield* Effect.logError("starting the app-server broke", exit.cause)
      const error = Option.getOrElse(Cause.findErrorOption(exit.cause), () =>
        unavailable("starting it broke; the gateway's log says how.")
      )
      yield* self.tell({ _tag: "StartFailed", generation, error, at })
    }).pipe(Effect.ignore)

  const makeLease = (key: string): Effect.Effect<Lease> => {
    const claims: Lease["claims"] = new Map()
    const children: Lease["children"] = new Map()
    let retired: Retirement | null = null
    let life: Scope.Scope | null = null

    const answer = (
      claim: number,
      outcome: Exit.Exit<AppServerConnection, BorrowFailure>
    ): Effect.Effect<void> =>
      Effect.sync(() => {
        const asked = claims.get(claim)
        if (asked) Deferred.doneUnsafe(asked.answer, outcome)
      })

    /** A loss is known to the connection a moment before its lease hears of it; whoever borrows in between asks again. */
    const grant = (number: number, connection: AppServerConnection, self: Actor.Self<LeaseEvent>) =>
      Effect.gen(function* () {
        const error = yield* lostNow(connection.lost)
        if (error === null) return yield* answer(number, Exit.succeed(connection))
        const at = yield* Clock.currentTimeMillis
        const again = Effect.suspend(() =>
          claims.has(number) ? self.tell({ _tag: "Borrow", claim: number }) : Effect.void
        )
        yield* self
          .tell({ _tag: "Lost", generation: connection.generation, error, at })
          .pipe(Effect.andThen(again), Effect.ignore, Effect.forkIn(self.scope))
      })

    /** Sweeping what the child left behind goes on after `Stopped`; the end of the actor waits for it. */
    const stopChild = (generation: number, self: Actor.Self<LeaseEvent>) =>
      Effect.gen(function* () {
        const child = children.get(generation)
        if (!child) return
        if (child.starting) yield* Fiber.interrupt(child.starting)
        const closing = yield* Scope.close(child.scope, Exit.void).pipe(
          Effect.catchCause((cause) => Effect.logError("ending the app-server broke", cause)),
          Effect.ensuring(Effect.sync(() => children.delete(generation))),
          Effect.uninterruptible,
          Effect.forkIn(self.scope, { startImmediately: true })
        )
        const gone = yield* goneOf(child.connection, Fiber.await(closing))
        yield* self.tell({ _tag: "Stopped", generation, gone, at: yield* Clock.currentTimeMillis })
      }).pipe(Effect.ignore)

    /** Who waits when a life of the actor ends is told; who has a child is told by its connection. */
    const enter = (self: Actor.Self<LeaseEvent>) =>
      Effect.suspend(() => {
        if (life === self.scope) return Effect.void
        life = self.scope
        return Scope.addFinalizer(
          self.scope,
          Effect.flatMap(actor.state, (state) =>
            "waiting" in state
              ? Effect.forEach(state.waiting, (claim) => answer(claim, Exit.fail(ended)), { discard: true })
              : Effect.void
          )
        )
      })

    const perform = (action: LeaseAction, self: Actor.Self<LeaseEvent>): Effect.Effect<void> => {
      switch (action._tag) {
        case "Start":
          return Effect.gen(function* () {
            yield* enter(self)
            lastGeneration = Math.max(lastGeneration, action.generation)
            const child: Child = { scope: yield* Scope.fork(self.scope), starting: null, connection: null }
            children.set(action.generation, child)
            child.starting = yield* Effect.forkIn(startChild(key, action.generation, child, self), self.scope)
          })
        case "Stop":
          return Effect.asVoid(Effect.forkIn(stopChild(action.generation, self), self.scope))
        case "Grant":
          return grant(action.claim, action.connection, self)
        case "Refuse":
          return answer(action.claim, Exit.fail(action.error))
        case "StartIdleTimer": {
          const { generation, idleTimer } = action
          return later(times.idleGraceMs, self, { _tag: "IdleElapsed", generation, idleTimer })
        }
        case "StartCircuitTimer": {
          const { generation, until } = action
          return Effect.flatMap(Clock.currentTimeMillis, (now) =>
            later(Math.max(0, until - now), self, { _tag: "CircuitElapsed", generation })
          )
        }
        case "NoteLost": {
          const { generation, reason, stderrTail, message } = action.error
          retired = { generation, reason, stderrTail, exit: null, at: action.at }
          return Effect.annotateLogs(Effect.logWarning(message), {
            lease: shown(key),
            generation,
            stderrTail
          })
        }
        case "NoteGone": {
          const { confirmed, code, signal } = action.gone
          if (confirmed && retired?.generation === action.generation)
            retired = { ...retired, exit: { code, signal } }
          return confirmed
            ? Effect.void
            : Effect.logError(`the app-server of generation ${action.generation} was killed and has not gone`)
        }
      }
    }

    let actor: Lease["actor"]
    return Effect.map(
      Effect.orDie(
        supervisor.start<LeaseState, LeaseEvent, LeaseAction, never>(
          {
            id: shown(key),
            restart: "permanent",
            shutdownMs: times.exitGraceMs + killBudgetMs + mark.sweepTimeoutMs
          },
          {
            name: "the app-server lease",
            initial: () => absentLease(lastGeneration),
            next: nextLease(times.intensity),
            perform,
            mailbox: { capacity: mailboxCapacity, overflow: "wait" },
            describe: describeLease
          }
        )
      ),
      (started) => {
        actor = started
        return { key, actor, claims, children, retired: () => retired }
      }
    )
  }

  const makeRoom = Effect.gen(function* () {
    if (leases.size < maxLeases) return
    for (const lease of leases.values()) {
      const { _tag } = yield* lease.actor.state
      if (_tag !== "Absent" || lease.claims.size > 0 || lease.children.size > 0) continue
      leases.delete(lease.key)
      return yield* supervisor.stop(shown(lease.key))
    }
    return yield* unavailable(
      `app-servers of ${maxLeases} other logins are still in use. Wait for their runs to end, or end them.`
    )
  })

  /** The lease of the key with the claim in it, in one step, so that it is not forgotten in between. */
  const enlist = (key: string, number: number, claim: Claim) =>
    Effect.sync(() => {
      const lease = leases.get(key)
      lease?.claims.set(number, claim)
      return lease
    })

  const leaseOf = (key: string, number: number, claim: Claim) =>
    Effect.gen(function* () {
      const known = yield* enlist(key, number, claim)
      if (known) return known
      return yield* creating.withPermits(1)(
        Effect.uninterruptible(
          Effect.gen(function* () {
            const meanwhile = yield* enlist(key, number, claim)
            if (meanwhile) return meanwhile
            yield* makeRoom
            const lease = yield* makeLease(key)
            leases.set(key, lease)
            lease.claims.set(number, claim)
            return lease
          })
        )
      )
    })

  const drainOthers = (key: string) =>
    Effect.suspend(() => {
      if (key === current) return Effect.void
      current = key
      const others = [...leases.values()].filter((lease) => lease.key !== key)
      return Effect.forEach(others, ({ actor }) => Effect.ignore(actor.tell({ _tag: "Drain" })), {
        discard: true
      })
    })

  const giveBack = (number: number) =>
    Effect.suspend(() => {
      const lease = [...leases.values()].find(({ claims }) => claims.delete(number))
      return lease ? Effect.ignore(lease.actor.tell({ _tag: "GiveBack", claim: number })) : Effect.void
    })

  const borrow = Effect.fn("AppServerLease.borrow")(function* ({
    runId,
    spawnedBy,
    timeoutMs = times.handshakeTimeoutMs
  }: BorrowRequest) {
    const number = ++lastClaim
    const claim: Claim = {
      borrower: { runId, spawnedBy },
      answer: yield* Deferred.make<AppServerConnection, BorrowFailure>()
    }
    const asked = Effect.gen(function* () {
      const key = yield* currentKey
      const lease = yield* leaseOf(key, number, claim)
      yield* drainOthers(key)
      yield* Effect.mapError(lease.actor.tell({ _tag: "Borrow", claim: number }), () => ended)
      return yield* Deferred.await(claim.answer)
    }).pipe(
      Effect.timeoutOrElse({
        duration: timeoutMs,
        orElse: () => Effect.fail(new LeaseTimeout({ timeoutMs }))
      })
    )
    // Before it is asked for: an interruption may come between the answer and whatever would follow it.
    const held = yield* Scope.fork(yield* Effect.scope)
    yield* Scope.addFinalizer(held, giveBack(number))
    // A borrow that fails gives its claim back at once, even in a scope that lives on.
    return yield* Effect.onExit(asked, (exit) =>
      Exit.isFailure(exit) ? Scope.close(held, exit) : Effect.void
    )
  })

  const infoOf = Effect.fnUntraced(function* (lease: Lease): Effect.fn.Return<LeaseInfo> {
    const state = yield* lease.actor.state
    const now = yield* Clock.currentTimeMillis
    const connection = "connection" in state ? state.connection : null
    const holding = "holding" in state ? [...state.holding].toSorted((a, b) => a - b) : []
    return {
      key: shown(lease.key),
      codexHome: codex.home,
      state: state._tag,
      generation: state.generation,
      origin: connection?.origin ?? (appServer.connect === null ? "spawned" : "adopted"),
      pid: connection?.pid ?? null,
      version: connection?.version ?? null,
      borrowers: holding.flatMap((number) => lease.claims.get(number)?.borrower ?? []),
      waiting: "waiting" in state ? state.waiting.size : 0,
      faults: state.faults.times.filter((at) => now - at < times.intensity.periodMs).length,
      retired: lease.retired(),
      circuit:
        "circuit" in state && state.circuit !== null
          ? { until: state.circuit.until, problem: state.faults.last ?? "it failed too often" }
          : null
    }
  })

  return AppServerLease.of({
    borrow,
    list: Effect.suspend(() => Effect.forEach([...leases.values()], infoOf)),
    reset: Effect.gen(function* () {
      let open = 0
      for (const { actor } of leases.values()) {
        if (isCircuitOpen(yield* actor.state)) open++
        yield* Effect.ignore(actor.tell({ _tag: "Reset" }))
      }
      return open
    })
  })
})

export const layer = Layer.effect(AppServerLease, make)

const later = (ms: number, self: Actor.Self<LeaseEvent>, event: LeaseEvent): Effect.Effect<void> =>
  Effect.sleep(ms).pipe(
    Effect.andThen(self.tell(event)),
    Effect.ignore,
    Effect.forkIn(self.scope),
    Effect.asVoid
  )
