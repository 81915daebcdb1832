/**
 * NodeStore: the nodes that this gateway lets in, each known by its key, and the codes by which a new one is paired.
 *
 * A code is shown once to the person who asked for it, is good for one node and ten minutes, and is kept as its digest. A node
 * that was revoked stays known as that: its key comes back only with a new code.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import { PublicKey } from "./NodeIdentity.ts"
import { RunName } from "./Run.ts"

/** Names of nodes follow the rule of runs'. */
export const NodeName = RunName

/** Times are epoch milliseconds. */
export const NodeInfo = Schema.Struct({
  /** `n-` and the first 16 hex digits of sha256 over the raw key. */
  nodeId: Schema.String,
  /** No other node that is not revoked has it. */
  name: Schema.String,
  publicKey: PublicKey,
  /** For the last time with a code that let it in; one that was known then keeps the first. */
  pairedAt: Schema.Finite,
  lastSeenAt: Schema.NullOr(Schema.Finite),
  revokedAt: Schema.NullOr(Schema.Finite)
})
export type NodeInfo = typeof NodeInfo.Type

/** What a connection that is open has to hear of. */
export type NodeChange =
  | { readonly _tag: "Revoked"; readonly nodeId: string }
  | { readonly _tag: "Renamed"; readonly nodeId: string; readonly name: string }

/** Nodes in one registry; the oldest revoked ones make room. */
export const maxNodes = 4096
/** Codes that can be redeemed at one time; the oldest make room. */
export const maxOpenCodes = 16
/** Codes whose time is over, kept to be told from wrong ones. */
export const maxClosedCodes = 64
export const codeLifeMs = 600_000

/** Wrong codes within `wrongWindowMs`, of everybody; then none is looked at. At that rate a guess at 16 codes takes 26,000 years. */
export const maxWrongCodes = 5
export const wrongWindowMs = 60_000

/** Crockford's base32: no I, L, O and U, which are read as others or make words. */
const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
const codeLength = 8
/** 40 bits are eight characters of five. */
export const codeBytes = 5
/** Nobody types a longer one by mistake. */
const maxTypedLength = 64

const grouped = (characters: string): string => `${characters.slice(0, 4)}-${characters.slice(4)}`

/** `XXXX-XXXX`, of `codeBytes` drawn bytes. */
export const codeOf = (bytes: Uint8Array): string => {
  let bits = 0
  let held = 0
  let characters = ""
  for (const byte of bytes.subarray(0, codeBytes)) {
    held = (held << 8) | byte
    bits += 8
    while (bits >= 5) {
      bits -= 5
      characters += alphabet[(held >> bits) & 31]
    }
    held &= (1 << bits) - 1
  }
  return grouped(characters)
}

/** A code as it was drawn, from what a person typed; null when it cannot be one. */
export const normalizeCode = (typed: string): string | null => {
  if (typed.length > maxTypedLength) return null
  const characters = typed.replace(/[\s-]/g, "").toUpperCase().replaceAll("O", "0").replace(/[IL]/g, "1")
  return characters.length === codeLength && [...characters].every((one) => alphabet.includes(one))
    ? grouped(characters)
    : null
}

/** When the wrong codes came that still count, oldest first; at most `maxWrongCodes`. */
export type WrongCodes = ReadonlyArray<number>

/** One attempt's look at the window: who comes while it is full is `limited`. A clock that was set back counts from now. */
export const nextWrongCodes = (
  before: WrongCodes,
  event: "attempt" | "wrong",
  now: number
): { readonly wrong: WrongCodes; readonly limited: boolean } => {
  const recent = before.map((at) => Math.min(at, now)).filter((at) => now - at < wrongWindowMs)
  const wrong = event === "wrong" ? [...recent, now].slice(-maxWrongCodes) : recent
  return { wrong, limited: wrong.length >= maxWrongCodes }
}

const maxNameLength = 64

/** The name that was asked for, or the first of `NAME-2`, `NAME-3`... that nobody has. */
export const chooseName = (wanted: string, taken: ReadonlySet<string>): string => {
  let name = wanted
  for (let n = 2; taken.has(name); n++) {
    const suffix = `-${n}`
    name = `${wanted.slice(0, maxNameLength - suffix.length)}${suffix}`
  }
  return name
}

/** A beginning of an id; every other reference can only be a name. */
const idForm = /^n-[0-9a-f]{1,16}$/

/**
 * Whom a reference may mean: the node with exactly this id, and else whoever has it as a name or as the beginning of an id. A
 * node chooses its name and could choose the beginning of another's id, so a name does not go before an id.
 */
export const matchingNodes = <N extends Pick<NodeInfo, "nodeId" | "name" | "revokedAt">>(
  nodes: ReadonlyArray<N>,
  ref: string
): ReadonlyArray<N> => {
  const exact = nodes.filter(({ nodeId }) => nodeId === ref)
  if (exact.length > 0) return exact
  return nodes.filter(
    ({ nodeId, name, revokedAt }) =>
      (revokedAt === null && name === ref) || (idForm.test(ref) && nodeId.startsWith(ref))
  )
}

export class NodesUnavailable extends Schema.TaggedError<NodesUnavailable>()("NodesUnavailable", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The nodes in the state database cannot be read or written. Check the disk under the state directory."
  }
}

const pairAgain = "Run `holdfast nodes pair` at the gateway for a new one."

export class PairingRefused extends Schema.TaggedError<PairingRefused>()("PairingRefused", {
  reason: Schema.Literals(["unknown", "expired", "used", "rate-limited"])
}) {
  override get message(): string {
    return {
      unknown: `There is no such pairing code, or newer ones have taken its place. ${pairAgain}`,
      expired: `The pairing code is older than ${codeLifeMs / 60_000} minutes. ${pairAgain}`,
      used: `The pairing code has been used; each is good for one node. ${pairAgain}`,
      "rate-limited": `There were ${maxWrongCodes} wrong pairing codes within a minute, so none is looked at. Wait a minute.`
    }[this.reason]
  }
}

export class TooManyNodes extends Schema.TaggedError<TooManyNodes>()("TooManyNodes", {}) {
  override get message(): string {
    return `There are ${maxNodes} nodes already. Revoke those that are no longer used: \`holdfast nodes revoke NODE\`.`
  }
}

export class NodeNotFound extends Schema.TaggedError<NodeNotFound>()("NodeNotFound", { ref: Schema.String }) {
  override get message(): string {
    return `There is no node ${JSON.stringify(this.ref)}. \`holdfast nodes list\` shows them.`
  }
}

export class NodeAmbiguous extends Schema.TaggedError<NodeAmbiguous>()("NodeAmbiguous", {
  ref: Schema.String,
  count: Schema.Int
}) {
  override get message(): string {
    return `${this.count} nodes are called ${JSON.stringify(this.ref)} or have an id that begins so. Give the whole id.`
  }
}

export class NodeNameInUse extends Schema.TaggedError<NodeNameInUse>()("NodeNameInUse", {
  name: Schema.String
}) {
  override get message(): string {
    return `Another node is called ${this.name}. Take another name, or rename or revoke that one first.`
  }
}

export class NodeNameMalformed extends Schema.TaggedError<NodeNameMalformed>()("NodeNameMalformed", {
  name: Schema.String
}) {
  override get message(): string {
    return `${JSON.stringify(this.name.slice(0, 80))} cannot be a node's name: letters, digits, ., _ and - only, at most ${maxNameLength}, a letter or digit first.`
  }
}

export class NodeStore extends Context.Service<
  NodeStore,
  {
    /** A new code, which nobody can be told again, and until when it is good (epoch milliseconds). */
    readonly pair: Effect.Effect<{ readonly code: string; readonly expiresAt: number }, NodesUnavailable>
    /**
     * Lets a key in. One that is known and not revoked keeps its id and is called as it says now. The key and the name are
     * what a Hello's schema lets through.
     */
    readonly redeem: (
      code: string,
      node: { readonly publicKey: string; readonly name: string }
    ) => Effect.Effect<NodeInfo, PairingRefused | TooManyNodes | NodesUnavailable>
    /** A revoked one too: whoever asks has to look. */
    readonly find: (publicKey: string) => Effect.Effect<Option.Option<NodeInfo>, NodesUnavailable>
    /** It is there now. */
    readonly seen: (nodeId: string) => Effect.Effect<void, NodesUnavailable>
    /** In the order in which they came, revoked ones too. */
    readonly list: Effect.Effect<ReadonlyArray<NodeInfo>, NodesUnavailable>
    /** By a name or the beginning of an id. One that is revoked stays so, and its connections are told again. */
    readonly revoke: (ref: string) => Effect.Effect<NodeInfo, NodeNotFound | NodeAmbiguous | NodesUnavailable>
    readonly rename: (
      ref: string,
      name: string
    ) => Effect.Effect<
      NodeInfo,
      NodeNotFound | NodeAmbiguous | NodeNameInUse | NodeNameMalformed | NodesUnavailable
    >
    /** From now on. A reader that falls behind loses the oldest. */
    readonly changes: Stream.Stream<NodeChange>
  }
>()("holdfast/NodeStore") {}
