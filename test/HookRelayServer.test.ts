/** HookRelay, the gateway's end: the order of its checks, the code of each refusal, and how it opens and closes. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import * as fs from "node:fs"
import * as http from "node:http"
import * as net from "node:net"
import { Worker } from "node:worker_threads"
import { layer } from "../src/layers/HookRelayServer.ts"
import * as Syscalls from "../src/layers/Syscalls.ts"
import { AuditUnavailable } from "../src/services/AuditLog.ts"
import { Epoch } from "../src/services/Epoch.ts"
import { bodyDeadlineMs, HookRelay, maxConnections } from "../src/services/HookRelay.ts"
import { denyText } from "../src/services/HookWire.ts"
import { resolve, Settings } from "../src/services/Settings.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"
import { allowed, denied, FakeRelays, layer as layerRelays } from "../src/testing/RelayRegistry.ts"

const maxBodyBytes = 2000

const settingsIn = (home: string) => {
  const settings = Result.getOrThrow(
    resolve(
      {
        env: { HOLDFAST_HOME: home },
        uid: 0,
        homeDirectory: home,
        tempDirectory: home,
        clientDirectory: home
      },
      null
    )
  )
  return { ...settings, hook: { ...settings.hook, maxBodyBytes } }
}

const epoch = Layer.succeed(Epoch, {
  current: {
    epoch: "01J0000000000000ABCDEFGHJK",
    owner: { bootId: "b", pidNamespace: "n", pid: 1, startToken: "1" },
    mark: null,
    startedAt: 0
  },
  unmarked: null,
  outer: null,
  claimMark: Effect.die("unused"),
  claimed: Effect.die("unused"),
  swept: [],
  sweepOwn: Effect.die("unused")
})

const serverIn = (home: string) =>
  layer.pipe(
    Layer.provideMerge([layerRelays, Syscalls.layer]),
    Layer.provide(epoch),
    Layer.provide(Layer.succeed(Settings, settingsIn(home)))
  )

/** A server with the relay `r`, generation 3, open until the scope closes. */
const opened = Effect.gen(function* () {
  const home = yield* temporaryDirectory
  const scope = yield* Scope.fork(yield* Scope.Scope)
  const context = yield* Layer.buildWithScope(serverIn(home), scope)
  const relays = Context.get(context, FakeRelays)
  relays.put({ relayId: "r", generation: 3, token: "t0ken" })
  return {
    home,
    relays,
    socketPath: Context.get(context, HookRelay).socketPath,
    close: Scope.close(scope, Exit.void)
  }
})

const preToolUse = {
  session_id: "thread",
  turn_id: "turn",
  cwd: "/w",
  hook_event_name: "PreToolUse",
  tool_name: "Bash",
  tool_input: { command: "ls" },
  tool_use_id: "call_1"
}

interface Ask {
  readonly method?: string
  readonly path?: string
  readonly headers?: Readonly<Record<string, string | undefined>>
  readonly body?: string
  /** Sends the body without saying how long it is. */
  readonly chunked?: boolean
}

const send = (socketPath: string, { method, path, headers, body, chunked }: Ask = {}) =>
  Effect.callback<{ readonly status: number; readonly body: string }>((resume) => {
    const text = body ?? JSON.stringify(preToolUse)
    const all: Record<string, string | undefined> = {
      authorization: "Bearer t0ken",
      "x-holdfast-relay": "r",
      "x-holdfast-generation": "3",
      ...(chunked
        ? { "transfer-encoding": "chunked" }
        : { "content-length": String(Buffer.byteLength(text)) }),
      ...headers
    }
    const request = http.request({
      socketPath,
      method: method ?? "POST",
      path: path ?? "/v1/hooks/pre_tool_use",
      headers: Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)),
      agent: false
    })
    let answer = { status: 0, body: "" }
    request.on("error", (error) => {
      answer = { status: 0, body: error.message }
    })
    request.on("response", (response) => {
      const chunks: Array<Buffer> = []
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("end", () => {
        answer = { status: response.statusCode!, body: Buffer.concat(chunks).toString() }
      })
    })
    // No sooner: a connection that is still closing would count as left open.
    request.on("close", () => resume(Effect.succeed(answer)))
    request.end(text)
    return Effect.sync(() => request.destroy())
  })

const raw = (socketPath: string, text: string) =>
  Effect.acquireRelease(
    Effect.callback<net.Socket>((resume) => {
      const socket = net.connect(socketPath, () => {
        socket.write(text)
        resume(Effect.succeed(socket))
      })
      socket.on("error", () => undefined)
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

/** A socket that somebody listens on who accepts nobody: a thread that stands still from then on. */
const unattended = (path: string) =>
  Effect.acquireRelease(
    Effect.callback<Worker>((resume) => {
      const worker = new Worker(
        `const { parentPort, workerData: path } = require("node:worker_threads")
         require("node:net").createServer().listen({ path, backlog: 1 }, () => {
           parentPort.postMessage("listens")
           Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
         })`,
        { eval: true, workerData: path }
      )
      worker.once("message", () => resume(Effect.succeed(worker)))
    }),
    (worker) => Effect.promise(() => worker.terminate())
  )

/** `connected`, as it also is in the queue of one who does not accept, or the code of the failure. */
const knocks = (path: string) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly socket: net.Socket; readonly code: string }>((resume) => {
      const socket = net.connect(path)
      socket.once("connect", () => resume(Effect.succeed({ socket, code: "connected" })))
      socket.once("error", (error: NodeJS.ErrnoException) =>
        resume(Effect.succeed({ socket, code: error.code ?? "" }))
      )
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

const head = (length: number): string =>
  `POST /v1/hooks/pre_tool_use HTTP/1.1\r\nhost: h\r\nauthorization: Bearer t0ken\r\nx-holdfast-relay: r\r\nx-holdfast-generation: 3\r\ncontent-length: ${length}\r\n\r\n`

const pipes = (): ReadonlyArray<string> =>
  process
    .getActiveResourcesInfo()
    .filter((resource) => /Pipe|Server/.test(resource))
    .toSorted()

describe("HookRelayServer", () => {
  it.effect("answers with what the provider wants to read, once the relay has decided", () =>
    Effect.gen(function* () {
      const { relays, socketPath } = yield* opened
      assert.deepStrictEqual(yield* send(socketPath), { status: 200, body: "" })
      relays.decideWith(() => Effect.succeed(denied("not that")))
      assert.deepStrictEqual(yield* send(socketPath), {
        status: 200,
        body: denyText("pre_tool_use", "not that")
      })
      assert.deepStrictEqual(relays.log, [
        "find r",
        "find r",
        "decide r pre_tool_use",
        "find r",
        "find r",
        "decide r pre_tool_use"
      ])
    })
  )

  it.effect(
    "checks method, size, credentials, currency and body in this order, and the first fault decides",
    () =>
      Effect.gen(function* () {
        const { relays, socketPath } = yield* opened
        const large = "x".repeat(maxBodyBytes + 1)
        const cases: ReadonlyArray<readonly [string, Ask, number, ReadonlyArray<string>]> = [
          ["method before size", { method: "PUT", body: large }, 405, []],
          ["path before size", { path: "/v1/hooks/no_such_event", body: large }, 400, []],
          ["no query", { path: "/v1/hooks/pre_tool_use?x=1" }, 400, []],
          ["declared size before credentials", { body: large, headers: { authorization: "none" } }, 413, []],
          ["no relay named", { headers: { "x-holdfast-relay": undefined } }, 403, []],
          ["no generation", { headers: { "x-holdfast-generation": undefined } }, 403, []],
          ["no such relay", { headers: { "x-holdfast-relay": "other" } }, 404, ["find other"]],
          [
            "credentials before currency",
            { headers: { authorization: "Bearer wrong", "x-holdfast-generation": "2" } },
            403,
            ["find r", "refused r"]
          ],
          ["no credentials", { headers: { authorization: undefined } }, 403, ["find r", "refused r"]],
          [
            "credentials of another scheme",
            { headers: { authorization: "t0ken" } },
            403,
            ["find r", "refused r"]
          ],
          [
            "generation before event",
            { path: "/v1/hooks/stop", headers: { "x-holdfast-generation": "2" } },
            410,
            ["find r", "refused r"]
          ],
          ["event before body", { path: "/v1/hooks/stop", body: "no json" }, 403, ["find r", "refused r"]],
          ["actual size", { body: large, chunked: true }, 413, ["find r", "refused r"]],
          ["no JSON", { body: "{" }, 400, ["find r", "find r", "refused r"]],
          [
            "another event's payload",
            { body: JSON.stringify({ ...preToolUse, hook_event_name: "Stop" }) },
            400,
            ["find r", "find r", "refused r"]
          ],
          ["nothing wrong", {}, 200, ["find r", "find r", "decide r pre_tool_use"]]
        ]
        for (const [what, ask, status, log] of cases) {
          relays.log.length = 0
          const answer = yield* send(socketPath, ask)
          assert.deepStrictEqual(
            { what, answer, log: [...relays.log] },
            { what, answer: { status, body: "" }, log }
          )
        }
      })
  )

  it.effect(
    "looks again once the body is there: a relay replaced, closed or narrowed meanwhile decides nothing",
    () =>
      Effect.gen(function* () {
        const { relays, socketPath } = yield* opened
        const changes: ReadonlyArray<readonly [() => void, number]> = [
          [() => relays.put({ relayId: "r", generation: 4, token: "t0ken" }), 410],
          [() => relays.put({ relayId: "r", generation: 3, token: "another" }), 410],
          [() => relays.put({ relayId: "r", generation: 3, token: "t0ken", events: ["stop"] }), 403],
          [() => relays.drop("r"), 404]
        ]
        for (const [change, status] of changes) {
          relays.put({ relayId: "r", generation: 3, token: "t0ken" })
          relays.log.length = 0
          let looks = 0
          relays.beforeFind(() => {
            if (++looks === 2) change()
          })
          assert.deepStrictEqual(yield* send(socketPath), { status, body: "" })
          assert.deepStrictEqual(relays.log, ["find r", "find r", "refused r"])
        }
      })
  )

  it.effect("answers nothing that is not in the audit log, and lets no inner fault out", () =>
    Effect.gen(function* () {
      const { relays, socketPath } = yield* opened
      relays.decideWith(() => Effect.fail(new AuditUnavailable({ cause: "disk full" })))
      assert.deepStrictEqual(yield* send(socketPath), { status: 503, body: "" })
      relays.decideWith(() => Effect.die("secret detail"))
      assert.deepStrictEqual(yield* send(socketPath), { status: 500, body: "" })
      relays.decideWith(() => Effect.succeed(allowed))
      assert.deepStrictEqual(yield* send(socketPath), { status: 200, body: "" })
    })
  )

  it.effect("gives a body that does not come the time that it says, and no more", () =>
    Effect.gen(function* () {
      const { relays, socketPath } = yield* opened
      const looked = yield* Deferred.make<void>()
      relays.beforeFind(() => Deferred.doneUnsafe(looked, Effect.void))
      const socket = yield* raw(socketPath, `${head(100)}{`)
      const answer = yield* Effect.forkChild(
        Effect.callback<string>((resume) => {
          socket.on("data", (chunk) => resume(Effect.succeed(chunk.toString().split("\r\n")[0]!)))
        }),
        { startImmediately: true }
      )
      yield* Deferred.await(looked)
      yield* TestClock.adjust(0)
      yield* TestClock.adjust(bodyDeadlineMs - 1)
      assert.deepStrictEqual(relays.log, ["find r"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(relays.log, ["find r", "refused r"])
      // It is told once it has had as long again to send what is then thrown away.
      yield* TestClock.adjust(bodyDeadlineMs)
      assert.strictEqual(yield* Fiber.join(answer), "HTTP/1.1 408 Request Timeout")
    })
  )

  it.effect("turns away more connections than the bound, and serves the last one within it", () =>
    Effect.gen(function* () {
      const { socketPath } = yield* opened
      for (let n = 1; n < maxConnections; n++) yield* raw(socketPath, "")
      const body = JSON.stringify(preToolUse)
      const last = yield* raw(socketPath, head(body.length) + body)
      const answered = Effect.callback<string>((resume) => {
        last.once("data", (chunk) => resume(Effect.succeed(chunk.toString().split("\r\n")[0]!)))
      })
      assert.strictEqual(yield* answered, "HTTP/1.1 200 OK")
      assert.strictEqual((yield* send(socketPath)).status, 0)
    })
  )

  it.effect("stops deciding for a client that has left", () =>
    Effect.gen(function* () {
      const { relays, socketPath } = yield* opened
      const [started, stopped] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      relays.decideWith(() =>
        Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
        )
      )
      const body = JSON.stringify(preToolUse)
      const socket = yield* raw(socketPath, head(body.length) + body)
      yield* Deferred.await(started)
      socket.destroy()
      yield* Deferred.await(stopped)
    })
  )

  it.effect("decides side by side: one that waits holds up no other", () =>
    Effect.gen(function* () {
      const { relays, socketPath } = yield* opened
      const release = yield* Deferred.make<void>()
      relays.decideWith((event) =>
        event.callId.id === "slow"
          ? Effect.as(Deferred.await(release), allowed)
          : Effect.succeed(denied("quick"))
      )
      const slow = yield* Effect.forkChild(
        send(socketPath, { body: JSON.stringify({ ...preToolUse, tool_use_id: "slow" }) }),
        { startImmediately: true }
      )
      assert.strictEqual((yield* send(socketPath)).body, denyText("pre_tool_use", "quick"))
      yield* Deferred.succeed(release, undefined)
      assert.deepStrictEqual(yield* Fiber.join(slow), { status: 200, body: "" })
    })
  )

  it.effect("keeps a connection for as many questions as a client asks", () =>
    Effect.gen(function* () {
      const { socketPath } = yield* opened
      const body = JSON.stringify(preToolUse)
      const question = head(body.length) + body
      const socket = yield* raw(socketPath, question)
      const answered = Effect.callback<string>((resume) => {
        socket.once("data", (chunk) => resume(Effect.succeed(chunk.toString().split("\r\n")[0]!)))
      })
      const first = yield* answered
      socket.write(question)
      assert.deepStrictEqual([first, yield* answered], ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK"])
    })
  )

  it.effect("answers what waits when it closes, and leaves no socket behind", () =>
    Effect.gen(function* () {
      const { close, relays, socketPath } = yield* opened
      const started = yield* Deferred.make<void>()
      relays.decideWith(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never))
      const waiting = yield* Effect.forkChild(send(socketPath), { startImmediately: true })
      yield* Deferred.await(started)
      yield* close
      assert.deepStrictEqual(yield* Fiber.join(waiting), { status: 503, body: "" })
      assert.isFalse(fs.existsSync(socketPath))
      assert.strictEqual((yield* send(socketPath)).status, 0)
    })
  )

  it.effect("drops what waits without an answer where the next gateway takes the relay over", () =>
    Effect.gen(function* () {
      const { close, relays, socketPath } = yield* opened
      relays.put({ relayId: "r", generation: 3, token: "t0ken", leaving: true })
      const started = yield* Deferred.make<void>()
      relays.decideWith(() => Effect.andThen(Deferred.succeed(started, undefined), Effect.never))
      const waiting = yield* Effect.forkChild(send(socketPath), { startImmediately: true })
      yield* Deferred.await(started)
      yield* close
      assert.strictEqual((yield* Fiber.join(waiting)).status, 0)
    })
  )

  it.effect("opens in a directory and a socket that are its user's alone", () =>
    Effect.gen(function* () {
      const { home, socketPath } = yield* opened
      const modes = [`${home}/run`, socketPath].map((path) => (fs.statSync(path).mode & 0o777).toString(8))
      assert.deepStrictEqual(modes, ["700", "600"])
    })
  )

  it.effect("takes the place of a socket that nobody answers, and never of one that somebody does", () =>
    Effect.gen(function* () {
      const { close, home, socketPath } = yield* opened
      const second = yield* Effect.flip(Effect.scoped(Layer.build(serverIn(home))))
      assert.deepInclude(second, { _tag: "HookSocketUnusable", problem: "in-use" })
      assert.deepStrictEqual(yield* send(socketPath), { status: 200, body: "" })
      // A second name keeps the file when its server goes: what a crash leaves.
      fs.linkSync(socketPath, `${socketPath}.left`)
      yield* close
      fs.renameSync(`${socketPath}.left`, socketPath)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const context = yield* Layer.build(serverIn(home))
          Context.get(context, FakeRelays).put({ relayId: "r", generation: 3, token: "t0ken" })
          assert.deepStrictEqual(yield* send(socketPath), { status: 200, body: "" })
        })
      )
      fs.writeFileSync(socketPath, "not a socket")
      const blocked = yield* Effect.flip(Effect.scoped(Layer.build(serverIn(home))))
      assert.deepInclude(blocked, { _tag: "HookSocketUnusable", problem: "unusable" })
      assert.strictEqual(fs.readFileSync(socketPath, "utf8"), "not a socket")
    })
  )

  it.effect("takes a socket with a full queue for somebody's, and leaves it there", () =>
    Effect.gen(function* () {
      const { close, home, socketPath } = yield* opened
      yield* close
      yield* unattended(socketPath)
      let code = "connected"
      while (code === "connected") code = (yield* knocks(socketPath)).code
      assert.strictEqual(code, "EAGAIN")
      const second = yield* Effect.flip(Effect.scoped(Layer.build(serverIn(home))))
      assert.deepInclude(second, { _tag: "HookSocketUnusable", problem: "in-use" })
      assert.isTrue(fs.lstatSync(socketPath).isSocket())
    })
  )

  it.effect("says what to do about a path that no socket can have", () =>
    Effect.gen(function* () {
      const home = `${yield* temporaryDirectory}/${"long/".repeat(30)}`
      const failed = yield* Effect.flip(Effect.scoped(Layer.build(serverIn(home))))
      assert.deepInclude(failed, {
        _tag: "SocketPathTooLong",
        limit: process.platform === "darwin" ? 103 : 107
      })
      assert.include(failed.message, "HOLDFAST_RUNTIME_DIR")
    })
  )

  it.effect("leaves nothing open after five lives", () =>
    Effect.gen(function* () {
      // A handle is gone some turns of the event loop after it was closed, those of the tests before this one too.
      const settled = Effect.gen(function* () {
        for (let still = 0, last = -1; still < 50;) {
          yield* Effect.promise(() => new Promise<void>((resume) => setImmediate(resume)))
          const now = pipes().length
          still = now === last ? still + 1 : 0
          last = now
        }
        return pipes()
      })
      const before = yield* settled
      for (let life = 0; life < 5; life++)
        yield* Effect.scoped(Effect.flatMap(opened, ({ socketPath }) => send(socketPath)))
      const after = yield* settled
      assert.isAtMost(after.length, before.length)
    })
  )
})
