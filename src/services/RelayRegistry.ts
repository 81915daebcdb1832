/**
 * RelayRegistry: the live routes from agents' hooks to the gateway. A relay is registered by a run and gone with its scope.
 *
 * Two runs of one session have two relays. A thread keeps its relay id across runs and gateway restarts, with a higher
 * generation each time, so the hook command it was given stays right.
 */
import * as Context from "effect/Context"
import type * as Deferred from "effect/Deferred"
import type * as Effect from "effect/Effect"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import type * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { AuditRow, AuditUnavailable, DecisionSource } from "./AuditLog.ts"
import type { BridgeWriteError } from "./BridgeStore.ts"
import { type HookEvent, HookEventName, type ToolCall, type ProviderName } from "./HookEvent.ts"
import type { Decision } from "./Policy.ts"
import type { DirectoryRefused } from "./PrivateDirectory.ts"

/** `[A-Za-z0-9._-]`, at most 128: it becomes part of a file name's hash, a header and a record line. */
export const RelayId = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9._-]{1,128}$/))

export interface RelaySpec {
  readonly provider: ProviderName
  readonly runId: string
  /** The run that asked for this one; absent = nobody. */
  readonly spawnedBy?: string | null
  readonly sessionId: string | null
  /** Given when a thread comes back; absent = a new one. */
  readonly relayId?: string
  readonly generation?: number
  readonly allowedEvents: ReadonlyArray<HookEventName>
  /**
   * Of an agent that may outlive this gateway: asked while that ends, whether the next one registers the relay again. Then
   * a hook that waits is dropped to ask there, unrecorded; and its hooks wait for a gateway that is not there yet. Absent:
   * never.
   */
  readonly leaving?: Effect.Effect<boolean>
  /** A person sits at the agent's own terminal; absent: nobody does. */
  readonly attended?: boolean
  /** Told of each event before it is decided; absent: nobody. */
  readonly heard?: (event: HookEvent) => Effect.Effect<void>
  /** Told of each decision once its row is written; absent: nobody. */
  readonly judged?: (event: HookEvent, decision: Decision) => Effect.Effect<void>
}

/** What an operator sees of a relay. */
export const RelayInfo = Schema.Struct({
  relayId: Schema.String,
  generation: Schema.Int,
  provider: Schema.String,
  runId: Schema.String,
  spawnedBy: Schema.NullOr(Schema.String),
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
  /** Null when the provider's request does not say which call it means. */
  readonly callId: string | null
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
  readonly approve: (
    call: ApprovalCall
  ) => Effect.Effect<{ readonly decision: Decision; readonly fromHook: boolean }, AuditUnavailable>
  /** Records that the agent's own machinery let a hook fail, which is as bad as no hook. */
  readonly incident: (callId: string, detail: string) => Effect.Effect<void, AuditUnavailable>
  /** Whether a call with this id was decided and allowed before it was made, by this gateway or an earlier one. */
  readonly isDecided: (callId: string) => Effect.Effect<boolean, AuditUnavailable>
  /** This relay's rows, as they fall; a reader that falls behind loses the oldest. */
  readonly rows: Queue.Dequeue<AuditRow>
  /**
   * What ran the calls is lost, and they must not run again. `finished` are the ids of calls whose end was seen; the other
   * calls that were let through so far are in doubt. From now on a hook with the id of a call decided so far, or with
   * exactly the tool, text and directory of one in doubt, is denied.
   */
  readonly fence: (finished: ReadonlySet<string>) => Effect.Effect<Fenced, FenceNotRaised>
  /** Takes over what hooks decided of calls that an earlier gateway left open, for the approvals that follow. */
  readonly inherit: (rows: ReadonlyArray<AuditRow>) => Effect.Effect<void>
  /** The session the agent turned out to have, once it is known. */
  readonly attachSession: (sessionId: string) => Effect.Effect<void>
}

export class RelayInUse extends Schema.TaggedError<RelayInUse>()("RelayInUse", { relayId: Schema.String }) {
  override get message(): string {
    return `The relay ${this.relayId} is open for another run. Wait for that run, or start this one without its relay id.`
  }
}

export class FenceNotRaised extends Schema.TaggedError<FenceNotRaised>()("FenceNotRaised", {
  relayId: Schema.String
}) {
  override get message(): string {
    return `The relay ${this.relayId} does not answer, so the turn was not resumed: a call could have run twice. Run the turn again.`
  }
}

/**
 * One hook decision that an approval may still use up: some hundred bytes, however large its call. `does` is a digest of what
 * the tool was finally allowed to do.
 */
export interface Kept {
  readonly callId: string | null
  readonly tool: string
  readonly does: string
  readonly decision: Decision
}

export interface Fenced {
  /** Calls decided so far, also those that were refused. */
  readonly decided: number
  readonly inDoubt: number
}

/**
 * Calls of one run that are remembered for a fence, some 200 bytes each; an hour of a busy agent is some hundreds. Past it
 * the ones forgotten cannot be told from others, so a fence then denies every call.
 */
export const maxRemembered = 4096

/** A decided call: digests of its id and of what it does, twice when it was rewritten. None are held of a refused one. */
export interface Remembered {
  readonly id: string
  readonly does: ReadonlyArray<string>
}

/** What a fence goes by. `decided` is of calls since the last fence; `ids` and `calls` are what no hook may repeat. */
export interface FenceState {
  readonly decided: HashMap.HashMap<string, ReadonlyArray<string>>
  readonly ids: ReadonlySet<string>
  readonly calls: ReadonlySet<string>
  /** Decided beyond what is remembered. */
  readonly forgotten: number
  /** How often it was raised: a decision that was begun before and ends after must let nothing run. */
  readonly raised: number
}

export const noFence: FenceState = {
  decided: HashMap.empty(),
  ids: new Set(),
  calls: new Set(),
  forgotten: 0,
  raised: 0
}

const rememberCall = (fence: FenceState, { id, does }: Remembered, begun: number): FenceState => {
  // Answered after the fence was raised: nobody saw what became of it.
  if (begun < fence.raised)
    return { ...fence, ids: new Set([...fence.ids, id]), calls: new Set([...fence.calls, ...does]) }
  const before = HashMap.get(fence.decided, id)
  if (Option.isNone(before) && HashMap.size(fence.decided) >= maxRemembered)
    return { ...fence, forgotten: fence.forgotten + 1 }
  // Once let through is in doubt, whatever was said of it later.
  const both = [...new Set([...Option.getOrElse(before, () => []), ...does])]
  return { ...fence, decided: HashMap.set(fence.decided, id, both) }
}

const raiseFence = (fence: FenceState, finished: ReadonlySet<string>): readonly [FenceState, Fenced] => {
  const calls = HashMap.toEntries(fence.decided)
  const inDoubt = calls.filter(([id, does]) => does.length > 0 && !finished.has(id))
  return [
    {
      decided: HashMap.empty(),
      ids: new Set([...fence.ids, ...calls.map(([id]) => id)]),
      calls: new Set([...fence.calls, ...inDoubt.flatMap(([, does]) => does)]),
      forgotten: fence.forgotten,
      raised: fence.raised + 1
    },
    { decided: calls.length + fence.forgotten, inDoubt: inDoubt.length + fence.forgotten }
  ]
}

/**
 * Why a call may not run behind the fence, or null: by its id, and by everything it does, as it was asked for and as it was
 * granted. `begun` is how often the fence had been raised when the call was asked for.
 */
export const fencedBecause = (fence: FenceState, call: Remembered, begun: number): string | null => {
  const ran = "it may have run; check its effects instead of repeating it"
  if (begun < fence.raised)
    return `Holdfast: the app-server was lost while this call was being decided; ${ran}`
  if (fence.ids.has(call.id) || call.does.some((does) => fence.calls.has(does)))
    return `Holdfast: this call was decided before the app-server was lost, and ${ran}`
  return fence.forgotten > 0 && fence.raised > 0
    ? `Holdfast: more calls were decided before the app-server was lost than are remembered, and this may be one of them; ${ran}`
    : null
}

/** A rewrite to something larger is not kept for its approval, which is then decided anew. */
export const maxKeptInputLength = 16_384

export interface RelayState {
  readonly phase: "live" | "lingering"
  readonly sessionId: string | null
  readonly decided: number
  readonly refused: number
  /** Oldest first, at most `decisionsKept`. */
  readonly kept: ReadonlyArray<Kept>
  readonly fence: FenceState
}

export type RelayEvent =
  | {
      readonly _tag: "Decided"
      readonly kept: Kept | null
      /** Null for an event that is no call about to run. `begun` is how often the fence had been raised by then. */
      readonly call: (Remembered & { readonly begun: number }) | null
    }
  | {
      readonly _tag: "Fence"
      /** Digests of ids. */
      readonly finished: ReadonlySet<string>
      readonly reply: Deferred.Deferred<Fenced>
    }
  | { readonly _tag: "Refused" }
  | { readonly _tag: "Inherited"; readonly kept: ReadonlyArray<Kept> }
  | { readonly _tag: "SessionAttached"; readonly sessionId: string }
  | {
      readonly _tag: "Redeem"
      readonly call: ApprovalCall
      /** A digest of what it asks for. */
      readonly does: string
      readonly reply: Deferred.Deferred<Decision | null>
    }
  | { readonly _tag: "RunEnded"; readonly noted: Deferred.Deferred<void> }
  | { readonly _tag: "GraceElapsed" }

export type RelayAction =
  | {
      readonly _tag: "Answer"
      readonly reply: Deferred.Deferred<Decision | null>
      readonly decision: Decision | null
    }
  | { readonly _tag: "AnswerFence"; readonly reply: Deferred.Deferred<Fenced>; readonly fenced: Fenced }
  | { readonly _tag: "StartGrace"; readonly noted: Deferred.Deferred<void> }
  | { readonly _tag: "End" }

/** What a call does, in one text that is equal when the calls are: the command line or patch, else the canonical input. */
export const textOf = (call: ToolCall): string => call.command ?? canonical(call.input)

/** Equal for equal values, whatever the order of their keys. */
export const canonical = (value: unknown): string =>
  Array.isArray(value)
    ? `[${value.map(canonical).join(",")}]`
    : typeof value === "object" && value !== null
      ? `{${Object.entries(value)
          .toSorted(([a], [b]) => (a < b ? -1 : 1))
          .map(([key, entry]) => `${JSON.stringify(key)}:${canonical(entry)}`)
          .join(",")}}`
      : (JSON.stringify(value) ?? "null")

/**
 * Whether a kept decision is about the call an approval asks for. An id must be equal; where the request shows what will
 * run, that must be equal too. Codex's file-change request shows no patch, so there the id alone has to do.
 */
const isAbout = (kept: Kept, { callId, call }: ApprovalCall, does: string): boolean =>
  callId === null
    ? kept.tool === call.tool && kept.does === does
    : kept.callId === callId && (call.kind === "patch" || kept.does === does)

/** The index of the only decision on this call, or null: none and several are both ambiguous. */
const redeemable = (kept: ReadonlyArray<Kept>, call: ApprovalCall, does: string): number | null => {
  const matches = kept.flatMap((entry, index) => (isAbout(entry, call, does) ? [index] : []))
  return matches.length === 1 ? matches[0]! : null
}

export const initialRelay = (sessionId: string | null): RelayState => ({
  phase: "live",
  sessionId,
  decided: 0,
  refused: 0,
  kept: [],
  fence: noFence
})

export const nextRelay =
  (decisionsKept: number) =>
  (state: RelayState, event: RelayEvent): readonly [RelayState, ReadonlyArray<RelayAction>] => {
    switch (event._tag) {
      case "Decided": {
        // After its run has ended a call is still decided, but no approval may use that up.
        const keeps = event.kept !== null && state.phase === "live"
        const kept = keeps ? [...state.kept, event.kept].slice(-decisionsKept) : state.kept
        const fence =
          event.call === null ? state.fence : rememberCall(state.fence, event.call, event.call.begun)
        return [{ ...state, decided: state.decided + 1, kept, fence }, []]
      }
      case "Fence": {
        const [fence, fenced] = raiseFence(state.fence, event.finished)
        // No approval of the next generation is about a call of this one.
        return [{ ...state, kept: [], fence }, [{ _tag: "AnswerFence", reply: event.reply, fenced }]]
      }
      case "Refused":
        return [{ ...state, refused: state.refused + 1 }, []]
      case "Inherited":
        return [{ ...state, kept: [...event.kept, ...state.kept].slice(-decisionsKept) }, []]
      case "SessionAttached":
        return [{ ...state, sessionId: event.sessionId }, []]
      case "Redeem": {
        const index = redeemable(state.kept, event.call, event.does)
        return index === null
          ? [state, [{ _tag: "Answer", reply: event.reply, decision: null }]]
          : [
              { ...state, kept: state.kept.toSpliced(index, 1) },
              [{ _tag: "Answer", reply: event.reply, decision: state.kept[index]!.decision }]
            ]
      }
      case "RunEnded":
        return state.phase === "lingering"
          ? [state, []]
          : [{ ...state, phase: "lingering", kept: [] }, [{ _tag: "StartGrace", noted: event.noted }]]
      case "GraceElapsed":
        return [state, [{ _tag: "End" }]]
    }
  }

/** Far more agents than a machine runs at once; each costs a file, a timer and a fiber. */
export const maxRelays = 4096

export class TooManyRelays extends Schema.TaggedError<TooManyRelays>()("TooManyRelays", {}) {
  override get message(): string {
    return `${maxRelays} relays are open already. Look at \`holdfast relays\` and end what is not needed.`
  }
}

/** What the hook server needs to check a request, in one look. */
export interface RelayEntry {
  readonly info: RelayInfo
  readonly provider: ProviderName
  readonly attended: boolean
  readonly token: string
  readonly allows: (event: HookEventName) => boolean
  readonly decide: Relay["decide"]
  readonly leaving: Effect.Effect<boolean>
  readonly refused: Effect.Effect<void>
}

export class RelayRegistry extends Context.Service<
  RelayRegistry,
  {
    readonly register: (
      spec: RelaySpec
    ) => Effect.Effect<Relay, DirectoryRefused | BridgeWriteError | RelayInUse | TooManyRelays, Scope.Scope>
    /** The current entry of an id: live, or lingering in its grace for late hooks. */
    readonly find: (relayId: string) => Effect.Effect<Option.Option<RelayEntry>>
    readonly list: Effect.Effect<ReadonlyArray<RelayInfo>>
  }
>()("holdfast/RelayRegistry") {}
