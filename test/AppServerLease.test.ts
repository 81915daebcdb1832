import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { layer } from "../src/layers/AppServerLease.ts"
import { layer as treeLayer } from "../src/layers/SupervisionTree.ts"
import { AppServerLease, LeaseTimeout } from "../src/services/AppServerLease.ts"
import { SupervisionTree } from "../src/services/SupervisionTree.ts"
import { FakeAppServer, layerFake, unavailable } from "./support/AppServerProcess.ts"

const Lease = layer.pipe(Layer.provideMerge(layerFake), Layer.provideMerge(treeLayer))
const settle = TestClock.adjust(0)

describe("AppServerLease", () => {
  it.effect("many borrowers at once share one child, which outlives the last by the idle grace", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const { log } = yield* FakeAppServer
      const scopes = yield* Effect.forEach(Array.from({ length: 20 }), () => Scope.make())
      const connections = yield* Effect.forEach(scopes, (scope) => Scope.provide(lease.borrow, scope), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        connections.map(({ generation }) => generation),
        Array.from({ length: 20 }, () => 1)
      )
      yield* Effect.forEach(scopes, (scope) => Scope.close(scope, Exit.void))
      yield* TestClock.adjust("29999 millis")
      assert.deepStrictEqual(log, ["start 1"])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(log, ["start 1", "stop 1"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a borrow during the grace keeps the child, and its end starts a fresh grace", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const { log } = yield* FakeAppServer
      yield* Effect.scoped(lease.borrow)
      yield* TestClock.adjust("20 seconds")
      yield* Effect.scoped(lease.borrow)
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(log, ["start 1"])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(log, ["start 1", "stop 1"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a child that dies is replaced for the next borrower, and its end is kept with the reason", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const fake = yield* FakeAppServer
      const held = yield* Scope.make()
      yield* Scope.provide(lease.borrow, held)
      yield* fake.dies(1)
      yield* settle
      const next = yield* Effect.scoped(lease.borrow)
      assert.strictEqual(next.generation, 2)
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "start 2"])
      const [info] = yield* lease.list
      assert.deepInclude(info!.lastLost, {
        generation: 1,
        reason: { _tag: "exited", code: null, signal: "SIGKILL" },
        stderrTail: "last words"
      })
      // The dead generation's borrower gives back what is no longer there.
      yield* Scope.close(held, Exit.void)
      yield* settle
      assert.strictEqual((yield* lease.list)[0]!.state, "Ready")
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a waiter's own deadline costs it its claim, all of it; the child goes on starting for the other",
    () =>
      Effect.gen(function* () {
        const lease = yield* AppServerLease
        const fake = yield* FakeAppServer
        const gate = yield* Deferred.make<void>()
        fake.startsWaitFor(gate)
        const first = yield* Effect.forkChild(Effect.flip(Effect.scoped(lease.borrow)))
        yield* TestClock.adjust("10 seconds")
        const second = yield* Effect.forkChild(Effect.scoped(lease.borrow))
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* Fiber.join(first), new LeaseTimeout({ timeoutMs: 15_000 }))
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual((yield* Fiber.join(second)).generation, 1)
        yield* TestClock.adjust("29999 millis")
        assert.deepStrictEqual(fake.log, ["start 1"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(fake.log, ["start 1", "stop 1"])
      }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a child that does not come up refuses every waiter with its reason, and the next borrow tries again",
    () =>
      Effect.gen(function* () {
        const lease = yield* AppServerLease
        const fake = yield* FakeAppServer
        fake.startsFail(true)
        const errors = yield* Effect.forEach([1, 2], () => Effect.flip(Effect.scoped(lease.borrow)), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(errors, [unavailable, unavailable])
        fake.startsFail(false)
        assert.strictEqual((yield* Effect.scoped(lease.borrow)).generation, 2)
        assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "start 2"])
      }).pipe(Effect.provide(Lease))
  )

  it.effect("a bug of ours while starting refuses the waiter at once, and the next borrow tries again", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const fake = yield* FakeAppServer
      fake.startsBreak(true)
      const error = yield* Effect.flip(Effect.scoped(lease.borrow))
      assert.strictEqual(error._tag, "AppServerUnavailable")
      assert.notInclude(error.message, "a bug of ours")
      fake.startsBreak(false)
      assert.strictEqual((yield* Effect.scoped(lease.borrow)).generation, 2)
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "start 2"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a borrower interrupted while the child starts leaves no claim behind", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const fake = yield* FakeAppServer
      const gate = yield* Deferred.make<void>()
      fake.startsWaitFor(gate)
      const waiting = yield* Effect.forkChild(Effect.scoped(lease.borrow))
      yield* settle
      yield* Fiber.interrupt(waiting)
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1"])
      assert.strictEqual((yield* lease.list)[0]!.state, "Absent")
    }).pipe(Effect.provide(Lease))
  )

  it.effect("closing the layer stops the child even while it is borrowed", () =>
    Effect.gen(function* () {
      const borrower = yield* Scope.make()
      const log = yield* Effect.gen(function* () {
        const lease = yield* AppServerLease
        yield* Scope.provide(lease.borrow, borrower)
        return (yield* FakeAppServer).log
      }).pipe(Effect.provide(Lease))
      assert.deepStrictEqual(log, ["start 1", "stop 1"])
      yield* Scope.close(borrower, Exit.void)
    })
  )

  it.effect("the lease is in the supervision tree, with its state", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      const tree = yield* SupervisionTree
      const details = Effect.map(tree.snapshot, (nodes) =>
        nodes.flatMap(({ supervisor, children }) => children.map(({ detail }) => `${supervisor}: ${detail}`))
      )
      assert.deepStrictEqual(yield* details, ["leases: absent"])
      const scope = yield* Scope.make()
      yield* Scope.provide(lease.borrow, scope)
      assert.deepStrictEqual(yield* details, ["leases: ready, 1 borrowed"])
      yield* Scope.close(scope, Exit.void)
      yield* settle
      assert.deepStrictEqual(yield* details, ["leases: idle"])
    }).pipe(Effect.provide(Lease))
  )
})
