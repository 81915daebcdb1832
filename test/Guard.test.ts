import { assert, describe, it } from "@effect/vitest"
import type { AuditRow } from "../src/services/AuditLog.ts"
import type { ToolCall } from "../src/services/HookEvent.ts"
import { relayOfNode } from "../src/services/NodeCalls.ts"
import {
  canaryCall,
  canaryNonce,
  canaryPolicy,
  type Guards,
  nextGuards,
  proofOf,
  unproven
} from "../src/services/Guard.ts"

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
      row(1, { policy: "unanswered", verdict: "deny" }),
      row(2, { runId: "by-hand-abc" }),
      row(3, { source: "approval" }),
      row(4, { source: "client", provider: "unknown", verdict: "deny" }),
      row(5, { event: "post_tool_use" }),
      row(6, { source: "client", provider: "unknown", event: "stop" })
    ]
    assert.deepStrictEqual(after(...rows), unproven)
  })

  it("hooks of a node say nothing of the agents here; a relay of ours with a slash in its name does", () => {
    const there = relayOfNode("n-0123456789abcdef", "r")
    assert.deepStrictEqual(
      after(row(1, { relayId: there }), row(2, { relayId: there, source: "incident" })),
      unproven
    )
    assert.deepStrictEqual(after(row(1, { relayId: "team/r" })).codex, { _tag: "proven", at: 1 })
  })

  it("an incident breaks it, whatever hooks come after; only a canary that somebody asked for mends it", () => {
    const incident = row(2, { source: "incident", reason: "ran" })
    const broken = { _tag: "broken", at: 2, reason: "ran" } as const
    assert.deepStrictEqual(after(row(1), incident, row(3)).codex, broken)
    // What an agent makes of its own accord is no canary.
    assert.deepStrictEqual(
      after(row(1), incident, row(3, { policy: canaryPolicy, verdict: "deny" })).codex,
      broken
    )
    const proof = { ...proofOf("codex", "e"), seq: 3, at: 3 }
    assert.deepStrictEqual(after(row(1), incident, proof).codex, { _tag: "proven", at: 3 })
  })

  it("a hook before a call that fell open breaks it: of its provider, and of all where that is not known", () => {
    assert.strictEqual(after(row(1), row(2, { policy: "unanswered" })).codex._tag, "broken")
    const { codex, claude } = after(row(1), row(2, { source: "client", provider: "unknown" }))
    assert.deepStrictEqual([codex._tag, claude._tag], ["broken", "broken"])
  })

  it("a canary's word is read from its command", () => {
    const call = (command: string): ToolCall => ({
      tool: "Bash",
      kind: "shell",
      command,
      paths: [],
      input: {}
    })
    assert.deepStrictEqual(
      [canaryCall("abc"), "holdfast guard-canary", "ls"].map((command) => canaryNonce(call(command))),
      ["abc", "", null]
    )
  })
})
