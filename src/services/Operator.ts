/**
 * Operator: whose word counts where a person is meant.
 *
 * Agents run as the user of their gateway, so neither the mode of a socket nor a user id tells them from the person whose
 * agents they are. The process at the other end does: one that carries a mark or a cookie of ours, or descends from one that
 * does, is an agent's, however it got away from it.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as RpcMiddleware from "effect/rpc/RpcMiddleware"

/** A process that is none of ours, as the kernel named it when it connected. */
export const OperatorIdentity = Schema.Struct({ uid: Schema.Int, pid: Schema.Int, command: Schema.String })
export type OperatorIdentity = typeof OperatorIdentity.Type

const explanations = {
  unknown: "the system does not say which process asks",
  gone: "the process that asked is gone",
  foreign: "it comes from another user",
  marked: "it comes from a process that Holdfast, or something it runs, has started",
  named: "it comes from a process in whose environment a run of Holdfast is named",
  descends: "it comes from a descendant of this gateway"
} as const

export class NotAnOperator extends Schema.TaggedError<NotAnOperator>()("NotAnOperator", {
  why: Schema.Literals(Object.keys(explanations) as ReadonlyArray<keyof typeof explanations>)
}) {
  override get message(): string {
    return `This is for a person to say, and ${explanations[this.why]}. Use a terminal that was not opened by an agent or by \`holdfast run\`.`
  }
}

/** One process of the chain from a peer up to the first of its ancestors. */
export interface Link {
  readonly pid: number
  /** Its hard limit of locks; null is unlimited, or a system without. */
  readonly mark: number | null
  /** Its environment names a run. */
  readonly named: boolean
}

/**
 * Why a peer is no operator, or null. `outer` is the limit that the gateway itself was started with: who is outside of it
 * has that or a higher one, whoever is inside has a lower one, and nobody unprivileged can raise it again.
 */
export const standingOf = (
  chain: ReadonlyArray<Link>,
  gateway: { readonly pid: number; readonly outer: number | null; readonly marked: boolean }
): NotAnOperator["why"] | null => {
  for (const { pid, mark, named } of chain) {
    if (pid === gateway.pid) return "descends"
    if (gateway.marked && mark !== null && (gateway.outer === null || mark < gateway.outer)) return "marked"
    if (named) return "named"
  }
  return null
}

/** The operator that one request comes from. */
export class Operator extends Context.Service<Operator, OperatorIdentity>()("holdfast/Operator") {}

/** On a procedure that only an operator may call. */
export class OperatorsOnly extends RpcMiddleware.Service<OperatorsOnly, { provides: Operator }>()(
  "holdfast/OperatorsOnly",
  { error: NotAnOperator }
) {}

/** Who is behind a connection, by the number that the RPC server has for it. */
export class Peers extends Context.Service<
  Peers,
  { readonly find: (client: number) => Effect.Effect<OperatorIdentity, NotAnOperator> }
>()("holdfast/Peers") {}
