/** A length of time as a person types it on the command line. */
import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import { parseDuration } from "../src/programs/internal/duration.ts"

const parsed = (text: string) => Option.getOrNull(parseDuration(3_600_000)(text))

describe("parseDuration", () => {
  it("one number and one unit are a duration", () => {
    assert.deepStrictEqual(
      ["1ms", "500ms", "10s", "1.5s", "0.001s", "2m", "1h", "007s"].map(parsed),
      [1, 500, 10_000, 1_500, 1, 120_000, 3_600_000, 7_000]
    )
  })

  it("anything else is none, as is what is too short or too long", () => {
    const refused = [
      "",
      "10",
      "s",
      "10 s",
      "10S",
      "10sec",
      "-1s",
      "1e3ms",
      "1h30m",
      "1.s",
      ".5s",
      "0s",
      "0.4ms"
    ]
    const tooLong = ["3600001ms", "61m", "2h", "999999999h", "9999999999ms"]
    assert.deepStrictEqual(
      [...refused, ...tooLong, "Infinity", "10s\n", "١s"].filter((text) => parsed(text) !== null),
      []
    )
  })
})
