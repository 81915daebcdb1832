/** How the Codex driver opens a thread: on the terms it sent or not at all, and never one that nobody gives back. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { ThreadUnverified } from "../src/services/AgentDriver.ts"
import { completed, request, running, world } from "./support/codexWorld.ts"

describe("AgentDriver for Codex, opening a thread", () => {
  it.effect("a thread that is still loaded on other terms is let go and resumed once more", () =>
    Effect.gen(function* () {
      const place = yield* running({ loadedBySomebody: 1 }, { thread: { _tag: "resume", threadId: "T" } })
      yield* place.say(completed)
      yield* Fiber.join(place.fiber)
      assert.deepStrictEqual(place.asked.slice(0, 4), [
        "thread/resume",
        "thread/unsubscribe",
        "thread/loaded/list",
        "thread/resume"
      ])
    })
  )

  it.effect("on a thread that keeps other terms than were asked for no turn is started", () =>
    Effect.gen(function* () {
      for (const thread of [{ _tag: "start" }, { _tag: "resume", threadId: "T" }] as const) {
        const place = yield* world({ loadedBySomebody: 9 })
        const error = yield* Effect.flip(Stream.runDrain(place.driver.run({ ...request, thread })))
        assert.deepStrictEqual(
          error,
          new ThreadUnverified({
            threadId: "T",
            problems: ["its sandbox is dangerFullAccess, not workspaceWrite"]
          })
        )
        assert.notInclude(place.asked, "turn/start")
      }
    })
  )

  it.effect(
    "who vanishes while a thread is being opened gives it back first, and only then the claim on it",
    () =>
      Effect.gen(function* () {
        const opening = yield* Deferred.make<void>()
        const place = yield* world({ opening })
        const thread = { _tag: "resume", threadId: "T" } as const
        const vanishing = yield* Effect.forkChild(Stream.runDrain(place.driver.run({ ...request, thread })))
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(place.asked, ["thread/resume"])
        const leaving = yield* Effect.forkChild(Fiber.interrupt(vanishing))
        yield* TestClock.adjust("4 seconds")
        const meanwhile = yield* Effect.flip(Stream.runDrain(place.driver.run({ ...request, thread })))
        assert.match(meanwhile.message, /belongs to another run now/)
        yield* Deferred.succeed(opening, undefined)
        yield* Fiber.join(leaving)
        assert.deepStrictEqual(place.asked, ["thread/resume", "thread/unsubscribe"])
      })
  )
})
