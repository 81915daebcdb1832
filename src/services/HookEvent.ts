/**
 * HookEvent: one native tool hook, normalised, and what happens to it when nobody can decide.
 *
 * Providers differ in names and shapes; everything behind their codec speaks these words. The provider's own JSON stays
 * beside them, so that a policy can look at what we did not foresee.
 */
import * as Schema from "effect/Schema"
import { failureCauses, hookEventNames } from "./HookWire.ts"

export const HookEventName = Schema.Literals(hookEventNames)
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
  /** The run that asked for this one, when it is a helper's; the relay says so, never the provider. */
  spawnedBy: Schema.NullOr(Schema.String),
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
export const FailureCause = Schema.Literals(failureCauses)
export type FailureCause = typeof FailureCause.Type

/** Closed where the agent is about to act, open where it only reports. */
export const defaultDirection = (event: HookEventName): Direction =>
  event === "pre_tool_use" || event === "permission_request" ? "closed" : "open"

export type DirectionOverrides = Readonly<Partial<Record<HookEventName, Direction>>>

/** The direction of an event: the operator's override, else the default. */
export const directionFor = (overrides: DirectionOverrides, event: HookEventName): Direction =>
  overrides[event] ?? defaultDirection(event)

export { explainCause } from "./HookWire.ts"
