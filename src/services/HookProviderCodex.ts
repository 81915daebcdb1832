/**
 * HookProviderCodex: Codex's hooks in our words: its payload in, the exact stdout it honours out, and the table that
 * points its threads at a relay.
 *
 * Codex lets a tool run unless the answer has one of three exact forms (measured on 0.169.0): an unknown field, a missing
 * reason or a log line before the JSON all let it run. So nothing here is built from parts that a policy could bend, and
 * what Codex cannot do (apply a rewrite to some other tool) becomes a deny that says so.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
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
import { HookEvent, HookEventName, isBlocking, type ToolCall } from "./HookEvent.ts"
import { denyText, hookEventNames } from "./HookWire.ts"
import type { Decision, Judgement } from "./Policy.ts"

export { failureAnswer } from "./HookWire.ts"

const provider = "codex"

const pascal = (event: string): string =>
  event.replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase())

/** Codex's name of each event: PreToolUse for pre_tool_use. A misspelt key of a hooks table is silently ignored by it. */
export const codexEventName = Object.fromEntries(
  hookEventNames.map((event) => [event, pascal(event)])
) as Readonly<Record<HookEventName, string>>

const eventOfCodexName = Object.fromEntries(
  hookEventNames.map((event) => [codexEventName[event], event])
) as Readonly<Record<string, HookEventName>>

/** `PreToolUse` <-> `pre_tool_use`. */
export const CodexEventName = Schema.Literals(Object.values(codexEventName)).pipe(
  Schema.decodeTo(
    HookEventName,
    SchemaTransformation.transform({
      decode: (name) => eventOfCodexName[name]!,
      encode: (event) => codexEventName[event]
    })
  )
)

/** What we read of a payload. Codex may add fields; they stay in `raw`. */
const CodexPayload = Schema.Struct({
  hook_event_name: CodexEventName,
  /** The root thread, also for its sub-agents. */
  session_id: Schema.String,
  agent_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  turn_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  cwd: Schema.optionalKey(Schema.NullOr(Schema.String)),
  tool_name: Schema.optionalKey(Schema.String),
  tool_input: Schema.optionalKey(Schema.Unknown),
  tool_use_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  tool_response: Schema.optionalKey(Schema.Unknown)
})
type CodexPayload = typeof CodexPayload.Type

/** Another shape than this is none a policy could read a command in, so it is refused as malformed. */
const CommandInput = Schema.Struct({ command: Schema.String })
const isCommandInput = Schema.is(CommandInput)

/** As generous as Codex's own parser, which trims a line before it looks: a path too many is a question, one missed a hole. */
const patchHeader = /^[ \t]*\*\*\*[ \t]+(?:(?:add|update|delete)[ \t]+file|move[ \t]+to):[ \t]*(\S.*?)\s*$/gim

export const patchPaths = (patch: string): ReadonlyArray<string> => [
  ...new Set([...patch.matchAll(patchHeader)].map((header) => header[1]!))
]

const toolCall = (tool: string, input: unknown): ToolCall | null => {
  if (tool === "Bash" || tool === "apply_patch") {
    if (!isCommandInput(input)) return null
    return tool === "Bash"
      ? { tool, kind: "shell", command: input.command, paths: [], input }
      : { tool, kind: "patch", command: null, paths: patchPaths(input.command), input }
  }
  return { tool, kind: tool.startsWith("mcp__") ? "mcp" : "other", command: null, paths: [], input }
}

const readPayload = payloadReader("Codex", CodexPayload)

const eventOf = (payload: CodexPayload, raw: unknown, synthesizedId: () => string): HookEvent | null => {
  const call =
    toolEvents.has(payload.hook_event_name) && payload.tool_name !== undefined
      ? toolCall(payload.tool_name, payload.tool_input)
      : null
  if (toolEvents.has(payload.hook_event_name) && call === null) return null
  return {
    event: payload.hook_event_name,
    provider,
    ...callerOf(payload, synthesizedId),
    turnId: payload.turn_id ?? null,
    call,
    // Codex does not say whether a command failed, nor how long it took.
    ...(payload.hook_event_name === "post_tool_use"
      ? { outcome: { result: payload.tool_response, error: null, durationMs: null } }
      : {}),
    raw
  }
}

/** A payload's text in our words. `synthesizedId` names a call that Codex gave no id. */
export const decodeEvent = (
  event: HookEventName,
  text: string,
  synthesizedId: () => string
): Result.Result<HookEvent, HookPayloadMalformed> => {
  const read = readPayload(text)
  if (Result.isFailure(read)) return Result.fail(read.failure)
  const { payload, raw, malformed } = read.success
  if (payload.hook_event_name !== event) return malformed("event")
  const decoded = eventOf(payload, raw, synthesizedId)
  return decoded === null ? malformed("tool") : Result.succeed(decoded)
}

/** Whether Codex applies a replaced input to this call: measured for these two tools, and only for this shape. */
const canRewrite = (event: HookEvent, input: unknown): input is { readonly command: string } =>
  event.event === "pre_tool_use" &&
  (event.call?.tool === "Bash" || event.call?.tool === "apply_patch") &&
  isCommandInput(input) &&
  Object.keys(input).length === 1

const rewriteText = (command: string): string =>
  JSON.stringify({
    hookSpecificOutput: {
      hookEventName: "PreToolUse",
      permissionDecision: "allow",
      updatedInput: { command }
    }
  })

const allowText = {
  // A bare `permissionDecision: "allow"` is reported as unsupported by Codex; silence is what lets a call run.
  pre_tool_use: "",
  permission_request: allowPermission
}

/**
 * What a decision comes to at this provider: a rewrite that Codex cannot apply, or that is too long to be sent, is a deny
 * that says so. Settled before it is recorded, so that the row says what happened.
 */
export const settle = <J extends Judgement>(event: HookEvent, decision: J): J | Decision => {
  if (decision.verdict._tag !== "rewrite") return decision
  const { input } = decision.verdict
  const problem = !canRewrite(event, input)
    ? "in a way that Codex cannot apply"
    : fits(rewriteText(input.command))
      ? null
      : "into one too long to be sent"
  return problem === null ? decision : refusedRewrite(decision, problem)
}

/** The event with another input; null where the tool takes none like it. */
export const rewritten = (event: HookEvent, input: unknown): HookEvent | null => {
  const call = event.call === null ? null : toolCall(event.call.tool, input)
  return call === null ? null : { ...event, call }
}

/** The exact stdout for a decision. Events that only report take no answer. */
export const encodeDecision = (event: HookEvent, given: Decision): string => {
  if (!isBlocking(event.event)) return ""
  const decision = settle(event, given)
  switch (decision.verdict._tag) {
    case "allow":
      return allowText[event.event]
    case "deny":
      return denyText(event.event, reasonOf(decision))
    case "rewrite":
      return rewriteText((decision.verdict.input as { readonly command: string }).command)
  }
}

/** Codex cuts the timeout of these two to three seconds, whatever the table says. */
const cappedEvents: ReadonlySet<HookEventName> = new Set(["session_end", "interrupt"])
const cappedTimeoutSeconds = 3

/** Seconds Codex gives a hook of this event: what the table says, and what the client's deadline is taken from. */
export const timeoutSeconds = (event: HookEventName, configuredMs: number): number => {
  const seconds = Math.max(1, Math.floor(configuredMs / 1000))
  return cappedEvents.has(event) ? Math.min(cappedTimeoutSeconds, seconds) : seconds
}

/** One command hook, as Codex resolves it. */
export interface CodexHook {
  readonly type: "command"
  readonly command: string
  readonly timeout: number
  readonly async: false
}

/** Codex drops a matcher of these events before it hashes. */
const matcherless: ReadonlySet<HookEventName> = new Set(["user_prompt_submit", "stop", "interrupt"])

const canonical = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(canonical)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== null && field !== undefined)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, field]) => [key, canonical(field)])
  )
}

/** The text whose sha256 makes Codex trust a hook: `trusted_hash = "sha256:" + hex`. */
export const trustSubject = (event: HookEventName, matcher: string | null, hook: CodexHook): string =>
  JSON.stringify(
    canonical({ event_name: event, matcher: matcherless.has(event) ? null : matcher, hooks: [hook] })
  )

/** The key of that hash below `hooks.state`, for hooks that came with a thread's config. */
export const trustKey = (event: HookEventName, group: number, handler: number): string =>
  `/<session-flags>/config.toml:${event}:${group}:${handler}`

export interface CodexHooks {
  /** The `hooks` table of a thread's config, but for `state`. */
  readonly table: Readonly<Record<string, ReadonlyArray<{ readonly hooks: ReadonlyArray<CodexHook> }>>>
  /** What the caller hashes for `hooks.state[key] = { enabled: true, trusted_hash }`. */
  readonly trust: ReadonlyArray<{ readonly key: string; readonly subject: string }>
}

/** One group per event, without a matcher: every tool. */
export const hooksTable = (
  commands: Readonly<Partial<Record<HookEventName, string>>>,
  configuredTimeoutMs: number
): CodexHooks => {
  const entries = hookEventNames.flatMap((event) => {
    const command = commands[event]
    if (command === undefined) return []
    const hook: CodexHook = {
      type: "command",
      command,
      timeout: timeoutSeconds(event, configuredTimeoutMs),
      async: false
    }
    return [{ event, hook }]
  })
  return {
    table: Object.fromEntries(entries.map(({ event, hook }) => [codexEventName[event], [{ hooks: [hook] }]])),
    trust: entries.map(({ event, hook }) => ({
      key: trustKey(event, 0, 0),
      subject: trustSubject(event, null, hook)
    }))
  }
}
