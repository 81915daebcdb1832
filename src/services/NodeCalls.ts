/**
 * NodeCalls: what a node asks its gateway, over the connection that it has dialled; what the gateway asks there is RunControl.
 *
 * A hook of a governed agent on a node is decided by the gateway's policy and approvals. The node says what is on its own disk:
 * the digests of the files that a command names.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import { CallFacts } from "./Approvals.ts"
import { HookEvent, ProviderName } from "./HookEvent.ts"
import { Decision } from "./Policy.ts"

/** Up to a day: no provider gives a hook longer. */
const HoldMs = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 86_400_000 }))
const Name = Schema.String.check(Schema.isMaxLength(160))

/** How a relay of a node is called at its gateway: two nodes may call theirs alike. */
export const relayOfNode = (nodeId: string, relayId: string): string => `${nodeId}/${relayId}`

/** The node that a relay is on; null for one of this machine, whose name has no such beginning. */
export const nodeOfRelay = (relayId: string): string | null =>
  /^(n-[0-9a-f]{16})\//.exec(relayId)?.[1] ?? null

export const HookQuestion = Schema.Struct({
  event: HookEvent,
  relayId: Name,
  runId: Name,
  provider: ProviderName,
  spawnedBy: Schema.NullOr(Name),
  /** How long the hook can wait for a person. */
  holdMs: HoldMs,
  /** Null where the event is about no call. */
  facts: Schema.NullOr(CallFacts)
})
export type HookQuestion = typeof HookQuestion.Type

export class NodeQuestionRefused extends Schema.TaggedError<NodeQuestionRefused>()("NodeQuestionRefused", {
  detail: Schema.String
}) {
  override get message(): string {
    return `The gateway did not decide this call: ${this.detail}`
  }
}

export const NodeCalls = RpcGroup.make(
  Rpc.make("Decide", { payload: HookQuestion, success: Decision, error: NodeQuestionRefused })
)

/** The gateway cannot be asked now. */
export class GatewayCutOff extends Schema.TaggedError<GatewayCutOff>()("GatewayCutOff", {
  reason: Schema.String
}) {
  override get message(): string {
    return `The gateway that decides for this machine cannot be reached (${this.reason}).`
  }
}

/**
 * Who decides hooks on this machine. `local`: its own policy. `central`: a gateway elsewhere; where that cannot be asked,
 * `cutOff` says what happens.
 */
export type Decider =
  | { readonly _tag: "local" }
  | {
      readonly _tag: "central"
      readonly cutOff: "deny" | "local"
      readonly decide: (
        question: HookQuestion
      ) => Effect.Effect<Decision, GatewayCutOff | NodeQuestionRefused>
    }

export class HookDecider extends Context.Reference<Decider>("holdfast/HookDecider", {
  defaultValue: (): Decider => ({ _tag: "local" })
}) {}
