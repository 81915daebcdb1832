import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { LeaseCircuitOpen, LeaseTimeout } from "../src/services/AppServerFailure.ts"
import { AppServerLease } from "../src/services/AppServerLease.ts"
import { SupervisionTree } from "../src/services/SupervisionTree.ts"
import { borrow, faults, held, Lease, onlyInfo, states } from "./support/AppServerLease.ts"
import { FakeAppServer, living, lostOf, unavailable } from "../src/testing/AppServerProcess.ts"
import { pass, settle } from "../src/testing/VirtualTime.ts"

describe("AppServerLease", () => {
  it.effect("fifty borrowers at once share one child, which outlives the last by the idle grace", () =>
    Effect.gen(function* () {
      const { log } = yield* FakeAppServer
      const borrowers = yield* Effect.forEach(Array.from({ length: 50 }), () => held(), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(new Set(borrowers.map(({ connection }) => connection.pid)), new Set([1001]))
      yield* Effect.forEach(borrowers, ({ giveBack }) => giveBack, { concurrency: "unbounded" })
      yield* pass("29999 millis")
      assert.deepStrictEqual(log, ["start 1"])
      yield* pass("1 millis")
      assert.deepStrictEqual(log, ["start 1", "stop 1", "gone 1", "swept 1"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a borrow during the grace keeps the child, and its end starts a fresh grace", () =>
    Effect.gen(function* () {
      const { log } = yield* FakeAppServer
      yield* Effect.scoped(borrow())
      yield* pass("20 seconds")
      yield* Effect.scoped(borrow())
      yield* pass("20 seconds")
      assert.deepStrictEqual(log, ["start 1"])
      yield* pass("10 seconds")
      assert.deepStrictEqual(log, ["start 1", "stop 1", "gone 1", "swept 1"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a lost child is replaced only once it has gone, and why it was retired is kept with how it ended",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        const exit = yield* Deferred.make<void>()
        fake.exitsWaitFor(exit)
        fake.exitsAs({ confirmed: true, code: null, signal: "SIGKILL" })
        const first = yield* held()
        yield* pass("3 seconds")
        yield* fake.dies(1)
        yield* settle
        const next = yield* Effect.forkChild(held())
        yield* settle
        assert.deepStrictEqual(fake.log, ["start 1", "stop 1"])
        const retired = {
          generation: 1,
          reason: { _tag: "signalled", signal: "SIGKILL" },
          stderrTail: "last words",
          exit: null,
          at: 3000
        } as const
        const before = yield* onlyInfo
        assert.deepStrictEqual(
          {
            state: before.state,
            waiting: before.waiting,
            retired: before.retired,
            borrowers: before.borrowers
          },
          { state: "Retired", waiting: 1, retired, borrowers: [] }
        )
        yield* Deferred.succeed(exit, undefined)
        const second = yield* Fiber.join(next)
        assert.strictEqual(second.connection.generation, 2)
        assert.deepStrictEqual(living(fake.log), ["start 2"])
        assert.isBelow(fake.log.indexOf("gone 1"), fake.log.indexOf("start 2"))
        assert.deepStrictEqual((yield* onlyInfo).retired, {
          ...retired,
          exit: { code: null, signal: "SIGKILL" }
        })
        // The lost generation's borrower gives back what is no longer there.
        yield* first.giveBack
        assert.deepStrictEqual((yield* onlyInfo).borrowers, [{ runId: "run", spawnedBy: null }])
      }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "evidence of one borrower retires the child for all, and their connections say the same reason",
    () =>
      Effect.gen(function* () {
        const reason = { _tag: "interrupt-unconfirmed", threadId: "t", timeoutMs: 10_000 } as const
        const [one, other] = [yield* held(), yield* held()]
        yield* one.connection.retire(reason)
        assert.deepStrictEqual(yield* other.connection.lost, lostOf(1, reason))
        yield* settle
        assert.strictEqual((yield* held()).connection.generation, 2)
        assert.deepStrictEqual((yield* onlyInfo).retired?.reason, reason)
      }).pipe(Effect.provide(Lease))
  )

  it.effect("the next child does not wait until all that the last one left behind is swept", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const sweep = yield* Deferred.make<void>()
      fake.sweepsWaitFor(sweep)
      yield* held()
      yield* fake.dies(1)
      yield* settle
      yield* held()
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "gone 1", "start 2"])
      yield* Deferred.succeed(sweep, undefined)
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a waiter's own deadline costs it its claim only; the child goes on starting for the other", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const gate = yield* Deferred.make<void>()
      fake.startsWaitFor(gate)
      const hasty = yield* Effect.forkChild(Effect.flip(borrow({ timeoutMs: 100 })))
      const patient = yield* Effect.forkChild(held())
      yield* pass("100 millis")
      assert.deepStrictEqual(yield* Fiber.join(hasty), new LeaseTimeout({ timeoutMs: 100 }))
      assert.strictEqual((yield* onlyInfo).waiting, 1)
      yield* Deferred.succeed(gate, undefined)
      const { connection, giveBack } = yield* Fiber.join(patient)
      assert.strictEqual(connection.generation, 1)
      yield* giveBack
      yield* pass("30 seconds")
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "gone 1", "swept 1"])
    }).pipe(Effect.provide(Lease), Effect.scoped)
  )

  it.effect("a waiter without a deadline of its own has the handshake's", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      fake.startsWaitFor(yield* Deferred.make<void>())
      const waiting = yield* Effect.forkChild(Effect.flip(Effect.scoped(borrow())))
      yield* pass("14999 millis")
      assert.isUndefined(waiting.pollUnsafe())
      yield* pass("1 millis")
      assert.deepStrictEqual(yield* Fiber.join(waiting), new LeaseTimeout({ timeoutMs: 15_000 }))
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a child that does not come up refuses every waiter with its reason, and the next borrow tries again",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        fake.startsFail(true)
        const errors = yield* Effect.forEach([1, 2], () => Effect.flip(Effect.scoped(borrow())), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(errors, [unavailable, unavailable])
        fake.startsFail(false)
        assert.strictEqual((yield* Effect.scoped(borrow())).generation, 2)
        assert.deepStrictEqual(living(fake.log), ["start 2"])
      }).pipe(Effect.provide(Lease))
  )

  it.effect("a bug of ours while starting refuses the waiter at once, and the next borrow tries again", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      fake.startsBreak(true)
      const error = yield* Effect.flip(Effect.scoped(borrow()))
      assert.strictEqual(error._tag, "AppServerUnavailable")
      assert.notInclude(error.message, "a bug of ours")
      fake.startsBreak(false)
      assert.strictEqual((yield* Effect.scoped(borrow())).generation, 2)
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a borrow while an idle child leaves waits for its end and gets the next", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const exit = yield* Deferred.make<void>()
      fake.exitsWaitFor(exit)
      yield* Effect.scoped(borrow())
      yield* pass("30 seconds")
      const next = yield* Effect.forkChild(held())
      yield* settle
      assert.deepStrictEqual([yield* states, fake.log], [["Draining"], ["start 1", "stop 1"]])
      yield* Deferred.succeed(exit, undefined)
      assert.strictEqual((yield* Fiber.join(next)).connection.generation, 2)
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "more than five faults in a minute open the circuit, which refuses at once and says until when",
    () =>
      Effect.gen(function* () {
        const { log } = yield* FakeAppServer
        yield* faults(6)
        const problem = "it died by SIGKILL"
        const refused = new LeaseCircuitOpen({ faults: 6, until: 60_000, problem })
        assert.deepStrictEqual(yield* Effect.flip(Effect.scoped(borrow())), refused)
        const { state, circuit, faults: seen } = yield* onlyInfo
        assert.deepStrictEqual(
          { state, circuit, seen },
          { state: "OpenCircuit", circuit: { until: 60_000, problem }, seen: 6 }
        )
        yield* pass("59999 millis")
        assert.deepStrictEqual(yield* Effect.flip(Effect.scoped(borrow())), refused)
        assert.deepStrictEqual(living(log), [])
        // Half open: one more fault opens it again, for twice as long.
        yield* pass("1 millis")
        yield* faults(1)
        assert.deepStrictEqual(
          yield* Effect.flip(Effect.scoped(borrow())),
          new LeaseCircuitOpen({ faults: 1, until: 180_000, problem })
        )
        yield* pass("120 seconds")
        // A child that leaves in peace closes it for good.
        yield* Effect.scoped(borrow())
        yield* pass("30 seconds")
        yield* faults(5)
        assert.strictEqual((yield* Effect.scoped(borrow())).generation, 14)
      }).pipe(Effect.provide(Lease))
  )

  it.effect("faults that are spread over more than the period open nothing", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 12; round++) {
        yield* faults(1)
        yield* pass("12 seconds")
      }
      assert.deepStrictEqual(yield* states, ["Absent"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect("a reset closes the open circuit, forgets the faults and says how many were open", () =>
    Effect.gen(function* () {
      const lease = yield* AppServerLease
      assert.strictEqual(yield* lease.reset, 0)
      yield* faults(6)
      assert.strictEqual(yield* lease.reset, 1)
      yield* settle
      const { state, faults: seen, circuit } = yield* onlyInfo
      assert.deepStrictEqual({ state, seen, circuit }, { state: "Absent", seen: 0, circuit: null })
      yield* faults(5)
      assert.strictEqual((yield* Effect.scoped(borrow())).generation, 12)
      assert.strictEqual(yield* lease.reset, 0)
    }).pipe(Effect.provide(Lease))
  )

  it.effect("beside a child that was killed and has not gone none is started", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      fake.exitsAs({ confirmed: false, code: null, signal: null })
      yield* held()
      yield* fake.dies(1)
      yield* settle
      const problem = "the last one was killed and its end could not be confirmed"
      assert.deepStrictEqual(
        yield* Effect.flip(Effect.scoped(borrow())),
        new LeaseCircuitOpen({ faults: 1, until: 60_000, problem })
      )
      assert.isNull((yield* onlyInfo).retired!.exit)
      assert.deepStrictEqual(
        fake.log.filter((line) => line.startsWith("start")),
        ["start 1"]
      )
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "the lease is in the supervision tree under its key, and who borrows is listed with its parent",
    () =>
      Effect.gen(function* () {
        const tree = yield* SupervisionTree
        const details = Effect.map(tree.snapshot, (nodes) =>
          nodes.flatMap(({ supervisor, children }) =>
            children.map(({ id, detail }) => `${supervisor}/${id.length}: ${detail}`)
          )
        )
        assert.deepStrictEqual(yield* details, [])
        const parent = yield* held({ runId: "parent" })
        yield* held({ runId: "helper", spawnedBy: "parent" })
        assert.deepStrictEqual(yield* details, ["leases/12: ready, 2 borrowed"])
        const { key, ...info } = yield* onlyInfo
        assert.match(key, /^[0-9a-f]{12}$/)
        assert.deepStrictEqual(info, {
          codexHome: "/nonexistent/.local/state/holdfast/codex",
          state: "Ready",
          generation: 1,
          origin: "spawned",
          pid: 1001,
          version: "0.169.0",
          borrowers: [
            { runId: "parent", spawnedBy: null },
            { runId: "helper", spawnedBy: "parent" }
          ],
          waiting: 0,
          faults: 0,
          retired: null,
          circuit: null
        })
        yield* parent.giveBack
        assert.deepStrictEqual((yield* onlyInfo).borrowers, [{ runId: "helper", spawnedBy: "parent" }])
      }).pipe(Effect.provide(Lease))
  )
})
