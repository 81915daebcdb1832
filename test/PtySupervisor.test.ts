/** PtySupervisor on children that are no processes: who is admitted, who waits for whom, and what is written down. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { RunNameInUse, ScopeInUse } from "../src/services/PtySupervisor.ts"
import { specOf } from "../src/testing/PtySupervisor.ts"
import { settle } from "../src/testing/VirtualTime.ts"
import { fakeSupervisor, last, until } from "./support/fakeChildren.ts"

const stop = { by: "operator", graceMs: null }

describe("PtySupervisor", () => {
  it.effect("keeps no output of a run before the ledger knows that it has begun", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const { id } = yield* world.runs.start(specOf("hasty"))
      yield* until(world, id, "Running")
      yield* settle
      const before = world.output()
      yield* world.letWrite
      yield* settle
      const after = world.output()
      assert.deepStrictEqual(
        { before, after },
        { before: { kept: 0, early: 0 }, after: { kept: 1, early: 0 } }
      )
    })
  )

  describe("a scope key", () => {
    it.effect("has one live run; another is refused and told which, and a namesake too", () =>
      Effect.gen(function* () {
        const world = yield* fakeSupervisor
        const { runs, log } = world
        const first = yield* runs.start(specOf("a", { scope: "web", name: "web" }))
        yield* until(world, first.id, "Running")
        const refused = yield* Effect.flip(runs.start(specOf("b", { scope: "web" })))
        const namesake = yield* Effect.flip(runs.start(specOf("c", { name: "web" })))
        yield* runs.end(first.id, stop)
        const after = yield* runs.start(specOf("d", { scope: "web", name: "web" }))
        assert.deepStrictEqual(
          { refused, namesake, after: after.state, log: yield* log },
          {
            refused: new ScopeInUse({ scope: "web", runId: first.id }),
            namesake: new RunNameInUse({ name: "web", runId: first.id }),
            after: "Requested",
            log: ["a starts", "a gets SIGHUP", "a gets SIGTERM", "a leaves"]
          }
        )
      })
    )

    it.effect("is given to a replacement only when the run before is over, whatever it takes to end it", () =>
      Effect.gen(function* () {
        const world = yield* fakeSupervisor
        const old = yield* world.runs.start(
          specOf("stubborn", { scope: "web", name: "web", killGraceMs: 700 })
        )
        yield* until(world, old.id, "Running")
        const next = yield* world.runs.start(specOf("b", { scope: "web", name: "web", replace: true }))
        yield* until(world, old.id, "Stopping")
        yield* TestClock.adjust(699)
        const waiting = (yield* world.runs.find(next.id)).state
        yield* TestClock.adjust(1)
        yield* until(world, next.id, "Running")
        const ended = yield* world.runs.find(old.id)
        assert.deepStrictEqual(
          { waiting, reason: ended.reason, log: yield* world.log, most: yield* world.most },
          {
            waiting: "Requested",
            reason: { _tag: "replaced", by: next.id },
            log: [
              "stubborn starts",
              ...["SIGHUP", "SIGTERM", "SIGCONT", "SIGSTOP", "SIGKILL"].map(
                (name) => `stubborn gets ${name}`
              ),
              "stubborn leaves",
              "b starts"
            ],
            most: 1
          }
        )
      })
    )

    it.effect(
      "has one live run at any moment while many replace each other at once, and the last stays",
      () =>
        Effect.gen(function* () {
          const world = yield* fakeSupervisor
          const first = yield* world.runs.start(specOf("first", { scope: "web" }))
          yield* until(world, first.id, "Running")
          const started = yield* Effect.forEach(
            Array.from({ length: 20 }, (_, index) => `run ${index}`),
            (name) => world.runs.start(specOf(name, { scope: "web", replace: true })),
            { concurrency: "unbounded" }
          )
          const last = started.at(-1)!
          yield* until(world, last.id, "Running")
          const states = (yield* world.runs.list).map(({ state, reason }) => reason?._tag ?? state)
          assert.deepStrictEqual(
            { most: yield* world.most, alive: yield* world.alive, states: states.toSorted() },
            {
              most: 1,
              alive: ["run 19"],
              states: ["Running", ...Array.from({ length: 20 }, () => "replaced")]
            }
          )
        })
    )

    it.effect("is not given to anybody beside processes of its last run that would not end", () =>
      Effect.gen(function* () {
        const world = yield* fakeSupervisor
        const old = yield* world.runs.start(specOf("undead", { scope: "web" }))
        yield* until(world, old.id, "Running")
        const ended = yield* Effect.forkChild(world.runs.end(old.id, { by: "operator", graceMs: 0 }))
        yield* until(world, old.id, "Stopping")
        yield* TestClock.adjust("10 seconds")
        const { extinction } = yield* Fiber.join(ended)
        const next = yield* Effect.flatMap(world.runs.start(specOf("b", { scope: "web" })), ({ id }) =>
          last(world, id)
        )
        yield* world.vanishes("undead")
        const after = yield* world.runs.start(specOf("c", { scope: "web" }))
        yield* until(world, after.id, "Running")
        assert.deepStrictEqual(
          {
            extinction,
            next: { state: next.state, reason: next.reason, attempt: next.attempt },
            started: (yield* world.log).filter((line) => /starts/.test(line))
          },
          {
            extinction: { proven: false, survivors: [5_000_000] },
            next: {
              state: "Exited",
              reason: {
                _tag: "spawn-error",
                problem: "failed",
                detail:
                  "Processes of the scope's last run would not end, so nothing was started beside them: 5000000."
              },
              attempt: 0
            },
            started: ["undead starts", "c starts"]
          }
        )
      })
    )
  })

  it.effect("what cannot be written into the ledger is not started, and its name stays free", () =>
    Effect.gen(function* () {
      const { runs, sql, log } = yield* fakeSupervisor
      yield* sql`ALTER TABLE runs RENAME TO elsewhere`
      const refused = yield* Effect.flip(runs.start(specOf("a", { name: "web" })))
      const before = yield* log
      yield* sql`ALTER TABLE elsewhere RENAME TO runs`
      const { state } = yield* runs.start(specOf("a", { name: "web" }))
      assert.deepStrictEqual([refused._tag, before, state], ["RunLedgerError", [], "Requested"])
    })
  )

  it.effect("a run ends with its scope, which waits for it", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const scope = yield* Scope.make()
      const { id } = yield* Scope.provide(world.runs.spawn(specOf("stubborn", { killGraceMs: 500 })), scope)
      yield* until(world, id, "Running")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* until(world, id, "Stopping")
      const during = yield* world.alive
      yield* TestClock.adjust(500)
      yield* Fiber.join(closing)
      const { reason } = yield* world.runs.find(id)
      assert.deepStrictEqual(
        { during, after: yield* world.alive, reason },
        { during: ["stubborn"], after: [], reason: { _tag: "stopped", by: "scope" } }
      )
    })
  )

  it.effect("the end of the layer ends all runs at once, each within its own grace", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const ids = yield* Effect.forEach([1, 2, 3], (number) =>
        Effect.gen(function* () {
          const { id } = yield* world.runs.start(specOf(`stubborn ${number}`, { killGraceMs: number * 100 }))
          yield* until(world, id, "Running")
          return id
        })
      )
      const closing = yield* Effect.forkChild(world.close)
      yield* Effect.forEach(ids, (id) => until(world, id, "Stopping"))
      const steps = yield* Effect.forEach([100, 100, 100], (ms) =>
        Effect.andThen(
          TestClock.adjust(ms),
          Effect.map(world.alive, ({ length }) => length)
        )
      )
      yield* Fiber.join(closing)
      assert.deepStrictEqual(steps, [2, 1, 0])
    })
  )

  it.effect("output that comes right after output was told still moves the limit of silence", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const { id } = yield* world.runs.start(specOf("a", { idleTimeoutMs: 1_000 }))
      yield* until(world, id, "Running")
      yield* world.prints("a")
      yield* TestClock.adjust(90)
      yield* world.prints("a")
      yield* TestClock.adjust(999)
      const before = (yield* world.runs.find(id)).state
      yield* TestClock.adjust(1)
      const { reason } = yield* last(world, id)
      assert.deepStrictEqual([before, reason?._tag], ["Running", "no-output-timeout"])
    })
  )

  it.effect("a run that is over is found by id, beginning and name, until it is removed with its log", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const { id } = yield* world.runs.start(specOf("a", { name: "job" }))
      yield* until(world, id, "Running")
      const live = yield* Effect.flip(world.runs.remove(id))
      yield* world.leaves("a", 4)
      yield* until(world, id, "Exited")
      const found = yield* Effect.forEach([id, id.slice(0, 6).toLowerCase(), "job"], world.runs.find)
      yield* world.runs.remove(id)
      const gone = yield* Effect.flip(world.runs.find("job"))
      const rows = yield* world.sql`SELECT run_id FROM runs`
      assert.deepStrictEqual(
        {
          live: live._tag,
          found: found.map((info) => [info.id, info.status?.code]),
          log: yield* world.removedLogs,
          gone: gone._tag,
          rows
        },
        {
          live: "RunStillLive",
          found: [id, id, id].map((one) => [one, 4]),
          log: [id],
          gone: "RunNotFound",
          rows: []
        }
      )
    })
  )

  it.effect("who watches sees every state once and then nothing more", () =>
    Effect.gen(function* () {
      const world = yield* fakeSupervisor
      const { id } = yield* world.runs.start(specOf("a"))
      const seen: Array<string> = []
      const subscribed = yield* Deferred.make<void>()
      const watching = yield* Effect.forkChild(
        Stream.runForEach(world.runs.watch(id), ({ state }) =>
          Effect.andThen(
            Effect.sync(() => void seen.push(state)),
            Deferred.succeed(subscribed, undefined)
          )
        )
      )
      yield* Deferred.await(subscribed)
      yield* until(world, id, "Running")
      yield* world.leaves("a", 0)
      yield* Fiber.join(watching)
      assert.deepStrictEqual(seen, ["Requested", "Spawning", "Running", "Stopping", "Exited"])
    })
  )
})
