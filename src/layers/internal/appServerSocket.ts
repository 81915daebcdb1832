/**
 * An app-server that runs already, reached over WebSocket: one JSON message per text frame, on its Unix socket or on TCP.
 *
 * It is somebody else's process: nothing here knows its pid, and what ends with the scope is the socket. A bearer token goes
 * from its private file into one header and nowhere else.
 */
import { WebSocket } from "@effect/platform-node/NodeWS"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as net from "node:net"
import { AppServerUnavailable, type PoisonReason } from "../../services/AppServerFailure.ts"
import type { Gone } from "../../services/AppServerProcess.ts"
import { maxFrameBytes } from "../../services/AppServerProtocol.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import type { Transport } from "./appServerConnection.ts"
import { errorCode } from "./errorCode.ts"
import { effectiveUid } from "./privateDirectory.ts"
import { checkSocketPath } from "./unixSocket.ts"

/** Codex's capability tokens are short words and a signed one is a JWT; a header must stay below 16 KB. */
const maxTokenBytes = 8 * 1024
/** The server's answer to our closing; one that does not answer is hung up on. */
const closeGraceMs = 1000

const loopback = new Set(["127.0.0.1", "localhost", "[::1]"])

export interface Dialed {
  readonly transport: Transport
  /** The socket is closed, whoever closed it. */
  readonly gone: Effect.Effect<Gone>
}

/** What may be shown of an address: a user, a path and a query can each be a secret, and a socket's path is none. */
export const shownAddress = (address: string): string => {
  if (address.startsWith("unix:")) return address
  const url = URL.parse(address)
  return url === null || url.host === "" ? "appServer.connect" : `${url.protocol}//${url.host}`
}

const unavailable = (problem: string): AppServerUnavailable =>
  new AppServerUnavailable({ stage: "connect", problem })

export const dial = Effect.fnUntraced(function* (
  address: string,
  {
    tokenFile,
    timeoutMs,
    objection = () => null
  }: {
    readonly tokenFile: SettingsShape["appServer"]["tokenFile"]
    readonly timeoutMs: number
    /** Why whoever listens on the Unix socket is not the one that is meant; null when it is. */
    readonly objection?: (connection: net.Socket) => string | null
  }
): Effect.fn.Return<Dialed, AppServerUnavailable, Scope.Scope> {
  const socketPath = address.startsWith("unix:") ? address.slice("unix:".length) : null
  yield* socketPath === null ? checkHost(address) : checkSocket(socketPath)
  const token = socketPath === null && tokenFile !== null ? yield* readToken(tokenFile) : null
  const closed = yield* Deferred.make<void>()
  /** What the socket broke by; a close code says less. */
  let broken: string | null = null
  let connection: net.Socket | null = null

  const ws = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const ws = new WebSocket(socketPath === null ? address : "ws://localhost/", {
        maxPayload: maxFrameBytes,
        perMessageDeflate: false,
        ...(token === null ? {} : { headers: { authorization: `Bearer ${Redacted.value(token)}` } }),
        // A path may hold what an address cannot.
        ...(socketPath === null ? {} : { createConnection: () => (connection = net.connect(socketPath)) })
      })
      ws.on("error", (error) => {
        broken ??= errorCode(error) ?? null
      })
      ws.once("close", () => Deferred.doneUnsafe(closed, Effect.void))
      return ws
    }),
    (ws) =>
      Effect.suspend(() => {
        if (ws.isPaused) ws.resume()
        ws.close(1000)
        return Effect.timeoutOrElse(Deferred.await(closed), {
          duration: closeGraceMs,
          orElse: () =>
            Effect.andThen(
              Effect.sync(() => ws.terminate()),
              Deferred.await(closed)
            )
        })
      })
  )

  const shown = shownAddress(address)
  yield* opened(ws, shown).pipe(
    Effect.timeoutOrElse({
      duration: timeoutMs,
      orElse: () => Effect.fail(unavailable(`${shown} did not take the connection within ${timeoutMs} ms.`))
    })
  )

  // Before a word was said to it.
  const problem = connection === null ? null : objection(connection)
  if (problem !== null) return yield* unavailable(problem)

  const lossOf = (code: string | null): PoisonReason =>
    broken === "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH"
      ? { _tag: "frame-too-large" }
      : { _tag: "socket-closed", code: broken ?? code }
  const socket = yield* Socket.fromWebSocket(Effect.succeed(ws))
  return {
    transport: {
      input: Socket.toStream(socket).pipe(
        Stream.map(asLine),
        Stream.mapError(({ reason }) =>
          lossOf(reason._tag === "SocketCloseError" ? String(reason.code) : null)
        )
      ),
      // Not by the socket's own writer, which does not say when a message has left.
      write: (text) =>
        Effect.callback<void, PoisonReason>((resume) => {
          ws.send(text.trimEnd(), (error) =>
            resume(error ? Effect.fail(lossOf(errorCode(error) ?? null)) : Effect.void)
          )
        })
    },
    gone: Effect.as(Deferred.await(closed), { confirmed: true, code: null, signal: null })
  }
})

/** A frame is a message, and a message on a byte stream ends with a line break. */
const asLine = (frame: Uint8Array): Uint8Array => {
  const line = new Uint8Array(frame.length + 1)
  line.set(frame)
  line[frame.length] = 10
  return line
}

const start = (shown: string): string =>
  `Start one with \`codex app-server --listen ${shown.replace(/^unix:/, "unix://")}\`, or remove appServer.connect.`

const opened = (ws: WebSocket, shown: string): Effect.Effect<void, AppServerUnavailable> =>
  Effect.callback((resume) => {
    ws.once("open", () => {
      // Until somebody listens: a message that nobody hears is lost.
      ws.pause()
      resume(Effect.void)
    })
    ws.once("unexpected-response", (request, { statusCode }) => {
      request.destroy()
      resume(
        Effect.fail(
          unavailable(
            statusCode === 401 || statusCode === 403
              ? `${shown} refused the login (HTTP ${statusCode}). Set appServer.tokenFile (HOLDFAST_APP_SERVER_TOKEN_FILE) to a file with the token it was started with.`
              : `${shown} answered HTTP ${statusCode} instead of opening a WebSocket. Is it a Codex app-server?`
          )
        )
      )
    })
    ws.once("error", (error) => {
      const code = errorCode(error) ?? "no WebSocket"
      resume(
        Effect.fail(
          unavailable(
            code === "ECONNREFUSED" || code === "ENOENT"
              ? `nobody listens at ${shown}. ${start(shown)}`
              : `${shown} cannot be reached (${code}).`
          )
        )
      )
    })
  })

/** The setting says the same; whoever embeds the layer may not have read it. */
const checkHost = (address: string): Effect.Effect<void, AppServerUnavailable> =>
  Effect.suspend(() => {
    const url = URL.parse(address)
    if (url === null || !/^wss?:$/.test(url.protocol) || url.username + url.password + url.hash !== "")
      return Effect.fail(
        unavailable("appServer.connect is none of `unix:/PATH`, `ws://127.0.0.1:PORT` and `wss://HOST`.")
      )
    return url.protocol === "wss:" || loopback.has(url.hostname)
      ? Effect.void
      : Effect.fail(
          unavailable(
            `${shownAddress(address)} is another machine, and \`ws\` would show it and its token to the network. Use \`wss\`.`
          )
        )
  })

/** Another user's socket could be anybody's: it would be given every prompt, and asked what to run here. */
const checkSocket = Effect.fnUntraced(function* (path: string) {
  yield* Effect.mapError(checkSocketPath(path), (error) => unavailable(error.message))
  const stats = yield* Effect.try({
    try: () => fs.statSync(path),
    catch: (error) =>
      unavailable(
        errorCode(error) === "ENOENT"
          ? `nobody listens at unix:${path}. ${start(`unix:${path}`)}`
          : `${path} cannot be looked at (${errorCode(error) ?? "unknown error"}).`
      )
  })
  if (!stats.isSocket()) return yield* unavailable(`${path} is no socket. ${start(`unix:${path}`)}`)
  if (stats.uid !== effectiveUid() && stats.uid !== 0)
    return yield* unavailable(
      `${path} belongs to another user (uid ${stats.uid}). Connect to a server of your own.`
    )
})

const badToken = (path: string, problem: string): AppServerUnavailable =>
  unavailable(`the token file ${path} ${problem}. Give one that only you can read (chmod 600).`)

const readToken = (path: string): Effect.Effect<Redacted.Redacted<string>, AppServerUnavailable> => {
  const refused = (problem: string) => Effect.fail(badToken(path, problem))
  return Effect.suspend(() => {
    let fd: number
    try {
      // A pipe must not keep us waiting, nor a link lead elsewhere.
      fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
    } catch (error) {
      return refused(`cannot be opened (${errorCode(error) ?? "unknown error"})`)
    }
    try {
      const stats = fs.fstatSync(fd)
      if (!stats.isFile()) return refused("is no regular file")
      if (stats.uid !== effectiveUid()) return refused("belongs to another user")
      if ((stats.mode & 0o077) !== 0) return refused("is open to other users")
      const bytes = Buffer.alloc(maxTokenBytes + 1)
      const size = fs.readSync(fd, bytes, 0, bytes.length, 0)
      if (size > maxTokenBytes) return refused(`is longer than ${maxTokenBytes} bytes`)
      const token = bytes.toString("utf8", 0, size).trim()
      // What a header may hold; anything else would be quoted in the error of whoever builds it.
      return /^[\x21-\x7e]+$/.test(token)
        ? Effect.succeed(Redacted.make(token))
        : refused("holds no token on one line")
    } catch (error) {
      return refused(`cannot be read (${errorCode(error) ?? "unknown error"})`)
    } finally {
      fs.closeSync(fd)
    }
  })
}
