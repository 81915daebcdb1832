/**
 * RelayRegistry: the live routes from agents' hooks to the gateway. A relay is registered by a run and gone with its scope.
 *
 * Two runs of one session have two relays. A thread keeps its relay id across runs and gateway restarts, with a higher
 * generation each time, so the hook command it was given stays right.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { AuditRow, AuditUnavailable, DecisionSource } from "./AuditLog.ts"
import type { BridgeDirectoryRefused, BridgeWriteError } from "./BridgeStore.ts"
import { type HookEvent, HookEventName, type ToolCall } from "./HookEvent.ts"
import type { Decision } from "./Policy.ts"

/** `[A-Za-z0-9._-]`, at most 128: it becomes part of a file name's hash, a header and a record line. */
export const RelayId = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9._-]{1,128}$/))

export interface RelaySpec {
  readonly provider: "codex"
  readonly runId: string
  readonly sessionId: string | null
  /** Given when a thread comes back; absent = a new one. */
  readonly relayId?: string
  readonly generation?: number
  readonly allowedEvents: ReadonlyArray<HookEventName>
}

/** What an operator sees of a relay. */
export const RelayInfo = Schema.Struct({
  relayId: Schema.String,
  generation: Schema.Int,
  provider: Schema.String,
  runId: Schema.String,
  sessionId: Schema.NullOr(Schema.String),
  state: Schema.Literals(["live", "lingering"]),
  events: Schema.Array(HookEventName),
  recordPath: Schema.String,
  openedAt: Schema.Finite,
  decided: Schema.Int,
  refused: Schema.Int
})
export type RelayInfo = typeof RelayInfo.Type

/** A request for approval of a call that a hook should have decided before. */
export interface ApprovalCall {
  readonly callId: string
  readonly agentId: string | null
  readonly sessionId: string | null
  readonly turnId: string | null
  readonly cwd: string | null
  readonly call: ToolCall
}

export interface Relay {
  readonly relayId: string
  readonly generation: number
  readonly recordPath: string
  /** The exact hook command per allowed event. */
  readonly commands: Readonly<Partial<Record<HookEventName, string>>>
  /** Decides and records; the row is written before the decision is returned. */
  readonly decide: (event: HookEvent, source: DecisionSource) => Effect.Effect<Decision, AuditUnavailable>
  /**
   * Answers an approval from the hook's decision on the same call, which is used up by it; a call without exactly one such
   * decision is decided anew.
   */
  readonly approve: (call: ApprovalCall) => Effect.Effect<Decision, AuditUnavailable>
  /** This relay's rows, as they fall. */
  readonly rows: Stream.Stream<AuditRow>
  /** The session the agent turned out to have, once it is known. */
  readonly attachSession: (sessionId: string) => Effect.Effect<void>
}

export class RelayInUse extends Schema.TaggedError<RelayInUse>()("RelayInUse", { relayId: Schema.String }) {
  override get message(): string {
    return `The relay ${this.relayId} is open for another run. Wait for that run, or start this one without its relay id.`
  }
}

/** What the hook server needs to check a request, in one look. */
export interface RelayEntry {
  readonly info: RelayInfo
  readonly token: string
  readonly allows: (event: HookEventName) => boolean
  readonly decide: Relay["decide"]
  readonly refused: Effect.Effect<void>
}

export class RelayRegistry extends Context.Service<
  RelayRegistry,
  {
    readonly register: (
      spec: RelaySpec
    ) => Effect.Effect<Relay, BridgeDirectoryRefused | BridgeWriteError | RelayInUse, Scope.Scope>
    /** The current entry of an id: live, or lingering in its grace for late hooks. */
    readonly find: (relayId: string) => Effect.Effect<Option.Option<RelayEntry>>
    readonly list: Effect.Effect<ReadonlyArray<RelayInfo>>
  }
>()("holdfast/RelayRegistry") {}
