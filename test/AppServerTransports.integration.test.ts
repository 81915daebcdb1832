/** An app-server that runs already, the real codex where it can be: used over its socket, and never ended by us. */
import { type WebSocket, WebSocketServer } from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import type { AppServerConnection } from "../src/services/AppServerProcess.ts"
import type { PoisonReason } from "../src/services/AppServerFailure.ts"
import { AccountResult, maxFrameBytes } from "../src/services/AppServerProtocol.ts"
import {
  codexOf,
  isAlive,
  plainEnv,
  provider,
  type ServerOptions,
  startThread,
  timed
} from "./support/appServer.ts"
import { codexBinary, makeHome, type TestHome } from "./support/codex.ts"
import { eventually } from "./support/gateway.ts"

/** A codex that is not ours: ended with the test's scope, by its own parent. */
const foreign = (place: TestHome, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      fs.writeFileSync(path.join(place.codexHome, "config.toml"), provider)
      return childProcess.spawn(
        codexBinary,
        ["app-server", ...args, "-c", "features.plugins=false", "-c", "features.apps=false"],
        {
          cwd: place.codexHome,
          env: { ...plainEnv(place), CODEX_HOME: place.codexHome },
          stdio: ["ignore", "ignore", "pipe"]
        }
      )
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )

const listening = (child: childProcess.ChildProcess) =>
  Effect.callback<string>((resume) => {
    let said = ""
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      said += text
      const found = /listening on: *(ws:\/\/[\d.:]+)/.exec(said)
      if (found) resume(Effect.succeed(found[1]!))
    })
    child.once("exit", () => resume(Effect.die(new Error(`codex does not listen: ${said}`))))
  })

const uses = Effect.fnUntraced(function* (connection: AppServerConnection, place: TestHome) {
  const { account } = yield* connection.request("account/read", {}, AccountResult)
  const { thread } = yield* startThread(connection, place)
  return {
    origin: connection.origin,
    pid: connection.pid,
    version: connection.version,
    account,
    thread: thread.id !== ""
  }
})

const used = { origin: "adopted", pid: null, version: "0.169.0", account: null, thread: true } as const

/** A server's side of an upgrade, for what no codex would do. */
const plainServer = (onConnection: (socket: net.Socket) => void) =>
  Effect.acquireRelease(
    Effect.callback<{
      readonly port: number
      readonly server: net.Server
      readonly sockets: Set<net.Socket>
    }>((resume) => {
      const sockets = new Set<net.Socket>()
      const server = net.createServer((socket) => {
        sockets.add(socket.on("error", () => undefined))
        onConnection(socket)
      })
      server.listen(0, "127.0.0.1", () =>
        resume(Effect.succeed({ port: (server.address() as net.AddressInfo).port, server, sockets }))
      )
    }),
    ({ server, sockets }) =>
      Effect.callback<void>((resume) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  )

const initialized = (codexHome: string) =>
  JSON.stringify({ id: 1, result: { userAgent: "holdfast/0.169.0 (Linux)", codexHome } })

/** An app-server over WebSocket that answers its handshake, and then does as it is told. */
const handshaker = (codexHome: string, then: (socket: WebSocket) => void) =>
  Effect.acquireRelease(
    Effect.callback<{
      readonly connect: string
      readonly headers: Array<string>
      readonly server: WebSocketServer
    }>((resume) => {
      const headers: Array<string> = []
      const server = new WebSocketServer({ host: "127.0.0.1", port: 0 })
      server.on("connection", (socket, request) => {
        headers.push(
          ...Object.keys(request.headers).filter((name) => /^(origin|authorization)|extensions$/.test(name))
        )
        socket
          .on("error", () => undefined)
          .once("message", () => {
            socket.send(initialized(codexHome))
            socket.once("message", () => then(socket))
          })
      })
      server.on("listening", () => {
        const { port } = server.address() as net.AddressInfo
        resume(Effect.succeed({ connect: `ws://127.0.0.1:${port}`, headers, server }))
      })
    }),
    ({ server }) =>
      Effect.callback<void>((resume) => {
        for (const client of server.clients) client.terminate()
        server.close(() => resume(Effect.void))
      })
  )

const refused = Effect.fnUntraced(function* (
  place: TestHome,
  appServer: NonNullable<ServerOptions["appServer"]>,
  lease: ServerOptions["lease"] = {}
) {
  const { start } = yield* codexOf(place, { appServer, lease: lease ?? {} })
  const error = yield* Effect.flip(Effect.scoped(start))
  return { stage: error.stage, problem: error.problem }
})

const token = "a-token-of-the-test"

describe("an app-server that runs already", () => {
  it.live(
    "one on a Unix socket is used, and lives on with the same pid when we are done; the next start finds it",
    () =>
      Effect.gen(function* () {
        const place = yield* makeHome
        const socket = path.join(place.runtimeDir, "app-server.sock")
        const child = yield* foreign(place, ["--listen", `unix://${socket}`])
        yield* eventually("it listens", () => fs.existsSync(socket))
        const { start, left } = yield* codexOf(place, {
          appServer: { connect: `unix:${socket}`, tokenFile: null }
        })
        for (let round = 0; round < 2; round++) {
          const connection = yield* Effect.scoped(
            Effect.gen(function* () {
              const connection = yield* start
              assert.deepStrictEqual(yield* uses(connection, place), used)
              return { ...connection }
            })
          )
          assert.deepStrictEqual(yield* connection.gone, { confirmed: true, code: null, signal: null })
        }
        assert.deepStrictEqual(
          { alive: isAlive(child.pid!), exit: child.exitCode ?? child.signalCode, left: left() },
          { alive: true, exit: null, left: [] }
        )
      })
  )

  it.live("one that dies is a closed socket, told within a second", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const socket = path.join(place.runtimeDir, "app-server.sock")
      const child = yield* foreign(place, ["--listen", `unix://${socket}`])
      yield* eventually("it listens", () => fs.existsSync(socket))
      const { start } = yield* codexOf(place, { appServer: { connect: `unix:${socket}`, tokenFile: null } })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* start
          child.kill("SIGKILL")
          const { value, ms } = yield* timed(connection.lost)
          const asked = yield* Effect.flip(connection.request("account/read", {}, Schema.Unknown))
          assert.deepStrictEqual(
            { lost: value.reason._tag, asked, gone: yield* connection.gone, inTime: ms < 1000 },
            {
              lost: "socket-closed",
              asked: value,
              gone: { confirmed: true, code: null, signal: null },
              inTime: true
            }
          )
        })
      )
    })
  )

  it.live("one on TCP wants its token: used with it, refused without or with another", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const [right, wrong] = ["right", "wrong"].map((name) => path.join(place.home, name)) as [string, string]
      fs.writeFileSync(right, `${token}\n`, { mode: 0o600 })
      fs.writeFileSync(wrong, "another-token\n", { mode: 0o600 })
      const auth = ["--ws-auth", "capability-token", "--ws-token-file", right]
      const child = yield* foreign(place, ["--listen", "ws://127.0.0.1:0", ...auth])
      const connect = yield* listening(child)
      const { start } = yield* codexOf(place, { appServer: { connect, tokenFile: right } })
      assert.deepStrictEqual(
        yield* Effect.scoped(Effect.flatMap(start, (connection) => uses(connection, place))),
        used
      )
      for (const tokenFile of [null, wrong])
        assert.deepStrictEqual(yield* refused(place, { connect, tokenFile }), {
          stage: "connect",
          problem: `${connect} refused the login (HTTP 401). Set appServer.tokenFile (HOLDFAST_APP_SERVER_TOKEN_FILE) to a file with the token it was started with.`
        })
      assert.isTrue(isAlive(child.pid!))
    })
  )

  it.live("an address where nobody can be reached says what to do", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const missing = path.join(place.runtimeDir, "none.sock")
      const file = path.join(place.runtimeDir, "file")
      fs.writeFileSync(file, "")
      const { port, server } = yield* plainServer(() => undefined)
      yield* Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
      })
      const tcp = `ws://127.0.0.1:${port}`
      const startOne = (address: string) =>
        `Start one with \`codex app-server --listen ${address}\`, or remove appServer.connect.`
      const problems: Readonly<Record<string, string>> = {
        [`unix:${missing}`]: `nobody listens at unix:${missing}. ${startOne(`unix://${missing}`)}`,
        [`unix:${file}`]: `${file} is no socket. ${startOne(`unix://${file}`)}`,
        [tcp]: `nobody listens at ${tcp}. ${startOne(tcp)}`,
        "ws://192.0.2.1:8080":
          "ws://192.0.2.1:8080 is another machine, and `ws` would show it and its token to the network. Use `wss`.",
        // What else is in an address may be a secret.
        [`${tcp}/hunter2?token=hunter2`]: `nobody listens at ${tcp}. ${startOne(tcp)}`,
        "ws://192.0.2.1:8080/hunter2?token=hunter2":
          "ws://192.0.2.1:8080 is another machine, and `ws` would show it and its token to the network. Use `wss`.",
        [`ws://:hunter2@127.0.0.1:${port}`]:
          "appServer.connect is none of `unix:/PATH`, `ws://127.0.0.1:PORT` and `wss://HOST`.",
        "http://127.0.0.1":
          "appServer.connect is none of `unix:/PATH`, `ws://127.0.0.1:PORT` and `wss://HOST`."
      }
      for (const [connect, problem] of Object.entries(problems))
        assert.deepStrictEqual(yield* refused(place, { connect, tokenFile: null }), {
          stage: "connect",
          problem
        })
    })
  )

  it.live("a server that is no app-server, or says nothing, is given up on", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const silent = yield* plainServer(() => undefined)
      const web = yield* plainServer((socket) =>
        socket.once("data", () => socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
      )
      const other = yield* plainServer((socket) => socket.once("data", () => socket.end("220 smtp\r\n")))
      const at = ({ port }: { readonly port: number }) => ({
        connect: `ws://127.0.0.1:${port}`,
        tokenFile: null
      })
      assert.deepStrictEqual(
        [
          yield* refused(place, at(silent), { handshakeTimeoutMs: 100 }),
          yield* refused(place, at(web)),
          yield* refused(place, at(other)),
          yield* refused(place, { ...at(web), connect: `${at(web).connect}/hunter2?token=hunter2` })
        ].map(({ stage, problem }) => `${stage}: ${problem}`),
        [
          `connect: ${at(silent).connect} did not take the connection within 100 ms.`,
          `connect: ${at(web).connect} answered HTTP 404 instead of opening a WebSocket. Is it a Codex app-server?`,
          `connect: ${at(other).connect} cannot be reached (HPE_INVALID_CONSTANT).`,
          `connect: ${at(web).connect} answered HTTP 404 instead of opening a WebSocket. Is it a Codex app-server?`
        ]
      )
    })
  )

  const ends: ReadonlyArray<readonly [string, (socket: WebSocket) => void, PoisonReason]> = [
    ["closes it with a code", (socket) => socket.close(1011), { _tag: "socket-closed", code: "1011" }],
    ["drops it", (socket) => socket.terminate(), { _tag: "socket-closed", code: "1006" }],
    [
      "sends a message over the limit",
      (socket) => socket.send("x".repeat(maxFrameBytes + 1)),
      { _tag: "frame-too-large" }
    ],
    [
      "sends what is not JSON",
      (socket) => ["a", "b", "c"].forEach((text) => socket.send(text)),
      { _tag: "unframeable", lines: 3 }
    ]
  ]
  for (const [what, then, reason] of ends)
    it.live(`a connection whose server ${what} is lost for that reason`, () =>
      Effect.gen(function* () {
        const place = yield* makeHome
        const { connect, headers } = yield* handshaker(place.codexHome, then)
        const { start } = yield* codexOf(place, { appServer: { connect, tokenFile: null } })
        const { reason: seen, stderrTail } = yield* Effect.scoped(
          Effect.flatMap(start, (connection) => connection.lost)
        )
        assert.deepStrictEqual({ seen, stderrTail, headers }, { seen: reason, stderrTail: "", headers: [] })
      })
    )

  it.live(
    "a server that works in another CODEX_HOME is refused: its configuration would be governed unread",
    () =>
      Effect.gen(function* () {
        const place = yield* makeHome
        const { connect } = yield* handshaker("/", () => undefined)
        assert.deepStrictEqual(yield* refused(place, { connect, tokenFile: null }), {
          stage: "connect",
          problem: `${connect} works in another CODEX_HOME than codex.home (${place.codexHome}). Set codex.home to that server's.`
        })
      })
  )

  it.live("a server that hangs does not keep us when we leave, and is not ended for it", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const socket = path.join(place.runtimeDir, "app-server.sock")
      const child = yield* foreign(place, ["--listen", `unix://${socket}`])
      yield* eventually("it listens", () => fs.existsSync(socket))
      const { start } = yield* codexOf(place, { appServer: { connect: `unix:${socket}`, tokenFile: null } })
      const scope = yield* Scope.make()
      const { gone } = yield* Scope.provide(start, scope)
      child.kill("SIGSTOP")
      const { ms } = yield* timed(Scope.close(scope, Exit.void))
      assert.deepStrictEqual(
        { gone: yield* gone, alive: isAlive(child.pid!), inTime: ms < 3000 },
        { gone: { confirmed: true, code: null, signal: null }, alive: true, inTime: true },
        `${ms} ms`
      )
    })
  )

  it.live("a token is taken from a private regular file only, and no error quotes it", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const file = (name: string, text: string, mode = 0o600): string => {
        const made = path.join(place.home, name)
        fs.writeFileSync(made, text)
        fs.chmodSync(made, mode)
        return made
      }
      const link = path.join(place.home, "link")
      fs.symlinkSync(file("target", token), link)
      const bad: ReadonlyArray<readonly [string, string]> = [
        [path.join(place.home, "missing"), "cannot be opened (ENOENT)"],
        [link, "cannot be opened (ELOOP)"],
        [place.home, "is no regular file"],
        [file("group", token, 0o640), "is open to other users"],
        [file("others", token, 0o604), "is open to other users"],
        [file("empty", " \n"), "holds no token on one line"],
        [file("lines", `${token}\r\nx: y\n`), "holds no token on one line"],
        [file("long", "x".repeat(8193)), "is longer than 8192 bytes"]
      ]
      for (const [tokenFile, problem] of bad)
        assert.deepStrictEqual(yield* refused(place, { connect: "ws://127.0.0.1:9", tokenFile }), {
          stage: "connect",
          problem: `the token file ${tokenFile} ${problem}. Give one that only you can read (chmod 600).`
        })
    })
  )
})
