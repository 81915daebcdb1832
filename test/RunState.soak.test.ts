/** The machine of a run against random schedules. Small and seeded here; in full by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import { suspendedAfterMs } from "../src/services/RunState.ts"
import { random } from "./support/random.ts"
import { latenessMs, World } from "./support/runWorld.ts"

/** The least that the full hunt has to run. */
const promised = 100_000
const schedules = process.env["HOLDFAST_SOAK"] ? promised : 2_000
const steps = 80
const soakTimeoutMs = 300_000

describe("RunState, by schedules", () => {
  it(
    `${schedules} random lives keep every promise, and each comes to its end`,
    () => {
      const ends = new Map<string, number>()
      let most = 0
      for (let seed = 1; seed <= schedules; seed++) {
        const world = new World(random(seed))
        try {
          if (world.roll() < 0.95) world.send({ _tag: "Cleared", at: 0 })
          for (let step = 0; step < steps; step++) world.step()
          world.drain()
        } catch (cause) {
          throw new Error(`schedule ${seed}: ${cause instanceof Error ? cause.message : String(cause)}`, {
            cause
          })
        }
        const { state } = world
        const end = state._tag === "Exited" ? `${state.reason._tag} ${state.noRestart}` : state._tag
        ends.set(end, (ends.get(end) ?? 0) + 1)
        most = Math.max(most, world.attempts)
      }
      // A hunt that never got there proves nothing.
      const kinds = new Set([...ends.keys()].map((end) => end.split(" ")[0]))
      assert.isAtLeast(kinds.size, 10, [...ends].map(String).join(" | "))
      assert.isAtLeast(most, 3)
      assert.isTrue(
        ["gave-up", "uncertain", "not-wanted"].every((why) =>
          [...ends.keys()].some((end) => end.endsWith(why))
        )
      )
      assert.isAbove(suspendedAfterMs, latenessMs)
    },
    soakTimeoutMs
  )
})
