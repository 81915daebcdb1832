/** Where an event falls for each cause, and how that reads. */
import { assert, describe, it } from "@effect/vitest"
import {
  directionFor,
  directionTable,
  eventDirection,
  FailureCause,
  HookEventName
} from "../src/services/HookEvent.ts"
import { directions } from "../src/services/Report.ts"

describe("the directions of failures", () => {
  it("is closed for every cause before a tool runs, and open for every report", () => {
    for (const { event, causes } of directionTable({}))
      for (const cause of FailureCause.literals)
        assert.strictEqual(
          causes[cause],
          event === "pre_tool_use" || event === "permission_request" ? "closed" : "open",
          `${event} ${cause}`
        )
  })

  it("follows an override for all causes, or for those that are named", () => {
    const overrides = { stop: "closed", pre_tool_use: { timeout: "open", refused: "closed" } } as const
    assert.deepStrictEqual(eventDirection(overrides, "stop"), {
      event: "stop",
      direction: "closed",
      except: []
    })
    assert.deepStrictEqual(eventDirection(overrides, "pre_tool_use"), {
      event: "pre_tool_use",
      direction: "closed",
      except: ["timeout"]
    })
    assert.deepStrictEqual(
      [null, "timeout", "refused", "expired"].map((cause) =>
        directionFor(overrides, "pre_tool_use", cause as FailureCause | null)
      ),
      ["closed", "open", "closed", "closed"]
    )
  })

  it("reads as a table of every event and every cause", () => {
    const lines = directions(directionTable({ pre_tool_use: { timeout: "open" } })).split("\n")
    assert.strictEqual(lines.length, 2 + HookEventName.literals.length)
    for (const cause of FailureCause.literals) assert.include(lines[1], cause)
    assert.match(lines[2]!, /^pre_tool_use +closed( +closed){4} +open( +closed){4}$/)
  })
})
