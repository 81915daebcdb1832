/** Approvals over a real database: asked once, answered once, used as often as was said, and kept over a restart. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { layer } from "../src/layers/Approvals.ts"
import {
  type Answer,
  Approvals,
  type AskRequest,
  maxPendingPerRelay,
  maxPerWindow,
  onceHoldsMs
} from "../src/services/Approvals.ts"
import { facts, layer as layerReal, person, request } from "../src/testing/Approvals.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { settle } from "../src/testing/VirtualTime.ts"

const once: Answer = { _tag: "allow-once" }
const session: Answer = { _tag: "allow-session" }
const deny: Answer = { _tag: "deny" }
const forTenMinutes: Answer = { _tag: "allow-for", ms: 600_000 }

const ask = (asked: AskRequest) => Effect.flatMap(Approvals, (approvals) => approvals.ask(asked))

/** Asks in the background, and waits until it is shown. */
const asking = Effect.fnUntraced(function* (asked: AskRequest) {
  const fiber = yield* Effect.forkChild(ask(asked))
  yield* settle
  return fiber
})

const pending = Effect.gen(function* () {
  return (yield* (yield* Approvals).list(true)).filter(({ state }) => state._tag === "pending")
})

const answerOnly = Effect.fnUntraced(function* (answer: Answer, note: string | null = null) {
  const [one] = yield* pending
  return yield* (yield* Approvals).answer(one!.id, answer, person, note)
})

const real = <A, E>(promise: string, test: () => Effect.Effect<A, E, Approvals | Scope.Scope>) =>
  it.effect(promise, () => Effect.provide(test(), layerReal))

describe("Approvals", () => {
  real("an ask is in the list before anybody is told of it, and a yes lets exactly that call through", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      const heard: Array<string> = []
      yield* approvals.changes.pipe(
        Stream.mapEffect(({ id, state }) =>
          Effect.map(approvals.find(id), (found) => heard.push(`${state._tag} ${found.state._tag}`))
        ),
        Stream.runDrain,
        Effect.forkScoped
      )
      yield* settle
      const fiber = yield* asking(request())
      yield* answerOnly(once)
      const outcome = yield* Fiber.join(fiber)
      assert.isTrue(outcome.allowed, outcome.reason)
      assert.include(outcome.reason, "uid 0 (pid 4242) allowed it once")
      yield* settle
      assert.deepStrictEqual(heard, ["pending pending", "granted granted", "granted granted"])
      assert.deepStrictEqual(yield* approvals.list(true), [])
    })
  )

  real("the first answer stands; whoever is second is told what it was", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      const fiber = yield* asking(request())
      const { id } = yield* answerOnly(deny, "not on a Friday")
      const second = yield* Effect.flip(approvals.answer(id, once, person, null))
      assert.deepStrictEqual([second._tag, "state" in second && second.state], ["ApprovalClosed", "denied"])
      const outcome = yield* Fiber.join(fiber)
      assert.isFalse(outcome.allowed)
      assert.include(outcome.reason, "not on a Friday")
    })
  )

  real("nobody answers: after its time it is a deny, and cannot be answered any more", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      const fiber = yield* asking(request({ holdMs: 86_400_000 }))
      const { id } = (yield* pending)[0]!
      yield* TestClock.adjust("14 minutes")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 minute")
      const outcome = yield* Fiber.join(fiber)
      assert.deepStrictEqual([outcome.allowed, outcome.reason.includes("nobody answered")], [false, true])
      const late = yield* Effect.flip(approvals.answer(id, once, person, null))
      assert.deepStrictEqual([late._tag, "state" in late && late.state], ["ApprovalClosed", "expired"])
    })
  )

  real("an approval that nobody waits for expires all the same, and is seen to", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      yield* Fiber.interrupt(yield* asking(request()))
      const changes = yield* Effect.forkScoped(Stream.runCollect(Stream.take(approvals.changes, 1)))
      yield* settle
      yield* TestClock.adjust("15 minutes")
      assert.deepStrictEqual(
        (yield* Fiber.join(changes)).map(({ state }) => state._tag),
        ["expired"]
      )
    })
  )

  real("a hook that cannot wait is refused, and the same call made again gets the answer, once", () =>
    Effect.gen(function* () {
      const fiber = yield* asking(request({ holdMs: 10_000 }))
      yield* TestClock.adjust("10 seconds")
      const early = yield* Fiber.join(fiber)
      assert.deepStrictEqual([early.allowed, early.reason.includes("approvals approve")], [false, true])
      yield* answerOnly(once)
      const again = yield* ask(request({ callId: "call-2" }))
      assert.isTrue(again.allowed, again.reason)
      yield* asking(request({ callId: "call-3" }))
      assert.strictEqual((yield* pending).length, 1)
    })
  )

  real("a yes for one call that nobody came back for does not hold for ever", () =>
    Effect.gen(function* () {
      yield* Fiber.interrupt(yield* asking(request()))
      yield* answerOnly(once)
      yield* TestClock.adjust(onceHoldsMs)
      yield* asking(request({ callId: "call-2" }))
      assert.strictEqual((yield* pending).length, 1)
    })
  )

  real("duplicates of a session share an approval; a yes for one call lets one of them through", () =>
    Effect.gen(function* () {
      const first = yield* asking(request())
      const second = yield* asking(request({ callId: "call-2" }))
      const other = yield* asking(request({ callId: "call-3", relayId: "relay-2" }))
      const waiting = yield* pending
      assert.deepStrictEqual(waiting.map(({ callIds }) => callIds.length).toSorted(), [1, 2])
      const shared = waiting.find(({ callIds }) => callIds.length === 2)!
      yield* (yield* Approvals).answer(shared.id, once, person, null)
      yield* settle
      const through = [first, second, other].filter((fiber) => fiber.pollUnsafe() !== undefined)
      assert.strictEqual(through.length, 1)
      // The one that came too late is asked about anew.
      assert.strictEqual((yield* pending).length, 2)
    })
  )

  real("for a session: its same call again, and nobody else's; until it is revoked", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      const fiber = yield* asking(request())
      const { id } = yield* answerOnly(session)
      assert.isTrue((yield* Fiber.join(fiber)).allowed)
      assert.isTrue((yield* ask(request({ callId: "call-2" }))).allowed)
      yield* Fiber.interrupt(yield* asking(request({ callId: "call-3", relayId: "relay-2" })))
      assert.strictEqual((yield* pending).length, 1)
      yield* approvals.revoke(id)
      yield* Fiber.interrupt(yield* asking(request({ callId: "call-4" })))
      assert.strictEqual((yield* pending).length, 2)
      assert.strictEqual((yield* Effect.flip(approvals.revoke(id)))._tag, "ApprovalClosed")
    })
  )

  real("for a time: the same call of anybody, until then", () =>
    Effect.gen(function* () {
      const fiber = yield* asking(request())
      yield* answerOnly(forTenMinutes)
      assert.isTrue((yield* Fiber.join(fiber)).allowed)
      yield* TestClock.adjust("9 minutes")
      assert.isTrue((yield* ask(request({ callId: "call-2", relayId: "relay-2" }))).allowed)
      yield* TestClock.adjust("1 minute")
      yield* asking(request({ callId: "call-3" }))
      assert.strictEqual((yield* pending).length, 1)
    })
  )

  real("what has changed when the answer is used is named, and the grant is void", () =>
    Effect.gen(function* () {
      let file = "before"
      const drifting = (callId: string) =>
        request({
          callId,
          facts: Effect.sync(() => facts({ files: { "deploy.sh": file }, policy: `policy ${file}` }))
        })
      const fiber = yield* asking(drifting("call-1"))
      file = "after"
      yield* answerOnly(session)
      const outcome = yield* Fiber.join(fiber)
      assert.isFalse(outcome.allowed)
      assert.include(outcome.reason, "the policy, the file deploy.sh changed")
      yield* asking(drifting("call-2"))
      assert.strictEqual((yield* pending).length, 1)
    })
  )

  real("another input, directory or tool is another call", () =>
    Effect.gen(function* () {
      const fiber = yield* asking(request())
      yield* answerOnly(session)
      yield* Fiber.join(fiber)
      for (const [index, over] of [{ input: "npm publish " }, { cwd: "/other" }, { tool: "exec" }].entries())
        yield* asking(request({ callId: `other-${index}`, facts: Effect.succeed(facts(over)) }))
      assert.strictEqual((yield* pending).length, 3)
    })
  )

  real("too many asks are refused and say so", () =>
    Effect.gen(function* () {
      const about = (n: number) =>
        request({ callId: `call-${n}`, facts: Effect.succeed(facts({ input: `echo ${n}` })) })
      for (let n = 0; n < maxPendingPerRelay; n++) yield* asking(about(n))
      const full = yield* ask(about(maxPendingPerRelay))
      assert.deepStrictEqual(
        [full.allowed, full.reason.includes("wait for an answer already")],
        [false, true]
      )
      for (let n = maxPendingPerRelay; n < maxPerWindow; n++) {
        yield* answerOnly(deny)
        yield* settle
        yield* asking(about(n))
      }
      yield* answerOnly(deny)
      const fast = yield* ask(about(maxPerWindow))
      assert.deepStrictEqual([fast.allowed, fast.reason.includes("within a minute")], [false, true])
      yield* TestClock.adjust("1 minute")
      yield* asking(about(maxPerWindow))
      assert.strictEqual((yield* pending).length, maxPendingPerRelay)
    })
  )

  real("by an unambiguous beginning of its id, and a wildcard is only a letter", () =>
    Effect.gen(function* () {
      const approvals = yield* Approvals
      yield* asking(request())
      yield* asking(request({ callId: "call-2", relayId: "relay-2" }))
      const [one] = yield* pending
      assert.strictEqual((yield* approvals.find(one!.id.slice(0, 9))).id, one!.id)
      for (const ref of ["", "%", "_", "zz"])
        assert.strictEqual((yield* Effect.flip(approvals.find(ref)))._tag, "ApprovalNotFound", ref)
    })
  )
})

describe("Approvals over a restart", () => {
  const gateways = <A, E>(
    test: (start: Effect.Effect<readonly [Approvals["Service"], Effect.Effect<void>]>) => Effect.Effect<A, E>
  ) =>
    Effect.gen(function* () {
      const database = yield* Layer.build(layerMemory)
      const start = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const context = yield* Layer.build(Layer.fresh(layer)).pipe(
          Scope.provide(scope),
          Effect.provideContext(database),
          Effect.orDie
        )
        const approvals = yield* Effect.provideContext(Approvals, context)
        return [approvals, Scope.close(scope, Exit.void)] as const
      })
      return yield* test(start)
    }).pipe(Effect.scoped)

  it.effect(
    "a hook that waits is found again by its call and gets the answer, whichever gateway is there",
    () =>
      gateways((start) =>
        Effect.gen(function* () {
          const [first, stopFirst] = yield* start
          const before = yield* Effect.forkChild(first.ask(request()))
          yield* settle
          yield* Fiber.interrupt(before)
          yield* stopFirst
          const [second, stopSecond] = yield* start
          const again = yield* Effect.forkChild(second.ask(request()))
          yield* settle
          const open = yield* second.list(true)
          assert.strictEqual(open.length, 1)
          yield* second.answer(open[0]!.id, once, person, null)
          assert.isTrue((yield* Fiber.join(again)).allowed)
          yield* stopSecond
          // The answer was on its way when the gateway died: the same call is told it again, another is not.
          const [third] = yield* start
          assert.isTrue((yield* third.ask(request())).allowed)
          const other = yield* Effect.forkChild(third.ask(request({ callId: "call-2" })))
          yield* settle
          assert.isUndefined(other.pollUnsafe())
        })
      )
  )

  it.effect("what expired while no gateway was there is a deny at the next start", () =>
    gateways((start) =>
      Effect.gen(function* () {
        const [first, stop] = yield* start
        const before = yield* Effect.forkChild(first.ask(request()))
        yield* settle
        yield* Fiber.interrupt(before)
        yield* stop
        yield* TestClock.adjust("20 minutes")
        const [second] = yield* start
        yield* settle
        assert.deepStrictEqual(
          (yield* second.list(false)).map(({ state }) => state._tag),
          ["expired"]
        )
        const told = yield* second.ask(request())
        assert.deepStrictEqual([told.allowed, told.reason.includes("nobody answered")], [false, true])
      })
    )
  )
})
