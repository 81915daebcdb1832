/** An audit entry to start from. */
import type { AuditEntry } from "../../src/services/AuditLog.ts"

export const entry: AuditEntry = {
  epoch: "01JC0000000000000000000000",
  relayId: "relay-1",
  runId: "run-1",
  provider: "codex",
  source: "hook",
  event: "pre_tool_use",
  sessionId: "thread-1",
  agentId: null,
  spawnedBy: null,
  callId: "call-1",
  tool: "Bash",
  subject: "ls",
  verdict: "allow",
  policy: "default",
  reason: "no policy has a say in this call; the default is allow",
  votes: [],
  tookMs: 0.25
}
