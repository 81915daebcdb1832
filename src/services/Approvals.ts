/**
 * Approvals: what a policy wants a person to decide, durable before it is shown, answered once.
 *
 * An approval is about one exact call: its tool, input, working directory, the policy that asked, and the content of the
 * files that the command names. A yes is a grant, and a grant is the answered approval itself: used once by one call, or by
 * any of the same session, or by any at all until a time. Whatever of the call has changed when a grant is used makes it
 * void, and a refusal that names what changed.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import { ToolKind } from "./HookEvent.ts"

/** What a call is, in digests (sha256, base64url). The call itself is kept nowhere. */
export const CallFacts = Schema.Struct({
  provider: Schema.String,
  tool: Schema.String,
  input: Schema.String,
  cwd: Schema.NullOr(Schema.String),
  /** Of everything that is loaded as policy. */
  policy: Schema.String,
  /** Files that the command names, by the name it uses; null = it could not be read then. */
  files: Schema.Record(Schema.String, Schema.NullOr(Schema.String))
})
export type CallFacts = typeof CallFacts.Type

/** Who asks, as the relay that was authenticated says it; no word of it comes from the request. */
export const Requester = Schema.Struct({
  provider: Schema.String,
  /** A thread keeps its relay over runs and gateways: this is the session that a grant may be for. */
  relayId: Schema.String,
  runId: Schema.String,
  spawnedBy: Schema.NullOr(Schema.String)
})
export type Requester = typeof Requester.Type

/** What is shown of a call; redacted and cut. */
export const AskedCall = Schema.Struct({
  tool: Schema.String,
  kind: ToolKind,
  subject: Schema.String,
  cwd: Schema.NullOr(Schema.String)
})
export type AskedCall = typeof AskedCall.Type

/** A process of this user that is none of ours, as the kernel named it when it connected. */
export const Approver = Schema.Struct({ uid: Schema.Int, pid: Schema.Int, command: Schema.String })
export type Approver = typeof Approver.Type

/** For how many calls a yes is. */
export const GrantScope = Schema.Union([
  Schema.TaggedStruct("once", {}),
  /** Of the asking session. */
  Schema.TaggedStruct("session", {}),
  /** Of anybody, until that time (epoch milliseconds). */
  Schema.TaggedStruct("until", { at: Schema.Finite })
])
export type GrantScope = typeof GrantScope.Type

const Answered = { by: Approver, note: Schema.NullOr(Schema.String), at: Schema.Finite }

export const ApprovalState = Schema.Union([
  Schema.TaggedStruct("pending", {}),
  Schema.TaggedStruct("denied", Answered),
  /** Nobody answered in time, which is a no. */
  Schema.TaggedStruct("expired", { at: Schema.Finite }),
  /** `usedBy`: the last call that went through; a `once` lets through the first and nobody else. */
  Schema.TaggedStruct("granted", {
    ...Answered,
    scope: GrantScope,
    uses: Schema.Int,
    usedBy: Schema.NullOr(Schema.String)
  }),
  /** A grant that holds no more: a person took it back, or the call is not what it was. */
  Schema.TaggedStruct("void", { ...Answered, why: Schema.String, voidedAt: Schema.Finite })
])
export type ApprovalState = typeof ApprovalState.Type

export const Approval = Schema.Struct({
  id: Schema.String,
  requester: Requester,
  call: AskedCall,
  /** The policy that asks, and what it says. */
  policy: Schema.String,
  reason: Schema.String,
  facts: CallFacts,
  createdAt: Schema.Finite,
  expiresAt: Schema.Finite,
  /** Calls that have asked for it, oldest first, at most `maxCallersKept`. */
  callIds: Schema.Array(Schema.String),
  state: ApprovalState
})
export type Approval = typeof Approval.Type

/** Duplicates of one call that share an approval; an agent makes a few, and one that makes more is asked about anew. */
export const maxCallersKept = 32

/** Asks of one relay that nobody has answered. */
export const maxPendingPerRelay = 16
/** Asks of one node, whatever relays it tells of: what others ask has room beside them. */
export const maxPendingPerNode = 64
/** Asks of everybody: more than a person could read. */
export const maxPending = 256
/** New approvals of one relay in `rateWindowMs`; a person answers one in two seconds at best. */
export const maxPerWindow = 30
export const rateWindowMs = 60_000
/** Ended approvals that are kept to be shown; the audit log has all of them. */
export const maxEndedKept = 10_000
/** A yes for one call whose hook had left: who wants it comes back soon, and nobody remembers it tomorrow. */
export const onceHoldsMs = 3_600_000
/** The longest that any other yes may last. */
export const maxGrantMs = 30 * 86_400_000
export const maxNoteLength = 500

export const Answer = Schema.Union([
  Schema.TaggedStruct("allow-once", {}),
  Schema.TaggedStruct("allow-session", {}),
  Schema.TaggedStruct("allow-for", {
    ms: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: maxGrantMs }))
  }),
  Schema.TaggedStruct("deny", {})
])
export type Answer = typeof Answer.Type

export const isPending = ({ state }: Approval): boolean => state._tag === "pending"

/** Until when it can be answered or used (epoch milliseconds); 0 = it is over. */
export const liveUntil = ({ state, expiresAt }: Approval): number => {
  if (state._tag === "pending") return expiresAt
  if (state._tag !== "granted") return 0
  switch (state.scope._tag) {
    case "once":
      return state.usedBy === null ? state.at + onceHoldsMs : 0
    case "session":
      return state.at + maxGrantMs
    case "until":
      return state.scope.at
  }
}

/** A yes that some call may still use. */
export const isGrant = (approval: Approval, now: number): boolean =>
  approval.state._tag === "granted" && now < liveUntil(approval)

/** What differs between the call that was approved and the one at hand, for a person; empty = nothing. */
export const driftOf = (then: CallFacts, now: CallFacts): ReadonlyArray<string> => {
  const names = new Set([...Object.keys(then.files), ...Object.keys(now.files)])
  return [
    ...(then.provider === now.provider && then.tool === now.tool ? [] : ["the tool"]),
    ...(then.input === now.input ? [] : ["the input"]),
    ...(then.cwd === now.cwd ? [] : ["the working directory"]),
    ...(then.policy === now.policy ? [] : ["the policy"]),
    ...[...names].filter((name) => then.files[name] !== now.files[name]).map((name) => `the file ${name}`)
  ]
}

export type ApprovalEvent =
  | {
      readonly _tag: "Answer"
      readonly answer: Answer
      readonly note: string | null
      readonly by: Approver
    }
  /** Another call, or the same again, waits for the answer. */
  | { readonly _tag: "Join"; readonly callId: string }
  | { readonly _tag: "Expire" }
  | { readonly _tag: "Use"; readonly callId: string; readonly relayId: string; readonly facts: CallFacts }
  | { readonly _tag: "Revoke" }

/** Why an event has no effect: the approval's state has no such transition. `early`: it expires later. */
export type Refusal = "closed" | "early" | "other-session" | "spent"

/** What became of a use: `drifted` names what changed. */
export type Used =
  { readonly _tag: "used" } | { readonly _tag: "drifted"; readonly what: ReadonlyArray<string> }

const scopeOf = (answer: Exclude<Answer, { readonly _tag: "deny" }>, now: number): GrantScope =>
  answer._tag === "allow-for"
    ? { _tag: "until", at: now + answer.ms }
    : { _tag: answer._tag === "allow-once" ? "once" : "session" }

const answered = (event: Extract<ApprovalEvent, { readonly _tag: "Answer" }>, now: number): ApprovalState => {
  const { answer, note, by } = event
  return answer._tag === "deny"
    ? { _tag: "denied", by, note, at: now }
    : { _tag: "granted", by, note, at: now, scope: scopeOf(answer, now), uses: 0, usedBy: null }
}

type Granted = Extract<ApprovalState, { readonly _tag: "granted" }>

const voided = ({ by, note, at }: Granted, why: string, now: number): ApprovalState => ({
  _tag: "void",
  by,
  note,
  at,
  why,
  voidedAt: now
})

const used = (
  approval: Approval,
  state: Granted,
  event: Extract<ApprovalEvent, { readonly _tag: "Use" }>,
  now: number
): Result.Result<readonly [ApprovalState, Used], Refusal> => {
  const { scope } = state
  const sameSession = event.relayId === approval.requester.relayId
  if (scope._tag !== "until" && !sameSession) return Result.fail("other-session")
  // The same call again has had its yes: its hook was cut off between the use and the answer.
  const again = scope._tag === "once" && sameSession && state.usedBy === event.callId
  if (!again && !isGrant(approval, now)) return Result.fail("spent")
  const what = driftOf(approval.facts, event.facts)
  if (what.length > 0)
    return Result.succeed([voided(state, `${what.join(", ")} changed`, now), { _tag: "drifted", what }])
  return Result.succeed([
    again ? state : { ...state, uses: state.uses + 1, usedBy: event.callId },
    { _tag: "used" }
  ])
}

/** One step of an approval's life. */
export const nextApproval = (
  approval: Approval,
  event: ApprovalEvent,
  now: number
): Result.Result<readonly [Approval, Used | null], Refusal> => {
  const { state } = approval
  const become = (next: ApprovalState, use: Used | null = null) =>
    Result.succeed([{ ...approval, state: next }, use] as const)
  switch (event._tag) {
    case "Answer":
      return state._tag === "pending" && now < approval.expiresAt
        ? become(answered(event, now))
        : Result.fail("closed")
    case "Join": {
      if (state._tag !== "pending") return Result.fail("closed")
      if (approval.callIds.includes(event.callId)) return Result.succeed([approval, null])
      return approval.callIds.length >= maxCallersKept
        ? Result.fail("closed")
        : Result.succeed([{ ...approval, callIds: [...approval.callIds, event.callId] }, null])
    }
    case "Expire":
      if (state._tag !== "pending") return Result.fail("closed")
      return now < approval.expiresAt ? Result.fail("early") : become({ _tag: "expired", at: now })
    case "Use":
      return state._tag === "granted"
        ? Result.flatMap(used(approval, state, event, now), ([next, use]) => become(next, use))
        : Result.fail("closed")
    case "Revoke":
      return state._tag === "granted" && isGrant(approval, now)
        ? become(voided(state, "revoked", now))
        : Result.fail("closed")
  }
}

/** Which of the approvals about calls like this one it may use, join, or be told by; in this order. */
export type Standing =
  | { readonly _tag: "use"; readonly approval: Approval }
  | { readonly _tag: "join"; readonly approval: Approval }
  | { readonly _tag: "told"; readonly approval: Approval }
  | { readonly _tag: "new" }

/**
 * `alike`: approvals whose provider, tool, input and working directory are the call's. A call that comes back after its
 * answer (its gateway died meanwhile) is told that answer again; another call that was refused is asked about anew.
 */
export const standingOf = (
  alike: ReadonlyArray<Approval>,
  call: { readonly callId: string; readonly relayId: string },
  now: number
): Standing => {
  const own = alike.filter(({ requester }) => requester.relayId === call.relayId)
  const again = own.find(
    ({ state, callIds }) =>
      callIds.includes(call.callId) &&
      (state._tag === "denied" ||
        state._tag === "expired" ||
        state._tag === "void" ||
        (state._tag === "granted" && state.usedBy === call.callId))
  )
  if (again !== undefined) return { _tag: again.state._tag === "granted" ? "use" : "told", approval: again }
  const grant =
    own.find((approval) => isGrant(approval, now)) ??
    alike.find(
      (approval) =>
        approval.state._tag === "granted" && approval.state.scope._tag === "until" && isGrant(approval, now)
    )
  if (grant !== undefined) return { _tag: "use", approval: grant }
  const pending = own.find(
    (approval) =>
      isPending(approval) &&
      now < approval.expiresAt &&
      (approval.callIds.length < maxCallersKept || approval.callIds.includes(call.callId))
  )
  return pending === undefined ? { _tag: "new" } : { _tag: "join", approval: pending }
}

/** A call that a policy wants a person to decide. */
export interface AskRequest {
  readonly requester: Requester
  /** The provider's id of the call where it has one: the same call again, and nobody else, may use what it was granted. */
  readonly callId: string
  readonly call: AskedCall
  readonly policy: string
  readonly reason: string
  /** Looked at anew when the answer is used. */
  readonly facts: Effect.Effect<CallFacts>
  /** How long the caller can wait; then it is refused, and the approval stays open for the next identical call. */
  readonly holdMs: number
  /** How long it can be answered; null, or longer than the config's = the config's. */
  readonly expireMs: number | null
}

/** `reason` is a sentence for the agent and for the audit row. */
export interface Outcome {
  readonly allowed: boolean
  readonly reason: string
}

export class ApprovalsUnavailable extends Schema.TaggedError<ApprovalsUnavailable>()("ApprovalsUnavailable", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The approvals cannot be read or written, so nobody can be asked. Check the disk under the state directory."
  }
}

export class ApprovalNotFound extends Schema.TaggedError<ApprovalNotFound>()("ApprovalNotFound", {
  ref: Schema.String
}) {
  override get message(): string {
    return `There is no approval ${this.ref}. \`holdfast approvals list\` shows them.`
  }
}

export class ApprovalAmbiguous extends Schema.TaggedError<ApprovalAmbiguous>()("ApprovalAmbiguous", {
  ref: Schema.String,
  count: Schema.Int
}) {
  override get message(): string {
    return `${this.count} approvals begin with ${this.ref}. Give more of the id.`
  }
}

/** Somebody was first, or it is too late. */
export class ApprovalClosed extends Schema.TaggedError<ApprovalClosed>()("ApprovalClosed", {
  id: Schema.String,
  state: Schema.Literals(["pending", "denied", "expired", "granted", "void"])
}) {
  override get message(): string {
    const what = {
      pending: "still waits for an answer",
      denied: "was denied already",
      expired: "has expired, which is a deny",
      granted: "was granted already, and what was granted may have been used",
      void: "was granted, and the grant is void"
    }
    return `The approval ${this.id} ${what[this.state]}. \`holdfast approvals show ${this.id}\` says more.`
  }
}

export class Approvals extends Context.Service<
  Approvals,
  {
    /** Always ends: with an answer, or with a refusal when the caller cannot wait any longer. */
    readonly ask: (request: AskRequest) => Effect.Effect<Outcome, ApprovalsUnavailable>
    /** The first valid answer stands. */
    readonly answer: (
      ref: string,
      answer: Answer,
      by: Approver,
      note: string | null
    ) => Effect.Effect<Approval, ApprovalNotFound | ApprovalAmbiguous | ApprovalClosed | ApprovalsUnavailable>
    /** Takes a grant back; whoever has used it has. */
    readonly revoke: (
      ref: string
    ) => Effect.Effect<Approval, ApprovalNotFound | ApprovalAmbiguous | ApprovalClosed | ApprovalsUnavailable>
    /** By the id or an unambiguous beginning of it. */
    readonly find: (
      ref: string
    ) => Effect.Effect<Approval, ApprovalNotFound | ApprovalAmbiguous | ApprovalsUnavailable>
    /** Newest first, at most `maxListed`; `live`: only those that are pending or grants. */
    readonly list: (live: boolean) => Effect.Effect<ReadonlyArray<Approval>, ApprovalsUnavailable>
    /** Each approval that changes from now on, as it is then. A reader that falls behind loses the oldest. */
    readonly changes: Stream.Stream<Approval>
  }
>()("holdfast/Approvals") {}

/** Approvals in one list. */
export const maxListed = 1_000
