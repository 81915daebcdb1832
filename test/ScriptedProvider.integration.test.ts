import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as zlib from "node:zlib"
import * as ScriptedProvider from "../src/layers/ScriptedProvider.ts"
import { codexBinary, makeHome } from "./support/codex.ts"

const { ScriptedProvider: Provider, codexConfig, layer, maxSnapshots, nothingScripted } = ScriptedProvider

const user = (text: string) => ({ type: "message", role: "user", content: [{ type: "input_text", text }] })
const bodyOf = (text: string) => JSON.stringify({ model: "m", input: [user(text)] })

const request = (url: string, init: RequestInit) =>
  Effect.promise((signal) => fetch(url, { signal, ...init }))
const post = (url: string, body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
  request(`${url}/responses`, { method: "POST", body, headers })
const text = (response: Response) => Effect.promise(() => response.text())
const said = (stream: string): string =>
  [...stream.matchAll(/"delta":("(?:[^"\\]|\\.)*")/g)].map((match) => String(JSON.parse(match[1]!))).join("")

/** What a plain socket gets for these bytes until the other end closes. */
const raw = (port: number, bytes: string) =>
  Effect.callback<string>((resume) => {
    let got = ""
    const socket = net.connect(port, "127.0.0.1", () => socket.write(bytes))
    socket.on("data", (chunk) => (got += chunk.toString("latin1")))
    socket.on("error", () => socket.destroy())
    socket.on("close", () => resume(Effect.succeed(got)))
  })
const portOf = (url: string) => Number(new URL(url).port)

describe("ScriptedProvider over HTTP", () => {
  it.live("a registered sentence is answered with its script, as server-sent events", () =>
    Effect.gen(function* () {
      const provider = yield* Provider
      yield* provider.script("say hello", [{ say: "Hello there." }])
      const response = yield* post(provider.url, bodyOf("Please say hello."), { "thread-id": "t1" })
      assert.deepStrictEqual(
        [response.status, response.headers.get("content-type"), said(yield* text(response))],
        [200, "text/event-stream", "Hello there."]
      )
      assert.deepStrictEqual(yield* provider.log, [
        {
          seq: 1,
          threadId: "t1",
          model: "m",
          items: 1,
          prompt: "Please say hello.",
          outputs: [],
          script: "say hello",
          index: 0,
          step: { say: "Hello there." }
        }
      ])
    }).pipe(Effect.provide(layer))
  )

  it.live("bodies packed with gzip and zstd are read, others are refused by name", () =>
    Effect.gen(function* () {
      const { url } = yield* Provider
      const body = bodyOf('@@SCRIPT[{"say":"unpacked"}]@@')
      const answers = yield* Effect.forEach(
        [
          ["gzip", zlib.gzipSync(body)],
          ["zstd", zlib.zstdCompressSync(body)],
          ["identity", Buffer.from(body)],
          ["br", zlib.brotliCompressSync(body)],
          ["gzip", Buffer.from(body)]
        ] as const,
        ([encoding, packed]) =>
          Effect.flatMap(post(url, new Uint8Array(packed), { "content-encoding": encoding }), (response) =>
            Effect.map(text(response), (answer) => [response.status, said(answer)])
          )
      )
      assert.deepStrictEqual(answers, [
        [200, "unpacked"],
        [200, "unpacked"],
        [200, "unpacked"],
        [415, ""],
        [400, ""]
      ])
    }).pipe(Effect.provide(layer))
  )

  it.live("a body over the bound is refused, as sent and as unpacked, and leaves no row in the log", () =>
    Effect.gen(function* () {
      const provider = yield* Provider
      const big = new Uint8Array(17 * 1_048_576)
      const sent = yield* post(provider.url, big)
      const bomb = yield* post(provider.url, new Uint8Array(zlib.gzipSync(big)), {
        "content-encoding": "gzip"
      })
      const malformed = yield* post(provider.url, "{")
      assert.deepStrictEqual([sent.status, bomb.status, malformed.status], [413, 413, 400])
      assert.deepStrictEqual(yield* provider.log, [])
    }).pipe(Effect.provide(layer))
  )

  it.live("models are listed, everything else is not found, and strangers are turned away", () =>
    Effect.gen(function* () {
      const { url } = yield* Provider
      const models = yield* Effect.flatMap(request(`${url}/models?client_version=1`, {}), text)
      const statuses = yield* Effect.forEach(
        [
          request(`${url}/responses`, {}),
          request(`${url}/files`, { method: "POST", body: "{}" }),
          post(url, bodyOf("hello"), { origin: "https://example.org" })
        ],
        Effect.map((response) => response.status)
      )
      const rebound = yield* raw(
        portOf(url),
        "GET /v1/models HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n"
      )
      assert.deepStrictEqual(
        { models: JSON.parse(models), statuses, rebound: rebound.slice(0, 12) },
        {
          models: { object: "list", data: [], models: [] },
          statuses: [404, 404, 403],
          rebound: "HTTP/1.1 403"
        }
      )
    }).pipe(Effect.provide(layer))
  )

  it.live("a websocket upgrade is refused and the connection closed", () =>
    Effect.gen(function* () {
      const { url } = yield* Provider
      const answer = yield* raw(
        portOf(url),
        `GET /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n`
      )
      assert.strictEqual(answer, "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    }).pipe(Effect.provide(layer))
  )

  it.live("a scripted status carries its body, and a cut answer breaks off after it began", () =>
    Effect.gen(function* () {
      const { url, script } = yield* Provider
      yield* script("fail", [{ status: 401, body: { error: { code: "invalid_api_key" } } }])
      yield* script("break", [{ cut: true }])
      const refused = yield* post(url, bodyOf("fail"))
      const broken = yield* post(url, bodyOf("break"))
      const rest = yield* Effect.exit(Effect.tryPromise(() => broken.text()))
      assert.deepStrictEqual(
        [refused.status, yield* text(refused), broken.status, Exit.isFailure(rest)],
        [401, '{"error":{"code":"invalid_api_key"}}', 200, true]
      )
    }).pipe(Effect.provide(layer))
  )

  it.live("closing the scope ends an answer that hangs and one that still waits", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(layer, scope)
      const { url, script, requests } = yield* Provider.pipe(Effect.provide(context))
      yield* script("wait", [{ say: "late", delayMs: 3_600_000 }])
      yield* script("hang", [{ hang: true }])
      const init = { method: "POST", body: bodyOf("wait") }
      const waiting = yield* Effect.forkChild(
        Effect.exit(Effect.tryPromise(() => fetch(`${url}/responses`, init)))
      )
      yield* Stream.runDrain(Stream.take(requests, 1))
      const response = yield* post(url, bodyOf("hang"))
      const hanging = yield* Effect.forkChild(Effect.exit(Effect.tryPromise(() => response.text())))
      yield* Scope.close(scope, Exit.void)
      const failed = [Exit.isFailure(yield* Fiber.join(waiting)), Exit.isFailure(yield* Fiber.join(hanging))]
      assert.deepStrictEqual(failed, [true, true])
    })
  )

  it.live("the log keeps the newest requests, and the stream begins with them", () =>
    Effect.gen(function* () {
      const provider = yield* Provider
      for (let at = 0; at < maxSnapshots + 2; at++)
        yield* Effect.flatMap(post(provider.url, bodyOf(`${at}`)), text)
      const log = yield* provider.log
      assert.deepStrictEqual(
        [log.length, log[0]!.seq, log.at(-1)!.seq, log[0]!.step],
        [maxSnapshots, 3, maxSnapshots + 2, nothingScripted]
      )
      assert.deepStrictEqual(yield* Stream.runCollect(Stream.take(provider.requests, maxSnapshots)), log)
    }).pipe(Effect.provide(layer))
  )

  it.live("nothing listens once the scope is closed, five times over", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 5; round++) {
        const url = yield* Effect.provide(
          Provider.use(({ url }) => Effect.as(Effect.flatMap(post(url, bodyOf("x")), text), url)),
          layer,
          { local: true }
        )
        assert.strictEqual(yield* raw(portOf(url), "GET / HTTP/1.1\r\n\r\n"), "")
      }
    })
  )
})

describe("ScriptedProvider and the real Codex", () => {
  it.live(
    "Codex runs the scripted command without a key and ends with the scripted words",
    () =>
      Effect.gen(function* () {
        const provider = yield* Provider
        const places = yield* makeHome
        yield* provider.script("Leave a note in this directory", [
          {
            say: "I will.",
            calls: [{ fn: "exec_command", args: { cmd: "printf scripted > note && cat note" } }]
          },
          { say: "The note is there." }
        ])
        fs.writeFileSync(path.join(places.codexHome, "config.toml"), tomlOf(codexConfig(provider.url)))
        const output = yield* codex(places.codexHome, places.tmp, places.workspace, [
          "exec",
          "--json",
          "--skip-git-repo-check",
          "--sandbox",
          "danger-full-access",
          "--model",
          "gpt-5.5",
          "Leave a note in this directory, please."
        ])
        const log = yield* provider.log
        assert.deepStrictEqual(
          {
            note: fs.readFileSync(path.join(places.workspace, "note"), "utf8"),
            steps: log.map(({ script, index }) => [script, index]),
            told: log[1]!.outputs.map((answer) => answer.text.includes("scripted")),
            last: output.includes("The note is there.")
          },
          {
            note: "scripted",
            steps: [
              ["Leave a note in this directory", 0],
              ["Leave a note in this directory", 1]
            ],
            told: [true],
            last: true
          }
        )
      }).pipe(Effect.scoped, Effect.provide(layer)),
    30_000
  )
})

/** TOML of a two-level table: JSON's strings, numbers and booleans are TOML's. */
const tomlOf = ({ model_provider, model_providers }: ReturnType<typeof codexConfig>): string =>
  [
    `model_provider = ${JSON.stringify(model_provider)}`,
    "check_for_update_on_startup = false",
    "[analytics]",
    "enabled = false",
    "[features]",
    "plugins = false",
    "apps = false",
    "[model_providers.scripted]",
    ...Object.entries(model_providers.scripted).map(([key, value]) => `${key} = ${JSON.stringify(value)}`)
  ].join("\n")

const codex = (codexHome: string, tmp: string, cwd: string, args: ReadonlyArray<string>) =>
  Effect.callback<string>((resume) => {
    const child = spawn(codexBinary, args, {
      cwd,
      env: { PATH: process.env["PATH"], HOME: codexHome, CODEX_HOME: codexHome, TMPDIR: tmp },
      stdio: ["ignore", "pipe", "ignore"]
    })
    let output = ""
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString("utf8")))
    child.once("close", () => resume(Effect.succeed(output)))
    return Effect.sync(() => child.kill("SIGKILL"))
  })
