/** A gateway's door for one test: TLS, a WebSocket and the real greeting, with everything counted, and started anew at will. */
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as https from "node:https"
import type * as net from "node:net"
import type * as tls from "node:tls"
import { WebSocketServer } from "ws"
import { channelOf, greetNode, helloMessages } from "../../src/layers/internal/nodeGreeting.ts"
import { makeWsLink } from "../../src/layers/internal/wsLink.ts"
import { NodeStore } from "../../src/services/NodeStore.ts"
import type { Certificate } from "./certificates.ts"

interface NodeServer {
  readonly port: number
  /** TCP connections, of all its lives. */
  readonly accepted: () => number
  /** Application bytes of this life. */
  readonly bytes: () => number
  /** Everything is closed, and another process, with other keys for its tickets, listens at the same port. */
  readonly restart: (certificate: Certificate) => Effect.Effect<void>
}

export const nodeServer = Effect.fnUntraced(function* (first: Certificate) {
  const registry = yield* NodeStore
  const run = yield* FiberSet.makeRuntime<never>()
  let [accepted, bytes] = [0, 0]
  let end = (): void => undefined

  const serve = Effect.fnUntraced(function* (socket: tls.TLSSocket, link: Parameters<typeof makeWsLink>[0]) {
    const channel = channelOf((label, length) => socket.exportKeyingMaterial(length, label, Buffer.alloc(0)))
    const wire = yield* makeWsLink(link, helloMessages)
    yield* greetNode(wire, { registry, channel, gateway: "an epoch" })
    yield* wire.closed
  }, Effect.scoped)

  const start = ({ cert, key }: Certificate, port: number) =>
    Effect.callback<number>((resume) => {
      const open = new Set<net.Socket>()
      const sockets = new WebSocketServer({ noServer: true })
      const server = https.createServer({ cert, key, minVersion: "TLSv1.3" })
      bytes = 0
      server.on("tlsClientError", () => undefined)
      server.on("connection", (socket: net.Socket) => {
        accepted++
        open.add(socket)
        socket.once("close", () => open.delete(socket))
      })
      server.on("secureConnection", (socket) => {
        socket.on("error", () => undefined)
        socket.on("data", (chunk: Buffer) => (bytes += chunk.length))
      })
      server.on("upgrade", (request, socket, head) =>
        sockets.handleUpgrade(request, socket, head, (link) =>
          run(Effect.ignore(serve(socket as tls.TLSSocket, link)))
        )
      )
      end = () => {
        server.close()
        for (const socket of open) socket.destroy()
      }
      server.listen(port, "127.0.0.1", () =>
        resume(Effect.succeed((server.address() as net.AddressInfo).port))
      )
    })

  const port = yield* start(first, 0)
  yield* Effect.addFinalizer(() => Effect.sync(() => end()))
  return {
    port,
    accepted: () => accepted,
    bytes: () => bytes,
    restart: (certificate) =>
      Effect.suspend(() => {
        end()
        return Effect.asVoid(start(certificate, port))
      })
  } satisfies NodeServer
})
