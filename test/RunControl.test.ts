import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { findRun } from "../src/services/PtySupervisor.ts"
import { isOver, shortIds } from "../src/services/RunControl.ts"
import { runInfo } from "./support/runInfo.ts"

describe("short ids", () => {
  it("each names one run alone, and none is longer than it must be", () => {
    const all = ["r-01J0000000AAAA", "r-01J0000000AAAB", "r-01J0000000B", "r-01J0000000BX", "r-9"]
    const short = shortIds(all)
    assert.deepStrictEqual([...short.values()].toSorted(), [
      "r-01J0000000AAAA",
      "r-01J0000000AAAB",
      "r-01J0000000B",
      "r-01J0000000BX",
      "r-9"
    ])
    const long = [
      "r-01J0000000AAXXXXXXXXXXXXXX",
      "r-01J0000000ABXXXXXXXXXXXXXX",
      "r-01J0000000ABXXXXXXXXXXXXXY"
    ]
    assert.deepStrictEqual(
      long.map((id) => shortIds(long).get(id)),
      ["r-01J0000000AA", long[1], long[2]]
    )
    assert.strictEqual(shortIds([]).size, 0)
    const runs = long.map((id) => runInfo({ id }))
    assert.deepStrictEqual(
      [...shortIds(long)].map(([, short]) => Result.getOrThrow(findRun(runs, short)).id),
      [...shortIds(long).keys()]
    )
  })

  it("a run is over when nothing more comes of it", () => {
    assert.deepStrictEqual(
      (["Requested", "Spawning", "Running", "Stopping", "Exited", "Lost"] as const).map((state) =>
        isOver({ state })
      ),
      [false, false, false, false, true, true]
    )
  })
})
