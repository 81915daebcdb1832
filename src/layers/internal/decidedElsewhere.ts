/** A call that the gateway of this node decides: what is on this disk is told to it, and must still be so when it has answered. */
import * as Effect from "effect/Effect"
import type { CallFacts } from "../../services/Approvals.ts"
import type { HookEvent } from "../../services/HookEvent.ts"
import { hookProviders, settleAt } from "../../services/HookProvider.ts"
import type { Decider } from "../../services/NodeCalls.ts"
import type { Decision } from "../../services/Policy.ts"
import type { RelaySpec } from "../../services/RelayRegistry.ts"
import { factsOf } from "./callFacts.ts"

interface Question {
  readonly relayId: string
  readonly spec: RelaySpec
  readonly event: HookEvent
  readonly holdMs: number
  /** By this machine's own policy. */
  readonly locally: Effect.Effect<Decision>
}

const denied = (policy: string, reason: string): Decision => ({
  verdict: { _tag: "deny" },
  policy,
  reason,
  votes: []
})

const factsNow = (event: HookEvent): Effect.Effect<CallFacts | null> =>
  event.call === null ? Effect.succeed(null) : factsOf(event, event.call, "")

const isSame = (a: CallFacts | null, b: CallFacts | null): boolean => JSON.stringify(a) === JSON.stringify(b)

export const decidedElsewhere = (
  decider: Extract<Decider, { readonly _tag: "central" }>,
  { relayId, spec, event, holdMs, locally }: Question
): Effect.Effect<Decision> =>
  Effect.gen(function* () {
    const facts = yield* factsNow(event)
    const decision = yield* decider.decide({
      event,
      relayId,
      runId: spec.runId,
      provider: spec.provider,
      spawnedBy: spec.spawnedBy ?? null,
      holdMs,
      facts
    })
    if (decision.verdict._tag !== "deny" && !isSame(facts, yield* factsNow(event)))
      return denied(
        decision.policy,
        "a file that this command names changed while the gateway decided; make the call again"
      )
    return settleAt(hookProviders[spec.provider], event, decision)
  }).pipe(
    Effect.catchTags({
      GatewayCutOff: (error) =>
        decider.cutOff === "local"
          ? Effect.andThen(Effect.logWarning(error.message), locally)
          : Effect.succeed(denied("cut-off", error.message)),
      NodeQuestionRefused: (error) => Effect.succeed(denied("gateway", error.message))
    })
  )
