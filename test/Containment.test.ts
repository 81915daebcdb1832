/** Whose a process is, by its mark and by what else ties it to a run. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import { startJanitor } from "../src/layers/internal/janitor.ts"
import {
  belongingOf,
  freshMs,
  type Holder,
  janitorEveryMs,
  type Suspect,
  type Suspicions,
  suspectsOf,
  traceOf
} from "../src/services/Containment.ts"
import type { MarkRange } from "../src/services/InstanceMark.ts"
import type { Verdict } from "../src/services/ProcessIdentity.ts"
import { identity } from "../src/testing/ProcessIdentity.ts"

describe("Containment of a run whose marked processes are gone", () => {
  it("tells holes and ghosts from those whose mark the run cannot have given them", () => {
    const run = { low: 1_000, high: 2_000 }
    const vouched = [
      { low: 100, high: 200 },
      { low: 5_000, high: 6_000 }
    ]
    assert.deepStrictEqual(
      (["none", "unreadable", 2_000, 1_000, 999, 201, 200, 100, 7, 2_001, 5_500] as const).map((carried) => [
        carried,
        traceOf(carried, run, vouched)
      ]),
      [
        ["none", "hole"],
        ["unreadable", "other"],
        [2_000, "hole"],
        [1_000, "hole"],
        [999, "ghost"],
        [201, "ghost"],
        [200, "other"],
        [100, "other"],
        [7, "ghost"],
        [2_001, "other"],
        [5_500, "other"]
      ]
    )
  })
})

const range = { low: 1_000, high: 2_000 }
const holder = (liveness: Verdict, open: Holder["open"] = null): Holder => ({ range, liveness, open })

describe("Containment: who vouches for whom", () => {
  it("a living holder vouches for what it has open, an unknown one for all, a dead one for nobody", () => {
    const open = [{ low: 1_100, high: 1_200 }]
    const of = (carried: number, ...holders: ReadonlyArray<Holder>) => belongingOf(carried, holders)
    assert.deepStrictEqual(
      {
        open: [of(1_100, holder("alive", open)), of(1_200, holder("alive", open))],
        closed: [of(1_099, holder("alive", open)), of(1_500, holder("alive", open))],
        own: of(2_000, holder("alive", open)),
        notKnown: [of(1_500, holder("alive")), of(1_500, holder("unknown")), of(2_000, holder("alive"))],
        dead: [of(1_500, holder("dead")), of(2_000, holder("dead", open)), of(1_150, holder("dead", open))],
        inherited: of(1_500, holder("dead"), { ...holder("alive"), range: { low: 1_400, high: 1_600 } }),
        nobodys: [of(999, holder("alive")), of(2_001, holder("alive")), of(5)]
      },
      {
        open: ["vouched", "vouched"],
        closed: ["orphaned", "orphaned"],
        own: "fresh",
        notKnown: ["vouched", "vouched", "vouched"],
        dead: ["orphaned", "orphaned", "orphaned"],
        inherited: "vouched",
        nobodys: ["unknown", "unknown", "unknown"]
      }
    )
  })

  it("nobody is ended at first sight, one that was just forked has a minute, and another with its number starts anew", () => {
    const orphan: Suspect = { pid: 10, startToken: "1", mark: 1_500 }
    const fresh: Suspect = { pid: 11, startToken: "1", mark: 2_000 }
    const fine: Suspect = { pid: 12, startToken: "1", mark: 1_150 }
    const alive = holder("alive", [{ low: 1_100, high: 1_200 }])
    const ended: Array<string> = []
    let suspicions: Suspicions = new Map()
    for (let now = 0; now <= freshMs + janitorEveryMs; now += janitorEveryMs) {
      // Its number is given again after it was ended.
      const members = [{ ...orphan, startToken: now < 2 * janitorEveryMs ? "1" : "2" }, fresh, fine]
      const seen = suspectsOf(members, alive, suspicions, now)
      suspicions = seen.suspicions
      ended.push(...seen.ended.map(({ pid, startToken }) => `${now} ${pid}/${startToken}`))
    }
    assert.deepStrictEqual(
      ended.filter((line) => !/^\d+ 10\/2/.test(line) || line.startsWith("15000")),
      ["5000 10/1", "15000 10/2", "60000 11/1", "65000 11/1"]
    )
  })

  it.effect("the janitor looks every 5 s, and signals only who is still the process that it met", () =>
    Effect.gen(function* () {
      // Above the largest pid_max: nobody has it, so the check before the signal never holds.
      const member = { identity: identity(5_000_000), mark: 1_500, command: "" }
      const log: Array<string> = []
      yield* startJanitor({
        range,
        claimed: Effect.succeed([]),
        members: () =>
          Effect.sync(() => (log.push("look"), [member, { ...member, identity: identity(process.pid) }])),
        sweep: () => Effect.die("nothing moves here"),
        calls: Effect.succeed({
          signal: (pid, name, stands) => {
            log.push(`${name} ${pid}`)
            return stands() ? "sent" : "changed"
          }
        })
      })
      yield* Effect.yieldNow
      yield* TestClock.adjust(janitorEveryMs)
      const first = log.splice(0)
      yield* TestClock.adjust(janitorEveryMs)
      assert.deepStrictEqual([first, log], [["look"], ["look", "SIGKILL 5000000"]])
    })
  )

  it.effect(
    "a mark that another process carries at each look is swept, once it has been nobody's for two",
    () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        let pid = 5_000_000
        let open: ReadonlyArray<MarkRange> = [{ low: 1_500, high: 1_500 }]
        yield* startJanitor({
          range,
          claimed: Effect.sync(() => open),
          members: () => Effect.sync(() => [{ identity: identity(pid++), mark: 1_500, command: "" }]),
          sweep: ({ low, high }) =>
            Effect.sync(() => {
              log.push(`sweep ${low} to ${high}`)
              return { ended: [], survivors: [], proven: true }
            }),
          calls: Effect.succeed({ signal: (pid, name) => (log.push(`${name} ${pid}`), "sent") })
        })
        yield* Effect.yieldNow
        yield* TestClock.adjust(4 * janitorEveryMs)
        const vouched = log.splice(0)
        open = []
        yield* TestClock.adjust(janitorEveryMs)
        const first = log.splice(0)
        yield* TestClock.adjust(janitorEveryMs)
        assert.deepStrictEqual([vouched, first, log], [[], [], ["sweep 1500 to 1500"]])
      })
  )
})
