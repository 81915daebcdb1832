/** ScriptedProvider on node:http: one loopback port for as long as the scope; every body, wait and log is bounded. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import * as Zlib from "node:zlib"
import { encodeEvents, errorBody, eventsOf } from "../services/ResponsesStream.ts"
import {
  choose,
  maxScripts,
  maxSnapshots,
  type ProviderRequest,
  ResponsesRequest,
  type Script,
  ScriptedProvider,
  ScriptedProviderUnavailable,
  snapshot
} from "../services/ScriptedProvider.ts"

export * from "../services/ScriptedProvider.ts"

/** A conversation of a million tokens is some 4 MB of text; images and slack make it 16 MiB, as sent and unpacked. */
const maxBodyBytes = 16_777_216
/** 100 agents at once with two connections each is the most the app-server was measured with. */
const maxConnections = 256
/** Loopback senders that need longer than this to send a request are broken. */
const requestTimeoutMs = 30_000

const decodeRequest = Schema.decodeUnknownEffect(Schema.fromJsonString(ResponsesRequest))

/** A request that gets no script: the status and the sentence it is answered with. */
class Refused extends Schema.TaggedError<Refused>()("Refused", {
  status: Schema.Int,
  problem: Schema.String
}) {
  override get message(): string {
    return this.problem
  }
}

export const make = Effect.gen(function* () {
  const scripts = new Map<string, Script>()
  const kept: Array<ProviderRequest> = []
  const arrivals = yield* PubSub.sliding<ProviderRequest>({ capacity: maxSnapshots, replay: maxSnapshots })
  // Threads outlive a provider, so the numbers of two providers must not meet in one thread's call ids.
  const life = (yield* Random.nextIntBetween(0, 0xffff_ffff)).toString(16).padStart(8, "0")
  let seq = 0

  const remember = Effect.fnUntraced(function* (request: ProviderRequest) {
    if (kept.push(request) > maxSnapshots) kept.shift()
    yield* PubSub.publish(arrivals, request)
  })

  const converse = Effect.fnUntraced(function* (
    request: Http.IncomingMessage,
    response: Http.ServerResponse
  ) {
    const body = yield* readBody(request).pipe(
      Effect.flatMap(decodeRequest),
      Effect.catchTag("SchemaError", ({ message }) => new Refused({ status: 400, problem: message }))
    )
    const chosen = choose(body, scripts)
    const { step } = chosen
    const number = ++seq
    const threadId = request.headers["thread-id"]
    yield* remember(snapshot(number, typeof threadId === "string" ? threadId : null, body, chosen))
    if (step.delayMs !== undefined) yield* Effect.sleep(step.delayMs)
    if ("status" in step) return yield* json(response, step.status, errorBody(step.status, step.body))
    const text = encodeEvents(
      eventsOf(step, {
        responseId: `${life}_${number}`,
        model: body.model ?? "scripted",
        createdAtSeconds: Math.floor((yield* Clock.currentTimeMillis) / 1000),
        index: chosen.index
      })
    )
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" })
    if ("hang" in step) {
      response.write(text)
      return yield* Effect.never
    }
    if ("cut" in step) return yield* Effect.sync(() => response.write(text, () => response.destroy()))
    yield* Effect.sync(() => response.end(text))
  })

  const answer = Effect.fnUntraced(
    function* (request: Http.IncomingMessage, response: Http.ServerResponse) {
      yield* refuseStrangers(request)
      const path = request.url?.split("?")[0] ?? ""
      if (request.method === "GET" && path === "/v1/models") {
        return yield* json(response, 200, { object: "list", data: [], models: [] })
      }
      if (request.method === "POST" && path === "/v1/responses") return yield* converse(request, response)
      return yield* new Refused({
        status: 404,
        problem: "Only /v1/responses and /v1/models are served here."
      })
    },
    (effect, _request, response) =>
      effect.pipe(
        Effect.catchTag("Refused", ({ status, problem }) =>
          json(response, status, { error: { message: problem, type: "invalid_request_error", code: null } })
        ),
        Effect.onInterrupt(() => Effect.sync(() => response.destroy()))
      )
  )

  const run = yield* Effect.flatMap(FiberSet.make<void>(), (fibers) => FiberSet.runtime(fibers)())
  const port = yield* listen((request, response) => {
    const fiber = run(answer(request, response))
    response.once("close", () => fiber.interruptUnsafe())
  })

  return ScriptedProvider.of({
    url: `http://127.0.0.1:${port}/v1`,
    script: (name, steps) =>
      Effect.sync(() => {
        scripts.delete(name)
        if (name === "") return
        scripts.set(name, steps)
        if (scripts.size > maxScripts) scripts.delete(scripts.keys().next().value!)
      }),
    log: Effect.sync(() => [...kept]),
    requests: Stream.fromPubSub(arrivals)
  })
})

export const layer = Layer.effect(ScriptedProvider, make)

const listen = (onRequest: Http.RequestListener) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<Http.Server, ScriptedProviderUnavailable>((resume) => {
        const server = Http.createServer({ requestTimeout: requestTimeoutMs }, onRequest)
        server.maxConnections = maxConnections
        // Codex may try a websocket first; a plain 404 sends it to HTTP.
        server.on("upgrade", (_request, socket) => {
          socket.on("error", () => socket.destroy())
          socket.end("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        })
        server.once("error", (cause) => resume(Effect.fail(new ScriptedProviderUnavailable({ cause }))))
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        })
    ),
    (server) => (server.address() as AddressInfo).port
  )

/** A page in a browser reaches loopback too, under its own name or a rebound one; no agent sends either. */
const refuseStrangers = (request: Http.IncomingMessage): Effect.Effect<void, Refused> =>
  request.headers.origin === undefined && request.headers.host === `127.0.0.1:${request.socket.localPort}`
    ? Effect.void
    : Effect.fail(new Refused({ status: 403, problem: "The scripted provider answers local agents only." }))

const json = (response: Http.ServerResponse, status: number, body: Schema.Json): Effect.Effect<void> =>
  Effect.sync(() => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body))
  })

const tooLarge = new Refused({ status: 413, problem: `A request may have at most ${maxBodyBytes} bytes.` })

const readBody = (request: Http.IncomingMessage): Effect.Effect<string, Refused> =>
  Effect.flatMap(
    Effect.callback<Buffer, Refused>((resume) => {
      const chunks: Array<Buffer> = []
      let size = 0
      request.on("data", (chunk: Buffer) => {
        size += chunk.length
        if (size <= maxBodyBytes) chunks.push(chunk)
        else chunks.length = 0
      })
      // Read to the end, kept or not: an answer before that reaches a sender that is still writing as a reset.
      request.once("end", () =>
        resume(size <= maxBodyBytes ? Effect.succeed(Buffer.concat(chunks)) : Effect.fail(tooLarge))
      )
      request.once("error", () =>
        resume(Effect.fail(new Refused({ status: 400, problem: "The body broke off." })))
      )
    }),
    (sent) => unpack(sent, request.headers["content-encoding"])
  )

type Unpack = (sent: Buffer, options: { maxOutputLength: number }, done: Zlib.CompressCallback) => void
const unpackers: Record<string, Unpack> = { gzip: Zlib.gunzip, zstd: Zlib.zstdDecompress }

const unpack = (sent: Buffer, encoding = "identity"): Effect.Effect<string, Refused> => {
  if (encoding === "identity") return Effect.succeed(sent.toString("utf8"))
  const unpacker = unpackers[encoding]
  if (unpacker === undefined) {
    return Effect.fail(new Refused({ status: 415, problem: "A body may be packed with gzip or zstd only." }))
  }
  return Effect.callback<string, Refused>((resume) =>
    unpacker(sent, { maxOutputLength: maxBodyBytes }, (error, text) =>
      resume(
        error === null
          ? Effect.succeed(text.toString("utf8"))
          : Effect.fail(
              "code" in error && error.code === "ERR_BUFFER_TOO_LARGE"
                ? tooLarge
                : new Refused({ status: 400, problem: `The body is not valid ${encoding}.` })
            )
      )
    )
  )
}
