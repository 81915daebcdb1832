/** Whose a process is, by its mark and by what else ties it to a run. */
import { assert, describe, it } from "@effect/vitest"
import { traceOf } from "../src/services/Containment.ts"

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
