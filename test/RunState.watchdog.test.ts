/** What the clock does to a run: its limits, their ties, its warnings, and a machine that sleeps. */
import { assert, describe, it } from "@effect/vitest"
import type { RunSpec } from "../src/services/Run.ts"
import { lookEveryMs, nextRun, statusWaitMs } from "../src/services/RunState.ts"
import {
  alarm,
  alarmOf,
  Ask,
  cleared,
  end,
  follow,
  leader,
  live,
  output,
  SetAlarm,
  silent,
  Spawn,
  spawned,
  spec,
  Sweep,
  swept
} from "./support/runEvents.ts"

describe("RunState, against time", () => {
  describe("a watchdog", () => {
    const limits = { timeoutMs: null, startTimeoutMs: null, idleTimeoutMs: null, killGraceMs: 60_000 }
    const endOf = (changes: Partial<RunSpec>) => {
      const { state, log } = silent({ ...limits, ...changes }, 500_000)
      const asked = log.find(([, action]) => action._tag === "Ask")
      return [asked?.[0], state._tag === "Stopping" ? state.reason._tag : state._tag]
    }

    it("ends a run exactly at its limit, for each limit", () => {
      assert.deepStrictEqual(
        [endOf({ timeoutMs: 90_001 }), endOf({ startTimeoutMs: 45_000 }), endOf({ idleTimeoutMs: 60_000 })],
        [
          [90_001, "overall-timeout"],
          [45_000, "startup-timeout"],
          [60_000, "no-output-timeout"]
        ]
      )
    })

    it("decides a tie: overall, then start-up, then no output", () => {
      const [all, rest] = [{ startTimeoutMs: 1_000, idleTimeoutMs: 1_000 }, { idleTimeoutMs: 1_000 }]
      assert.deepStrictEqual(
        [endOf({ timeoutMs: 1_000, ...all }), endOf(all), endOf(rest), endOf({ timeoutMs: 1_000, ...rest })],
        [
          [1_000, "overall-timeout"],
          [1_000, "startup-timeout"],
          [1_000, "no-output-timeout"],
          [1_000, "overall-timeout"]
        ]
      )
    })

    it("takes the limit that passed first when two have passed", () => {
      const { state } = live(
        { timeoutMs: 1_001, startTimeoutMs: 1_000 },
        cleared(),
        spawned(),
        alarm(1_000, 5_000)
      )
      assert.strictEqual(state._tag === "Stopping" && state.reason._tag, "startup-timeout")
    })

    it("warns once of a silence, at half of its limit, and again of the next", () => {
      const changes = { ...limits, idleTimeoutMs: 20_000 }
      const first = silent(changes, 15_000)
      const [heard] = nextRun({ ...spec, ...changes })(first.state, output(15_000))
      const second = follow(changes, heard, first.alarmAt!, 34_999)
      assert.deepStrictEqual(
        [first.log, second.log],
        [[[10_000, { _tag: "Warn", silentMs: 10_000 }]], [[25_000, { _tag: "Warn", silentMs: 10_000 }]]]
      )
    })

    it("of a start ends with the first output, and one of silence begins again with each", () => {
      const changes = { startTimeoutMs: 1_000, idleTimeoutMs: 3_000 }
      const { state, steps } = live(changes, cleared(), spawned(), output(900))
      const { log } = follow(changes, state, alarmOf(steps[0]!), 60_000)
      assert.deepStrictEqual(
        log.map(([at, { _tag }]) => [at, _tag]),
        [
          [2_400, "Warn"],
          [3_900, "Ask"],
          [5_900, "Sweep"]
        ]
      )
    })

    it("counts from the start of the spawning, and waits for a name to end", () => {
      const { steps } = live({ timeoutMs: 1_000 }, cleared(), alarm(1_000), spawned(4_000))
      assert.deepStrictEqual(steps, [
        [Spawn(1), SetAlarm(1_000)],
        [],
        [{ _tag: "NoteLeader", leader, attempt: 1 }, Ask, SetAlarm(6_000)]
      ])
    })

    it("does not mind an alarm that was replaced", () => {
      const { state } = live({ timeoutMs: 60_000 }, cleared(), spawned(), alarm(lookEveryMs))
      assert.deepStrictEqual(
        nextRun({ ...spec, timeoutMs: 60_000 })(state, alarm(lookEveryMs, 60_000))[1],
        []
      )
    })

    it("counts silence from the latest output, in whatever order outputs are told", () => {
      const { state } = live({}, cleared(), spawned(), output(10), output(5))
      assert.strictEqual(state._tag === "Running" && state.lastOutputAt, 10)
    })

    it("without limits sets no alarm", () => {
      assert.deepStrictEqual(
        live({}, cleared(), spawned(), output(5))
          .steps.flat()
          .map(({ _tag }) => _tag),
        ["Spawn", "NoteLeader"]
      )
    })
  })

  describe("a machine that slept 8 hours", () => {
    const night = 28_800_000
    const changes = { timeoutMs: 60_000, startTimeoutMs: 50_000, idleTimeoutMs: 40_000 }
    const next = nextRun({ ...spec, ...changes })
    /** Asleep from 10 s on; the alarm was due at 20 s. */
    const { state: before, steps } = live(changes, cleared(), spawned())
    const due = alarmOf(steps[0]!)
    const woke = night + 10_000

    it("trips nothing, and each limit has all of its time left", () => {
      const [after, actions] = next(before, alarm(due, woke))
      const { log } = follow(changes, after, alarmOf(actions), woke + 60_000)
      assert.deepStrictEqual(
        { due, actions, log: log.map(([at, { _tag }]) => [at - woke, _tag]) },
        {
          due: 20_000,
          actions: [SetAlarm(woke + 20_000)],
          log: [
            [20_000, "Warn"],
            [40_000, "Ask"],
            [42_000, "Sweep"]
          ]
        }
      )
    })

    it("trips nothing in whatever order the alarm and the rest are heard", () => {
      const orders = [
        [output(woke), alarm(due, woke + 1)],
        [alarm(due, woke), output(woke + 1)]
      ]
      for (const events of orders) {
        let state = before
        for (const event of events) state = next(state, event)[0]
        assert.strictEqual(state._tag === "Running" && state.since, woke, events[0]!._tag)
        assert.isAtMost(state._tag === "Running" ? (state.lastOutputAt ?? 0) : Infinity, woke + 1)
      }
    })

    it("while spawning trips nothing when the name comes before the alarm", () => {
      const spawning = live(changes, cleared()).state
      assert.deepStrictEqual(next(spawning, spawned(woke))[1], [
        SetAlarm(woke + 20_000),
        { _tag: "NoteLeader", leader, attempt: 1 }
      ])
    })

    it("gives back only what was slept to a run that is looked at", () => {
      const long = { timeoutMs: 600_000 }
      const started = live(long, cleared(), spawned())
      const looked = follow(long, started.state, alarmOf(started.steps[0]!), 300_000)
      const [after, actions] = nextRun({ ...spec, ...long })(
        looked.state,
        alarm(looked.alarmAt!, 310_000 + night)
      )
      const { log } = follow(long, after, alarmOf(actions), 600_000 + 2 * night)
      // Asleep at 310 s, looked at last at 300 s: 10 s too many.
      assert.deepStrictEqual(log[0], [610_000 + night, Ask])
    })

    it("still ends what had passed its limit before it slept", () => {
      const passed = live(
        { timeoutMs: 1_000 },
        cleared(),
        spawned(),
        output(6_000),
        alarm(1_000, woke),
        alarm(woke)
      )
      assert.deepStrictEqual(passed.steps.slice(3), [[SetAlarm(woke)], [Ask, SetAlarm(woke + 2_000)]])
    })

    it("in the grace gives the grace back", () => {
      const { steps } = live({}, cleared(), spawned(), end(20_000), alarm(20_000, woke), alarm(woke + 20_000))
      assert.deepStrictEqual(steps.slice(3), [[SetAlarm(woke + 20_000)], [Sweep]])
    })

    it("while a status is on its way waits for it again", () => {
      const { steps } = live({}, cleared(), spawned(), end(0), swept(), alarm(statusWaitMs, woke))
      assert.deepStrictEqual(steps.slice(4), [[SetAlarm(woke + statusWaitMs)]])
    })
  })
})
