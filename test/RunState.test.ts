/** The life of one run, rule by rule; its limits of time are in RunState.watchdog.test.ts, random lives in RunState.soak.test.ts. */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { type ExitReason, type Extinction, type RunEvent, RunSpec } from "../src/services/Run.ts"
import { isOver, nextRun, statusWaitMs } from "../src/services/RunState.ts"
import {
  alarm,
  Ask,
  cleared,
  end,
  exited,
  failed,
  Finish,
  killed,
  leader,
  live,
  operator,
  output,
  over,
  SetAlarm,
  Spawn,
  spawned,
  spec,
  Sweep,
  swept,
  zero
} from "./support/runEvents.ts"

describe("RunState", () => {
  describe("one attempt", () => {
    it("waits for its scope, is spawned, noted, swept after its own exit, and over", () => {
      const { state, steps } = live({}, cleared(), spawned(), exited({ code: 3, signal: null }), swept())
      assert.deepStrictEqual(
        { state, steps },
        {
          state: over({ _tag: "exited", code: 3 }, { code: 3, signal: null }),
          steps: [[Spawn(1)], [{ _tag: "NoteLeader", leader, attempt: 1 }], [Sweep], [Finish]]
        }
      )
    })

    it("that is ended before its scope is free is never spawned", () => {
      const { state, last } = live({}, end(2_000))
      assert.deepStrictEqual([state, last], [over(operator, null, { attempts: 0 }), [Finish]])
    })

    it("that cannot be spawned at first is not tried again, whatever its policy", () => {
      const { state, last } = live({ restart: "permanent" }, cleared(), failed())
      const reason = { _tag: "spawn-error", problem: "no-pty", detail: "none left" } as const
      assert.deepStrictEqual([state, last], [over(reason, null), [Finish]])
    })

    it("that exits before it could be named is noted and swept all the same", () => {
      const { state, steps } = live({}, cleared(), output(1), exited(zero), spawned(), swept())
      assert.deepStrictEqual(
        { state, steps: steps.slice(3) },
        {
          state: over({ _tag: "exited", code: 0 }, zero),
          steps: [[{ _tag: "NoteLeader", leader, attempt: 1 }, Sweep], [Finish]]
        }
      )
    })

    it("that nobody can tell about any more is lost", () => {
      const { state, last } = live({}, cleared(), spawned(), { _tag: "Abandoned", reason: "keeper-lost" })
      assert.deepStrictEqual([state, last], [{ _tag: "Lost", reason: "keeper-lost" }, [Finish]])
    })

    it("that is over stays over", () => {
      const { state } = live({}, cleared(), failed())
      const events = [cleared(), spawned(), failed(), output(1), exited(zero), end(0), alarm(0), swept()]
      for (const event of [...events, { _tag: "Abandoned", reason: "both-lost" } as const])
        assert.deepStrictEqual(nextRun(spec)(state, event), [state, []])
      assert.isTrue(isOver(state))
    })

    it("takes no answer to what was not asked", () => {
      const { state } = live({}, cleared(), spawned())
      const asked = live({}, cleared(), spawned(), end(2_000)).state
      assert.deepStrictEqual(
        [
          nextRun(spec)(state, swept())[0],
          nextRun(spec)(asked, swept())[0],
          nextRun(spec)(asked, cleared())[0]
        ],
        [state, asked, asked]
      )
    })
  })

  describe("an end", () => {
    it("asks, gives the grace, then sweeps", () => {
      const { steps } = live({}, cleared(), spawned(), end(2_000, 10), alarm(2_010))
      assert.deepStrictEqual(steps.slice(2), [[Ask, SetAlarm(2_010)], [Sweep]])
    })

    it("without grace sweeps at once", () => {
      assert.deepStrictEqual(live({}, cleared(), spawned(), end(0)).last, [Sweep])
    })

    it("does not wait for the rest of the grace once the leader has gone", () => {
      const { steps, state } = live(
        {},
        cleared(),
        spawned(),
        end(2_000),
        exited(zero, 5),
        alarm(2_000),
        swept(6)
      )
      assert.deepStrictEqual(
        { steps: steps.slice(3), state },
        { steps: [[Sweep], [], [Finish]], state: over(operator, zero) }
      )
    })

    it("during the spawning is honoured as soon as the process can be named", () => {
      const { steps } = live({}, cleared(), end(2_000, 1), spawned(5))
      assert.deepStrictEqual(steps.slice(1), [
        [],
        [{ _tag: "NoteLeader", leader, attempt: 1 }, Ask, SetAlarm(2_005)]
      ])
    })

    it("during the spawning takes the shorter of two graces", () => {
      const { last } = live({}, cleared(), end(2_000, 1), end(0, 2, { _tag: "gateway-lost" }), spawned(5))
      assert.deepStrictEqual(last, [{ _tag: "NoteLeader", leader, attempt: 1 }, Sweep])
    })

    it("during the spawning of what exits before its name asks nobody, and sweeps", () => {
      const { last, state } = live({}, cleared(), end(2_000), exited(zero), spawned())
      assert.deepStrictEqual(
        [last, state._tag === "Stopping" && state.reason],
        [[{ _tag: "NoteLeader", leader, attempt: 1 }, Sweep], operator]
      )
    })

    it("during a spawning that then fails is its reason", () => {
      assert.deepStrictEqual(live({}, cleared(), end(2_000), failed()).state, over(operator, null))
    })

    it("keeps its first reason, and takes a shorter grace but no longer one", () => {
      const second: ExitReason = { _tag: "replaced", by: "run-2" }
      const { steps, state } = live(
        {},
        cleared(),
        spawned(),
        end(30_000, 0),
        end(60_000, 1, second),
        end(1_000, 2, second),
        end(0, 3, second),
        exited(killed, 3),
        swept(4)
      )
      assert.deepStrictEqual(
        { steps: steps.slice(2), state },
        {
          steps: [[Ask, SetAlarm(30_000)], [], [SetAlarm(1_002)], [Sweep], [], [Finish]],
          state: over(operator, killed)
        }
      )
    })

    it("by its own exit stands against a stop that comes later, which still forbids a restart", () => {
      const { state } = live(
        { restart: "permanent" },
        cleared(),
        spawned(),
        exited(zero),
        end(2_000),
        swept()
      )
      assert.deepStrictEqual(state, over({ _tag: "exited", code: 0 }, zero))
    })

    it("by its own exit before its name stands, and a stop in between forbids a restart", () => {
      const { state } = live(
        { restart: "permanent" },
        cleared(),
        exited(zero),
        end(2_000),
        spawned(),
        swept()
      )
      assert.deepStrictEqual(state, over({ _tag: "exited", code: 0 }, zero))
    })

    it("that is proved before the leader's status is told waits for the status", () => {
      const { steps, state } = live({}, cleared(), spawned(), end(0), swept(10), exited(killed, 20))
      assert.deepStrictEqual(
        { steps: steps.slice(3), state },
        { steps: [[SetAlarm(10 + statusWaitMs)], [Finish]], state: over(operator, killed) }
      )
    })

    it("waits for a status no longer than it says, and for a survivor's not at all", () => {
      const due = 10 + statusWaitMs
      const stuck: Extinction = { proven: false, survivors: [leader.pid] }
      const states = [
        live({}, cleared(), spawned(), end(0), swept(10), alarm(due)).state,
        live({}, cleared(), spawned(), end(0), swept(10, stuck)).state
      ]
      assert.deepStrictEqual(states, [over(operator, null), over(operator, null, { extinction: stuck })])
    })
  })

  describe("a restart", () => {
    const crash = (at: number) => [spawned(at), exited({ code: 1, signal: null }, at), swept(at)]
    const attemptsOf = (changes: Partial<RunSpec>, ...events: ReadonlyArray<RunEvent>) =>
      live(changes, ...events).steps.flatMap((actions) =>
        actions.flatMap((action) => (action._tag === "Spawn" ? [action.attempt] : []))
      )

    it("follows the policy: permanent always, transient after an abnormal end, temporary never", () => {
      const ends = [zero, { code: 1, signal: null }, killed]
      const table = (["permanent", "transient", "temporary"] as const).map((restart) =>
        ends.map(
          (status) => attemptsOf({ restart }, cleared(), spawned(), exited(status), swept()).length - 1
        )
      )
      assert.deepStrictEqual(table, [
        [1, 1, 1],
        [0, 1, 1],
        [0, 0, 0]
      ])
    })

    it("comes at once, and never before the sweep of the last attempt", () => {
      const { steps } = live({ restart: "permanent" }, cleared(), spawned(), exited(zero, 5), swept(9))
      assert.deepStrictEqual(steps.slice(2), [[Sweep], [Spawn(2)]])
    })

    it("is given up when its limits are reached within the period", () => {
      const changes = { restart: "permanent", restartLimits: { intensity: 2, periodMs: 1_000 } } as const
      const { state } = live(changes, cleared(), ...[0, 1, 2].flatMap(crash))
      assert.deepStrictEqual(
        state,
        over({ _tag: "exited", code: 1 }, { code: 1, signal: null }, { attempts: 3, noRestart: "gave-up" })
      )
    })

    it("counts only those of the last period", () => {
      const changes = { restart: "permanent", restartLimits: { intensity: 2, periodMs: 1_000 } } as const
      const times = [0, 600, 1_200, 1_800, 2_400]
      assert.deepStrictEqual(attemptsOf(changes, cleared(), ...times.flatMap(crash)), [1, 2, 3, 4, 5, 6])
    })

    it("that cannot be spawned counts, and is tried again until the limits are reached", () => {
      const changes = { restart: "transient" } as const
      const failures = Array.from({ length: 5 }, (_, index) => failed(index))
      const { state } = live(changes, cleared(), ...crash(0), ...failures)
      const reason = { _tag: "spawn-error", problem: "no-pty", detail: "none left" } as const
      assert.deepStrictEqual(state, over(reason, null, { attempts: 6, noRestart: "gave-up" }))
    })

    it("that somebody ended while it could not be spawned is over", () => {
      const { state } = live({ restart: "permanent" }, cleared(), ...crash(0), end(0, 1), failed(2))
      assert.deepStrictEqual(state, over(operator, null, { attempts: 2 }))
    })

    it("follows a watchdog's end, too", () => {
      const changes = { restart: "transient", timeoutMs: 1_000 } as const
      const events = [cleared(), spawned(), alarm(1_000), exited(killed, 1_001), swept(1_002)]
      assert.deepStrictEqual(attemptsOf(changes, ...events), [1, 2])
    })

    it("does not happen beside what is left or what may be left of the last attempt", () => {
      const doubts: ReadonlyArray<Extinction> = [
        { proven: false, survivors: [7] },
        { proven: false, survivors: [] },
        { proven: true, survivors: [7] }
      ]
      for (const extinction of doubts) {
        const { state } = live(
          { restart: "permanent" },
          cleared(),
          spawned(),
          exited(zero),
          swept(0, extinction)
        )
        assert.deepStrictEqual(
          state,
          over({ _tag: "exited", code: 0 }, zero, { extinction, noRestart: "uncertain" })
        )
      }
    })

    it("does not happen before the last leader's exit was told", () => {
      const changes = { restart: "permanent", timeoutMs: 1_000, killGraceMs: 1_000 } as const
      const due = 2_000 + statusWaitMs
      const { state } = live(
        changes,
        cleared(),
        spawned(),
        alarm(1_000),
        alarm(2_000),
        swept(2_000),
        alarm(due)
      )
      assert.deepStrictEqual(
        state,
        over({ _tag: "overall-timeout", timeoutMs: 1_000 }, null, { noRestart: "uncertain" })
      )
    })
  })

  it("a spec that the system would misread is refused", () => {
    const ok = (changes: object) => Schema.is(RunSpec)({ ...spec, ...changes })
    assert.deepStrictEqual(
      [
        ok({}),
        ok({ env: { A: "1", "a.b": "" } }),
        ok({ command: "" }),
        ok({ args: ["a\0b"] }),
        ok({ cwd: "relative" }),
        ok({ env: { "A=B": "1" } }),
        ok({ env: { "": "1" } }),
        ok({ env: { A: "\0" } }),
        ok({ name: "-a" }),
        ok({ restartLimits: { intensity: -1, periodMs: 1 } })
      ],
      [true, true, false, false, false, false, false, false, false, false]
    )
  })
})
