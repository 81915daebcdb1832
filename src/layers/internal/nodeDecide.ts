/** How a gateway decides a hook of an agent on a node: by its own policy and approvals, with a row before the answer. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as crypto from "node:crypto"
import type { CallFacts } from "../../services/Approvals.ts"
import { AuditLog } from "../../services/AuditLog.ts"
import { Epoch } from "../../services/Epoch.ts"
import type { HookEvent, ToolCall } from "../../services/HookEvent.ts"
import { hookProviders, settleAt } from "../../services/HookProvider.ts"
import { type HookQuestion, NodeQuestionRefused, relayOfNode } from "../../services/NodeCalls.ts"
import type { NodeInfo } from "../../services/NodeStore.ts"
import { Policy } from "../../services/Policy.ts"
import { canonical } from "../../services/RelayRegistry.ts"
import { makeAsk } from "./relayAsk.ts"
import { subjectOf } from "./relayCall.ts"

/** The files as the node has seen them; a rewritten call is another one with the same files. */
const factsOn =
  (question: HookQuestion) =>
  (event: HookEvent, call: ToolCall, version: string): Effect.Effect<CallFacts> =>
    Effect.succeed({
      provider: event.provider,
      tool: call.tool,
      input: crypto.hash("sha256", canonical(call.input), "base64url"),
      cwd: question.facts?.cwd ?? null,
      policy: version,
      files: question.facts?.files ?? {}
    })

export const makeNodeDeciding = Effect.gen(function* () {
  const policy = yield* Policy
  const audit = yield* AuditLog
  const ask = yield* makeAsk
  const { current } = yield* Epoch

  return Effect.fn("Nodes.decide")(function* (node: NodeInfo, question: HookQuestion) {
    const { provider } = question
    // Whoever judges by them sees whose they are said to be: a node may call its runs like one of ours.
    const runId = `${node.name}/${question.runId}`
    const spawnedBy = question.spawnedBy === null ? null : `${node.name}/${question.spawnedBy}`
    const event: HookEvent = { ...question.event, provider, spawnedBy }
    const relayId = relayOfNode(node.nodeId, question.relayId)
    const startedAt = yield* Clock.currentTimeNanos
    const judged = settleAt(hookProviders[provider], event, yield* policy.decide(event))
    const decision = yield* ask(
      relayId,
      { provider, runId, spawnedBy },
      event,
      judged,
      question.holdMs,
      factsOn(question)
    )
    yield* audit
      .append({
        epoch: current.epoch,
        relayId,
        runId,
        provider,
        source: "hook",
        event: event.event,
        sessionId: event.sessionId,
        agentId: event.agentId,
        spawnedBy,
        callId: event.callId.id,
        tool: event.call?.tool ?? null,
        subject: subjectOf(event),
        verdict: decision.verdict._tag,
        policy: decision.policy,
        reason: decision.reason,
        votes: decision.votes,
        tookMs: Number((yield* Clock.currentTimeNanos) - startedAt) / 1e6
      })
      .pipe(Effect.mapError(({ message }) => new NodeQuestionRefused({ detail: message })))
    return decision
  })
})
