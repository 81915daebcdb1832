/**
 * HookProviderClaude: Claude Code's hooks in our words: its payload in, the exact stdout it honours out, and the settings that
 * put a session under a relay.
 *
 * Measured on 2.1.329: a call runs when its hook fails, hangs or says something odd, unless the handler has
 * `onFailure: "block"`, which versions before 2.1.295 ignore. So the command that is installed turns every odd end into a
 * refusal by itself, and a refusal is JSON at exit 0: with another status the whole command line is shown to the model.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { refusedVariables } from "./ClaudeTerms.ts"
import {
  allowPermission,
  callerOf,
  fits,
  type HookPayloadMalformed,
  payloadReader,
  reasonOf,
  refusedRewrite,
  toolEvents
} from "./HookAnswer.ts"
import { type HookEvent, type HookEventName, isBlocking, type ToolCall } from "./HookEvent.ts"
import { denyText, hookEventNames } from "./HookWire.ts"
import type { Decision, Judgement } from "./Policy.ts"

const provider = "claude"

/** Claude's names of each of our events; a failed call has an event of its own. */
const claudeNames: Readonly<Partial<Record<HookEventName, ReadonlyArray<string>>>> = {
  pre_tool_use: ["PreToolUse"],
  permission_request: ["PermissionRequest"],
  post_tool_use: ["PostToolUse", "PostToolUseFailure"],
  user_prompt_submit: ["UserPromptSubmit"],
  session_start: ["SessionStart"],
  session_end: ["SessionEnd"],
  subagent_start: ["SubagentStart"],
  subagent_stop: ["SubagentStop"],
  pre_compact: ["PreCompact"],
  post_compact: ["PostCompact"],
  stop: ["Stop"]
}

/** The events of ours that Claude Code has. */
export const claudeEvents: ReadonlyArray<HookEventName> = hookEventNames.filter(
  (event) => event in claudeNames
)

const Params = Schema.Record(Schema.String, Schema.Unknown)
const isParams = Schema.is(Params)

/** What we read of a payload. Claude may add fields; they stay in `raw`. */
const ClaudePayload = Schema.Struct({
  hook_event_name: Schema.String,
  session_id: Schema.String,
  agent_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  prompt_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  cwd: Schema.optionalKey(Schema.NullOr(Schema.String)),
  tool_name: Schema.optionalKey(Schema.String),
  tool_input: Schema.optionalKey(Schema.Unknown),
  tool_use_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  tool_response: Schema.optionalKey(Schema.Unknown),
  error: Schema.optionalKey(Schema.Unknown),
  duration_ms: Schema.optionalKey(Schema.NullOr(Schema.Finite))
})
type ClaudePayload = typeof ClaudePayload.Type

/** The field of each tool's input that names the file it touches; absolute by the time a hook sees it. */
const fileOf: Readonly<Record<string, { readonly field: string; readonly writes: boolean }>> = {
  Write: { field: "file_path", writes: true },
  Edit: { field: "file_path", writes: true },
  MultiEdit: { field: "file_path", writes: true },
  NotebookEdit: { field: "notebook_path", writes: true },
  Read: { field: "file_path", writes: false }
}

/** Null: an input in which no policy could read what would be done. */
const toolCall = (tool: string, input: unknown): ToolCall | null => {
  if (!isParams(input)) return null
  const { command } = input
  const isMcp = tool.startsWith("mcp__")
  if (tool === "Bash" && typeof command !== "string") return null
  // Monitor, PowerShell and whatever comes next: of its own tools one with a command runs it.
  if (!isMcp && typeof command === "string") return { tool, kind: "shell", command, paths: [], input }
  const file = Object.hasOwn(fileOf, tool) ? fileOf[tool] : undefined
  if (file !== undefined) {
    const path = input[file.field]
    if (typeof path !== "string") return null
    return { tool, kind: file.writes ? "patch" : "other", command: null, paths: [path], input }
  }
  return { tool, kind: isMcp ? "mcp" : "other", command: null, paths: [], input }
}

const readPayload = payloadReader("Claude Code", ClaudePayload)

const outcomeOf = (payload: ClaudePayload): NonNullable<HookEvent["outcome"]> => ({
  result: payload.tool_response,
  error: typeof payload.error === "string" ? payload.error : null,
  durationMs: payload.duration_ms ?? null
})

/** A payload's text in our words. `synthesizedId` names a call that Claude gave no id, as in a permission request. */
export const decodeEvent = (
  event: HookEventName,
  text: string,
  synthesizedId: () => string
): Result.Result<HookEvent, HookPayloadMalformed> => {
  const read = readPayload(text)
  if (Result.isFailure(read)) return Result.fail(read.failure)
  const { payload, raw, malformed } = read.success
  if (claudeNames[event]?.includes(payload.hook_event_name) !== true) return malformed("event")
  const isTool = toolEvents.has(event)
  const call =
    isTool && payload.tool_name !== undefined ? toolCall(payload.tool_name, payload.tool_input) : null
  if (isTool && call === null) return malformed("tool")
  return Result.succeed({
    event,
    provider,
    ...callerOf(payload, synthesizedId),
    turnId: payload.prompt_id ?? null,
    call,
    ...(event === "post_tool_use" ? { outcome: outcomeOf(payload) } : {}),
    raw
  })
}

/** The event with another input; null where no tool takes it. */
export const rewritten = (event: HookEvent, input: unknown): HookEvent | null => {
  const call = event.call === null ? null : toolCall(event.call.tool, input)
  return call === null ? null : { ...event, call }
}

/** Claude replaces the whole input, of any tool, and checks the new one against its rules and its own shape. */
const rewriteText = (event: HookEvent, input: unknown): string =>
  JSON.stringify({
    hookSpecificOutput:
      event.event === "pre_tool_use"
        ? { hookEventName: "PreToolUse", permissionDecision: "allow", updatedInput: input }
        : { hookEventName: "PermissionRequest", decision: { behavior: "allow", updatedInput: input } }
  })

export const settle = <J extends Judgement>(event: HookEvent, decision: J): J | Decision => {
  if (decision.verdict._tag !== "rewrite") return decision
  const { input } = decision.verdict
  if (rewritten(event, input) === null || !isBlocking(event.event))
    return refusedRewrite(decision, "in a way that Claude Code cannot apply")
  return fits(rewriteText(event, input)) ? decision : refusedRewrite(decision, "into one too long to be sent")
}

/** What a policy allows by name is allowed; where none had a say Claude's own permissions go on. */
const allowText = JSON.stringify({
  hookSpecificOutput: { hookEventName: "PreToolUse", permissionDecision: "allow" }
})

/** The exact stdout for a decision. Events that only report take no answer. */
export const encodeDecision = (event: HookEvent, given: Decision, attended = false): string => {
  if (!isBlocking(event.event)) return ""
  const decision = settle(event, given)
  switch (decision.verdict._tag) {
    case "allow":
      if (decision.policy !== "default")
        return event.event === "permission_request" ? allowPermission : allowText
      // Nobody had a say: a person at the session's terminal is asked as without us, and where there is none it is allowed.
      return event.event === "permission_request" && !attended ? allowPermission : ""
    case "deny":
      return denyText(event.event, reasonOf(decision))
    case "rewrite":
      return rewriteText(event, decision.verdict.input)
  }
}

/** All SessionEnd hooks together get 1.5 s. */
const sessionEndSeconds = 1

export const timeoutSeconds = (event: HookEventName, configuredMs: number): number => {
  const seconds = Math.max(1, Math.floor(configuredMs / 1000))
  return event === "session_end" ? Math.min(sessionEndSeconds, seconds) : seconds
}

/**
 * The value of `--settings` for a session under a relay. `disableAllHooks: false` holds against a project that sets it, and the
 * variables against a user's settings; one
 * handler that Claude does not understand would drop all of it without a word, so there is nothing in it but these.
 */
export const settingsOf = (
  commands: Readonly<Partial<Record<HookEventName, string>>>,
  timeoutOf: (event: HookEventName) => number
): string =>
  JSON.stringify({
    disableAllHooks: false,
    // Over a settings file of the user's, and over the environment that it was started with.
    env: Object.fromEntries(refusedVariables.map((name) => [name, ""])),
    hooks: Object.fromEntries(
      claudeEvents.flatMap((event) => {
        const command = commands[event]
        if (command === undefined) return []
        const handler = {
          type: "command",
          command,
          timeout: timeoutOf(event),
          // A failure of the hook itself must stop what waits for it.
          ...(isBlocking(event) ? { onFailure: "block" } : {})
        }
        const group = { ...(toolEvents.has(event) ? { matcher: "*" } : {}), hooks: [handler] }
        return claudeNames[event]!.map((name) => [name, [group]] as const)
      })
    )
  })
