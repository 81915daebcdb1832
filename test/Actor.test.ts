import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import * as Actor from "../src/services/Actor.ts"

type Event =
  | { readonly _tag: "add"; readonly n: number }
  | { readonly _tag: "get"; readonly reply: Deferred.Deferred<number> }
  | { readonly _tag: "hold"; readonly until: Deferred.Deferred<void> }
  | { readonly _tag: "boom" }
type Action =
  | { readonly _tag: "reply"; readonly to: Deferred.Deferred<number>; readonly n: number }
  | { readonly _tag: "wait"; readonly until: Deferred.Deferred<void> }

const counter = (
  overflow: Actor.Overflow,
  capacity = 2,
  held?: Deferred.Deferred<void>
): Actor.ActorSpec<number, Event, Action> => ({
  name: "counter",
  initial: () => 0,
  next: (state, event) => {
    switch (event._tag) {
      case "add":
        return [state + event.n, []]
      case "get":
        return [state, [{ _tag: "reply", to: event.reply, n: state }]]
      case "hold":
        return [state, [{ _tag: "wait", until: event.until }]]
      case "boom":
        throw new Error("boom")
    }
  },
  perform: (action) =>
    action._tag === "reply"
      ? Effect.asVoid(Deferred.succeed(action.to, action.n))
      : Effect.andThen(held ? Deferred.succeed(held, undefined) : Effect.void, Deferred.await(action.until)),
  mailbox: { capacity, overflow },
  describe: (n) => `count ${n}`
})

const get = (actor: Actor.Actor<number, Event>) =>
  actor.ask<number>((reply) => ({ _tag: "get", reply }), 1000)

/** An actor whose interpreter is held, so that its mailbox fills. */
const held = Effect.fnUntraced(function* (overflow: Actor.Overflow) {
  const [until, isHeld] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
  const actor = yield* Actor.start(counter(overflow, 2, isHeld))
  yield* actor.tell({ _tag: "hold", until })
  yield* Deferred.await(isHeld)
  return { actor, release: Deferred.succeed(until, undefined) }
})

describe("Actor", () => {
  it.effect("events change the state one after another, and an ask sees those before it", () =>
    Effect.gen(function* () {
      const actor = yield* Actor.start(counter("wait", 8))
      for (const n of [1, 2, 3]) yield* actor.tell({ _tag: "add", n })
      assert.strictEqual(yield* get(actor), 6)
      assert.strictEqual(yield* actor.describe, "count 6")
    })
  )

  it.effect("an ask nobody answers ends at its deadline on the Clock", () =>
    Effect.gen(function* () {
      const { actor } = yield* held("wait")
      const asking = yield* Effect.forkChild(Effect.flip(get(actor)))
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(asking.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(
        yield* Fiber.join(asking),
        new Actor.AskTimeout({ actor: "counter", deadlineMs: 1000 })
      )
    })
  )

  it.effect("a full mailbox refuses, forgets the oldest, or makes the teller wait, as it was told to", () =>
    Effect.gen(function* () {
      const add = { _tag: "add", n: 1 } as const
      const refuses = yield* held("refuse")
      yield* refuses.actor.tell(add)
      yield* refuses.actor.tell(add)
      assert.deepStrictEqual(
        yield* Effect.flip(refuses.actor.tell(add)),
        new Actor.MailboxFull({ actor: "counter", capacity: 2 })
      )
      yield* refuses.release
      yield* TestClock.adjust(0)
      assert.strictEqual(yield* get(refuses.actor), 2)

      const forgets = yield* held("drop-oldest")
      for (const n of [1, 10, 100]) yield* forgets.actor.tell({ _tag: "add", n })
      yield* forgets.release
      yield* TestClock.adjust(0)
      assert.strictEqual(yield* get(forgets.actor), 110)

      const waits = yield* held("wait")
      yield* waits.actor.tell(add)
      yield* waits.actor.tell(add)
      const third = yield* Effect.forkChild(waits.actor.tell(add), { startImmediately: true })
      assert.isUndefined(third.pollUnsafe())
      yield* waits.release
      yield* Fiber.join(third)
      assert.strictEqual(yield* get(waits.actor), 3)
    })
  )

  it.effect("a watcher sees the current state, the later ones, and the end", () =>
    Effect.gen(function* () {
      const actor = yield* Actor.start(counter("wait", 8))
      yield* actor.tell({ _tag: "add", n: 1 })
      yield* get(actor)
      const first = yield* Deferred.make<void>()
      const watching = yield* actor.watch.pipe(
        Stream.tap(() => Deferred.succeed(first, undefined)),
        Stream.runCollect,
        Effect.forkChild
      )
      yield* Deferred.await(first)
      yield* actor.tell({ _tag: "add", n: 1 })
      yield* get(actor)
      yield* actor.end
      assert.deepStrictEqual(yield* Fiber.join(watching), [1, 2])
      assert.deepStrictEqual(yield* Stream.runCollect(actor.watch), [])
    })
  )

  it.effect("a slow watcher misses the oldest states and never slows the actor", () =>
    Effect.gen(function* () {
      const actor = yield* Actor.start(counter("wait", 8))
      const [looked, goOn] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const watching = yield* actor.watch.pipe(
        Stream.tap(() => Effect.andThen(Deferred.succeed(looked, undefined), Deferred.await(goOn))),
        Stream.runCollect,
        Effect.forkChild
      )
      yield* Deferred.await(looked)
      const events = 2 * Actor.watchBuffer
      for (let n = 0; n < events; n++) yield* actor.tell({ _tag: "add", n: 1 })
      // All are handled while the watcher still looks at the first state.
      assert.strictEqual(yield* get(actor), events)
      assert.deepStrictEqual(yield* Stream.runHead(actor.watch), Option.some(events))
      yield* Deferred.succeed(goOn, undefined)
      yield* TestClock.adjust(0)
      yield* actor.end
      const last = Array.from({ length: Actor.watchBuffer }, (_, n) => events - Actor.watchBuffer + 1 + n)
      assert.deepStrictEqual(yield* Fiber.join(watching), [0, ...last])
    })
  )

  it.effect("a crash ends it with its cause; who asks then is told so at once", () =>
    Effect.gen(function* () {
      const actor = yield* Actor.start(counter("wait"))
      yield* actor.tell({ _tag: "boom" })
      const exit = yield* actor.stopped
      assert.isTrue(Exit.isFailure(exit))
      assert.deepStrictEqual(yield* Effect.flip(get(actor)), new Actor.ActorStopped({ actor: "counter" }))
    })
  )

  it.effect("an asker that waits while the actor dies is told so", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { actor } = yield* Scope.provide(held("wait"), scope)
      const asking = yield* Effect.forkChild(Effect.flip(get(actor)), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(asking), new Actor.ActorStopped({ actor: "counter" }))
    })
  )

  it.effect("end lets the mailbox run dry and takes nothing new", () =>
    Effect.gen(function* () {
      const { actor, release } = yield* held("wait")
      yield* actor.tell({ _tag: "add", n: 5 })
      yield* actor.end
      assert.deepStrictEqual(
        yield* Effect.flip(actor.tell({ _tag: "add", n: 1 })),
        new Actor.ActorStopped({ actor: "counter" })
      )
      yield* release
      assert.deepStrictEqual(yield* actor.stopped, Exit.void)
      assert.strictEqual(yield* actor.state, 5)
    })
  )
})
