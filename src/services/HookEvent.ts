/**
 * HookEvent: one native tool hook, normalised, and what happens to it when nobody can decide.
 *
 * Providers differ in names and shapes; everything behind their codec speaks these words. The provider's own JSON stays
 * beside them, so that a policy can look at what we did not foresee.
 */
import * as Schema from "effect/Schema"

export const HookEventName = Schema.Literals([
  "pre_tool_use",
  "permission_request",
  "post_tool_use",
  "user_prompt_submit",
  "session_start",
  "session_end",
  "subagent_start",
  "subagent_stop",
  "pre_compact",
  "post_compact",
  "interrupt",
  "stop"
])
export type HookEventName = typeof HookEventName.Type

/** What a tool does, as far as its name tells: `shell` runs a command line, `patch` edits files. */
export const ToolKind = Schema.Literals(["shell", "patch", "mcp", "other"])
export type ToolKind = typeof ToolKind.Type

/** One tool call. `command` is the shell line of a `shell` call; `paths` are the files a `patch` names. */
export const ToolCall = Schema.Struct({
  tool: Schema.String,
  kind: ToolKind,
  command: Schema.NullOr(Schema.String),
  paths: Schema.Array(Schema.String),
  input: Schema.Unknown
})
export type ToolCall = typeof ToolCall.Type

/** `native` ids are the provider's and tie a hook to its approval; a synthesized one only names the row. */
export const CallId = Schema.Union([
  Schema.TaggedStruct("native", { id: Schema.String }),
  Schema.TaggedStruct("synthesized", { id: Schema.String })
])
export type CallId = typeof CallId.Type

export const HookEvent = Schema.Struct({
  event: HookEventName,
  provider: Schema.String,
  callId: CallId,
  /** The provider's session: for Codex the root thread id. */
  sessionId: Schema.NullOr(Schema.String),
  /** The sub-agent that makes the call, when it is not the session itself: for Codex the child thread id. */
  agentId: Schema.NullOr(Schema.String),
  turnId: Schema.NullOr(Schema.String),
  cwd: Schema.NullOr(Schema.String),
  /** Present on tool events only. */
  call: Schema.NullOr(ToolCall),
  raw: Schema.Unknown
})
export type HookEvent = typeof HookEvent.Type

/** Which way an undecidable event falls: `closed` stops the agent's action, `open` lets it pass. */
export const Direction = Schema.Literals(["closed", "open"])
export type Direction = typeof Direction.Type

/** Why a hook got no decision. The class is shown to the agent and to the operator; no foreign text travels with it. */
export const FailureCause = Schema.Literals([
  "not-found",
  "stale-generation",
  "dead-owner",
  "expired",
  "timeout",
  "refused",
  "too-large",
  "forbidden",
  "malformed"
])
export type FailureCause = typeof FailureCause.Type

/** Closed where the agent is about to act, open where it only reports. */
export const defaultDirection = (event: HookEventName): Direction =>
  event === "pre_tool_use" || event === "permission_request" ? "closed" : "open"

export type DirectionOverrides = Readonly<
  Partial<Record<HookEventName, Partial<Record<FailureCause, Direction>>>>
>

/** The direction for one event and cause: the operator's override, else the default. */
export const directionFor = (
  overrides: DirectionOverrides,
  event: HookEventName,
  cause: FailureCause
): Direction => overrides[event]?.[cause] ?? defaultDirection(event)

/** Sentence fragments for `Holdfast ... : <explanation>`; each says what to do next. */
export const explainCause: Readonly<Record<FailureCause, string>> = {
  "not-found": "no relay record was found; is `holdfast up` running and the run still open?",
  "stale-generation": "the relay was replaced by a newer one; start the agent's turn again",
  "dead-owner": "the gateway that owned this relay is gone; start it with `holdfast up`",
  expired: "the relay has expired; start the agent's turn again",
  timeout: "no answer came before the deadline; look at `holdfast status`",
  refused: "the gateway does not accept connections; look at `holdfast status`",
  "too-large": "the hook's payload is over the size limit",
  forbidden: "the relay refused the caller's credentials; run `holdfast doctor`",
  malformed: "the hook's payload or the relay's answer was not what the protocol asks for"
}
