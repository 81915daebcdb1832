/**
 * Nodes: the machines that have dialled this gateway, and their runs.
 *
 * A run there is addressed by its id like one here. A question to a node that goes away is answered by `NodeAway`; only a start
 * is asked again, by the id that was drawn for the run before, so that it is never there twice.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import { NodeAway } from "./NodeAway.ts"
import type { NodesUnavailable } from "./NodeStore.ts"
import type { RunControl } from "./RunControl.ts"

export const NodeStatus = Schema.Struct({
  nodeId: Schema.String,
  name: Schema.String,
  /** Null: away. */
  connection: Schema.NullOr(
    Schema.Struct({
      connectionId: Schema.Int,
      /** Epoch milliseconds. */
      since: Schema.Finite,
      health: Schema.Literals(["healthy", "unresponsive"])
    })
  ),
  pairedAt: Schema.Finite,
  lastSeenAt: Schema.NullOr(Schema.Finite),
  revokedAt: Schema.NullOr(Schema.Finite)
})
export type NodeStatus = typeof NodeStatus.Type

type Rpcs = typeof RunControl extends RpcGroup.RpcGroup<infer R> ? R : never
type Call<R extends Rpc.Any> =
  R extends Rpc.Rpc<infer _Tag, infer Payload, infer Success, infer Error, infer _Middleware, infer _Requires>
    ? (
        payload: Payload["~type.make.in"]
      ) => Success extends { readonly success: Schema.Top; readonly error: Schema.Top }
        ? Stream.Stream<Success["success"]["Type"], Success["error"]["Type"] | NodeAway>
        : Effect.Effect<Success["Type"], Error["Type"] | NodeAway>
    : never

/** Everything that can be asked about runs. */
export type RunCalls = { readonly [R in Rpcs as R["_tag"]]: Call<R> }

export interface LiveNode {
  readonly nodeId: string
  readonly name: string
  readonly connectionId: number
  readonly calls: RunCalls
}

export interface NodesShape {
  /** Where nodes dial in, with the pins to give them; null where none can. */
  readonly listening: { readonly url: string; readonly pins: ReadonlyArray<string> } | null
  /** All that are paired, connected or not. */
  readonly statuses: Effect.Effect<ReadonlyArray<NodeStatus>, NodesUnavailable>
  readonly live: Effect.Effect<ReadonlyArray<LiveNode>>
  /** By name, or the beginning of an id; waits for one that is on its way back, for so long. */
  readonly find: (ref: string, waitMs: number) => Effect.Effect<LiveNode, NodeAway>
}

/** The door could not be opened. */
export class NodesUnusable extends Schema.TaggedError<NodesUnusable>()("NodesUnusable", {
  host: Schema.String,
  port: Schema.Int,
  code: Schema.String
}) {
  override get message(): string {
    return `Nodes cannot dial in at ${this.host}:${this.port} (${this.code}). Choose another address: --listen-nodes HOST:PORT`
  }
}

/** Where nobody listens there are none. */
export class Nodes extends Context.Reference<NodesShape>("holdfast/Nodes", {
  defaultValue: (): NodesShape => ({
    listening: null,
    statuses: Effect.succeed([]),
    live: Effect.succeed([]),
    find: (ref) => Effect.fail(new NodeAway({ node: ref.slice(0, 80), paired: false }))
  })
}) {}
