/**
 * NodeDoctor: why this machine does not come into a connection with a gateway elsewhere: what was seen on the way there, step
 * by step, and what that means.
 *
 * Nothing of the application is sent to a server that no pin and no authority vouches for, and nothing is kept of what was
 * seen. What cannot be looked at any more is said to be so.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { type Check, failed, passed, warned } from "./Doctor.ts"
import { renewBeforeMs } from "./GatewayCertificate.ts"
import {
  maxSkewMs,
  negotiate,
  NodeRefused,
  ourProtocol,
  type ProtocolRange,
  type RefusalReason
} from "./NodeHandshake.ts"
import type { NodeIdentityUnusable } from "./NodeIdentity.ts"
import { type Fingerprints, formatPin, isPinned, pinsOf, type TlsPin } from "./TlsPin.ts"
import type { TlsPinsUnusable } from "./TlsSessionCache.ts"
import type { TlsTargetInvalid, TlsTrust } from "./TlsTarget.ts"

/** Of each step. */
export const stepDeadlineMs = 5_000
/** A clock that is off by more is on its way to being refused. */
export const skewWarnMs = 30_000

/** What was found and how long it took, or why it was not, in the words of who looked. */
export type Step<A = unknown> = Result.Result<A & { readonly tookMs: number }, string>

export interface SeenCertificate extends Fingerprints {
  readonly names: ReadonlyArray<string>
  /** Epoch milliseconds. */
  readonly notBefore: number
  readonly notAfter: number
  /** Why no authority vouches for it under the name that was dialled; null when one does. */
  readonly untrusted: string | null
}

/** By what the other side is to be known, the first of these that there is. */
export type Expected =
  | { readonly _tag: "pins"; readonly source: "given" | "kept"; readonly pins: ReadonlyArray<TlsPin> }
  | { readonly _tag: "first-use"; readonly pins: ReadonlyArray<TlsPin>; readonly at: number }
  | { readonly _tag: "ca"; readonly pins: ReadonlyArray<TlsPin> }
  | { readonly _tag: "unusable"; readonly error: TlsPinsUnusable }
  | { readonly _tag: "none" }

/** What this machine's own gateway does with its identity: an identity that comes a second time ends its first connection. */
export type OwnLink =
  | { readonly _tag: "none" }
  | { readonly _tag: "unknown"; readonly problem: string }
  | { readonly _tag: "live"; readonly gateway: string; readonly connected: boolean }

export type Authentication =
  | { readonly _tag: "unpaired" }
  | { readonly _tag: "unusable"; readonly error: NodeIdentityUnusable }
  | { readonly _tag: "left alone"; readonly link: Exclude<OwnLink, { readonly _tag: "none" }> }
  | { readonly _tag: "welcome"; readonly nodeId: string; readonly name: string; readonly tookMs: number }
  | { readonly _tag: "refused"; readonly reason: RefusalReason }
  | { readonly _tag: "lost"; readonly problem: string }

/** What comes after the first step that failed is null. */
export interface NodeFacts {
  /** Epoch milliseconds, by our clock. */
  readonly now: number
  /** `host:port` of the gateway, or why the address is none. */
  readonly place: Result.Result<string, TlsTargetInvalid>
  /** `host:port` of the proxy, without what it asks for. */
  readonly proxy: string | null
  readonly names: Step<{ readonly host: string; readonly addresses: ReadonlyArray<string> }> | null
  readonly reached: Step | null
  /** Each by a connection of its own. */
  readonly tls: { readonly "1.3": Step; readonly "1.2": Step } | null
  readonly certificate: SeenCertificate | null
  readonly expected: Expected | null
  readonly upgraded: Step | null
  readonly challenge: Step<{ readonly skewMs: number; readonly protocol: ProtocolRange }> | null
  readonly authentication: Authentication | null
}

export interface NodeQuestion {
  readonly url: string
  readonly pins: ReadonlyArray<TlsPin>
  readonly proxy: string | null
  /** What an earlier `holdfast node run` was given. */
  readonly kept: {
    readonly gateway: string
    readonly pins: ReadonlyArray<TlsPin>
    readonly trust: TlsTrust
    readonly proxy: string | null
  } | null
  /** As which this machine would greet. */
  readonly name: string
  /** Looked at last, just before the identity would be used. */
  readonly link: Effect.Effect<OwnLink>
}

export const isBelieved = (expected: Expected, seen: SeenCertificate): boolean => {
  switch (expected._tag) {
    case "pins":
    case "first-use":
      return isPinned(expected.pins, seen)
    case "ca":
      return seen.untrusted === null && (expected.pins.length === 0 || isPinned(expected.pins, seen))
    case "unusable":
    case "none":
      return false
  }
}

/** How far the other side's clock is ahead of ours: it was read between two readings of ours. */
export const skewOf = (at: number, from: number, to: number): number =>
  at < from ? at - from : at > to ? at - to : 0

const inMs = (ms: number): string => `${ms.toFixed(1)} ms`
const inSeconds = (ms: number): string => `${(Math.abs(ms) / 1000).toFixed(1)} s`
const onDay = (at: number): string => new Date(at).toISOString().slice(0, 16).replace("T", " ")
const seenPins = (seen: Fingerprints): string => pinsOf(seen).map(formatPin).join(", ")
const pinToUse = (seen: Fingerprints): string => `--pin ${formatPin(pinsOf(seen)[1])}`

const addressCheck = ({ place, proxy }: NodeFacts): Check =>
  Result.match(place, {
    onSuccess: (text) => passed("address", proxy === null ? text : `${text}, through the proxy ${proxy}`),
    onFailure: ({ message }) =>
      failed("address", message, "give the address that `holdfast nodes pair` prints at the gateway")
  })

const namesCheck = (names: NonNullable<NodeFacts["names"]>): Check =>
  Result.match(names, {
    onSuccess: ({ host, addresses, tookMs }) =>
      addresses.length === 1 && addresses[0] === host
        ? passed("DNS", `${host} is an address`)
        : passed("DNS", `${host} is ${addresses.join(", ")}, ${inMs(tookMs)}`),
    onFailure: (problem) =>
      failed(
        "DNS",
        problem,
        "check how the name is spelled, and that this machine's DNS or its /etc/hosts knows it"
      )
  })

const connectRemedies: ReadonlyArray<readonly [RegExp, string]> = [
  [/status 407/, "the proxy wants credentials: --proxy http://USER:PASSWORD@HOST:PORT"],
  [/status \d/, "the proxy does not lead there: ask whoever runs it to allow CONNECT to that host and port"],
  [
    /ECONNREFUSED/,
    "nothing listens there: check the port, and that the gateway was started with --listen-nodes on an address that others reach"
  ],
  [/ENOTFOUND|EAI_/, "check how the proxy's name is spelled"]
]
const connectRemedy =
  "something in between takes no packets: look at firewalls, routes and the address itself"

const reachedCheck = ({ proxy }: NodeFacts, reached: Step): Check =>
  Result.match(reached, {
    onSuccess: ({ tookMs }) =>
      passed("connection", `${proxy === null ? "TCP" : "CONNECT by the proxy"} in ${inMs(tookMs)}`),
    onFailure: (problem) =>
      failed(
        "connection",
        problem,
        connectRemedies.find(([form]) => form.test(problem))?.[1] ?? connectRemedy
      )
  })

const tlsCheck = (tls: NonNullable<NodeFacts["tls"]>): Check => {
  const [newer, older] = [tls["1.3"], tls["1.2"]]
  if (Result.isFailure(newer))
    return Result.isSuccess(older)
      ? failed(
          "TLS",
          `1.2 only, and 1.3 is needed; 1.3: ${newer.failure}`,
          "what answers there is no holdfast gateway: connect to the gateway itself, or have what is in between pass TLS on"
        )
      : failed(
          "TLS",
          `none that both sides speak; 1.3: ${newer.failure}; 1.2: ${older.failure}`,
          "check that the port is the one of --listen-nodes, and that nothing in between ends or inspects TLS"
        )
  const took = `1.3 in ${inMs(newer.success.tookMs)}`
  return Result.isFailure(older)
    ? passed("TLS", `${took}; 1.2 is not spoken`)
    : warned(
        "TLS",
        `${took}; 1.2 as well, in ${inMs(older.success.tookMs)}`,
        "a gateway speaks 1.3 only: if something in between ends TLS, the node is refused (bad-signature); connect to the gateway itself"
      )
}

const certificateCheck = (seen: SeenCertificate, now: number): Check => {
  const what = "certificate"
  const { names, notBefore, notAfter } = seen
  const detail = `${names.join(", ") || "no names"}; ${onDay(notBefore)} to ${onDay(notAfter)}; ${seenPins(seen)}`
  const clocks = `our clock says ${onDay(now)}`
  if (now < notBefore)
    return failed(what, `not valid yet (${clocks}): ${detail}`, "set the clocks of both machines by NTP")
  if (now > notAfter)
    return failed(
      what,
      `expired (${clocks}): ${detail}`,
      "start the gateway again, which renews its own for the same key, or renew the one that it was given; if it is valid, set this clock by NTP"
    )
  return notAfter - now <= renewBeforeMs
    ? warned(
        what,
        `ends in ${Math.floor((notAfter - now) / 86_400_000)} days: ${detail}`,
        "a gateway renews its own for the same key before this; look at its log, or renew the one that it was given"
      )
    : passed(what, detail)
}

const sources = {
  pins: { given: "those given", kept: "those of the last `holdfast node run`" },
  ca: "the authorities of the last `holdfast node run`"
} as const

const pinsCheck = (expected: Expected, seen: SeenCertificate): Check => {
  const what = "pins"
  if (expected._tag === "unusable")
    return failed(
      what,
      expected.error.message,
      `compare what was seen with the gateway, and use ${pinToUse(seen)}`
    )
  if (expected._tag === "none")
    return warned(
      what,
      `none given and none kept, so nobody is believed; seen: ${seenPins(seen)}`,
      `compare with the pins that \`holdfast nodes pair\` prints at the gateway, and if they are the same use ${pinToUse(seen)}`
    )
  const source =
    expected._tag === "pins"
      ? sources.pins[expected.source]
      : expected._tag === "ca"
        ? sources.ca
        : `what was seen first, at ${onDay(expected.at)}`
  if (isBelieved(expected, seen)) return passed(what, `as expected, by ${source}`)
  if (expected._tag === "ca" && seen.untrusted !== null)
    return failed(
      what,
      `not vouched for by ${source} (${seen.untrusted}); seen: ${seenPins(seen)}`,
      `give the right --ca to \`holdfast node run\`, or accept that one alone: ${pinToUse(seen)}`
    )
  return failed(
    what,
    `not by ${source}; expected: ${expected.pins.map(formatPin).join(", ")}; seen: ${seenPins(seen)}`,
    `somebody else answers, or the certificate is another: ask whoever runs it for the new pin, compare, and use ${pinToUse(seen)}`
  )
}

const upgradeRemedies: ReadonlyArray<readonly [RegExp, string]> = [
  [
    /status 404/,
    "check the path (/nodes) and the port; if both are what `holdfast nodes pair` prints, what answers there is no holdfast"
  ],
  [/status 403/, "something in between adds an Origin header or refuses us: connect to the gateway itself"],
  [
    /status [45]\d\d/,
    "what answers there is something in between, or no holdfast: connect to the gateway itself"
  ]
]
const upgradeRemedy = "check that the address leads to a holdfast gateway, and look at its log"

const upgradedCheck = (upgraded: Step): Check =>
  Result.match(upgraded, {
    onSuccess: ({ tookMs }) => passed("WebSocket", `opened in ${inMs(tookMs)}`),
    onFailure: (problem) =>
      failed("WebSocket", problem, upgradeRemedies.find(([form]) => form.test(problem))?.[1] ?? upgradeRemedy)
  })

const skewCheck = (challenge: NonNullable<NodeFacts["challenge"]>): Check => {
  const what = "clock skew"
  if (Result.isFailure(challenge))
    return failed(what, `no challenge came: ${challenge.failure}`, upgradeRemedy)
  const { skewMs } = challenge.success
  const detail =
    skewMs === 0
      ? "none to be seen"
      : `the gateway's clock is ${inSeconds(skewMs)} ${skewMs > 0 ? "ahead of" : "behind"} ours`
  const remedy = "set the clocks of both machines by NTP"
  return Math.abs(skewMs) > maxSkewMs
    ? failed(what, `${detail}; more than ${maxSkewMs / 1000} s is refused`, remedy)
    : Math.abs(skewMs) > skewWarnMs
      ? warned(what, `${detail}; more than ${maxSkewMs / 1000} s is refused`, remedy)
      : passed(what, detail)
}

const spoken = ({ min, max }: ProtocolRange): string => (min === max ? `${min}` : `${min} to ${max}`)

const protocolCheck = (theirs: ProtocolRange): Check => {
  const common = negotiate(ourProtocol, theirs)
  const detail = `ours ${spoken(ourProtocol)}, the gateway's ${spoken(theirs)}`
  return common === null
    ? failed("protocol", `none in common: ${detail}`, "update the older of the two holdfasts")
    : passed("protocol", `${common} (${detail})`)
}

const authenticationCheck = (found: Authentication): Check => {
  const what = "authentication"
  switch (found._tag) {
    case "welcome":
      return passed(what, `welcome as ${found.name} (${found.nodeId}), ${inMs(found.tookMs)}`)
    case "unpaired":
      return warned(
        what,
        "not paired yet: this machine has no identity",
        "run `holdfast nodes pair` at the gateway, and here the line that it prints"
      )
    case "unusable":
      return failed(what, found.error.message, null)
    case "refused":
      return failed(what, `refused: ${found.reason}`, new NodeRefused({ reason: found.reason }).message)
    case "lost":
      return failed(what, `no answer to our greeting: ${found.problem}`, "look at the gateway's log")
    case "left alone":
      return leftAlone(found.link)
  }
}

const leftAlone = (link: Exclude<OwnLink, { readonly _tag: "none" }>): Check => {
  const what = "authentication"
  if (link._tag === "unknown")
    return warned(
      what,
      `not tried, for it would end a connection of this machine's gateway, which does not say whether it has one: ${link.problem}`,
      "look at `holdfast status`"
    )
  return link.connected
    ? passed(what, `this machine's gateway is connected with it now (${link.gateway}), so it is not tried`)
    : warned(
        what,
        `not tried: this machine's gateway is connecting with it now (${link.gateway})`,
        "look at `holdfast status`, or try again in a moment"
      )
}

const isOver = (step: Step | null): boolean => step === null || Result.isFailure(step)

/** Why nothing more is seen from there on. */
const stopOf = (facts: NodeFacts): string => {
  const { tls, certificate, expected } = facts
  if (Result.isFailure(facts.place)) return "see address"
  if (isOver(facts.names)) return "see DNS"
  if (isOver(facts.reached)) return "see connection"
  if (tls === null || Result.isFailure(tls["1.3"])) return "see TLS"
  if (certificate === null || expected === null) return "see certificate"
  if (!isBelieved(expected, certificate)) return "nothing is sent to who is not verified, see pins"
  if (isOver(facts.upgraded)) return "see WebSocket"
  return isOver(facts.challenge) ? "see clock skew" : "see protocol"
}

/** All of them, in the order of the way there. */
export const nodeChecks = (facts: NodeFacts): ReadonlyArray<Check> => {
  const { names, reached, tls, certificate, expected, upgraded, challenge, authentication } = facts
  const stop = stopOf(facts)
  const unless = <A>(what: string, fact: A | null, check: (fact: A) => Check): Check =>
    fact === null ? { what, status: "warn", detail: `not reached: ${stop}`, remedy: null } : check(fact)
  const heard = challenge !== null && Result.isSuccess(challenge) ? challenge.success : null
  return [
    addressCheck(facts),
    unless("DNS", names, namesCheck),
    unless("connection", reached, (step) => reachedCheck(facts, step)),
    unless("TLS", tls, tlsCheck),
    certificate === null && !isOver(tls?.["1.3"] ?? null)
      ? failed("certificate", "none was shown", upgradeRemedy)
      : unless("certificate", certificate, (seen) => certificateCheck(seen, facts.now)),
    unless("pins", expected, (known) => unless("pins", certificate, (seen) => pinsCheck(known, seen))),
    unless("WebSocket", upgraded, upgradedCheck),
    unless("clock skew", challenge, skewCheck),
    unless("protocol", heard, ({ protocol }) => protocolCheck(protocol)),
    unless("authentication", authentication, authenticationCheck)
  ]
}

export class NodeDoctor extends Context.Service<
  NodeDoctor,
  {
    /** Goes as far as it can; each step has `stepDeadlineMs`. */
    readonly look: (question: NodeQuestion) => Effect.Effect<NodeFacts>
  }
>()("holdfast/NodeDoctor") {}
