/** How a relay decides one call: the policies, the fence, a person where one is asked, and the row before the answer. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type { Actor } from "../../services/Actor.ts"
import { AuditLog, type AuditEntry, type AuditRow, type DecisionSource } from "../../services/AuditLog.ts"
import { Epoch } from "../../services/Epoch.ts"
import { canaryDecision, canaryNonce, Guard } from "../../services/Guard.ts"
import { type HookEvent, type HookEventName, isBlocking } from "../../services/HookEvent.ts"
import { hookProviders, settleAt } from "../../services/HookProvider.ts"
import { answerMarginMs, clientDeadlineMs, configuredTimeoutMs } from "../../services/HookRelay.ts"
import { HookDecider } from "../../services/NodeCalls.ts"
import { type Decision, type Judgement, Policy } from "../../services/Policy.ts"
import type { Kept, Relay, RelayEvent, RelaySpec, RelayState } from "../../services/RelayRegistry.ts"
import { Settings } from "../../services/Settings.ts"
import { decidedElsewhere } from "./decidedElsewhere.ts"
import { makeAsk } from "./relayAsk.ts"
import { fenceDenies, keptOf, rememberedOf, subjectOf, toldBefore, unanswered } from "./relayCall.ts"

export const makeDeciding = Effect.gen(function* () {
  const settings = yield* Settings
  const policy = yield* Policy
  const audit = yield* AuditLog
  const ask = yield* makeAsk
  const decider = yield* HookDecider
  const guard = yield* Guard
  const { current } = yield* Epoch

  /** An approval request of the app-server waits for as long as it takes; a hook has a client with a deadline. */
  const holdMs = ({ provider }: RelaySpec, event: HookEventName, source: DecisionSource): number =>
    source === "hook"
      ? clientDeadlineMs(
          hookProviders[provider].timeoutSeconds(event, configuredTimeoutMs(settings.hook, event)) * 1000
        ) - answerMarginMs
      : settings.approvals.expireMs

  const decideFor =
    (
      relayId: string,
      spec: RelaySpec,
      rows: Queue.Queue<AuditRow>,
      actor: Actor<RelayState, RelayEvent>
    ): Relay["decide"] =>
    (asked, source) =>
      Effect.gen(function* () {
        const event: HookEvent = { ...asked, spawnedBy: spec.spawnedBy ?? null }
        if (spec.heard !== undefined) yield* spec.heard(event)
        const begun = (yield* actor.state).fence.raised
        const startedAt = yield* Clock.currentTimeNanos
        const record = Effect.fnUntraced(function* (decision: Decision) {
          const entry: AuditEntry = {
            epoch: current.epoch,
            relayId,
            runId: spec.runId,
            provider: event.provider,
            source,
            event: event.event,
            sessionId: event.sessionId,
            agentId: event.agentId,
            spawnedBy: event.spawnedBy,
            callId: event.callId.id,
            tool: event.call?.tool ?? null,
            subject: subjectOf(event),
            verdict: decision.verdict._tag,
            policy: decision.policy,
            reason: decision.reason,
            votes: decision.votes,
            tookMs: Number((yield* Clock.currentTimeNanos) - startedAt) / 1e6
          }
          yield* Queue.offer(rows, yield* audit.append(entry))
        })
        // A hook that goes away while its policies still think has fallen in its own direction; that is a row too.
        // A row without a memory of it would be a call that a fence lets run twice.
        const tell = (decision: Decision, kept: Kept | null) => {
          const call = rememberedOf(event, decision)
          return Effect.ignore(
            actor.tell({ _tag: "Decided", kept, call: call === null ? null : { ...call, begun } })
          )
        }
        const conclude = Effect.fnUntraced(function* (decision: Decision, kept: Kept | null) {
          yield* record(decision)
          yield* tell(decision, kept)
        }, Effect.uninterruptible)
        const fenced = <J extends Judgement>(judged: J): Effect.Effect<J | Decision> =>
          Effect.map(actor.state, ({ fence }) => {
            const repeats = fenceDenies(fence, begun, event, judged)
            return repeats === null
              ? judged
              : { ...judged, verdict: { _tag: "deny" as const }, policy: "fence", reason: repeats }
          })
        const judging = Effect.gen(function* () {
          const nonce = canaryNonce(event.call)
          if (nonce !== null) {
            yield* guard.met(spec.provider, nonce)
            return canaryDecision
          }
          const wait = holdMs(spec, event.event, source)
          const locally = Effect.gen(function* () {
            // Nobody is asked about a call that may not run anyway.
            const judged = yield* fenced(
              settleAt(hookProviders[spec.provider], event, yield* policy.decide(event))
            )
            return yield* ask(relayId, spec, event, judged, wait)
          })
          return decider._tag === "central" && isBlocking(event.event)
            ? yield* Effect.flatMap(
                decidedElsewhere(decider, { relayId, spec, event, holdMs: wait, locally }),
                fenced
              )
            : yield* locally
        })
        // Of a relay that an earlier gateway had, a hook may come back for an answer that it did not get.
        if (spec.leaving !== undefined && (spec.generation ?? 1) > 1 && source === "hook") {
          const row = yield* audit.decided(relayId, event.callId.id, event.event)
          const told = toldBefore(row, event, current.epoch)
          if (told !== null) {
            yield* tell(told, keptOf(event, told))
            return told
          }
        }
        const answered = yield* Effect.onInterrupt(judging, () =>
          // The next gateway decides it, and is asked for it by whoever asked here.
          Effect.flatMap(spec.leaving ?? Effect.succeed(false), (leaving) =>
            leaving ? Effect.void : Effect.ignore(conclude(unanswered(settings.directions, event), null))
          )
        )
        // A person takes long enough for a fence to rise.
        const decision = yield* fenced(answered)
        const redeemable = event.event === "pre_tool_use" && source === "hook"
        yield* conclude(decision, redeemable ? keptOf(event, decision) : null)
        if (spec.judged !== undefined) yield* spec.judged(event, decision)
        return decision
      })

  const incidentFor = Effect.fnUntraced(function* (
    relayId: string,
    spec: RelaySpec,
    rows: Queue.Queue<AuditRow>,
    callId: string,
    detail: string
  ) {
    const row = yield* audit.append({
      epoch: current.epoch,
      relayId,
      runId: spec.runId,
      provider: spec.provider,
      source: "incident",
      event: "pre_tool_use",
      sessionId: spec.sessionId,
      agentId: null,
      spawnedBy: spec.spawnedBy ?? null,
      callId,
      tool: null,
      subject: "",
      verdict: "deny",
      policy: "incident",
      reason: detail,
      votes: [],
      tookMs: 0
    })
    yield* Queue.offer(rows, row)
  })

  return { decideFor, incidentFor, isDecided: audit.isDecided }
})
