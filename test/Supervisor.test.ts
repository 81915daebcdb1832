import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { layer } from "../src/layers/SupervisionTree.ts"
import type * as Actor from "../src/services/Actor.ts"
import { renderTree, SupervisionTree } from "../src/services/SupervisionTree.ts"
import * as Supervisor from "../src/services/Supervisor.ts"

type Event = "boom" | "quit" | "hang" | "tick"

/** An actor that breaks, quits or hangs when told; `lives` counts its scopes that are open now. */
const fragile = (
  name: string,
  log: Array<string>,
  lives = { open: 0 }
): Actor.ActorSpec<number, Event, Event> => ({
  name,
  initial: () => 0,
  next: (state, event) => [state + 1, [event]],
  perform: (event, self) =>
    event === "boom"
      ? Effect.die(new Error("boom"))
      : event === "quit"
        ? self.end
        : event === "hang"
          ? Effect.never
          : Effect.provideService(
              Effect.acquireRelease(
                Effect.sync(() => {
                  lives.open++
                }),
                () =>
                  Effect.sync(() => {
                    lives.open--
                    log.push(`closed ${name}`)
                  })
              ),
              Scope.Scope,
              self.scope
            ),
  mailbox: { capacity: 16, overflow: "wait" },
  describe: (n) => `n ${n}`
})

const spec = (id: string, restart: Supervisor.Restart): Supervisor.ChildSpec => ({
  id,
  restart,
  shutdownMs: 100
})
const summary = Effect.map(
  Effect.flatMap(SupervisionTree, (tree) => tree.snapshot),
  (tree) => tree.flatMap((node) => node.children.map(({ id, state, restarts }) => ({ id, state, restarts })))
)

/** The finalizers of a scope itself: what a leak makes grow. A scope forked from it counts as one, whatever is in it. */
const finalizersOf = (scope: Scope.Scope): number => {
  const state = scope.state
  return state._tag === "Open" ? (state.finalizers?.size ?? 1) : 0
}

/** Lets every fiber that can run do so; time stands still. */
const settle = TestClock.adjust(0)

describe("Supervisor", () => {
  it("permanent restarts always, transient after a crash, temporary never, and no one past the intensity", () => {
    const limits = { intensity: 2, periodMs: 1000 }
    const tag = (
      restart: Supervisor.Restart,
      restarts: ReadonlyArray<number>,
      now: number,
      abnormal: boolean
    ) => Supervisor.decideRestart(restart, limits, restarts, now, abnormal)._tag
    assert.deepStrictEqual(
      {
        permanentNormal: tag("permanent", [], 0, false),
        permanentCrash: tag("permanent", [], 0, true),
        transientNormal: tag("transient", [], 0, false),
        transientCrash: tag("transient", [], 0, true),
        temporaryCrash: tag("temporary", [], 0, true),
        third: tag("permanent", [0, 500], 999, true),
        thirdLater: tag("permanent", [0, 500], 1000, true)
      },
      {
        permanentNormal: "restart",
        permanentCrash: "restart",
        transientNormal: "ended",
        transientCrash: "restart",
        temporaryCrash: "ended",
        third: "gave-up",
        thirdLater: "restart"
      }
    )
  })

  it.effect(
    "a crash restarts that child alone; the ref stays good and the rest of the mailbox is handled",
    () =>
      Effect.gen(function* () {
        const tree = yield* SupervisionTree
        const supervisor = yield* tree.supervisor("test")
        const log: Array<string> = []
        const a = yield* supervisor.start(spec("a", "permanent"), fragile("a", log))
        yield* supervisor.start(spec("b", "permanent"), fragile("b", log))
        for (const event of ["tick", "boom", "tick", "tick"] as const) yield* a.tell(event)
        yield* settle
        assert.deepStrictEqual(yield* summary, [
          { id: "a", state: "running", restarts: 1 },
          { id: "b", state: "running", restarts: 0 }
        ])
        assert.strictEqual(yield* a.state, 2)
        assert.deepStrictEqual(log, ["closed a"])
      }).pipe(Effect.provide(layer))
  )

  it.effect("giving up is a state that stays listed with the error; a quiet period resets the count", () =>
    Effect.gen(function* () {
      const tree = yield* SupervisionTree
      const supervisor = yield* tree.supervisor("test", { intensity: 1, periodMs: 1000 })
      const a = yield* supervisor.start(spec("a", "permanent"), fragile("a", []))
      yield* a.tell("boom")
      yield* TestClock.adjust(1000)
      yield* a.tell("boom")
      yield* settle
      assert.deepStrictEqual(yield* summary, [{ id: "a", state: "running", restarts: 2 }])
      yield* a.tell("boom")
      yield* settle
      assert.strictEqual(
        renderTree("gateway", yield* tree.snapshot),
        "gateway\n└─ test\n   └─ a  gave-up: boom  0 ms  restarts 2"
      )
      const again = yield* supervisor.start(spec("a", "permanent"), fragile("a", []))
      yield* again.tell("tick")
      yield* settle
      assert.deepStrictEqual(yield* summary, [{ id: "a", state: "running", restarts: 0 }])
    }).pipe(Effect.provide(layer))
  )

  it.effect("a child that ends by itself is gone from the list, whatever its restart says of crashes", () =>
    Effect.gen(function* () {
      const supervisor = yield* (yield* SupervisionTree).supervisor("test")
      for (const restart of ["permanent", "transient", "temporary"] as const) {
        const child = yield* supervisor.start(spec(restart, restart), fragile(restart, []))
        yield* child.tell("quit")
      }
      yield* settle
      assert.deepStrictEqual(yield* summary, [])
    }).pipe(Effect.provide(layer))
  )

  it.effect("stopping asks first, interrupts after the budget, and closes children in reverse order", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const log: Array<string> = []
      const tree = yield* SupervisionTree
      const supervisor = yield* Scope.provide(tree.supervisor("test"), scope)
      const a = yield* supervisor.start(spec("a", "permanent"), fragile("a", log))
      const b = yield* supervisor.start(spec("b", "permanent"), fragile("b", log))
      const c = yield* supervisor.start(spec("c", "permanent"), fragile("c", log))
      for (const actor of [a, b, c]) yield* actor.tell("tick")
      yield* b.tell("hang")
      yield* settle
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(log, ["closed c"])
      yield* TestClock.adjust(1)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(log, ["closed c", "closed b", "closed a"])
      assert.deepStrictEqual(yield* tree.snapshot, [])
    }).pipe(Effect.provide(layer))
  )

  it.effect("one live child per id, under any race", () =>
    Effect.gen(function* () {
      const supervisor = yield* (yield* SupervisionTree).supervisor("test")
      const results = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, i) => i),
        () => Effect.result(supervisor.start(spec("a", "temporary"), fragile("a", []))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(results.filter((result) => result._tag === "Success").length, 1)
      assert.strictEqual((yield* supervisor.list).length, 1)
    }).pipe(Effect.provide(layer))
  )

  it.effect("children that ended badly are listed up to a bound", () =>
    Effect.gen(function* () {
      const supervisor = yield* (yield* SupervisionTree).supervisor("test")
      for (let i = 0; i < Supervisor.maxListedEnds + 10; i++) {
        const child = yield* supervisor.start(spec(`c${i}`, "temporary"), fragile("c", []))
        yield* child.tell("boom")
        yield* child.stopped
      }
      const listed = yield* supervisor.list
      assert.strictEqual(listed.length, Supervisor.maxListedEnds)
      assert.strictEqual(listed.at(-1)!.id, `c${Supervisor.maxListedEnds + 9}`)
    }).pipe(Effect.provide(layer))
  )

  it.effect("10,000 starts and stops, crashes among them, leave nothing open", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const supervisor = yield* Scope.provide(Supervisor.make("test"), scope)
      const baseline = finalizersOf(scope)
      const lives = { open: 0 }
      const log: Array<string> = []
      for (let i = 0; i < 10_000; i++) {
        const started = yield* Deferred.make<void>()
        const child = fragile("a", log, lives)
        const actor = yield* supervisor.start(spec("a", "transient"), {
          ...child,
          perform: (event, self) =>
            Effect.tap(child.perform(event, self), () => Deferred.succeed(started, undefined))
        })
        yield* actor.tell("tick")
        yield* Deferred.await(started)
        if (i % 10 === 0) yield* actor.tell("boom")
        yield* supervisor.stop("a")
      }
      assert.deepStrictEqual(
        {
          open: lives.open,
          closed: log.length,
          listed: yield* supervisor.list,
          finalizers: finalizersOf(scope)
        },
        { open: 0, closed: 10_000, listed: [], finalizers: baseline }
      )
    })
  )
})
