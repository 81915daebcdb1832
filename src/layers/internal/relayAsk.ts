/** What becomes of a call that a policy wants a person to decide. */
import * as Effect from "effect/Effect"
import { Approvals, type AskedCall } from "../../services/Approvals.ts"
import { maxSubjectLength, shown } from "../../services/AuditLog.ts"
import { defaultDirection, type HookEvent } from "../../services/HookEvent.ts"
import { providerOf } from "../../services/HookProvider.ts"
import { Policy, type Decision, type Judgement } from "../../services/Policy.ts"
import { Redactor } from "../../services/Redaction.ts"
import type { RelaySpec } from "../../services/RelayRegistry.ts"
import { factsOf } from "./callFacts.ts"
import { subjectOf } from "./relayCall.ts"

/** Longer than a row of the audit log: a person has to judge by it. */
const maxShownLength = 16 * maxSubjectLength

const refused = (judged: Judgement, reason: string): Decision => ({
  ...judged,
  verdict: { _tag: "deny" },
  reason
})

export const makeAsk = Effect.gen(function* () {
  const approvals = yield* Approvals
  const { version } = yield* Policy
  const hide = yield* Redactor

  /**
   * `holdMs`: how long the caller can wait. `factsFrom`: what a call is in digests, as told by whoever can look at the disk that
   * it is about.
   */
  return Effect.fnUntraced(function* (
    relayId: string,
    spec: Pick<RelaySpec, "provider" | "runId" | "spawnedBy">,
    event: HookEvent,
    judged: Judgement,
    holdMs: number,
    factsFrom: typeof factsOf = factsOf
  ) {
    const { verdict } = judged
    if (verdict._tag !== "ask") return { ...judged, verdict }
    const { call } =
      verdict.input === undefined
        ? event
        : { call: providerOf(event)?.rewritten(event, verdict.input)?.call ?? null }
    if (call === null || defaultDirection(event.event) === "open")
      return refused(judged, `${judged.reason}: nobody can be asked about an event that is no tool call`)
    const asked: AskedCall = {
      tool: call.tool,
      kind: call.kind,
      subject: shown(subjectOf({ call }), maxShownLength, hide),
      cwd: event.cwd
    }
    return yield* approvals
      .ask({
        requester: {
          provider: spec.provider,
          relayId,
          runId: spec.runId,
          spawnedBy: spec.spawnedBy ?? null
        },
        callId: event.callId.id,
        call: asked,
        expireMs: verdict.timeoutMs ?? null,
        policy: judged.policy,
        reason: judged.reason,
        facts: factsFrom(event, call, version),
        holdMs
      })
      .pipe(
        Effect.map(({ allowed, reason }): Decision => ({
          ...judged,
          verdict: !allowed
            ? { _tag: "deny" }
            : verdict.input === undefined
              ? { _tag: "allow" }
              : { _tag: "rewrite", input: verdict.input },
          reason
        })),
        Effect.catch((error) =>
          Effect.as(Effect.logError(error.message), refused(judged, `${judged.reason}: ${error.message}`))
        )
      )
  })
})
