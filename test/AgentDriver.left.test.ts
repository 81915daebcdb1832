/** Turns that outlive their gateway, in a world of fakes: what is written down, left, taken up, reported and given up. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { type AgentEvent, type AgentRunError, attachGraceMs } from "../src/services/AgentDriver.ts"
import { entry } from "../src/testing/AuditLog.ts"
import {
  asks,
  cleanup,
  completed,
  itemOf,
  runIn,
  type World,
  world,
  type WorldOptions
} from "./support/codexWorld.ts"
import { historyOf, turnRecord } from "./support/turns.ts"

const nothing = Effect.yieldNow.pipe(Effect.repeat({ times: 50 }))

/** A gateway that finds these turns at its start. */
const finding = (kept: NonNullable<WorldOptions["kept"]>, options: WorldOptions = {}) =>
  world({ ...options, kept: { left: [turnRecord()], history: historyOf("inProgress"), ...kept } })

const follow = Effect.fnUntraced(function* (place: World, runId = "run-1") {
  const seen: Array<AgentEvent> = []
  const fiber = yield* Effect.forkChild(
    Stream.runForEach(place.driver.attach(runId), (event) => Effect.sync(() => seen.push(event))),
    { startImmediately: true }
  )
  return { seen, fiber, ended: Effect.exit(Fiber.join(fiber)) }
})

const textsOf = (events: ReadonlyArray<AgentEvent>) =>
  events.map((event) =>
    event._tag === "message" ? event.text : event._tag === "ended" ? `ended ${event.status}` : event._tag
  )

const problemOf = (exit: Exit.Exit<unknown, AgentRunError>): string =>
  Exit.isFailure(exit) ? exit.cause.toString() : "none"

describe("a turn on an app-server that outlives its gateway", () => {
  it.effect(
    "is in the ledger before Codex is asked to start it, with its id after, and out of it at its end",
    () =>
      Effect.gen(function* () {
        const place = yield* runIn(yield* world({ kept: {} }), { overrides: ["model=m"] })
        yield* nothing
        const [record] = place.turns.values()
        assert.deepInclude(record, {
          threadId: "T",
          turnId: "U",
          serverRun: "r-1",
          relayId: "R",
          generation: 1,
          deadline: 3_600_000
        })
        assert.notInclude(JSON.stringify(record), "prompt")
        yield* place.say(completed)
        yield* Fiber.join(place.fiber)
        assert.strictEqual(place.turns.size, 0)
      })
  )

  it.effect("is neither stopped nor forgotten by a gateway that leaves, and is by one that is stopped", () =>
    Effect.gen(function* () {
      for (const leaves of [true, false]) {
        const place = yield* runIn(yield* world({ kept: {} }))
        yield* nothing
        const before = place.asked.length
        if (leaves) place.leave()
        yield* Fiber.interrupt(place.fiber)
        assert.deepStrictEqual(
          [place.asked.slice(before), place.turns.size],
          leaves ? [[], 1] : [["turn/interrupt", ...cleanup], 0]
        )
      }
    })
  )

  it.effect(
    "is taken up with its relay one generation on, before anybody asks, and followed to its end",
    () =>
      Effect.gen(function* () {
        const row = { ...entry, runId: "run-1", seq: 7, at: 0, callId: "call-9" }
        const rows = [row, { ...row, seq: 8, callId: "m1" }, { ...row, seq: 9, runId: "another" }]
        const place = yield* finding({ rows })
        assert.deepStrictEqual(
          place.registered.map(({ relayId, generation, sessionId, runId }) => [
            relayId,
            generation,
            sessionId,
            runId
          ]),
          [["R", 4, "T", "run-1"]]
        )
        assert.deepStrictEqual(
          [place.asked, place.log],
          [["thread/resume", "hooks/list", "thread/read"], ["inherit [call-9]"]]
        )
        assert.strictEqual([...place.turns.values()][0]?.generation, 4)
        const caller = yield* follow(place)
        // Completed between the resume and the reading of the history, and so told by both.
        yield* place.say(itemOf("completed", { type: "agentMessage", id: "m2", text: "two" }))
        yield* place.say(itemOf("completed", { type: "agentMessage", id: "m3", text: "three" }))
        yield* place.say(completed)
        assert.isTrue(Exit.isSuccess(yield* caller.ended))
        assert.deepStrictEqual(textsOf(caller.seen), [
          "governed",
          "verdict",
          "verdict",
          "one",
          "two",
          "three",
          "ended completed"
        ])
        assert.strictEqual(place.turns.size, 0)
      })
  )

  it.effect("is answered what it was waiting for", () =>
    Effect.gen(function* () {
      const place = yield* finding({})
      const params = { threadId: "T", turnId: "U", itemId: "p1" }
      assert.deepStrictEqual(yield* asks(place, "item/fileChange/requestApproval", params), {
        decision: "accept"
      })
      assert.include(place.log, "approve p1")
    })
  )

  it.effect("that ended while nobody was there is reported as it ended", () =>
    Effect.gen(function* () {
      for (const [status, error, said] of [
        ["completed", null, "ended completed"],
        ["failed", { message: "no", codexErrorInfo: "modelNotFound" }, "ended failed"],
        ["interrupted", null, "ended interrupted"]
      ] as const) {
        const place = yield* finding({ history: historyOf(status, error) })
        const caller = yield* follow(place)
        yield* caller.ended
        assert.deepStrictEqual([textsOf(caller.seen).at(-1), place.turns.size], [said, 0])
      }
    })
  )

  it.effect("whose id was not written any more is the thread's last, if that began with it", () =>
    Effect.gen(function* () {
      const left = [turnRecord({ turnId: null })]
      const place = yield* finding({ left })
      const caller = yield* follow(place)
      yield* place.say(completed)
      assert.isTrue(Exit.isSuccess(yield* caller.ended))

      const never = yield* finding({ left: [turnRecord({ turnId: null, startedAt: 60_000 })] })
      assert.include(problemOf(yield* (yield* follow(never)).ended), "had not begun it")
      assert.deepStrictEqual(never.retired, [])
    })
  )

  it.effect("is lost with its app-server, and says so; nothing else is started for it", () =>
    Effect.gen(function* () {
      const place = yield* finding({ runs: false })
      assert.deepStrictEqual([place.borrows, place.turns.size], [[], 0])
      assert.include(problemOf(yield* (yield* follow(place)).ended), "ended while no gateway was there")

      const other = yield* finding({ left: [turnRecord({ serverRun: "r-2" })] })
      assert.include(problemOf(yield* (yield* follow(other)).ended), "another app-server")
      assert.deepStrictEqual(other.asked, [])
    })
  )

  it.effect("whose hooks are not in force any more is interrupted, not followed", () =>
    Effect.gen(function* () {
      const place = yield* finding({}, { trustStatus: "untrusted" })
      assert.include(problemOf(yield* (yield* follow(place)).ended), "HooksUnverified")
      assert.deepStrictEqual(
        place.asked.filter((method) => method.startsWith("turn/")),
        ["turn/interrupt"]
      )
      // Nobody knows what to interrupt.
      const nameless = yield* finding({ left: [turnRecord({ turnId: null })] }, { trustStatus: "untrusted" })
      assert.strictEqual(nameless.retired.length, 1)
    })
  )

  it.effect("is interrupted when its caller does not come back in time, and left alone when he has", () =>
    Effect.gen(function* () {
      const place = yield* finding({})
      yield* TestClock.adjust(attachGraceMs - 1)
      assert.notInclude(place.asked, "turn/interrupt")
      yield* TestClock.adjust(1)
      yield* nothing
      assert.deepStrictEqual([place.asked.includes("turn/interrupt"), place.turns.size], [true, 0])
      assert.include(problemOf(yield* (yield* follow(place)).ended), "TurnNotFound")

      const attended = yield* finding({})
      const caller = yield* follow(attended)
      yield* TestClock.adjust(attachGraceMs * 2)
      assert.notInclude(attended.asked, "turn/interrupt")
      yield* Fiber.interrupt(caller.fiber)
      assert.include(attended.asked, "turn/interrupt")
    })
  )

  it.effect("keeps the deadline that it had", () =>
    Effect.gen(function* () {
      const place = yield* finding({ left: [turnRecord({ deadline: 10_000 })] })
      const caller = yield* follow(place)
      yield* TestClock.adjust(10_000)
      assert.include(problemOf(yield* caller.ended), "TurnTimeout")
      assert.include(place.asked, "turn/interrupt")
    })
  )

  it.effect("is left once more by a gateway that leaves in its turn", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const place = yield* Scope.provide(finding({}), scope)
      const before = place.asked.length
      place.leave()
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([place.asked.slice(before), place.turns.size], [[], 1])
    })
  )
})
