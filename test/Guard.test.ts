import { assert, describe, it } from "@effect/vitest"
import type { AuditRow } from "../src/services/AuditLog.ts"
import { canaryPolicy, type Guards, nextGuards, unproven } from "../src/services/Guard.ts"

const row = (at: number, more: Partial<AuditRow> = {}): AuditRow => ({
  seq: at,
  at,
  epoch: "e",
  relayId: "r",
  runId: "run",
  provider: "codex",
  source: "hook",
  event: "pre_tool_use",
  sessionId: null,
  agentId: null,
  spawnedBy: null,
  callId: "c",
  tool: "Bash",
  subject: "ls",
  verdict: "allow",
  policy: "default",
  reason: "",
  votes: [],
  tookMs: 0,
  ...more
})

const after = (...rows: ReadonlyArray<AuditRow>): Guards => rows.reduce(nextGuards, unproven)

describe("Guard", () => {
  it("a decided hook proves the guard of its own provider", () => {
    assert.deepStrictEqual(after(row(1), row(2)), {
      codex: { _tag: "proven", at: 2 },
      claude: { _tag: "unproven" }
    })
    assert.deepStrictEqual(after(row(1, { provider: "claude", event: "session_start" })).claude, {
      _tag: "proven",
      at: 1
    })
  })

  it("what nobody decided, what no agent sent and what comes after a call prove nothing", () => {
    const rows = [
      row(1, { policy: "unanswered" }),
      row(2, { runId: "by-hand-abc" }),
      row(3, { source: "approval" }),
      row(4, { source: "client" }),
      row(5, { event: "post_tool_use" }),
      row(6, { provider: "unknown" })
    ]
    assert.deepStrictEqual(after(...rows), unproven)
  })

  it("an incident breaks it, whatever hooks come after; a canary that is refused mends it", () => {
    const incident = row(2, { source: "incident", reason: "ran" })
    const broken = { _tag: "broken", at: 2, reason: "ran" } as const
    assert.deepStrictEqual(after(row(1), incident, row(3)).codex, broken)
    assert.deepStrictEqual(after(row(1), incident, row(3, { policy: canaryPolicy })).codex, {
      _tag: "proven",
      at: 3
    })
  })
})
