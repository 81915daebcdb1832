/** TLS servers that write down what arrives: the bytes of the application, and of every handshake whether it was resumed. */
import * as Effect from "effect/Effect"
import * as http from "node:http"
import * as net from "node:net"
import * as tls from "node:tls"
import type { Certificate } from "./certificates.ts"

interface RecordingServer {
  readonly port: number
  /** Application bytes of all connections. */
  readonly bytes: () => number
  readonly handshakes: () => ReadonlyArray<"full" | "resumed">
  /** TCP connections. */
  readonly accepted: () => number
  /** From now on another certificate is shown, and the tickets are good for it too. */
  readonly show: (certificate: Certificate) => void
}

const listening = (server: net.Server) =>
  Effect.acquireRelease(
    Effect.callback<number>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed((server.address() as net.AddressInfo).port)))
    }),
    () => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
  )

/** Echoes; sends one byte first, so that its tickets are read. */
export const recordingServer = Effect.fnUntraced(function* (
  certificate: Certificate,
  options: tls.TlsOptions = {}
) {
  let bytes = 0
  let accepted = 0
  const handshakes: Array<"full" | "resumed"> = []
  const open = new Set<net.Socket>()
  const server = tls.createServer({ cert: certificate.cert, key: certificate.key, ...options }, (socket) => {
    handshakes.push(socket.isSessionReused() ? "resumed" : "full")
    socket.on("error", () => undefined)
    socket.on("data", (chunk) => {
      bytes += chunk.length
      socket.write(chunk)
    })
    socket.write("!")
  })
  server.on("tlsClientError", () => undefined)
  server.on("connection", (socket) => {
    accepted++
    open.add(socket)
    socket.once("close", () => open.delete(socket))
  })
  yield* Effect.addFinalizer(() => Effect.sync(() => open.forEach((socket) => socket.destroy())))
  const port = yield* listening(server)
  yield* Effect.addFinalizer(() => Effect.sync(() => open.forEach((socket) => socket.destroy())))
  return {
    port,
    bytes: () => bytes,
    handshakes: () => handshakes,
    accepted: () => accepted,
    show: ({ cert, key }) => server.setSecureContext({ cert, key })
  } satisfies RecordingServer
})

/** A proxy that leads where it is asked to, or refuses with a status. */
export const connectProxy = Effect.fnUntraced(function* (status = 200) {
  const asked: Array<{ readonly to: string; readonly authorization: string | undefined }> = []
  const server = http.createServer()
  server.on("connect", (request, client: net.Socket) => {
    asked.push({ to: request.url ?? "", authorization: request.headers["proxy-authorization"] })
    client.on("error", () => undefined)
    if (status !== 200) return void client.end(`HTTP/1.1 ${status} No\r\n\r\n`)
    const [, host, port] = /^(.*):(\d+)$/.exec(request.url ?? "") ?? []
    const to = net.connect(Number(port), host, () => {
      client.write("HTTP/1.1 200 Yes\r\n\r\n")
      client.pipe(to).pipe(client)
    })
    to.on("error", () => client.destroy())
    client.on("close", () => to.destroy())
  })
  const port = yield* listening(server)
  return { port, asked: () => asked }
})
