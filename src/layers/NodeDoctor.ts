/** NodeDoctor, live: goes the way that a node goes, one step at a time, and says what it saw; nothing is kept or made. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type * as net from "node:net"
import { namesIn } from "../services/GatewayCertificate.ts"
import {
  type Authentication,
  type Expected,
  isBelieved,
  NodeDoctor,
  type NodeFacts,
  type NodeQuestion,
  type OwnLink,
  type SeenCertificate,
  skewOf,
  type Step,
  stepDeadlineMs
} from "../services/NodeDoctor.ts"
import { type Challenge, negotiate, ourProtocol } from "../services/NodeHandshake.ts"
import { PinStore } from "../services/PinStore.ts"
import { Settings } from "../services/Settings.ts"
import { pinsOf } from "../services/TlsPin.ts"
import { bareHost, normalizeTarget, placeOf, type TlsTarget } from "../services/TlsTarget.ts"
import { errorCode } from "./internal/errorCode.ts"
import { identityFileIn, readIdentity } from "./internal/identityFile.ts"
import { answerChallenge, channelOf, gatewayMessages, hearChallenge } from "./internal/nodeGreeting.ts"
import { type Dialed, fingerprintsOf, placeText, reach, shakeHands } from "./internal/tlsDial.ts"
import { makeWsLink, type WsLink } from "./internal/wsLink.ts"
import { upgrade } from "./internal/wsUpgrade.ts"

export * from "../services/NodeDoctor.ts"

/** Of a certificate that anybody may have made. */
const maxNames = 8

const dns = () => process.getBuiltinModule("node:dns")

const monotonicMs = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

const late = `no answer within ${stepDeadlineMs / 1000} s`

interface Problem {
  readonly message: string
  readonly code?: unknown
}

/** By its code, where the message says no more than that it was not reached. */
const wordsOf = (error: Problem): string => (typeof error.code === "string" ? error.code : error.message)

interface Taken<A> {
  readonly value: A
  readonly tookMs: number
}

/** One step, with its deadline; what it has opened stays open until the whole look ends. */
const timed = <A, R>(step: Effect.Effect<A, Problem, R>) =>
  Effect.gen(function* () {
    const from = yield* monotonicMs
    const value = yield* step
    return { value, tookMs: (yield* monotonicMs) - from } satisfies Taken<A>
  }).pipe(
    Effect.mapError(wordsOf),
    Effect.timeoutOrElse({ duration: stepDeadlineMs, orElse: () => Effect.fail(late) }),
    Effect.result
  )

const stepOf = <A>(taken: Result.Result<Taken<A>, string>): Step =>
  Result.map(taken, ({ tookMs }) => ({ tookMs }))

/** As a connection looks it up; it cannot be called off, and its answer may come after all. */
const lookup = (host: string) =>
  Effect.callback<ReadonlyArray<string>, Problem>((resume) => {
    dns().lookup(host, { all: true }, (error, found) =>
      resume(
        error === null
          ? Effect.succeed(found.map(({ address }) => address))
          : Effect.fail({ message: `${host} is not known here (${errorCode(error) ?? "unknown"})` })
      )
    )
  })

const only = (version: "TLSv1.2" | "TLSv1.3") => ({ minVersion: version, maxVersion: version })

const seenOn = ({ certificate, untrusted }: Dialed): SeenCertificate | null => {
  if (certificate === null) return null
  return {
    ...fingerprintsOf(certificate.raw),
    names: namesIn(certificate.subjectAltName).slice(0, maxNames),
    notBefore: Date.parse(certificate.validFrom),
    notAfter: Date.parse(certificate.validTo),
    untrusted
  }
}

/** Both versions at the same time: the server waits for neither. */
const handshakes = (target: TlsTarget, under: net.Socket) =>
  Effect.all(
    [
      timed(shakeHands(target, under, null, only("TLSv1.3"))),
      timed(Effect.flatMap(reach(target), (own) => shakeHands(target, own, null, only("TLSv1.2"))))
    ],
    { concurrency: 2 }
  )

const isSameUrl = (a: string, b: string): boolean =>
  URL.canParse(a) && URL.canParse(b) && new URL(a).href === new URL(b).href

const hostAndPort = (url: string): string => {
  const { hostname, port } = new URL(url)
  return `${hostname}:${port === "" ? 80 : port}`
}

const nothing: Omit<NodeFacts, "now" | "place" | "proxy"> = {
  names: null,
  reached: null,
  tls: null,
  certificate: null,
  expected: null,
  upgraded: null,
  challenge: null,
  authentication: null
}

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const pinStore = yield* PinStore

  const expectedFor = (target: TlsTarget, pins: NodeQuestion["pins"], kept: NodeQuestion["kept"]) =>
    Effect.gen(function* (): Effect.fn.Return<Expected> {
      if (pins.length > 0) return { _tag: "pins", source: "given", pins }
      if (kept?.trust._tag === "ca") return { _tag: "ca", pins: kept.pins }
      if (kept !== null && kept.pins.length > 0) return { _tag: "pins", source: "kept", pins: kept.pins }
      const found = yield* Effect.result(pinStore.find(placeText(target)))
      if (Result.isFailure(found)) return { _tag: "unusable", error: found.failure }
      return Option.match(found.success, {
        onNone: () => ({ _tag: "none" }),
        onSome: (pin) => ({ _tag: "first-use", pins: pinsOf(pin), at: pin.at })
      })
    })

  /** The one step that changes anything there, and only where no connection of ours is ended by it. */
  const authenticate = Effect.fnUntraced(function* (
    link: WsLink,
    channel: string,
    challenge: Challenge,
    { name, link: ownLink }: NodeQuestion
  ): Effect.fn.Return<Authentication> {
    const read = yield* Effect.result(readIdentity(identityFileIn(paths.state)))
    if (Result.isFailure(read)) return { _tag: "unusable", error: read.failure }
    const identity = read.success
    if (identity === null) return { _tag: "unpaired" }
    const own = yield* Effect.timeoutOrElse(ownLink, {
      duration: stepDeadlineMs,
      orElse: () => Effect.succeed<OwnLink>({ _tag: "unknown", problem: late })
    })
    if (own._tag !== "none") return { _tag: "left alone", link: own }
    const from = yield* monotonicMs
    return yield* answerChallenge(link, challenge, { identity, channel, name, code: null }).pipe(
      Effect.flatMap(({ nodeId, name }) =>
        Effect.map(monotonicMs, (to): Authentication => ({
          _tag: "welcome",
          nodeId,
          name,
          tookMs: to - from
        }))
      ),
      Effect.catch((error) =>
        Effect.succeed<Authentication>(
          error._tag === "NodeRefused"
            ? { _tag: "refused", reason: error.reason }
            : { _tag: "lost", problem: error.message }
        )
      ),
      Effect.timeoutOrElse({
        duration: stepDeadlineMs,
        orElse: () => Effect.succeed<Authentication>({ _tag: "lost", problem: late })
      })
    )
  })

  /** What is said on a connection whose other side is known. */
  const converse = Effect.fnUntraced(function* (
    { socket }: Dialed,
    url: string,
    question: NodeQuestion
  ): Effect.fn.Return<Pick<NodeFacts, "upgraded" | "challenge" | "authentication">, never, Scope.Scope> {
    const from = yield* Clock.currentTimeMillis
    const upgraded = yield* timed(
      Effect.flatMap(upgrade(socket, url), (socket) => makeWsLink(socket, gatewayMessages))
    )
    if (Result.isFailure(upgraded))
      return { upgraded: stepOf(upgraded), challenge: null, authentication: null }
    const link = upgraded.success.value
    const heard = yield* timed(hearChallenge(link))
    const to = yield* Clock.currentTimeMillis
    const known = {
      upgraded: stepOf(upgraded),
      challenge: Result.map(heard, ({ value: { at, protocol }, tookMs }) => ({
        skewMs: skewOf(at, from, to),
        protocol,
        tookMs
      }))
    }
    if (Result.isFailure(heard)) return { ...known, authentication: null }
    const challenge = heard.success.value
    if (negotiate(ourProtocol, challenge.protocol) === null) return { ...known, authentication: null }
    const channel = channelOf((label, bytes) => socket.exportKeyingMaterial(bytes, label, Buffer.alloc(0)))
    return { ...known, authentication: yield* authenticate(link, channel, challenge, question) }
  })

  const look = Effect.fn("NodeDoctor.look")(function* (
    question: NodeQuestion
  ): Effect.fn.Return<NodeFacts, never, Scope.Scope> {
    const { url, pins } = question
    const kept = question.kept !== null && isSameUrl(question.kept.gateway, url) ? question.kept : null
    const isByAuthority = pins.length === 0 && kept?.trust._tag === "ca"
    const normalized = normalizeTarget({
      url,
      serverName: null,
      pins: [],
      trust: isByAuthority ? kept.trust : { _tag: "first-use" },
      client: null,
      proxy: question.proxy ?? kept?.proxy ?? null
    })
    const now = yield* Clock.currentTimeMillis
    if (Result.isFailure(normalized))
      return { ...nothing, now, place: Result.fail(normalized.failure), proxy: null }
    const target = normalized.success
    const { proxy } = target
    let facts: NodeFacts = {
      ...nothing,
      now,
      place: Result.succeed(placeText(target)),
      proxy: proxy === null ? null : hostAndPort(proxy)
    }

    const host = proxy === null ? placeOf(target).host : bareHost(new URL(proxy).hostname)
    const names = yield* timed(lookup(host))
    facts = {
      ...facts,
      names: Result.map(names, ({ value, tookMs }) => ({ host, addresses: value, tookMs }))
    }
    if (Result.isFailure(names)) return facts

    const reached = yield* timed(reach(target))
    facts = { ...facts, reached: stepOf(reached) }
    if (Result.isFailure(reached)) return facts

    const [newer, older] = yield* handshakes(target, reached.success.value)
    facts = { ...facts, tls: { "1.3": stepOf(newer), "1.2": stepOf(older) } }
    const shaken = Result.isSuccess(newer) ? newer : older
    if (Result.isFailure(shaken)) return facts

    const certificate = seenOn(shaken.success.value)
    if (certificate === null) return facts
    const expected = yield* expectedFor(target, pins, kept)
    facts = { ...facts, certificate, expected }
    if (Result.isFailure(newer) || !isBelieved(expected, certificate)) return facts
    return { ...facts, ...(yield* converse(newer.success.value, target.url, question)) }
  }, Effect.scoped)

  return NodeDoctor.of({ look })
})

export const layer = Layer.effect(NodeDoctor, make)
