/**
 * NodeHandshake: how a node proves over a TLS connection that it holds its key, before anything else is said there.
 *
 * The gateway sends a Challenge, the node a Hello that is signed over it and over the TLS connection itself, the gateway a
 * Welcome or Refused. A Hello is good for the one connection it was made on, and for nobody in between.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { PublicKey, Signature } from "./NodeIdentity.ts"
import { RunName } from "./Run.ts"

/** Of what both ends say once they know each other. */
export interface ProtocolRange {
  readonly min: number
  readonly max: number
}

export const ourProtocol: ProtocolRange = { min: 1, max: 1 }

/** Of a signed time, either way. */
export const maxSkewMs = 120_000

/** Of a message of anybody who has not proved who they are. */
export const maxFrameBytes = 16 * 1024

/** RFC 5705: the exported value is of this TLS connection alone, and `channel` is its hex. */
export const channelLabel = "EXPORTER-holdfast-node-v1"
export const channelBytes = 32

/** What is signed begins with it, so that no signature of ours means anything elsewhere. */
export const signatureDomain = "holdfast-node-v1"

const Version = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 65_535 }))

/** 32 bytes in base64url, in one spelling only. */
const Nonce = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/, { expected: "32 bytes in base64url" })
)

/** Epoch milliseconds. */
const Time = Schema.Int

export const Challenge = Schema.Struct({
  type: Schema.Literal("challenge"),
  nonce: Nonce,
  at: Time,
  protocol: Schema.Struct({ min: Version, max: Version }),
  /** The gateway's epoch. */
  gateway: Schema.String.check(Schema.isMaxLength(128))
})
export type Challenge = typeof Challenge.Type

export const Hello = Schema.Struct({
  type: Schema.Literal("hello"),
  protocol: Version,
  publicKey: PublicKey,
  /** As which it wants to be known. */
  name: RunName,
  at: Time,
  /** The challenge's. */
  nonce: Nonce,
  signature: Signature,
  /** Of a node that the gateway does not know yet; as a person typed it. */
  code: Schema.NullOr(Schema.String.check(Schema.isMaxLength(64)))
})
export type Hello = typeof Hello.Type

export const Welcome = Schema.Struct({
  type: Schema.Literal("welcome"),
  protocol: Version,
  nodeId: Schema.String.check(Schema.isPattern(/^n-[0-9a-f]{16}$/)),
  name: RunName
})
export type Welcome = typeof Welcome.Type

export const RefusalReason = Schema.Literals([
  "revoked",
  "unknown-node",
  "code-unknown",
  "code-expired",
  "code-used",
  "rate-limited",
  "clock-skew",
  "bad-signature",
  "replayed",
  "protocol",
  "malformed",
  "origin",
  "busy"
])
export type RefusalReason = typeof RefusalReason.Type

export const Refused = Schema.Struct({ type: Schema.Literal("refused"), reason: RefusalReason })
export type Refused = typeof Refused.Type

/** What a node may hear before it is known. */
export const GatewayFrame = Schema.Union([Challenge, Welcome, Refused])
export type GatewayFrame = typeof GatewayFrame.Type

const newCode =
  "Run `holdfast nodes pair` at the gateway, and `holdfast node run` here with the code it prints."

const messages: Record<RefusalReason, string> = {
  revoked: `The gateway has revoked this node. To let it in again: ${newCode}`,
  "unknown-node": `The gateway does not know this node. ${newCode}`,
  "code-unknown": `The gateway has given no such code, or newer ones have taken its place. ${newCode}`,
  "code-expired": `The code is no longer good. ${newCode}`,
  "code-used": `The code has been used. If that was not you, look at \`holdfast nodes list\` there and revoke what you do not know. ${newCode}`,
  "rate-limited": "The gateway has seen too many wrong codes and looks at none for a minute. Wait for it.",
  "clock-skew": `The clocks of this machine and the gateway differ by more than ${maxSkewMs / 60_000} minutes. Set both by NTP.`,
  "bad-signature":
    "The signature does not hold for this key and this connection. Something that ends TLS stands in between: connect to the gateway itself, and check its pin.",
  replayed:
    "The greeting was signed for another connection. Something stands in between: connect to the gateway itself, and check its pin.",
  protocol:
    "The gateway and this node have no version of the protocol in common. Update the older of the two holdfasts.",
  malformed:
    "What was said was not understood. Check that the address leads to a holdfast gateway, and update the older of the two.",
  origin: "The gateway takes no connections from web pages. Connect with `holdfast node run`.",
  busy: "The gateway has its hands full with other nodes, or has no room for another. It is tried again; if this lasts, revoke nodes that are no longer used."
}

/** Why a node is not let in. */
export class NodeRefused extends Schema.TaggedError<NodeRefused>()("NodeRefused", { reason: RefusalReason }) {
  override get message(): string {
    return messages[this.reason]
  }
}

const passing: ReadonlySet<RefusalReason> = new Set(["rate-limited", "clock-skew", "busy"])

/** No try will do better until a person does something. */
export const isTerminal = (reason: RefusalReason): boolean => !passing.has(reason)

/** The highest version of both; null when there is none. */
export const negotiate = (ours: ProtocolRange, theirs: ProtocolRange): number | null => {
  const highest = Math.min(ours.max, theirs.max)
  return highest >= Math.max(ours.min, theirs.min) ? highest : null
}

export interface SignedFacts {
  readonly protocol: number
  readonly nonce: string
  /** Hex of what the TLS connection exports under `channelLabel`. */
  readonly channel: string
  readonly at: number
  readonly publicKey: string
  readonly name: string
  /** Hex of sha256 over the Hello's `code` exactly as it is sent; null without one. */
  readonly codeDigest: string | null
}

const utf8 = new TextEncoder()

/**
 * The bytes that are signed: each field behind its length in four bytes, so that no two facts come to the same ones. An
 * absent code is the empty field, and a present one begins with `=`.
 */
export const signedText = (facts: SignedFacts): Uint8Array => {
  const fields = [
    signatureDomain,
    String(facts.protocol),
    facts.nonce,
    facts.channel,
    String(facts.at),
    facts.publicKey,
    facts.name,
    facts.codeDigest === null ? "" : `=${facts.codeDigest}`
  ].map((field) => utf8.encode(field))
  const text = new Uint8Array(fields.reduce((sum, field) => sum + 4 + field.length, 0))
  const view = new DataView(text.buffer)
  let at = 0
  for (const field of fields) {
    view.setUint32(at, field.length)
    text.set(field, at + 4)
    at += 4 + field.length
  }
  return text
}

/** The first thing that is wrong with a Hello, of what needs no key and no database; null when nothing is. */
export const checkHello = (
  hello: Hello,
  challenge: Pick<Challenge, "nonce" | "protocol">,
  now: number
): RefusalReason | null => {
  const { min, max } = challenge.protocol
  if (hello.protocol < min || hello.protocol > max) return "protocol"
  if (Math.abs(now - hello.at) > maxSkewMs) return "clock-skew"
  return hello.nonce === challenge.nonce ? null : "replayed"
}

const decodeHello = Schema.decodeUnknownOption(Schema.fromJsonString(Hello))
const decodeGatewayFrame = Schema.decodeUnknownOption(Schema.fromJsonString(GatewayFrame))

/** UTF-8 has at least a byte for each unit, so that what is much too long is not even encoded. */
const isTooLong = (text: string): boolean =>
  text.length > maxFrameBytes || utf8.encode(text).length > maxFrameBytes

/** None is `malformed`. */
export const parseHello = (text: string): Option.Option<Hello> =>
  isTooLong(text) ? Option.none() : decodeHello(text)

export const parseGatewayFrame = (text: string): Option.Option<GatewayFrame> =>
  isTooLong(text) ? Option.none() : decodeGatewayFrame(text)
