/**
 * Plugin: policies in the shape of OpenClaw's plugins, loaded as they are: `register(api)` with handlers of
 * `before_tool_call` and `after_tool_call`.
 *
 * The handlers of a plugin run one after the other, the highest priority first. A block ends it; parameters that one of
 * them changes are what the next one sees, and what the call is made with; an approval that one of them wants is asked of a
 * person with the parameters as they are then.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { HookEvent } from "./HookEvent.ts"
import type { Verdict } from "./Policy.ts"

export const pluginEvents = ["before_tool_call", "after_tool_call"] as const
export type PluginEvent = (typeof pluginEvents)[number]

export const isPluginEvent = (name: unknown): name is PluginEvent =>
  pluginEvents.some((known) => known === name)

/** More handlers than this of one plugin are no plugin any more. */
export const maxHandlers = 256

export interface Handler {
  readonly event: PluginEvent
  readonly priority: number
  readonly run: (event: unknown, context: unknown) => unknown
}

/** Highest priority first; of equals the one that was registered first. */
export const inOrder = (handlers: ReadonlyArray<Handler>, event: PluginEvent): ReadonlyArray<Handler> =>
  handlers.filter((handler) => handler.event === event).toSorted((a, b) => b.priority - a.priority)

type Params = Readonly<Record<string, unknown>>

const isParams = (value: unknown): value is Params =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** What a handler is told: OpenClaw's names. */
export const beforeEvent = (event: HookEvent, params: unknown) => ({
  toolName: event.call?.tool ?? "",
  params,
  runId: event.turnId ?? undefined,
  toolCallId: event.callId.id
})

export const afterEvent = (event: HookEvent, tookMs: number | null) => ({
  ...beforeEvent(event, event.call?.input),
  result: event.outcome?.result,
  error: event.outcome?.error ?? undefined,
  durationMs: event.outcome?.durationMs ?? tookMs ?? undefined
})

/** Who calls. */
export const contextOf = (event: HookEvent) => ({
  agentId: event.agentId ?? undefined,
  sessionId: event.sessionId ?? undefined,
  sessionKey: event.sessionId ?? undefined,
  runId: event.turnId ?? undefined,
  toolName: event.call?.tool ?? "",
  toolCallId: event.callId.id
})

const Answer = Schema.Struct({
  block: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  blockReason: Schema.optionalKey(Schema.NullOr(Schema.String)),
  params: Schema.optionalKey(Schema.NullOr(Schema.Record(Schema.String, Schema.Unknown))),
  requireApproval: Schema.optionalKey(
    Schema.NullOr(
      Schema.Struct({
        title: Schema.String,
        description: Schema.optionalKey(Schema.NullOr(Schema.String)),
        severity: Schema.optionalKey(Schema.NullOr(Schema.String)),
        timeoutMs: Schema.optionalKey(Schema.NullOr(Schema.Finite))
      })
    )
  )
})

const decodeAnswer = Schema.decodeUnknownResult(Answer)

/** Where a call stands between two handlers. */
export interface PluginState {
  readonly params: unknown
  readonly changed: boolean
  readonly ask: { readonly reason: string; readonly timeoutMs: number | null } | null
  readonly blocked: string | null
}

export const begin = (event: HookEvent): PluginState => ({
  params: event.call?.input,
  changed: false,
  ask: null,
  blocked: null
})

/** After one handler. What it returns beside these fields is its own business; a field of another type is no answer. */
export const nextState = (state: PluginState, answer: unknown): Result.Result<PluginState, "nonsense"> => {
  if (answer === undefined || answer === null) return Result.succeed(state)
  const decoded = decodeAnswer(answer)
  if (Result.isFailure(decoded)) return Result.fail("nonsense")
  const { block, blockReason, params, requireApproval } = decoded.success
  if (block === true)
    return Result.succeed({ ...state, blocked: blockReason?.trim() || "refused by a plugin" })
  const asked =
    requireApproval === undefined || requireApproval === null
      ? state.ask
      : (state.ask ?? {
          reason: [
            requireApproval.description
              ? `${requireApproval.title}: ${requireApproval.description}`
              : requireApproval.title,
            ...(requireApproval.severity ? [`(${requireApproval.severity})`] : [])
          ].join(" "),
          timeoutMs: requireApproval.timeoutMs ?? null
        })
  if (params === undefined || params === null) return Result.succeed({ ...state, ask: asked })
  // As OpenClaw does it: what a handler does not name stays as it was.
  return Result.succeed({
    ...state,
    ask: asked,
    params: { ...(isParams(state.params) ? state.params : {}), ...params },
    changed: true
  })
}

/** What all handlers of a plugin came to. */
export const verdictOf = ({ blocked, ask, changed, params }: PluginState): Verdict => {
  if (blocked !== null) return { _tag: "deny", reason: blocked }
  if (ask !== null)
    return {
      _tag: "ask",
      reason: ask.reason,
      ...(changed ? { input: params } : {}),
      ...(ask.timeoutMs === null ? {} : { timeoutMs: ask.timeoutMs })
    }
  return changed ? { _tag: "rewrite", input: params } : { _tag: "abstain" }
}
