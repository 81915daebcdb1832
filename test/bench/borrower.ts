/**
 * The lease in a process of its own: what borrowing costs, and how soon borrowers know that their child is gone. Beside
 * each, in turns, the floor in the same process.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import * as Actor from "../../src/services/Actor.ts"
import { AppServerLease } from "../../src/services/AppServerLease.ts"
import type { AppServerConnection } from "../../src/services/AppServerProcess.ts"
import { AccountResult, ThreadResult } from "../../src/services/AppServerProtocol.ts"
import { makePlace } from "../support/gateway.ts"
import { launchOf, startBare, threadParams } from "./bareCodex.ts"
import { leaseOf } from "./leaseStack.ts"
import { serve } from "./serve.ts"

/** Longer than a bench: an idle child stays. */
const neverIdleMs = 600_000
/** After a child has gone its lease goes on looking for what it left; that is not the next measurement's. */
const sweptMs = 300
/** Nobody listens there; a thread that runs no turn asks nobody. */
const noProvider = "http://127.0.0.1:9/v1"
const sides = ["lease", "floor"] as const

const run = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>): Promise<A> =>
  // Every poisoned child is a warning, as it should be.
  Effect.runPromise(Effect.provideService(Effect.scoped(effect), References.MinimumLogLevel, "Error"))

const inTurns = (round: number) => (round % 2 === 0 ? sides : sides.toReversed())

const since = (from: number): number => performance.now() - from

const borrower = { runId: "bench", spawnedBy: null }

/** The lease of a new place, and the place. */
const leased = Effect.fnUntraced(function* (idleGraceMs: number) {
  const place = yield* makePlace()
  const lease = Context.get(yield* Layer.build(leaseOf(place, idleGraceMs)), AppServerLease)
  return { place, lease, launch: launchOf(place) }
})

const bareStart = Effect.fnUntraced(function* (launch: ReturnType<typeof launchOf>) {
  const from = performance.now()
  const bare = yield* Effect.acquireRelease(
    Effect.promise(() => startBare(launch)),
    ({ kill }) => Effect.promise(kill)
  )
  return { ms: since(from), bare }
})

const ask = ({ request }: AppServerConnection) => request("account/read", {}, AccountResult)

const handlers = {
  /** One borrow and its give-back on a warm child that nobody else has; beside it one question to an actor, in us. */
  warm: ({ rounds, warmup }: { readonly rounds: number; readonly warmup: number }) =>
    run(
      Effect.gen(function* () {
        const { lease, place } = yield* leased(neverIdleMs)
        // Somebody is logged in, as nearly always, and every borrow looks who.
        fs.writeFileSync(path.join(place.codexHome, "auth.json"), JSON.stringify({ OPENAI_API_KEY: "none" }))
        const actor = yield* Actor.start<number, Deferred.Deferred<number>, Deferred.Deferred<number>, never>(
          {
            name: "a counter",
            initial: () => 0,
            next: (count, reply) => [count + 1, [reply]],
            perform: (reply) => Effect.asVoid(Deferred.succeed(reply, 0)),
            mailbox: { capacity: 16, overflow: "wait" },
            describe: String
          }
        )
        const ways = {
          lease: Effect.scoped(lease.borrow(borrower)),
          floor: actor.ask<number>((reply) => reply, 1000)
        }
        const { pid } = yield* Effect.scoped(lease.borrow(borrower))
        const us = { lease: [] as Array<number>, floor: [] as Array<number> }
        for (let round = -warmup; round < rounds; round++)
          for (const side of inTurns(round)) {
            const from = performance.now()
            yield* ways[side]
            if (round >= 0) us[side].push(since(from) * 1000)
          }
        const after = yield* Effect.scoped(lease.borrow(borrower))
        if (after.pid !== pid) return yield* Effect.die("the child was not warm: it is another one now")
        return us
      })
    ),

  /** The first borrow, until it is granted: no child runs. Beside it a bare child, from its spawn to its answer. */
  first: ({ rounds, warmup }: { readonly rounds: number; readonly warmup: number }) =>
    run(
      Effect.gen(function* () {
        const { launch, lease } = yield* leased(0)
        const isAbsent = Effect.map(lease.list, (leases) => leases.every(({ state }) => state === "Absent"))
        const ways = {
          lease: Effect.gen(function* () {
            const scope = yield* Scope.make()
            const from = performance.now()
            yield* Scope.provide(lease.borrow(borrower), scope)
            const ms = since(from)
            yield* Scope.close(scope, Exit.void)
            while (!(yield* isAbsent)) yield* Effect.sleep(5)
            yield* Effect.sleep(sweptMs)
            return ms
          }),
          floor: Effect.scoped(Effect.map(bareStart(launch), ({ ms }) => ms))
        }
        const ms = { lease: [] as Array<number>, floor: [] as Array<number> }
        for (let round = -warmup; round < rounds; round++)
          for (const side of inTurns(round)) {
            const took = yield* ways[side]
            if (round >= 0) ms[side].push(took)
          }
        return ms
      })
    ),

  /**
   * `borrowers` of one child, each waiting for the next message of a loaded thread of its own, when the child is killed:
   * until the last one has failed, and until each has borrowed again and the next generation has answered it; `again` is how
   * often somebody was given the lost one once more. Beside it a bare child: until its exit is seen, and until another one
   * has answered.
   */
  poison: ({
    borrowers,
    rounds,
    warmup
  }: {
    readonly borrowers: number
    readonly rounds: number
    readonly warmup: number
  }) =>
    run(
      Effect.gen(function* () {
        const { launch, lease, place } = yield* leased(neverIdleMs)
        const params = threadParams(place.workspace, noProvider)

        let again = 0
        /** Until another generation than the lost one has answered; that it takes one borrow is part of the promise. */
        const reborrow = Effect.fnUntraced(function* (lost: number) {
          while (true) {
            const generation = yield* Effect.scoped(
              Effect.gen(function* () {
                const connection = yield* lease.borrow(borrower)
                if (connection.generation !== lost) yield* ask(connection)
                return connection.generation
              })
            )
            if (generation !== lost) return generation
            again++
          }
        })

        const borrow = Effect.fnUntraced(function* (ready: Deferred.Deferred<AppServerConnection>) {
          const { error, told } = yield* Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* lease.borrow(borrower)
              const { thread } = yield* connection.request("thread/start", params, ThreadResult)
              const incoming = yield* connection.thread(thread.id)
              yield* Deferred.succeed(ready, connection)
              const error = yield* Effect.flip(Effect.forever(Queue.take(incoming)))
              return { error, told: performance.now() }
            })
          )
          if (error._tag !== "AppServerLost") return yield* error
          const next = yield* reborrow(error.generation)
          return { told, served: performance.now(), lost: error.generation, next }
        })

        const shared = Effect.gen(function* () {
          const parties = yield* Effect.forEach(
            Array.from({ length: borrowers }),
            Effect.fnUntraced(function* () {
              const ready = yield* Deferred.make<AppServerConnection>()
              return { ready, fiber: yield* Effect.forkChild(borrow(ready)) }
            })
          )
          const [connection] = yield* Effect.forEach(parties, ({ ready, fiber }) =>
            Effect.raceFirst(Deferred.await(ready), Effect.andThen(Fiber.join(fiber), Effect.never))
          )
          const from = performance.now()
          process.kill(connection!.pid!, "SIGKILL")
          const ends = yield* Effect.forEach(parties, ({ fiber }) => Fiber.join(fiber))
          const { generation } = connection!
          if (ends.some(({ lost, next }) => lost !== generation || next !== generation + 1))
            return yield* Effect.die(`not everybody went from generation ${generation} to the next`)
          return {
            told: Math.max(...ends.map(({ told }) => told - from)),
            next: Math.max(...ends.map(({ served }) => served - from))
          }
        })

        const floor = Effect.scoped(
          Effect.gen(function* () {
            const { bare } = yield* bareStart(launch)
            for (let thread = 0; thread < borrowers; thread++)
              yield* Effect.promise(() => bare.request("thread/start", params))
            const told = yield* Effect.promise(bare.kill)
            const from = performance.now()
            const { bare: other } = yield* bareStart(launch)
            yield* Effect.promise(() => other.request("account/read", {}))
            return { told, next: told + since(from) }
          })
        )

        const ways = { lease: shared, floor }
        const ms = {
          told: { lease: [] as Array<number>, floor: [] as Array<number> },
          next: { lease: [] as Array<number>, floor: [] as Array<number> }
        }
        for (let round = -warmup; round < rounds; round++)
          for (const side of inTurns(round)) {
            const { told, next } = yield* ways[side]
            yield* Effect.sleep(sweptMs)
            if (round < 0) continue
            ms.told[side].push(told)
            ms.next[side].push(next)
          }
        return { ...ms, again }
      })
    )
}

export type LeaseBorrower = typeof handlers

serve(handlers)
