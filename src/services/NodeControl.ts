/** NodeControl: what the command line asks about nodes, beside Control and on the same socket. */
import * as Schema from "effect/Schema"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import {
  NodeAmbiguous,
  NodeInfo,
  NodeNameInUse,
  NodeNameMalformed,
  NodeNotFound,
  NodesUnavailable
} from "./NodeStore.ts"
import { NodeStatus } from "./Nodes.ts"
import { OperatorsOnly } from "./Operator.ts"

const Ref = Schema.String.check(Schema.isMaxLength(128))

/** What a person gives to another machine. */
export const PairingOffer = Schema.Struct({
  url: Schema.String,
  /** Of the certificate, and of its key, which outlasts it. */
  pins: Schema.Array(Schema.String),
  code: Schema.String,
  /** Epoch milliseconds. */
  expiresAt: Schema.Finite
})
export type PairingOffer = typeof PairingOffer.Type

/** Nobody can dial in. */
export class NotListening extends Schema.TaggedError<NotListening>()("NotListening", {}) {
  override get message(): string {
    return "This gateway takes no nodes. Start it with: holdfast up --listen-nodes HOST:PORT"
  }
}

export const NodeControl = RpcGroup.make(
  Rpc.make("PairNode", {
    success: PairingOffer,
    error: Schema.Union([NotListening, NodesUnavailable])
  }).middleware(OperatorsOnly),
  Rpc.make("ListNodes", {
    success: Schema.Struct({ nodes: Schema.Array(NodeStatus), now: Schema.Finite }),
    error: NodesUnavailable
  }),
  Rpc.make("RevokeNode", {
    payload: { ref: Ref },
    success: NodeInfo,
    error: Schema.Union([NodeNotFound, NodeAmbiguous, NodesUnavailable])
  }).middleware(OperatorsOnly),
  Rpc.make("RenameNode", {
    payload: { ref: Ref, name: Schema.String.check(Schema.isMaxLength(128)) },
    success: NodeInfo,
    error: Schema.Union([NodeNotFound, NodeAmbiguous, NodeNameInUse, NodeNameMalformed, NodesUnavailable])
  }).middleware(OperatorsOnly)
)
