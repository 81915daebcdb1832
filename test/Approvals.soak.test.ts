/**
 * Approvals against random interleavings of calls, answers, hooks that die, hours that pass, and gateways that crash between
 * any two steps. Small and seeded here; in full by `npm run soak`.
 */
import { assert, describe, it } from "@effect/vitest"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import * as TestClock from "effect/testing/TestClock"
import { layer } from "../src/layers/Approvals.ts"
import {
  type Answer,
  Approvals,
  type ApprovalsUnavailable,
  type AskRequest,
  type Outcome
} from "../src/services/Approvals.ts"
import { facts, person, request } from "../src/testing/Approvals.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { random } from "./support/random.ts"

/** The least that the full hunt has to run. */
const promised = 10_000
const schedules = process.env["HOLDFAST_SOAK"] ? promised : 100
const steps = 14
/** More turns of the loop than an ask takes, so that a crash falls between any two of its steps. */
const mostTurns = 24

const answers: ReadonlyArray<Answer> = [
  { _tag: "allow-once" },
  { _tag: "allow-once" },
  { _tag: "allow-session" },
  { _tag: "allow-for", ms: 300_000 },
  { _tag: "deny" }
]

interface Call {
  readonly asked: AskRequest
  fiber: Fiber.Fiber<Outcome, ApprovalsUnavailable> | null
  /** What its hook was told; a call that was told is not made again. */
  readonly told: Array<Outcome>
}

const turns = (n: number) =>
  Effect.forEach(Array.from({ length: n }), () => Effect.yieldNow, { discard: true })

const approvalIn = ({ reason }: Outcome): string | undefined => /approval ([0-9a-f]{10})/.exec(reason)?.[1]

describe("approvals, whatever happens in whatever order", () => {
  it.effect(
    `of ${schedules} interleavings each call is told once, and each yes for one call lets one through`,
    () =>
      Effect.gen(function* () {
        const counts = { calls: 0, allowed: 0, refused: 0, crashes: 0, again: 0 }
        const startOn = Effect.fnUntraced(function* (database: Context.Context<SqlClient>) {
          const scope = yield* Scope.make()
          const context = yield* Layer.build(Layer.fresh(layer)).pipe(
            Scope.provide(scope),
            Effect.provideContext(database),
            Effect.orDie
          )
          return { scope, approvals: yield* Effect.provideContext(Approvals, context) }
        })

        for (let seed = 1; seed <= schedules; seed++) {
          const next = random(seed)
          const below = (n: number): number => Math.floor(next() * n)
          const disk = yield* Scope.make()
          const start = startOn(
            yield* Layer.build(Layer.fresh(layerMemory)).pipe(Scope.provide(disk), Effect.orDie)
          )
          let policy = 0
          let gateway = yield* start
          const calls: Array<Call> = []

          const collect = Effect.sync(() => {
            for (const call of calls) {
              const exit = call.fiber?.pollUnsafe()
              if (exit === undefined) continue
              call.fiber = null
              if (Exit.isSuccess(exit)) call.told.push(exit.value)
            }
          })
          const put = (call: Call) =>
            Effect.map(Effect.forkChild(gateway.approvals.ask(call.asked)), (fiber) => {
              call.fiber = fiber
            })
          const ask = Effect.suspend(() => {
            const callId = `${seed}-${calls.length}`
            const asked = request({
              callId,
              relayId: `relay-${seed}-${below(2)}`,
              holdMs: 1000 * (1 + below(2000)),
              facts: Effect.map(turns(below(3)), () =>
                facts({ input: `input-${seed}-${below(10) === 0 ? 1 : 0}`, policy: String(policy) })
              )
            })
            counts.calls++
            calls.push({ asked, fiber: null, told: [] })
            return put(calls.at(-1)!)
          })
          const answer = Effect.gen(function* () {
            const open = (yield* gateway.approvals.list(true)).filter(({ state }) => state._tag === "pending")
            const one = open[below(open.length)]
            if (one === undefined) return
            yield* Effect.ignore(
              gateway.approvals.answer(one.id, answers[below(answers.length)]!, person, null)
            )
          })
          const crash = Effect.gen(function* () {
            counts.crashes++
            const waiting = calls.filter(({ fiber }) => fiber !== null)
            for (const { fiber } of waiting) yield* Effect.forkChild(Fiber.interrupt(fiber!))
            yield* Scope.close(gateway.scope, Exit.void)
            yield* turns(mostTurns)
            yield* collect
            gateway = yield* start
            // Some hooks died with it, the others ask again.
            for (const call of waiting) {
              call.fiber = null
              if (call.told.length > 0 || below(3) === 0) continue
              counts.again++
              yield* put(call)
            }
          })

          for (let step = 0; step < steps; step++) {
            const what = below(10)
            if (what < 4) yield* ask
            else if (what < 7) yield* answer
            else if (what === 7) yield* crash
            else if (what === 8) yield* TestClock.adjust(1000 * below(1200))
            else if (below(4) === 0) policy++
            yield* turns(below(mostTurns))
            yield* collect
          }
          // Whoever still waits is answered by the time.
          yield* TestClock.adjust("1 hour")
          yield* turns(mostTurns)
          yield* collect

          const all = yield* gateway.approvals.list(false)
          const scopeOf = new Map(
            all.map(({ id, state }) => [id, state._tag === "granted" ? state.scope._tag : state._tag])
          )
          const through = new Map<string, Set<string>>()
          for (const { asked, told, fiber } of calls) {
            assert.isNull(fiber, `seed ${seed}: ${asked.callId} still waits`)
            assert.isAtMost(told.length, 1, `seed ${seed}: ${asked.callId} was told twice`)
            const [outcome] = told
            if (outcome === undefined) continue
            counts[outcome.allowed ? "allowed" : "refused"]++
            const id = approvalIn(outcome)
            if (!outcome.allowed || id === undefined || scopeOf.get(id) !== "once") continue
            through.set(id, (through.get(id) ?? new Set()).add(asked.callId))
          }
          for (const [id, who] of through)
            assert.strictEqual(who.size, 1, `seed ${seed}: ${id} let ${[...who].join(" and ")} through`)
          yield* Scope.close(gateway.scope, Exit.void)
          yield* Scope.close(disk, Exit.void)
        }
        console.log(`${schedules} interleavings: ${JSON.stringify(counts)}`)
        // The dice fall so that everything happens.
        for (const [what, count] of Object.entries(counts)) assert.isAbove(count, schedules / 10, what)
      }).pipe(Effect.scoped),
    600_000
  )
})
