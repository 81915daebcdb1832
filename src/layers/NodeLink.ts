/**
 * NodeLink, live: one actor that dials, and what is asked over it in both directions.
 *
 * It also is the server of connections that runs are offered on (`SocketServer`), one for each time it was connected, and
 * who decides hooks here (`HookDecider`).
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import { SocketServer } from "effect/socket/SocketServer"
import type { Socket } from "effect/socket/Socket"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as Actor from "../services/Actor.ts"
import {
  GatewayCutOff,
  HookDecider,
  type HookQuestion,
  NodeCalls,
  NodeQuestionRefused
} from "../services/NodeCalls.ts"
import { isTerminal, NodeRefused } from "../services/NodeHandshake.ts"
import { NodeIdentity } from "../services/NodeIdentity.ts"
import { cutOffGraceMs, type LinkEvent, linkStatus, NodeLink } from "../services/NodeLink.ts"
import {
  describeSession,
  idleSession,
  nextSession,
  type SessionAction,
  type SessionEvent,
  type SessionState,
  unresponsiveMs
} from "../services/NodeSession.ts"
import { Settings } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"
import { isTerminalTls, TlsSessionCache } from "../services/TlsSessionCache.ts"
import type { TlsTarget } from "../services/TlsTarget.ts"
import { serverOf } from "./internal/laneServer.ts"
import { channelOf, gatewayMessages, greetGateway } from "./internal/nodeGreeting.ts"
import { makeClientOver } from "./internal/rpcClient.ts"
import { socketOf } from "./internal/tlsSession.ts"
import { closeCodes, makeWsLink, type WsLink } from "./internal/wsLink.ts"
import { upgrade } from "./internal/wsUpgrade.ts"

export * from "../services/NodeLink.ts"

/** Its own events are a few a minute. */
const mailboxCapacity = 64
/** Connections that nobody has begun to serve; there is one at a time. */
const maxOffered = 4
/** What a slow reader of `events` may be behind before it loses the oldest. */
const maxUnread = 64

/** What a lost connection says; it is asked again on the next one, as often as this. */
const lostReason = "the connection was lost"
const maxAgain = 16
/** By so much less the gateway holds a question than we wait, so that what it says of one that nobody answered is heard. */
const answerMs = (holdMs: number): number => Math.min(1_000, holdMs / 4)

/** Runs are asked about on it; `broken` ends it, where what was said is not understood. */
interface Offered {
  readonly socket: Socket
  readonly broken: Effect.Effect<void>
}

interface Live {
  readonly connectionId: number
  readonly link: WsLink
  readonly decide: Extract<typeof HookDecider.Service, { readonly _tag: "central" }>["decide"]
}

const monotonicMs = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

export const make = Effect.gen(function* () {
  const { node } = yield* Settings
  if (node === null)
    return Context.make(NodeLink, yield* NodeLink).pipe(
      Context.add(HookDecider, { _tag: "local" as const }),
      Context.add(
        SocketServer,
        serverOf(() => Effect.never)
      )
    )

  const identity = yield* NodeIdentity
  const cache = yield* TlsSessionCache
  const live = yield* SubscriptionRef.make<Live | null>(null)
  const offered = yield* Queue.bounded<Offered>(maxOffered)
  const told = yield* Effect.acquireRelease(PubSub.sliding<LinkEvent>(maxUnread), PubSub.shutdown)
  const supervisor = yield* (yield* SupervisionTree).supervisor("node link")
  /** Of one look at a time: each asks for the next, so that another beside it would go on for ever. */
  const waiting = yield* FiberHandle.make<void>()
  let connectionIds = 0
  /** Of the monotonic clock: a link that was lost a short time ago is on its way back. */
  let lostAt = yield* monotonicMs
  let nodeId: string | null = null
  const target: TlsTarget = {
    url: node.gateway,
    serverName: null,
    pins: node.pins,
    trust: node.trust,
    client: null,
    proxy: node.proxy
  }
  // Held for as long as this layer: a loop that dials again has the same session, and its tickets.
  const session = yield* cache.get(target, "gateway")

  /** One connection, from the first packet to its end; the reason of that end. */
  const connection = Effect.fnUntraced(function* (self: Actor.Self<SessionEvent>) {
    const tls = yield* session.connect
    const link = yield* makeWsLink(yield* upgrade(socketOf(tls), node.gateway), gatewayMessages)
    const channel = channelOf(tls.exporter)
    const welcome = yield* greetGateway(link, { identity, channel, name: node.name, code: node.code })
    nodeId = welcome.nodeId
    const connectionId = ++connectionIds
    const broken = link.close(closeCodes.policy, "what was said is not understood")
    const calls = yield* makeClientOver(
      NodeCalls,
      { socket: Effect.succeed(link.lane("n")), gone: Effect.asVoid(link.closed) },
      () => new GatewayCutOff({ reason: lostReason })
    )
    yield* SubscriptionRef.set(live, { connectionId, link, decide: (question) => calls.Decide(question) })
    yield* Queue.offer(offered, { socket: link.lane("g"), broken })
    yield* Effect.ignore(self.tell({ _tag: "Opened", connectionId, at: yield* monotonicMs }))
    const { code, reason } = yield* link.closed
    lostAt = yield* monotonicMs
    yield* SubscriptionRef.update(live, (now) => (now?.connectionId === connectionId ? null : now))
    if (code === closeCodes.policy && reason === "revoked")
      return { _tag: "Fatal" as const, reason: new NodeRefused({ reason: "revoked" }).message }
    return {
      _tag: "Closed" as const,
      connectionId,
      reason: reason === "" ? `closed (${code})` : reason,
      at: yield* monotonicMs,
      roll: yield* Random.next
    }
  }, Effect.scoped)

  const dial = (self: Actor.Self<SessionEvent>) =>
    Effect.gen(function* () {
      const ended = yield* Effect.result(connection(self))
      if (Result.isSuccess(ended)) return yield* Effect.ignore(self.tell(ended.success))
      const error = ended.failure
      const isFatal =
        error._tag === "NodeRefused"
          ? isTerminal(error.reason)
          : error._tag !== "WsClosed" && error._tag !== "WsRefused" && isTerminalTls(error)
      yield* Effect.ignore(
        self.tell(
          isFatal
            ? { _tag: "Fatal", reason: error.message }
            : {
                _tag: "Refused",
                reason: error.message,
                at: yield* monotonicMs,
                roll: yield* Random.next
              }
        )
      )
    })

  const look = (self: Actor.Self<SessionEvent>) =>
    Effect.gen(function* () {
      const now = yield* SubscriptionRef.get(live)
      if (now !== null)
        yield* Effect.ignore(
          self.tell({ _tag: "Heard", connectionId: now.connectionId, at: now.link.heardAt() })
        )
      yield* Effect.ignore(self.tell({ _tag: "Look", at: yield* monotonicMs, roll: yield* Random.next }))
    })

  const tell = (event: LinkEvent, words: string) =>
    Effect.andThen(
      PubSub.publish(told, event),
      Effect.annotateLogs(Effect.logInfo(words), { gateway: node.gateway, ...event })
    )

  const perform = (action: SessionAction, self: Actor.Self<SessionEvent>): Effect.Effect<void> => {
    switch (action._tag) {
      case "Dial":
        return Effect.asVoid(Effect.forkIn(dial(self), self.scope))
      case "Wait":
        return Effect.asVoid(FiberHandle.run(waiting, Effect.delay(look(self), action.ms)))
      case "Ping":
      case "Close":
        return Effect.flatMap(SubscriptionRef.get(live), (now) =>
          now === null || now.connectionId !== action.connectionId
            ? Effect.void
            : action._tag === "Ping"
              ? now.link.ping
              : Effect.asVoid(Effect.forkIn(now.link.close(closeCodes.normal, ""), self.scope))
        )
      case "Connected":
        return tell({ _tag: "Connected", connectionId: action.connectionId }, "connected to the gateway")
      case "Disconnected":
        return tell(
          { _tag: "Disconnected", connectionId: action.connectionId, reason: action.reason },
          "disconnected from the gateway"
        )
      case "GiveUp":
        return Effect.andThen(
          PubSub.publish(told, { _tag: "GaveUp", reason: action.reason }),
          Effect.logError(action.reason)
        )
    }
  }

  const actor = yield* Effect.orDie(
    supervisor.start<SessionState, SessionEvent, SessionAction, never>(
      { id: "gateway", restart: "permanent", shutdownMs: 2_000 },
      {
        name: "the link to the gateway",
        initial: () => idleSession,
        next: nextSession,
        perform,
        mailbox: { capacity: mailboxCapacity, overflow: "wait" },
        describe: describeSession
      }
    )
  )
  // Of each life: one that broke and was started again is idle, too.
  yield* actor.watch.pipe(
    Stream.filter(({ _tag }) => _tag === "Idle"),
    Stream.runForEach(() => Effect.ignore(actor.tell({ _tag: "Start" }))),
    Effect.forkScoped({ startImmediately: true })
  )

  /** By a connection that stands, or comes back in time; a lost one is asked again on the next, which finds what was asked. */
  const decide = (question: HookQuestion) =>
    Effect.gen(function* () {
      const waitMs = Math.max(0, lostAt + cutOffGraceMs - (yield* monotonicMs))
      const now = yield* SubscriptionRef.get(live)
      const found =
        now !== null
          ? Option.some(now)
          : yield* SubscriptionRef.changes(live).pipe(
              Stream.filter((one) => one !== null),
              Stream.runHead,
              Effect.timeoutOption(Math.min(waitMs, question.holdMs)),
              Effect.map(Option.flatten)
            )
      if (Option.isNone(found))
        return yield* new GatewayCutOff({ reason: describeSession(yield* actor.state) })
      const holdMs = Math.floor(question.holdMs - answerMs(question.holdMs))
      return yield* found.value.decide({ ...question, holdMs })
    }).pipe(
      Effect.retry({
        while: (error) => error._tag === "GatewayCutOff" && error.reason === lostReason,
        times: maxAgain
      }),
      Effect.timeoutOrElse({
        duration: question.holdMs,
        orElse: () =>
          Effect.flatMap(SubscriptionRef.get(live), (now) =>
            Effect.fail(
              // One that is there and did not decide is not cut off, and no rule for that speaks in its place.
              now !== null && now.link.silentMs() < unresponsiveMs
                ? new NodeQuestionRefused({ detail: "nobody answered in time" })
                : new GatewayCutOff({ reason: "nobody answered in time" })
            )
          )
      })
    )

  return Context.make(
    NodeLink,
    NodeLink.of({
      status: Effect.map(actor.state, (state) =>
        linkStatus({ gateway: node.gateway, name: node.name, nodeId }, state, node.cutOff)
      ),
      events: Stream.fromPubSub(told)
    })
  ).pipe(
    Context.add(HookDecider, { _tag: "central" as const, cutOff: node.cutOff, decide }),
    Context.add(
      SocketServer,
      serverOf((serve) =>
        Effect.forever(
          Effect.flatMap(Queue.take(offered), ({ socket, broken }) => Effect.andThen(serve(socket), broken))
        )
      )
    )
  )
})

export const layer = Layer.effectContext(make)
