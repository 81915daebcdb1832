/**
 * HookEvent: one native tool hook, normalised, and what happens to it when nobody can decide.
 *
 * Providers differ in names and shapes; everything behind their codec speaks these words. The provider's own JSON stays
 * beside them, so that a policy can look at what we did not foresee.
 */
import * as Schema from "effect/Schema"
import { failureCauses, hookEventNames, isBlocking } from "./HookWire.ts"

export const HookEventName = Schema.Literals(hookEventNames)
export type HookEventName = typeof HookEventName.Type

/** The agents whose hooks are understood (HookProvider). */
export const ProviderName = Schema.Literals(["codex", "claude"])
export type ProviderName = typeof ProviderName.Type

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
  /** What became of a call, as far as its provider says it; on events after one only. */
  outcome: Schema.optionalKey(
    Schema.Struct({
      result: Schema.Unknown,
      error: Schema.NullOr(Schema.String),
      durationMs: Schema.NullOr(Schema.Finite)
    })
  ),
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
export const defaultDirection = (event: HookEventName): Direction => (isBlocking(event) ? "closed" : "open")

/** One direction for an event whatever the cause, or one for each cause that is named. */
export const DirectionOverride = Schema.Union([
  Direction,
  Schema.Record(FailureCause, Schema.optionalKey(Direction))
])
export type DirectionOverride = typeof DirectionOverride.Type

export type DirectionOverrides = Readonly<Partial<Record<HookEventName, DirectionOverride>>>

/**
 * The direction of an event and a cause: the operator's override, else the default. Without a cause: where the client itself
 * could not run, or could not say why.
 */
export const directionFor = (
  overrides: DirectionOverrides,
  event: HookEventName,
  cause: FailureCause | null = null
): Direction => {
  const override = overrides[event]
  if (typeof override === "string") return override
  return (cause === null ? undefined : override?.[cause]) ?? defaultDirection(event)
}

const opposite = { closed: "open", open: "closed" } as const

/** A row of the table event x cause: what an event comes to, and the causes that fall the other way. */
export interface EventDirection {
  readonly event: HookEventName
  readonly direction: Direction
  readonly except: ReadonlyArray<FailureCause>
}

export const eventDirection = (overrides: DirectionOverrides, event: HookEventName): EventDirection => {
  const direction = directionFor(overrides, event)
  const except = failureCauses.filter((cause) => directionFor(overrides, event, cause) !== direction)
  return { event, direction, except }
}

/** Whether no hook of an event lets anything pass undecided, whatever keeps it from being decided. */
export const isStrict = (overrides: DirectionOverrides, event: HookEventName): boolean => {
  const { direction, except } = eventDirection(overrides, event)
  return direction === "closed" && except.length === 0
}

/** The whole table: each event, and for each cause where it falls. */
export const directionTable = (
  overrides: DirectionOverrides
): ReadonlyArray<EventDirection & { readonly causes: Readonly<Record<FailureCause, Direction>> }> =>
  hookEventNames.map((event) => {
    const { direction, except } = eventDirection(overrides, event)
    const causes = Object.fromEntries(
      failureCauses.map((cause) => [cause, except.includes(cause) ? opposite[direction] : direction])
    ) as Readonly<Record<FailureCause, Direction>>
    return { event, direction, except, causes }
  })

export { explainCause, isBlocking } from "./HookWire.ts"
