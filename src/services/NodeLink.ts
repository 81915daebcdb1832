/**
 * NodeLink: this machine as a node of a gateway elsewhere. It dials out, offers the runs of this machine, and has its hooks
 * decided there; while it is cut off its runs go on, and its hooks follow the declared rule.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { describeSession, SessionState } from "./NodeSession.ts"

export const LinkStatus = Schema.Struct({
  gateway: Schema.String,
  name: Schema.String,
  /** Given by the gateway; null until it was there once. */
  nodeId: Schema.NullOr(Schema.String),
  state: SessionState,
  /** What becomes of a hook now: decided there, or by the rule for a node that is cut off. */
  hooks: Schema.Literals(["decided by the gateway", "denied: cut off", "decided by its own policy: cut off"])
})
export type LinkStatus = typeof LinkStatus.Type

/** Exactly once for each connection. */
export type LinkEvent =
  | { readonly _tag: "Connected"; readonly connectionId: number }
  | { readonly _tag: "Disconnected"; readonly connectionId: number; readonly reason: string }
  | { readonly _tag: "GaveUp"; readonly reason: string }

export interface NodeLinkShape {
  /** Null: of no gateway. */
  readonly status: Effect.Effect<LinkStatus | null>
  readonly events: Stream.Stream<LinkEvent>
}

export const linkStatus = (
  known: Pick<LinkStatus, "gateway" | "name" | "nodeId">,
  state: SessionState,
  cutOff: "deny" | "local"
): LinkStatus => ({
  ...known,
  state,
  hooks:
    state._tag === "Connected"
      ? "decided by the gateway"
      : cutOff === "deny"
        ? "denied: cut off"
        : "decided by its own policy: cut off"
})

/** A hook waits so long for a link that is on its way back, if it can. */
export const cutOffGraceMs = 5_000

/** Where no gateway is given there is none. */
export class NodeLink extends Context.Reference<NodeLinkShape>("holdfast/NodeLink", {
  defaultValue: (): NodeLinkShape => ({ status: Effect.succeed(null), events: Stream.empty })
}) {}

export const linkWords = ({ gateway, name, state, hooks }: LinkStatus): string =>
  `${gateway} as ${name}: ${describeSession(state)}; hooks ${hooks}`
