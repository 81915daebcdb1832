/**
 * AuditLog: every decision about a tool call, one row each, append-only, written before the decision is answered.
 *
 * A row that was answered survives the death of the gateway; a power cut may take the last ones, never one before others.
 * What agents and policies say is redacted and cut before it is written.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type { AuditVerification } from "./AuditChain.ts"
import { HookEventName } from "./HookEvent.ts"
import { Vote } from "./Policy.ts"
import { redact } from "./Redaction.ts"

/** Where the decision was asked for: the native hook, the app-server's approval request for the same call; `client`: a hook client decided by itself; `canary`: an agent was seen to refuse what it must. */
export const DecisionSource = Schema.Literals(["hook", "approval", "incident", "client", "canary"])
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
  /** The run that asked for this one, when it is a helper's. */
  spawnedBy: Schema.NullOr(Schema.String),
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

/** As it is exported: with its link of the chain, which rows of the first versions do not have. */
export const AuditRecord = Schema.Struct({ ...AuditRow.fields, hash: Schema.NullOr(Schema.String) })
export type AuditRecord = typeof AuditRecord.Type

/** 512 characters show a command whole in nearly every case and bound the row. */
export const maxSubjectLength = 512

/** A reason is a sentence; a policy module could return a book. */
export const maxReasonLength = 512

/** Sixteen times what is kept: masks shorten the text, and a command of megabytes need not be read to its end. */
const maxRedactedLength = 16 * maxSubjectLength

/** Text of others as it may be kept: redacted first and cut then, so that no cut lets half a credential through. */
export const shown = (text: string, limit: number, hide: (text: string) => string = redact): string =>
  hide(text.slice(0, maxRedactedLength)).slice(0, limit).toWellFormed()

/** The entry as it is written; `hide` masks what is nobody's business. */
export const auditable = (entry: AuditEntry, hide: (text: string) => string = redact): AuditEntry => ({
  ...entry,
  subject: shown(entry.subject, maxSubjectLength, hide),
  reason: shown(entry.reason, maxReasonLength, hide)
})

/** One call of `tail` shows at most this many rows; the whole log is for an export, not for a screen. */
export const maxTailRows = 1_000

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
    /**
     * Done when the row is in the database. Concurrent appends share one transaction, and fail together. Interrupting
     * it ends the waiting; a row already handed over is written all the same.
     */
    readonly append: (entry: AuditEntry) => Effect.Effect<AuditRow, AuditUnavailable>
    /** The last `limit` rows, at most `maxTailRows`, oldest first. */
    readonly tail: (limit: number) => Effect.Effect<ReadonlyArray<AuditRow>, AuditUnavailable>
    /** What a hook of this relay was first told about a call; null when it was told nothing. */
    readonly decided: (
      relayId: string,
      callId: string,
      event: HookEventName
    ) => Effect.Effect<AuditRow | null, AuditUnavailable>
    /** Whether a call of this relay was decided before it was made, and allowed. */
    readonly isDecided: (relayId: string, callId: string) => Effect.Effect<boolean, AuditUnavailable>
    /** Whether any hook of this relay was decided. */
    readonly hasHook: (relayId: string) => Effect.Effect<boolean, AuditUnavailable>
    /** The last rows that break or mend a guard, oldest first. Those that cannot be read are left out. */
    readonly guardRows: Effect.Effect<ReadonlyArray<AuditRow>, AuditUnavailable>
    /** One row by its number; null when there is none. */
    readonly find: (seq: number) => Effect.Effect<AuditRecord | null, AuditUnavailable>
    /** All of it, oldest first, as it is when each piece of it is read. */
    readonly all: Stream.Stream<AuditRecord, AuditUnavailable>
    /** Reads all of it again, and compares. */
    readonly verify: Effect.Effect<AuditVerification, AuditUnavailable>
    /** Rows appended from now on. A reader that falls behind loses the oldest, never slows a decision. */
    readonly live: Stream.Stream<AuditRow>
  }
>()("holdfast/AuditLog") {}
