/** The handshake of a node and its gateway on one link, from either end. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import {
  Challenge,
  channelBytes,
  channelLabel,
  checkHello,
  type Hello,
  negotiate,
  NodeRefused,
  ourProtocol,
  parseGatewayFrame,
  parseHello,
  type RefusalReason,
  Refused,
  signedText,
  Welcome
} from "../../services/NodeHandshake.ts"
import type { NodeIdentity } from "../../services/NodeIdentity.ts"
import { type NodeInfo, type NodeStore, PairingRefused } from "../../services/NodeStore.ts"
import { verify } from "./ed25519.ts"
import { closeCodes, type WsLink } from "./wsLink.ts"

/** What each end is told before it is known: the gateway a hello, the node a challenge and a welcome. */
export const helloMessages = 1
export const gatewayMessages = 2
/** From a connection to a welcome. */
const handshakeDeadlineMs = 15_000

const encodeChallenge = Schema.encodeSync(Schema.fromJsonString(Challenge))
const encodeWelcome = Schema.encodeSync(Schema.fromJsonString(Welcome))
const encodeRefused = Schema.encodeSync(Schema.fromJsonString(Refused))

/** Keying material of one connection, the same at both its ends. */
export const channelOf = (exporter: (label: string, bytes: number) => Uint8Array): string =>
  Buffer.from(exporter(channelLabel, channelBytes)).toString("hex")

const digestOf = (code: string | null): string | null =>
  code === null ? null : crypto.hash("sha256", code, "hex")

const refused = (reason: RefusalReason) => new NodeRefused({ reason })

/** The next of the other side's words; what is too long or not understood is no word. */
const nextFrom = <A>(link: WsLink, parse: (text: string) => Option.Option<A>) =>
  Effect.flatMap(link.greeting, (text) =>
    Option.match(parse(text), {
      onNone: () => Effect.fail(refused("malformed")),
      onSome: Effect.succeed
    })
  )

const inTime = Effect.timeoutOrElse({
  duration: handshakeDeadlineMs,
  orElse: () => Effect.fail(refused("busy"))
})

interface Greeter {
  readonly identity: NodeIdentity["Service"]
  readonly channel: string
  readonly name: string
  readonly code: string | null
}

/** What the gateway says first. */
export const hearChallenge = Effect.fnUntraced(function* (link: WsLink) {
  const challenge = yield* nextFrom(link, parseGatewayFrame)
  if (challenge.type === "refused") return yield* refused(challenge.reason)
  return challenge.type === "challenge" ? challenge : yield* refused("malformed")
})

/** Proves who we are, and what the gateway makes of it. */
export const answerChallenge = Effect.fnUntraced(function* (
  link: WsLink,
  challenge: Challenge,
  { identity, channel, name, code }: Greeter
) {
  const protocol = negotiate(ourProtocol, challenge.protocol)
  if (protocol === null) return yield* refused("protocol")
  const at = yield* Clock.currentTimeMillis
  const { nonce } = challenge
  const { publicKey } = identity
  const signed = signedText({ protocol, nonce, channel, at, publicKey, name, codeDigest: digestOf(code) })
  const signature = Buffer.from(identity.sign(signed)).toString("base64url")
  const hello: Hello = { type: "hello", protocol, publicKey, name, at, nonce, signature, code }
  yield* link.greet(JSON.stringify(hello))
  const answer = yield* nextFrom(link, parseGatewayFrame)
  if (answer.type === "refused") return yield* refused(answer.reason)
  return answer.type === "welcome" ? answer : yield* refused("malformed")
})

/** The node's end: proves who it is, and pairs where it was given a code. */
export const greetGateway = (link: WsLink, greeter: Greeter) =>
  hearChallenge(link).pipe(
    Effect.flatMap((challenge) => answerChallenge(link, challenge, greeter)),
    inTime
  )

const pairingRefusals = {
  unknown: "code-unknown",
  expired: "code-expired",
  used: "code-used",
  "rate-limited": "rate-limited"
} as const

/** The gateway's end: who it is, or why not, which is told. */
export const greetNode = Effect.fnUntraced(function* (
  link: WsLink,
  options: {
    readonly registry: NodeStore["Service"]
    readonly channel: string
    readonly gateway: string
  }
) {
  const { registry, channel, gateway } = options
  const admit = Effect.gen(function* () {
    const challenge: Challenge = {
      type: "challenge",
      nonce: crypto.randomBytes(32).toString("base64url"),
      at: yield* Clock.currentTimeMillis,
      protocol: ourProtocol,
      gateway
    }
    yield* link.greet(encodeChallenge(challenge))
    const hello = yield* nextFrom(link, parseHello)
    const problem = checkHello(hello, challenge, yield* Clock.currentTimeMillis)
    if (problem !== null) return yield* refused(problem)
    const { protocol, nonce, at, publicKey, name, code } = hello
    const signed = signedText({ protocol, nonce, channel, at, publicKey, name, codeDigest: digestOf(code) })
    // Before anybody is looked up: a guess costs no more than a signature.
    if (!verify(publicKey, signed, hello.signature)) return yield* refused("bad-signature")
    const known = yield* registry.find(publicKey)
    const info: NodeInfo =
      code !== null && (Option.isNone(known) || known.value.revokedAt !== null)
        ? yield* registry.redeem(code, { publicKey, name })
        : Option.isNone(known)
          ? yield* refused("unknown-node")
          : known.value
    if (info.revokedAt !== null) return yield* refused("revoked")
    yield* link.greet(encodeWelcome({ type: "welcome", protocol, nodeId: info.nodeId, name: info.name }))
    return info
  }).pipe(inTime)
  return yield* Effect.tapError(admit, (error) => {
    const reason: RefusalReason =
      error._tag === "NodeRefused"
        ? error.reason
        : error instanceof PairingRefused
          ? pairingRefusals[error.reason]
          : "busy"
    return Effect.andThen(
      Effect.ignore(link.greet(encodeRefused({ type: "refused", reason }))),
      link.close(closeCodes.policy, reason)
    )
  })
})
