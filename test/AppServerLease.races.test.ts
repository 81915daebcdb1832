import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import { borrow, held, infos, Lease, states } from "./support/AppServerLease.ts"
import { FakeAppServer, living } from "../src/testing/AppServerProcess.ts"
import { FakeCodexAuth } from "../src/testing/CodexAuth.ts"
import { pass, settle } from "../src/testing/VirtualTime.ts"

describe("AppServerLease, with another login", () => {
  it.effect(
    "a new login starts a child of its own; who holds the old one keeps it, and it leaves with the last",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        const login = yield* FakeCodexAuth
        const [one, two] = [yield* held({ runId: "one" }), yield* held({ runId: "two" })]
        yield* login.logsIn("somebody else")
        const three = yield* held({ runId: "three" })
        yield* settle
        assert.notStrictEqual(three.connection.pid, one.connection.pid)
        const all = yield* infos
        assert.strictEqual(new Set(all.map(({ key }) => key)).size, 2)
        assert.deepStrictEqual(
          all.map(({ state, borrowers }) => `${state}: ${borrowers.map(({ runId }) => runId).join(", ")}`),
          ["Draining: one, two", "Ready: three"]
        )
        yield* one.giveBack
        assert.notInclude(fake.log, "stop 1")
        yield* two.giveBack
        assert.include(fake.log, "stop 1")
        assert.notInclude(fake.log, "stop 2")
      }).pipe(Effect.provide(Lease))
  )

  it.effect("the old login again gets the child it had, as long as somebody holds that", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const login = yield* FakeCodexAuth
      const first = yield* held()
      yield* login.logsIn("somebody else")
      yield* Effect.scoped(borrow())
      yield* settle
      yield* login.logsIn("somebody")
      assert.strictEqual((yield* held()).connection, first.connection)
      yield* settle
      assert.deepStrictEqual(yield* states, ["Ready", "Absent"])
      assert.deepStrictEqual(living(fake.log), ["start 1"])
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a login that changes while a child starts lets who waits have it, and it leaves after them",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        const login = yield* FakeCodexAuth
        const gate = yield* Deferred.make<void>()
        fake.startsWaitFor(gate)
        const first = yield* Effect.forkChild(held())
        yield* settle
        yield* login.logsIn("somebody else")
        const second = yield* Effect.forkChild(held())
        yield* settle
        yield* Deferred.succeed(gate, undefined)
        const { connection, giveBack } = yield* Fiber.join(first)
        assert.strictEqual(connection.generation, 1)
        yield* Fiber.join(second)
        assert.deepStrictEqual(yield* states, ["Draining", "Ready"])
        yield* giveBack
        assert.deepStrictEqual(yield* states, ["Absent", "Ready"])
      }).pipe(Effect.provide(Lease))
  )

  it.effect("logins whose child is gone make room for others; nine in use at once are one too many", () =>
    Effect.gen(function* () {
      const login = yield* FakeCodexAuth
      for (let day = 0; day < 20; day++) {
        yield* login.logsIn(`of day ${day}`)
        yield* Effect.scoped(borrow())
        yield* pass("30 seconds")
      }
      assert.strictEqual((yield* states).length, 8)
      for (let day = 20; day < 28; day++) {
        yield* login.logsIn(`of day ${day}`)
        yield* held()
      }
      yield* login.logsIn("one too many")
      const error = yield* Effect.flip(Effect.scoped(borrow()))
      assert.include(error.message, "8 other logins are still in use")
      yield* login.logsIn("of day 27")
      yield* Effect.scoped(borrow())
    }).pipe(Effect.provide(Lease))
  )
})

describe("AppServerLease, closed", () => {
  it.effect("closing the layer waits for the sweep of a child that has gone before", () =>
    Effect.gen(function* () {
      const sweep = yield* Deferred.make<void>()
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lease, scope)
      const { log } = yield* Effect.gen(function* () {
        const fake = yield* FakeAppServer
        fake.sweepsWaitFor(sweep)
        yield* held()
        yield* fake.dies(1)
        yield* settle
        return fake
      }).pipe(Effect.provide(context))
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* settle
      assert.isUndefined(closing.pollUnsafe())
      yield* Deferred.succeed(sweep, undefined)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(log, ["start 1", "stop 1", "gone 1", "swept 1"])
    })
  )

  it.effect("closing the layer stops a borrowed child once and tells who waits", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lease, scope)
      const inLayer = Effect.provide(context)
      const { log } = yield* inLayer(FakeAppServer)
      const borrower = yield* inLayer(held())
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(log, ["start 1", "stop 1", "gone 1", "swept 1"])
      yield* borrower.giveBack
      assert.deepStrictEqual(log, ["start 1", "stop 1", "gone 1", "swept 1"])
      const late = yield* Effect.flip(Effect.scoped(inLayer(borrow())))
      assert.include(late.message, "Is the gateway stopping?")
    })
  )

  it.effect("closing the layer while a child starts ends it and refuses who waits", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Lease, scope)
      const inLayer = Effect.provide(context)
      const fake = yield* inLayer(FakeAppServer)
      fake.startsWaitFor(yield* Deferred.make<void>())
      const waiting = yield* Effect.forkChild(Effect.flip(Effect.scoped(inLayer(borrow()))))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      assert.include((yield* Fiber.join(waiting)).message, "Is the gateway stopping?")
      assert.deepStrictEqual(fake.log, ["start 1", "stop 1", "gone 1", "swept 1"])
    })
  )
})

describe("AppServerLease, interrupted", () => {
  /** More than a borrow of a child that is not there yet takes. */
  const yields = 40

  /** Operations of a fiber before others have a turn, so that a turn may end between any two of a borrow's. */
  const budgets = [2, 3, 5, 7, 11, 17, 31]
  /** More than a borrow of a child that is there takes. */
  const stepsOf = (operations: number) => Math.ceil(borrowOperations / operations)
  const borrowOperations = 500

  const cases: ReadonlyArray<{
    readonly name: string
    readonly given: Effect.Effect<void, never, FakeAppServer>
  }> = [
    { name: "while a child starts at once", given: Effect.void },
    {
      name: "while a child takes its time",
      given: Effect.flatMap(FakeAppServer, ({ startsWaitFor }) =>
        Effect.map(Deferred.make<void>(), (gate) => startsWaitFor(gate))
      )
    },
    {
      name: "while a child fails to start",
      given: FakeAppServer.useSync(({ startsFail }) => startsFail(true))
    }
  ]

  for (const { name, given } of cases) {
    it.effect(`a borrower interrupted at any step ${name} leaves no claim, and the child ends`, () =>
      Effect.gen(function* () {
        const reached = new Set<string>()
        for (let steps = 0; steps <= yields; steps++) {
          const log = yield* Effect.gen(function* () {
            const fake = yield* FakeAppServer
            yield* given
            const fiber = yield* Effect.forkChild(Effect.scoped(Effect.andThen(borrow(), Effect.never)))
            for (let step = 0; step < steps; step++) yield* Effect.yieldNow
            const [info] = yield* infos
            reached.add(info?.state ?? "none")
            yield* Fiber.interrupt(fiber)
            fake.startsWaitFor(null)
            yield* settle
            const [after] = yield* infos
            assert.deepStrictEqual([after?.borrowers ?? [], after?.waiting ?? 0], [[], 0], `after ${steps}`)
            return fake.log
          }).pipe(Effect.provide(Lease, { local: true }))
          // The layer has closed.
          assert.deepStrictEqual([living(log), new Set(log).size], [[], log.length], `after ${steps}`)
        }
        assert.include([...reached], "none")
        assert.isAbove(reached.size, 1)
      })
    )
  }

  it.effect("a borrower interrupted at any step of any size gives its claim back", () =>
    Effect.gen(function* () {
      yield* held({ runId: "stays" })
      const leaked: Array<string> = []
      for (const operations of budgets)
        for (let steps = 0; steps < stepsOf(operations); steps++) {
          const name = `${steps} steps of ${operations}`
          const fiber = yield* Effect.scoped(Effect.andThen(borrow({ runId: name }), Effect.never)).pipe(
            Effect.provideService(References.MaxOpsBeforeYield, operations),
            Effect.forkChild
          )
          for (let step = 0; step < steps; step++) yield* Effect.yieldNow
          yield* Effect.flatMap(Effect.forkChild(Fiber.interrupt(fiber)), Fiber.join)
          yield* settle
          const [info] = yield* infos
          if (info!.waiting > 0 || info!.borrowers.some(({ runId }) => runId === name)) leaked.push(name)
        }
      assert.deepStrictEqual(leaked, [])
    }).pipe(Effect.provide(Lease))
  )

  it.effect(
    "a borrower interrupted while it waits for the end of the last child leaves none of the next behind",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        const exit = yield* Deferred.make<void>()
        fake.exitsWaitFor(exit)
        yield* held()
        yield* fake.dies(1)
        yield* settle
        const waiting = yield* Effect.forkChild(Effect.scoped(borrow()))
        yield* settle
        yield* Fiber.interrupt(waiting)
        yield* Deferred.succeed(exit, undefined)
        yield* settle
        assert.deepStrictEqual([yield* states, living(fake.log)], [["Absent"], []])
        assert.notInclude(fake.log, "start 2")
      }).pipe(Effect.provide(Lease))
  )

  it.effect("interruptions of many borrowers at random steps leave one child, idle, and then none", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const fibers = yield* Effect.forEach(Array.from({ length: 50 }), () =>
        Effect.forkChild(Effect.scoped(Effect.andThen(borrow(), Effect.never)))
      )
      for (const [index, fiber] of fibers.entries()) {
        for (let step = 0; step < (index * 7) % 5; step++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
      }
      yield* settle
      assert.deepStrictEqual([yield* states, living(fake.log).length], [["Ready"], 1])
      yield* pass("30 seconds")
      assert.deepStrictEqual([yield* states, living(fake.log).length], [["Absent"], 0])
    }).pipe(Effect.provide(Lease))
  )
})

describe("AppServerLease, between a loss and the news of it", () => {
  it.effect(
    "who hears of a loss first and borrows at once gets the next generation, and nothing stays behind",
    () =>
      Effect.gen(function* () {
        const fake = yield* FakeAppServer
        const first = yield* held()
        const again = yield* Effect.forEach(Array.from({ length: 20 }), () =>
          Effect.forkChild(
            Effect.gen(function* () {
              yield* Effect.flip(Queue.take(yield* first.connection.thread("T")))
              return yield* held()
            }),
            { startImmediately: true }
          )
        )
        yield* fake.dies(1)
        const borrowed = yield* Fiber.joinAll(again)
        assert.deepStrictEqual(
          borrowed.map(({ connection }) => connection.generation),
          borrowed.map(() => 2)
        )
        yield* Effect.forEach(borrowed, ({ giveBack }) => giveBack, { discard: true })
        yield* pass("30 seconds")
        assert.deepStrictEqual(yield* states, ["Absent"])
        assert.deepStrictEqual(living(fake.log), [])
      }).pipe(Effect.scoped, Effect.provide(Lease))
  )

  it.effect("who then gives up leaves no claim on the next one", () =>
    Effect.gen(function* () {
      const fake = yield* FakeAppServer
      const { connection } = yield* held()
      const exits = yield* Deferred.make<void>()
      fake.exitsWaitFor(exits)
      const route = yield* connection.thread("T")
      const again = yield* Effect.forkChild(
        Effect.andThen(Effect.flip(Queue.take(route)), Effect.scoped(borrow())),
        { startImmediately: true }
      )
      yield* fake.dies(1)
      yield* settle
      yield* Fiber.interrupt(again)
      yield* Deferred.succeed(exits, undefined)
      yield* pass("30 seconds")
      assert.deepStrictEqual(yield* states, ["Absent"])
      assert.deepStrictEqual(living(fake.log), [])
    }).pipe(Effect.scoped, Effect.provide(Lease))
  )
})
