/**
 * Nodes, live: the door that they dial in at, and who is in.
 *
 * TLS with the certificate whose pins are given out, one WebSocket each, and a handshake bound to that connection before
 * anything else is heard. A node that comes twice is in once: its newer connection counts.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import { SocketServer } from "effect/socket/SocketServer"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type * as Https from "node:https"
import type * as net from "node:net"
import * as os from "node:os"
import type * as Tls from "node:tls"
import type WebSocket from "ws"
import { Epoch } from "../services/Epoch.ts"
import { GatewayCertificate } from "../services/GatewayCertificate.ts"
import { fullAdmission, nextAdmission } from "../services/NodeAdmission.ts"
import { NodeAway } from "../services/NodeAway.ts"
import { type HookQuestion, NodeCalls, type NodeQuestionRefused } from "../services/NodeCalls.ts"
import { maxFrameBytes } from "../services/NodeHandshake.ts"
import { matchingNodes, type NodeInfo, NodeStore } from "../services/NodeStore.ts"
import { deadMs, lookMs, unresponsiveMs } from "../services/NodeSession.ts"
import { type LiveNode, Nodes, type NodeStatus, NodesUnusable } from "../services/Nodes.ts"
import type { Decision } from "../services/Policy.ts"
import { RunControl } from "../services/RunControl.ts"
import { Settings } from "../services/Settings.ts"
import { formatPin, pinsOf } from "../services/TlsPin.ts"
import { errorCode } from "./internal/errorCode.ts"
import { serverOf } from "./internal/laneServer.ts"
import { makeNodeDeciding } from "./internal/nodeDecide.ts"
import { channelOf, greetNode, helloMessages } from "./internal/nodeGreeting.ts"
import { makeClientOver } from "./internal/rpcClient.ts"
import { closeCodes, makeWsLink, maxMessageBytes, type WsLink } from "./internal/wsLink.ts"

export * from "../services/Nodes.ts"

/** Of all connections: nodes, and whoever is at the door. */
const maxConnections = 4_096
/** Bytes of one that has not said yet who it is: TLS records of two frames, an HTTP request, and room. */
const maxGreetingBytes = 4 * maxFrameBytes
/** From a connection to a WebSocket. */
const doorDeadlineMs = 10_000
/** How often what is late at the door is looked for. */
const doorLookMs = 1_000
/** What nodes have at the end to say goodbye. */
const goodbyeMs = 1_500
/** How often its certificate is looked at; it is made anew thirty days before its end. */
const renewEveryMs = 86_400_000
/** The path that nodes ask for. */
const nodesPath = "/nodes"

interface Inside extends LiveNode {
  /** A revoked one is on its way out. */
  readonly revokedAt: null
  readonly link: WsLink
  readonly since: number
}

const https = () => process.getBuiltinModule("node:https")

const listening = (server: Https.Server, host: string, port: number) =>
  Effect.callback<number, NodesUnusable>((resume) => {
    const failed = (error: Error): void =>
      resume(Effect.fail(new NodesUnusable({ host, port, code: errorCode(error) ?? "unknown" })))
    server.once("error", failed)
    server.listen(port, host, () => {
      server.removeListener("error", failed)
      resume(Effect.succeed((server.address() as net.AddressInfo).port))
    })
  })

/** Answers an HTTP request that is none of a node's; the other side's end is not waited for, which may never come. */
const turnAway = (socket: net.Socket, status: string): void => {
  socket.write(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
  socket.destroySoon()
}

type Decide = (question: HookQuestion) => Effect.Effect<Decision, NodeQuestionRefused>

/** What it asks, answered for as long as the scope. */
const serveCalls = (link: WsLink, Decide: Decide) =>
  Layer.build(
    RpcServer.layer(NodeCalls, { disableFatalDefects: true }).pipe(
      Layer.provide(NodeCalls.toLayer({ Decide })),
      // The gateway has one already, of another socket; as a constant it would be taken for this one.
      Layer.provide(Layer.fresh(RpcServer.layerProtocolSocketServer)),
      Layer.provide([
        RpcSerialization.layerNdjson,
        Layer.succeed(
          SocketServer,
          serverOf((serve) =>
            serve(link.lane("n")).pipe(
              // A conversation that broke is not gone on with on the same connection.
              Effect.andThen(link.close(closeCodes.policy, "what was said is not understood")),
              Effect.andThen(Effect.never)
            )
          )
        )
      ])
    )
  )

/** One that says nothing is asked for a sign of life, and is gone without one. */
const watch = (link: WsLink) =>
  Effect.suspend(() => {
    const silent = link.silentMs()
    return silent >= deadMs
      ? link.close(closeCodes.policy, "no sign of life")
      : silent >= lookMs
        ? link.ping
        : Effect.void
  }).pipe(Effect.delay(lookMs), Effect.forever)

/** Where every address of this machine is listened at, its name is what another one may find it by. */
const shownHost = (host: string): string =>
  host === "0.0.0.0" || host === "::" ? os.hostname() : host.includes(":") ? `[${host}]` : host

const statusOf = (info: NodeInfo, node: Inside | undefined): NodeStatus => {
  const { nodeId, name, pairedAt, lastSeenAt, revokedAt } = info
  const known = { nodeId, name, pairedAt, lastSeenAt, revokedAt }
  if (node === undefined) return { ...known, connection: null }
  const silent = node.link.silentMs()
  const { connectionId, since } = node
  const health = silent >= unresponsiveMs ? "unresponsive" : "healthy"
  return { ...known, connection: { connectionId, since, health } }
}

export const make = Effect.gen(function* () {
  const { nodes: settings } = yield* Settings
  if (settings.listen === null) return yield* Nodes
  const { host, port } = settings.listen
  const registry = yield* NodeStore
  const { current } = yield* Epoch
  const certificates = yield* GatewayCertificate
  const { cert, key, fingerprints } = yield* certificates.certificate
  const { WebSocketServer } = yield* Effect.promise(() => import("ws"))
  const decide = yield* makeNodeDeciding
  const inside = yield* SubscriptionRef.make<ReadonlyMap<string, Inside>>(new Map())
  const connections = yield* FiberSet.make<void>()
  const run = yield* FiberSet.runtime(connections)<never>()
  let connectionIds = 0

  const enter = (node: Inside) =>
    Effect.acquireRelease(
      Effect.gen(function* () {
        const before = (yield* SubscriptionRef.get(inside)).get(node.nodeId)
        yield* SubscriptionRef.update(inside, (all) => new Map(all).set(node.nodeId, node))
        if (before !== undefined)
          yield* Effect.forkDetach(before.link.close(closeCodes.normal, "it came again"))
      }),
      () =>
        SubscriptionRef.update(inside, (all) => {
          if (all.get(node.nodeId)?.connectionId !== node.connectionId) return all
          const rest = new Map(all)
          rest.delete(node.nodeId)
          return rest
        })
    )

  const renamed = (nodeId: string, name: string) =>
    SubscriptionRef.update(inside, (all) => {
      const node = all.get(nodeId)
      return node === undefined ? all : new Map(all).set(nodeId, { ...node, name })
    })

  const serve = Effect.fnUntraced(function* (socket: WebSocket, channel: string, known: () => void) {
    const link = yield* makeWsLink(socket, helloMessages)
    const info: NodeInfo = yield* greetNode(link, { registry, channel, gateway: current.epoch })
    known()
    const { nodeId, name } = info
    const calls = yield* makeClientOver(
      RunControl,
      { socket: Effect.succeed(link.lane("g")), gone: Effect.asVoid(link.closed) },
      () => new NodeAway({ node: name, paired: true })
    )
    yield* serveCalls(link, (question) => decide(info, question))
    const connectionId = ++connectionIds
    yield* enter({
      nodeId,
      name,
      revokedAt: null,
      connectionId,
      calls: calls as unknown as LiveNode["calls"],
      link,
      since: yield* Clock.currentTimeMillis
    })
    // Whatever became of it since it was let in was told to those who were inside.
    const still = Option.getOrUndefined(yield* registry.find(info.publicKey))
    if (still === undefined || still.revokedAt !== null)
      return yield* link.close(closeCodes.policy, "revoked")
    if (still.name !== name) yield* renamed(nodeId, still.name)
    yield* Effect.annotateLogs(Effect.logInfo("a node is connected"), { nodeId, name, connectionId })
    yield* Effect.ignore(registry.seen(nodeId))
    yield* Effect.forkScoped(watch(link))
    const { message: reason } = yield* link.closed
    yield* Effect.ignore(registry.seen(nodeId))
    yield* Effect.annotateLogs(Effect.logInfo("a node is gone"), { nodeId, name, connectionId, reason })
  }, Effect.scoped)

  yield* Stream.runForEach(registry.changes, (change) =>
    Effect.gen(function* () {
      if (change._tag === "Renamed") return yield* renamed(change.nodeId, change.name)
      const node = (yield* SubscriptionRef.get(inside)).get(change.nodeId)
      // One that does not answer to its end must not hold up the next one's.
      if (node !== undefined) yield* Effect.forkChild(node.link.close(closeCodes.policy, "revoked"))
    })
  ).pipe(Effect.forkScoped({ startImmediately: true }))

  const server = https().createServer({
    cert,
    key,
    // Keying material of an older version may be the same for two connections (RFC 7627).
    minVersion: "TLSv1.3",
    ALPNProtocols: ["http/1.1"],
    handshakeTimeout: doorDeadlineMs,
    connectionsCheckingInterval: doorLookMs
  })
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: maxMessageBytes,
    perMessageDeflate: false,
    clientTracking: false
  })
  server.maxConnections = maxConnections
  server.headersTimeout = doorDeadlineMs
  server.requestTimeout = doorDeadlineMs
  /** Everybody, for the end: those at the door may have no intention to leave. */
  const open = new Set<net.Socket>()
  let admission = fullAdmission(performance.now())
  server.on("connection", (socket: net.Socket) => {
    const [next, isLetIn] = nextAdmission(admission, performance.now())
    admission = next
    // Before a handshake: that is what costs.
    if (!isLetIn) return void socket.destroy()
    socket.setNoDelay(true)
    open.add(socket)
    socket.once("close", () => open.delete(socket))
  })
  // Of the TLS socket: the one below knows nothing of an upgrade, and would go on counting.
  server.on("secureConnection", (socket) => {
    socket.setTimeout(doorDeadlineMs, () => socket.destroy())
  })
  server.on("tlsClientError", (_error: Error, socket: net.Socket) => socket.destroy())
  server.on("request", (_request, response) => response.writeHead(404, { connection: "close" }).end())
  server.on("upgrade", (request, raw, head: Buffer) => {
    const socket = raw as Tls.TLSSocket
    socket.on("error", () => undefined)
    // A browser sends it, and no node does: a page must not speak as one.
    if (request.headers.origin !== undefined) return turnAway(socket, "403 Forbidden")
    if (request.url !== nodesPath) return turnAway(socket, "404 Not Found")
    let unknown = head.length
    const count = (chunk: Buffer): void => {
      unknown += chunk.length
      if (unknown > maxGreetingBytes) socket.destroy()
    }
    sockets.handleUpgrade(request, socket, head, (accepted) => {
      socket.setTimeout(0)
      socket.on("data", count)
      const channel = channelOf((label, bytes) => socket.exportKeyingMaterial(bytes, label, Buffer.alloc(0)))
      run(
        serve(accepted, channel, () => socket.off("data", count)).pipe(
          Effect.catch((error) =>
            Effect.annotateLogs(Effect.logWarning("a node was not let in"), { problem: error.message })
          )
        )
      )
    })
  })

  // A certificate that is near its end is made anew for the same key; nodes that are connected need not come again.
  yield* Effect.gen(function* () {
    const { cert, key } = yield* certificates.certificate
    server.setSecureContext({ cert, key, minVersion: "TLSv1.3" })
  }).pipe(
    Effect.catch((error) => Effect.logError(error.message)),
    Effect.delay(renewEveryMs),
    Effect.forever,
    Effect.forkScoped
  )

  const bound = yield* Effect.acquireRelease(listening(server, host, port), () =>
    Effect.callback<void>((resume) => {
      server.close(() => resume(Effect.void))
      server.closeAllConnections()
      for (const { link } of SubscriptionRef.getUnsafe(inside).values())
        run(link.close(closeCodes.restart, "the gateway ends"))
      setTimeout(() => {
        for (const socket of open) socket.destroy()
      }, goodbyeMs).unref()
    })
  )

  const find = (ref: string) => (all: ReadonlyMap<string, Inside>) => {
    const [one, another] = matchingNodes([...all.values()], ref)
    return one === undefined || another !== undefined ? Result.failVoid : Result.succeed(one)
  }

  return Nodes.of({
    listening: {
      url: `wss://${shownHost(host)}:${bound}${nodesPath}`,
      pins: pinsOf(fingerprints).map(formatPin)
    },
    live: Effect.map(SubscriptionRef.get(inside), (all) => [...all.values()]),
    find: (ref, waitMs) =>
      Effect.gen(function* () {
        const now = find(ref)(yield* SubscriptionRef.get(inside))
        if (Result.isSuccess(now)) return now.success
        // Whom nobody knows is not on its way.
        const known = yield* Effect.orElseSucceed(registry.list, () => [])
        const paired = matchingNodes(known, ref).some(({ revokedAt }) => revokedAt === null)
        const away = new NodeAway({ node: ref.slice(0, 80), paired })
        if (!paired) return yield* away
        return yield* SubscriptionRef.changes(inside).pipe(
          Stream.filterMap(find(ref)),
          Stream.runHead,
          Effect.map(Option.getOrThrow),
          Effect.timeoutOrElse({ duration: waitMs, orElse: () => Effect.fail(away) })
        )
      }),
    statuses: Effect.gen(function* () {
      const all = yield* SubscriptionRef.get(inside)
      return (yield* registry.list).map((info) => statusOf(info, all.get(info.nodeId)))
    })
  })
})

export const layer = Layer.effect(Nodes, make)
