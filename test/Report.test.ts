import { assert, describe, it } from "@effect/vitest"
import { failed, passed, trialCheck, warned } from "../src/services/Doctor.ts"
import * as Report from "../src/services/Report.ts"
import { formatAge, renderTree } from "../src/services/SupervisionTree.ts"
import { entry } from "./support/AuditLog.ts"

const relay = {
  relayId: "r",
  generation: 1,
  provider: "codex",
  runId: "run",
  sessionId: null,
  state: "live" as const,
  events: [],
  recordPath: "/r",
  openedAt: 0,
  decided: 0,
  refused: 0
}
const command = { _tag: "command" as const, threadId: "t", itemId: "i", exitCode: 0 }
const row = { ...entry, seq: 1, at: 0 }

const drawn = (text: string) => ["\u001b", "\u202e", "\r"].filter((control) => text.includes(control))

describe("Report", () => {
  it("foreign text cannot draw on the terminal: no escape, no bidi override, one line", () => {
    const evil = "rm\u001b[2J\u202e\r\nx"
    const shown = Report.agentEvent({ _tag: "verdict", row: { ...row, subject: evil } })!
    assert.deepStrictEqual(drawn(shown), [])
    assert.strictEqual(shown.split("\n").length, 2)
    const texts = [
      Report.auditRow({ ...row, tool: evil, policy: evil, reason: evil }),
      Report.relays([{ ...relay, sessionId: evil }], 0).split("\n")[1]!,
      Report.agentEvent({ _tag: "hook", event: evil, callId: evil, status: evil, durationMs: 1 })!,
      Report.agentEvent({ _tag: "ended", status: evil, problem: evil })!,
      Report.agentEvent({ _tag: "patch", threadId: "t", itemId: "i", paths: [evil], status: evil })!,
      Report.agentEvent({ ...command, command: evil, status: evil, output: "" })!
    ]
    for (const text of texts) assert.deepStrictEqual([drawn(text), text.split("\n").length], [[], 1], text)
    assert.deepStrictEqual(drawn(Report.agentEvent({ _tag: "message", threadId: "t", text: evil })!), [])
  })

  it("columns line up", () => {
    assert.strictEqual(
      Report.table([
        ["A", "LONG", "C"],
        ["aaa", "b", ""]
      ]),
      "A    LONG  C\naaa  b"
    )
  })

  it("ages have one unit", () => {
    assert.deepStrictEqual([999, 1000, 59_999, 60_000, 3_599_999, 3_600_000, 86_400_000].map(formatAge), [
      "999 ms",
      "1 s",
      "59 s",
      "1 min",
      "59 min",
      "1 h",
      "1 d"
    ])
  })

  it("the tree shows every supervisor and child", () => {
    const child = { id: "r1", state: "running" as const, detail: "live", restarts: 1, ageMs: 1500 }
    assert.strictEqual(
      renderTree("gateway", [
        { supervisor: "relays", children: [child, { ...child, id: "r2" }] },
        { supervisor: "leases", children: [] }
      ]),
      [
        "gateway",
        "├─ relays",
        "│  ├─ r1  live  1 s  restarts 1",
        "│  └─ r2  live  1 s  restarts 1",
        "└─ leases (none)"
      ].join("\n")
    )
  })

  it("a check says what to do about itself", () => {
    assert.strictEqual(
      Report.checks([passed("a", "fine"), warned("b", "less", "do x"), failed("c", "broken", null)]),
      [
        "ok    a                    fine",
        "warn  b                    less",
        "      -> do x",
        "FAIL  c                    broken"
      ].join("\n")
    )
  })

  it("a hook that got no decision is a failed round trip with its cause", () => {
    const trial = { exitCode: 0, stdout: "", tookMs: 12.34 }
    assert.deepStrictEqual(
      [trial, { ...trial, stdout: '{"x":"Holdfast: ... [refused]"}' }, { ...trial, exitCode: 2 }].map(
        (one) => `${trialCheck(one).status} ${trialCheck(one).detail}`
      ),
      [
        "ok decided in 12.3 ms, whole process",
        "fail the hook got no decision: refused",
        "fail the hook command ended with 2"
      ]
    )
  })
})
