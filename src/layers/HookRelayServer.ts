/**
 * HookRelay, the gateway's end: one raw node:http server on one Unix socket, one fiber per question.
 *
 * A request is checked in this order: method, size, credentials, currency, body, currency again; then it is decided and
 * the decision encoded for its provider. Whatever goes wrong is a status, never a text. The size of a head, of a body, the
 * time either may take and the number of connections are all bounded.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import { isUtf8 } from "node:buffer"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import type * as Http from "node:http"
import { Epoch } from "../services/Epoch.ts"
import type { HookEventName } from "../services/HookEvent.ts"
import { limitProblem } from "../services/HookLimits.ts"
import { type HookProvider, hookProviders } from "../services/HookProvider.ts"
import {
  bodyDeadlineMs,
  closeGraceMs,
  HookRelay,
  HookSocketUnusable,
  maxConnections
} from "../services/HookRelay.ts"
import {
  generationHeader,
  hookEventNames,
  hookPath,
  maxHeadBytes,
  relayHeader,
  statusOfCause
} from "../services/HookWire.ts"
import { type RelayEntry, RelayRegistry } from "../services/RelayRegistry.ts"
import { Settings } from "../services/Settings.ts"
import { collectAll, collectYoung } from "./internal/collectGarbage.ts"
import { errorCode } from "./internal/errorCode.ts"
import { makeHookPeers } from "./internal/hookPeers.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { checkSocketPath, clearStaleSocket } from "./internal/unixSocket.ts"

export * from "../services/HookRelay.ts"

/** Not imported: naming its exports one by one to an ES module loads undici, which doubles the time to start. */
const http = process.getBuiltinModule("node:http")

/** Nothing that a client of ours sends is of another method, so that has no cause of its own there. */
const statusOf = { ...statusOfCause, method: 405 } as const
type Refusal = keyof typeof statusOf

/** Reading, parsing and judging more than this each take a millisecond and more. */
const largeBytes = 256 * 1024
/**
 * Of large payloads that are read or being decided, which a person may take minutes for; more of them wait unread, in their
 * senders. Smaller ones are bounded by the number of connections.
 */
const largeBudgetBytes = 64 * 1024 * 1024
const permitBytes = 64 * 1024
/** Without a large payload, until what they left is collected. */
const restMs = 1_000

/** Not one of a client's causes: something in here broke, and the log says what. */
const statusOfDefect = 500

const eventOfPath: ReadonlyMap<string | undefined, HookEventName> = new Map(
  hookEventNames.map((event) => [hookPath(event), event])
)

/** Of equal length whatever was sent, so that the comparison takes the same time for every guess. */
const digest = (text: string): Buffer => crypto.hash("sha256", text, "buffer")

/** What a relay's bearer must hash to, for as long as the relay. */
const expected = new WeakMap<RelayEntry, Buffer>()

const isBearer = (header: string | undefined, entry: RelayEntry): boolean => {
  const known = expected.get(entry) ?? digest(`Bearer ${entry.token}`)
  expected.set(entry, known)
  return crypto.timingSafeEqual(digest(header ?? ""), known)
}

const declaredBytes = (request: Http.IncomingMessage): number =>
  Number(request.headers["content-length"] ?? 0)

/** Permits of the budget that a request needs; one that does not say its size may be as large as any. */
const permitsOf = (request: Http.IncomingMessage, limit: number): number => {
  const bytes = request.headers["content-length"] === undefined ? limit : declaredBytes(request)
  return bytes > largeBytes ? Math.ceil(bytes / permitBytes) : 0
}

const collected = (
  request: Http.IncomingMessage,
  limit: number
): Effect.Effect<ReadonlyArray<Buffer>, Refusal> =>
  Effect.callback<ReadonlyArray<Buffer>, Refusal>((resume) => {
    const chunks: Array<Buffer> = []
    let size = 0
    const stop = (): void => {
      request.removeListener("data", onData)
      request.removeListener("end", onEnd)
    }
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      if (size <= limit) return void chunks.push(chunk)
      stop()
      resume(Effect.fail("too-large"))
    }
    const onEnd = (): void => resume(Effect.succeed(chunks))
    request.on("data", onData)
    request.on("end", onEnd)
    return Effect.sync(stop)
  })

/**
 * The whole body; more than `limit` bytes, or a client that goes on too long, is a refusal. A deadline costs as much as the
 * rest of a decision, so only a body has one that did not come along with its head: after the yield it is complete.
 */
const bodyOf = (
  request: Http.IncomingMessage,
  limit: number
): Effect.Effect<ReadonlyArray<Buffer>, Refusal> =>
  Effect.flatMap(Effect.yieldNow, () =>
    request.complete
      ? collected(request, limit)
      : Effect.timeoutOrElse(collected(request, limit), {
          duration: bodyDeadlineMs,
          orElse: () => Effect.fail<Refusal>("timeout")
        })
  )

/**
 * A refused request is read to its end, and thrown away: closing a socket under a client that still writes would cost it
 * the answer.
 */
const drained = (request: Http.IncomingMessage): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (request.complete || request.destroyed) return resume(Effect.void)
    const onEnd = (): void => resume(Effect.void)
    request.on("end", onEnd)
    request.resume()
    return Effect.sync(() => request.removeListener("end", onEnd))
  }).pipe(Effect.timeoutOrElse({ duration: bodyDeadlineMs, orElse: () => Effect.void }))

const respond = (response: Http.ServerResponse, status: number, body: string, close: boolean): void => {
  if (response.writableEnded || response.destroyed) return
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...(close ? { connection: "close" } : {})
  })
  response.end(body)
}

const listening = (server: Http.Server, path: string): Effect.Effect<void, HookSocketUnusable> =>
  Effect.callback<void, HookSocketUnusable>((resume) => {
    const failed = (cause: unknown): void =>
      resume(
        Effect.fail(
          new HookSocketUnusable({
            path,
            problem: errorCode(cause) === "EADDRINUSE" ? "in-use" : "unusable",
            cause
          })
        )
      )
    server.once("error", failed)
    server.listen(path, () => {
      server.removeListener("error", failed)
      try {
        // The directory already keeps others out.
        fs.chmodSync(path, 0o600)
        resume(Effect.void)
      } catch (cause) {
        server.close()
        failed(cause)
      }
    })
  })

const clear = (path: string) =>
  clearStaleSocket(path, (problem, cause) => new HookSocketUnusable({ path, problem, cause }))

type Decode = (text: string) => ReturnType<HookProvider["decodeEvent"]>

/** From bytes to an event; `pause` comes between two looks at all of them. */
const readEvent = Effect.fnUntraced(function* (body: Buffer, decode: Decode, pause: Effect.Effect<void>) {
  if (limitProblem(body) !== null) return yield* Effect.fail<Refusal>("too-large")
  // What no text is would be another text by the time it is one.
  if (!isUtf8(body)) return yield* Effect.fail<Refusal>("malformed")
  yield* pause
  const text = body.toString("utf8")
  yield* pause
  const decoded = decode(text)
  yield* pause
  return Result.isSuccess(decoded) ? decoded.success : yield* Effect.fail<Refusal>("malformed")
})

/**
 * Large ones are read one at a time, with a turn for everybody else in between, and in one and the same memory: what is
 * allotted for each would be given back long after.
 */
const makeReader = Effect.gen(function* () {
  const oneLarge = yield* Semaphore.make(1)
  const read = yield* Queue.sliding<void>(1)
  // Once no more of them come.
  yield* Queue.take(read).pipe(
    Effect.andThen(Effect.sleep(restMs)),
    Effect.repeat({ until: () => Effect.map(Queue.size(read), (more) => more === 0) }),
    Effect.andThen(Effect.sync(collectAll)),
    Effect.forever,
    Effect.forkScoped
  )
  const collect = Effect.sync(() => {
    collectYoung()
    Queue.offerUnsafe(read, undefined)
  })
  let scratch: Buffer | null = null
  const readLarge = (chunks: ReadonlyArray<Buffer>, size: number, limit: number, decode: Decode) =>
    Effect.suspend(() => {
      scratch ??= Buffer.alloc(limit)
      let at = 0
      for (const chunk of chunks) at += chunk.copy(scratch, at)
      return readEvent(scratch.subarray(0, size), decode, Effect.yieldNow)
    })
  return (chunks: ReadonlyArray<Buffer>, limit: number, decode: Decode) => {
    const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
    return size > largeBytes
      ? Effect.ensuring(oneLarge.withPermit(readLarge(chunks, size, limit, decode)), collect)
      : readEvent(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks), decode, Effect.void)
  }
})

export const make = Effect.gen(function* () {
  const { hook, paths } = yield* Settings
  const read = yield* makeReader
  const watchPeer = yield* makeHookPeers
  const largeBudget = yield* Semaphore.make(Math.floor(largeBudgetBytes / permitBytes))
  const registry = yield* RelayRegistry
  const { current, swept } = yield* Epoch

  const socketPath = paths.hookSocket(current.epoch)
  yield* checkSocketPath(socketPath)
  yield* ensurePrivateDirectory(paths.runtime)
  yield* clear(socketPath)
  // A dead gateway could not unlink its own; one that is answered after all is not ours to remove.
  for (const { epoch } of swept) yield* Effect.ignore(clear(paths.hookSocket(epoch)))

  /** The entry of a relay, with the credentials that were just shown still in force. */
  const currentEntry = Effect.fnUntraced(function* (
    relayId: string,
    generation: string,
    event: HookEventName
  ) {
    const found = yield* registry.find(relayId)
    if (Option.isNone(found)) return yield* Effect.fail<Refusal>("not-found")
    const entry = found.value
    return { entry, current: generation === String(entry.info.generation), allowed: entry.allows(event) }
  })

  /** Everything after credentials: what is refused here is counted for its relay. */
  const admitted = Effect.fnUntraced(function* (
    request: Http.IncomingMessage,
    event: HookEventName,
    first: { readonly entry: RelayEntry; readonly current: boolean; readonly allowed: boolean }
  ) {
    if (!first.current) return yield* Effect.fail<Refusal>("stale-generation")
    if (!first.allowed) return yield* Effect.fail<Refusal>("forbidden")
    const body = yield* bodyOf(request, hook.maxBodyBytes)
    const { relayId, generation } = first.entry.info
    const again = yield* currentEntry(relayId, String(generation), event)
    if (!again.current || again.entry.token !== first.entry.token)
      return yield* Effect.fail<Refusal>("stale-generation")
    if (!again.allowed) return yield* Effect.fail<Refusal>("forbidden")
    const provider = hookProviders[again.entry.provider]
    const hookEvent = yield* read(body, hook.maxBodyBytes, (text) =>
      provider.decodeEvent(event, text, () => `hook-${crypto.randomUUID()}`)
    )
    return { entry: again.entry, hookEvent }
  })

  const answer = Effect.fnUntraced(function* (request: Http.IncomingMessage) {
    if (request.method !== "POST") return yield* Effect.fail<Refusal>("method")
    const event = eventOfPath.get(request.url)
    if (event === undefined) return yield* Effect.fail<Refusal>("malformed")
    if (declaredBytes(request) > hook.maxBodyBytes) return yield* Effect.fail<Refusal>("too-large")
    const relayId = request.headers[relayHeader]
    const generation = request.headers[generationHeader]
    if (typeof relayId !== "string" || typeof generation !== "string")
      return yield* Effect.fail<Refusal>("forbidden")
    const first = yield* currentEntry(relayId, generation, event)
    return yield* answerFor(request, event, first).pipe(
      // Dropped without an answer, it asks the next gateway.
      Effect.onInterrupt(() =>
        Effect.flatMap(first.entry.leaving, (leaving) =>
          Effect.sync(() => leaving && request.socket.destroy())
        )
      )
    )
  })

  const decideFor = Effect.fnUntraced(function* (
    request: Http.IncomingMessage,
    event: HookEventName,
    first: Effect.Success<ReturnType<typeof currentEntry>>
  ) {
    const { entry, hookEvent } = yield* Effect.tapError(
      admitted(request, event, first),
      () => first.entry.refused
    )
    // Without its row in the audit log a decision may not be answered; the client falls in its declared direction.
    const decision = yield* entry.decide(hookEvent, "hook").pipe(
      Effect.tapError((error) => Effect.logError(error.message)),
      Effect.mapError((): Refusal => "refused")
    )
    return hookProviders[entry.provider].encodeDecision(hookEvent, decision, entry.attended)
  })

  const answerFor = (
    request: Http.IncomingMessage,
    event: HookEventName,
    first: Effect.Success<ReturnType<typeof currentEntry>>
  ): Effect.Effect<string, Refusal> => {
    if (!isBearer(request.headers.authorization, first.entry))
      return Effect.andThen(first.entry.refused, Effect.fail<Refusal>("forbidden"))
    const permits = permitsOf(request, hook.maxBodyBytes)
    const deciding = decideFor(request, event, first)
    return permits === 0 ? deciding : largeBudget.withPermits(permits)(deciding)
  }

  const handle = (request: Http.IncomingMessage, response: Http.ServerResponse): Effect.Effect<void> =>
    answer(request).pipe(
      Effect.matchEffect({
        onSuccess: (body) => Effect.sync(() => respond(response, 200, body, !server.listening)),
        onFailure: (refusal) =>
          (declaredBytes(request) > hook.maxBodyBytes ? Effect.void : drained(request)).pipe(
            Effect.andThen(Effect.sync(() => respond(response, statusOf[refusal], "", true)))
          )
      }),
      Effect.catchCauseIf(
        (cause) => !Cause.hasInterruptsOnly(cause),
        (cause) =>
          Effect.andThen(
            Effect.logError("A hook could not be answered", cause),
            Effect.sync(() => respond(response, statusOfDefect, "", true))
          )
      ),
      // The client left, or the gateway closes: then this is the last it hears.
      Effect.onInterrupt(() => Effect.sync(() => respond(response, statusOfCause.refused, "", true)))
    )

  const deciding = yield* FiberSet.make<void>()
  const run = yield* FiberSet.runtime(deciding)<never>()

  const server = http.createServer(
    { maxHeaderSize: maxHeadBytes, headersTimeout: bodyDeadlineMs, requestTimeout: 2 * bodyDeadlineMs },
    (request, response) => {
      response.sendDate = false
      const fiber = run(handle(request, response))
      response.on("close", () => {
        if (!response.writableFinished) fiber.interruptUnsafe()
      })
    }
  )
  server.maxConnections = maxConnections
  // Node's own head deadline starts with the first byte; a connection that never speaks would hold its place for ever.
  server.on("connection", (socket) => {
    watchPeer(socket)
    socket.setTimeout(bodyDeadlineMs, () => socket.destroy())
  })
  server.on("request", ({ socket }: Http.IncomingMessage) => socket.setTimeout(0))

  yield* Effect.acquireRelease(listening(server, socketPath), () =>
    Effect.gen(function* () {
      const closed = Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
      const closing = yield* Effect.forkChild(closed, { startImmediately: true })
      yield* FiberSet.clear(deciding)
      // What a client has not read by then it will not read.
      yield* Effect.timeoutOrElse(Fiber.join(closing), {
        duration: closeGraceMs,
        orElse: () =>
          Effect.andThen(
            Effect.sync(() => server.closeAllConnections()),
            Fiber.join(closing)
          )
      })
    })
  )
  // Out of file descriptors, say: the connection is lost to its client, which retries.
  server.on("error", (cause) => void run(Effect.logError("The hook socket failed to accept", cause)))

  return HookRelay.of({ socketPath })
})

export const layer = Layer.effect(HookRelay, make)
