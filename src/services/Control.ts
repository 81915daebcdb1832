/**
 * Control: what the command line asks the gateway, as one RPC group over a private Unix socket.
 *
 * Streams end with their caller: closing one ends the run or the relay behind it.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import { AgentEvent, AgentRunError, RunRequest } from "./AgentDriver.ts"
import { LeaseInfo } from "./AppServerLease.ts"
import {
  Answer,
  Approval,
  ApprovalAmbiguous,
  ApprovalClosed,
  ApprovalNotFound,
  ApprovalsUnavailable,
  maxNoteLength
} from "./Approvals.ts"
import { AuditVerification } from "./AuditChain.ts"
import { AuditRecord, AuditRow, maxTailRows } from "./AuditLog.ts"
import { EpochSwept } from "./Epoch.ts"
import { Guards } from "./Guard.ts"
import { HookEventName, ProviderName } from "./HookEvent.ts"
import { MarkRange } from "./InstanceMark.ts"
import { KeeperInfo } from "./Keeper.ts"
import { LinkStatus } from "./NodeLink.ts"
import { NodeControl } from "./NodeControl.ts"
import { OperatorsOnly } from "./Operator.ts"
import { Identity } from "./ProcessIdentity.ts"
import { RelayInfo } from "./RelayRegistry.ts"
import { RunControl } from "./RunControl.ts"
import { Reconciled } from "./RunLedger.ts"
import { TreeNode } from "./SupervisionTree.ts"

export const GatewayStatus = Schema.Struct({
  version: Schema.String,
  epoch: Schema.String,
  owner: Identity,
  startedAt: Schema.Finite,
  upMs: Schema.Finite,
  rssBytes: Schema.Finite,
  state: Schema.String,
  runtime: Schema.String,
  mark: Schema.NullOr(MarkRange),
  /** Null when the mark is taken; else why not. */
  unmarked: Schema.NullOr(Schema.String),
  swept: Schema.Array(EpochSwept),
  keeper: KeeperInfo,
  /** What the start made of the runs of earlier keepers. */
  reconciled: Schema.Array(Reconciled),
  policies: Schema.Array(Schema.String),
  hookClient: Schema.String,
  guard: Guards,
  /** Of a node: the gateway that it belongs to. */
  link: Schema.optionalKey(LinkStatus),
  /** Where other machines dial in, and how many of them are connected. */
  nodes: Schema.optionalKey(Schema.Struct({ url: Schema.String, connected: Schema.Int })),
  relays: Schema.Int,
  leases: Schema.Array(LeaseInfo)
})
export type GatewayStatus = typeof GatewayStatus.Type

/** What an agent started by hand needs: the exact hook command per event. */
export const OpenedRelay = Schema.Struct({
  relayId: Schema.String,
  generation: Schema.Int,
  recordPath: Schema.String,
  commands: Schema.Record(Schema.String, Schema.String)
})
export type OpenedRelay = typeof OpenedRelay.Type

export class ControlRefused extends Schema.TaggedError<ControlRefused>()("ControlRefused", {
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

/** Rows one tail may ask for: what the log gives at once. */
export const maxTail = maxTailRows

const Ref = Schema.String.check(Schema.isMaxLength(128))
const AnswerErrors = Schema.Union([ApprovalNotFound, ApprovalAmbiguous, ApprovalClosed, ApprovalsUnavailable])

export const Control = RpcGroup.make(
  Rpc.make("Status", { success: GatewayStatus }),
  Rpc.make("Tree", { success: Schema.Array(TreeNode) }),
  Rpc.make("Relays", { success: Schema.Array(RelayInfo) }),
  Rpc.make("Leases", { success: Schema.Array(LeaseInfo) }),
  /** Closes every open circuit, so that the next run tries at once. */
  Rpc.make("ResetLeases", { success: Schema.Struct({ closed: Schema.Int }) }).middleware(OperatorsOnly),
  /** Looks again at runs that nobody supervises; a dry one touches nothing. */
  Rpc.make("Reap", {
    payload: { dryRun: Schema.Boolean },
    success: Schema.Array(Reconciled),
    error: ControlRefused
  }).middleware(OperatorsOnly),
  /** Newest first; `live`: only those that can still be answered or used. */
  Rpc.make("ListApprovals", {
    payload: { live: Schema.Boolean },
    success: Schema.Struct({ approvals: Schema.Array(Approval), now: Schema.Finite }),
    error: ApprovalsUnavailable
  }),
  Rpc.make("FindApproval", {
    payload: { ref: Ref },
    success: Approval,
    error: Schema.Union([ApprovalNotFound, ApprovalAmbiguous, ApprovalsUnavailable])
  }),
  Rpc.make("AnswerApproval", {
    payload: {
      ref: Ref,
      answer: Answer,
      note: Schema.NullOr(Schema.String.check(Schema.isMaxLength(maxNoteLength)))
    },
    success: Approval,
    error: AnswerErrors
  }).middleware(OperatorsOnly),
  Rpc.make("RevokeApproval", { payload: { ref: Ref }, success: Approval, error: AnswerErrors }).middleware(
    OperatorsOnly
  ),
  /** Those that can be answered now, oldest first, and from then on each that changes. */
  Rpc.make("WatchApprovals", { success: Approval, error: ApprovalsUnavailable, stream: true }),
  Rpc.make("AuditTail", {
    payload: {
      limit: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: maxTail })),
      follow: Schema.Boolean
    },
    success: AuditRow,
    error: ControlRefused,
    stream: true
  }),
  Rpc.make("FindAuditRow", {
    payload: { seq: Schema.Int },
    success: Schema.NullOr(AuditRecord),
    error: ControlRefused
  }),
  /** A word for one canary call, which mends a guard where a hook asks about it. */
  Rpc.make("ArmCanary", { success: Schema.Struct({ nonce: Schema.String }) }).middleware(OperatorsOnly),
  /** All of it, oldest first. */
  Rpc.make("ExportAudit", { success: AuditRecord, error: ControlRefused, stream: true }),
  Rpc.make("VerifyAudit", { success: AuditVerification, error: ControlRefused }),
  Rpc.make("OpenRelay", {
    payload: {
      provider: ProviderName,
      sessionId: Schema.NullOr(Schema.String),
      events: Schema.Array(HookEventName)
    },
    success: OpenedRelay,
    error: ControlRefused,
    stream: true
  }),
  Rpc.make("RunCodex", { payload: RunRequest, success: AgentEvent, error: AgentRunError, stream: true }),
  /** A turn that an earlier gateway left, from its beginning; whoever has seen a part of it drops that by `eventKey`. */
  Rpc.make("AttachCodex", {
    payload: { runId: Schema.NonEmptyString },
    success: AgentEvent,
    error: AgentRunError,
    stream: true
  }),
  /** Says who will end; the gateway ends everything it owns once its caller has taken that and closed the stream. */
  Rpc.make("Down", { success: Schema.Struct({ owner: Identity }), stream: true }).middleware(OperatorsOnly)
)

/** Everything that is answered on the socket. */
export const ControlSocket = Control.merge(RunControl).merge(NodeControl)

export class NoGateway extends Schema.TaggedError<NoGateway>()("NoGateway", { socket: Schema.String }) {
  override get message(): string {
    return `No gateway answers on ${this.socket}. Start one with \`holdfast up\`.`
  }
}

/** `down`: everything the gateway owns ends with it. `handover`: what another gateway can go on with is left to the keeper. */
export type ShutdownKind = "down" | "handover"

/** The gateway's own end, as a value: asked for by `down` or a signal, awaited by the program. */
export class Shutdown extends Context.Service<
  Shutdown,
  {
    /** The first one stands, but for a `down` after a `handover`. */
    readonly request: (kind: ShutdownKind) => Effect.Effect<void>
    readonly requested: Effect.Effect<void>
    /** What it is to be, as far as is known; null before anybody asked. */
    readonly kind: Effect.Effect<ShutdownKind | null>
  }
>()("holdfast/Shutdown") {}

/** A person has a few terminals and an agent a few commands; past this a connection is closed at once. */
export const maxCallers = 256
/** While the gateway ends: a caller that took nothing of its answer for so long is cut off. */
export const callerGraceMs = 1000

/** Who is connected to the control socket. */
export class Callers extends Context.Service<
  Callers,
  {
    /** From now on whoever does not read is cut off; for the end, which waits until every answer is written. */
    readonly hurry: Effect.Effect<void>
  }
>()("holdfast/Callers") {}
