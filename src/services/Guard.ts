/**
 * Guard: whether the hooks of each provider are known to be in force, told from the rows of the audit log as they fall.
 *
 * A hook of a call that was decided proves it. A call that ran without a decision, a hook that failed at its provider, a canary
 * that never came and a hook that fell open break it; what broke stays broken until a canary is refused as it should be.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { AuditRow } from "./AuditLog.ts"
import type { ToolCall } from "./HookEvent.ts"
import { ProviderName } from "./HookProvider.ts"
import type { Decision } from "./Policy.ts"

export const GuardState = Schema.Union([
  /** Nothing has been seen of it. */
  Schema.TaggedStruct("unproven", {}),
  /** `at`: epoch milliseconds of the last proof. */
  Schema.TaggedStruct("proven", { at: Schema.Finite }),
  Schema.TaggedStruct("broken", { at: Schema.Finite, reason: Schema.String })
])
export type GuardState = typeof GuardState.Type

export const Guards = Schema.Record(ProviderName, GuardState)
export type Guards = typeof Guards.Type

export const unproven: Guards = { codex: { _tag: "unproven" }, claude: { _tag: "unproven" } }

/** What `holdfast doctor --guard` has an agent call: it is refused always, by whatever policy, and does nothing where it runs. */
export const canaryCommand = "holdfast guard-canary"
export const canaryPolicy = "guard-canary"

export const isCanaryCall = (call: ToolCall | null): boolean => call?.command?.trim() === canaryCommand

export const canaryDecision: Decision = {
  verdict: { _tag: "deny" },
  policy: canaryPolicy,
  reason: "Holdfast: this is the canary of `holdfast doctor --guard`, refused as it should be",
  votes: []
}

/** How the run of a relay is called that `relays open` holds. */
export const byHand = "by-hand-"

const isProvider = Schema.is(ProviderName)

/** After one more row. */
export const nextGuards = (guards: Guards, row: AuditRow): Guards => {
  if (!isProvider(row.provider)) return guards
  const before = guards[row.provider]
  const after = nextGuard(before, row)
  return after === before ? guards : { ...guards, [row.provider]: after }
}

const nextGuard = (guard: GuardState, row: AuditRow): GuardState => {
  if (row.source === "incident") return { _tag: "broken", at: row.at, reason: row.reason }
  // A relay that somebody opened by hand says nothing of an agent.
  if (row.source !== "hook" || row.runId.startsWith(byHand)) return guard
  if (row.policy === canaryPolicy) return { _tag: "proven", at: row.at }
  // What went away undecided proves nothing.
  if (guard._tag === "broken" || row.policy === "unanswered") return guard
  return row.event === "pre_tool_use" || row.event === "session_start" || row.event === "user_prompt_submit"
    ? { _tag: "proven", at: row.at }
    : guard
}

export class Guard extends Context.Service<
  Guard,
  {
    readonly states: Effect.Effect<Guards>
  }
>()("holdfast/Guard") {}
