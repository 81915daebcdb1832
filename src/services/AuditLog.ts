/**
 * AuditLog: every decision about a tool call, one row each, append-only, written before the decision is answered.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import { HookEventName } from "./HookEvent.ts"
import { Vote } from "./Policy.ts"

/** Where the decision was asked for: the native hook, or the app-server's approval request for the same call. */
export const DecisionSource = Schema.Literals(["hook", "approval", "incident"])
export type DecisionSource = typeof DecisionSource.Type

export const AuditEntry = Schema.Struct({
  epoch: Schema.String,
  relayId: Schema.String,
  runId: Schema.String,
  provider: Schema.String,
  source: DecisionSource,
  event: HookEventName,
  sessionId: Schema.NullOr(Schema.String),
  agentId: Schema.NullOr(Schema.String),
  callId: Schema.String,
  tool: Schema.NullOr(Schema.String),
  /** What the call wants, cut to `maxSubjectLength` characters: the command line, or the paths. */
  subject: Schema.String,
  verdict: Schema.Literals(["allow", "deny", "rewrite"]),
  policy: Schema.String,
  reason: Schema.String,
  votes: Schema.Array(Vote),
  /** From the request's arrival to the decision, in milliseconds with fractions. */
  tookMs: Schema.Finite
})
export type AuditEntry = typeof AuditEntry.Type

export const AuditRow = Schema.Struct({ ...AuditEntry.fields, seq: Schema.Int, at: Schema.Finite })
export type AuditRow = typeof AuditRow.Type

/** 512 characters show a command whole in nearly every case and bound the row. */
export const maxSubjectLength = 512

export class AuditUnavailable extends Schema.TaggedError<AuditUnavailable>()("AuditUnavailable", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The audit log cannot be written, so nothing may be decided. Check the disk under the state directory."
  }
}

export class AuditLog extends Context.Service<
  AuditLog,
  {
    /** Done when the row is in the database. Concurrent appends share one transaction. */
    readonly append: (entry: AuditEntry) => Effect.Effect<AuditRow, AuditUnavailable>
    /** The last `limit` rows, oldest first. */
    readonly tail: (limit: number) => Effect.Effect<ReadonlyArray<AuditRow>, AuditUnavailable>
    /** Rows appended from now on. A reader that falls behind loses the oldest, never slows a decision. */
    readonly live: Stream.Stream<AuditRow>
  }
>()("holdfast/AuditLog") {}
