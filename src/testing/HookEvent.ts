/** Hook events to judge, as a Codex thread sends them, with nothing unusual about them. */
import type { HookEvent, ToolCall } from "../services/HookEvent.ts"

const about = (call: ToolCall | null): HookEvent => ({
  event: "pre_tool_use",
  provider: "codex",
  callId: { _tag: "native", id: "call-1" },
  sessionId: "thread-1",
  agentId: null,
  spawnedBy: null,
  turnId: "turn-1",
  cwd: "/repo",
  call,
  raw: {}
})

export const shellEvent = (command: string): HookEvent =>
  about({ tool: "Bash", kind: "shell", command, paths: [], input: { command } })

export const patchEvent = (...paths: ReadonlyArray<string>): HookEvent =>
  about({ tool: "apply_patch", kind: "patch", command: null, paths, input: {} })

/** An event that is about no tool call. */
export const plainEvent = (event: HookEvent["event"]): HookEvent => ({ ...about(null), event })
