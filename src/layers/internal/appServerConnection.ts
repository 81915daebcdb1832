/**
 * One app-server connection over any pair of byte streams: requests matched to answers, everything else routed by thread.
 * Pending requests and routes fail together, once, when the connection is lost.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  type AppServerConnection,
  AppServerLost,
  AppServerRejected,
  AppServerRequestTimeout,
  AppServerUnexpected,
  BorrowerShed,
  type Incoming,
  type PoisonReason,
  threadQueueCapacity
} from "../../services/AppServerProcess.ts"
import {
  type Frame,
  makeLineSplitter,
  parseFrame,
  type RpcId,
  threadsOf
} from "../../services/AppServerProtocol.ts"
import { redact } from "../../services/Redaction.ts"

/** Codex logs to stderr; one stray line on stdout is noise, this many in a row mean that framing is lost. */
const maxGarbageLines = 3
/** Sub-agent threads remembered per connection; the oldest is forgotten, and its requests are then refused. */
const maxChildThreads = 4096
/** What of a foreign error text is shown. */
const maxDetailLength = 300
/** JSON-RPC "method not found": what nobody here answers is refused, and Codex then does not run the call. */
const notOurs = { code: -32601, message: "this gateway does not answer such a request" }
const noBorrower = { code: -32601, message: "no run of this gateway owns that thread" }

export interface Transport {
  /** Fails with the reason when it knows one; a plain end is `stdio-closed`. */
  readonly input: Stream.Stream<Uint8Array, PoisonReason>
  readonly write: (text: string) => Effect.Effect<void, PoisonReason>
}

type Route = Queue.Queue<Incoming, AppServerLost | BorrowerShed>

export interface OpenConnection {
  readonly request: AppServerConnection["request"]
  readonly notify: (method: string) => Effect.Effect<void, AppServerLost>
  readonly thread: AppServerConnection["thread"]
  readonly lost: Effect.Effect<AppServerLost>
  /** Fails everything pending; the first reason stands. */
  readonly poison: (reason: PoisonReason) => Effect.Effect<void>
}

export const open = Effect.fnUntraced(function* (options: {
  readonly generation: number
  readonly transport: Transport
  readonly requestTimeoutMs: number
  readonly stderrTail: () => string
}): Effect.fn.Return<OpenConnection, never, Scope.Scope> {
  const { generation, transport, requestTimeoutMs } = options
  const lost = yield* Deferred.make<AppServerLost>()
  const pending = new Map<RpcId, Deferred.Deferred<Frame, AppServerLost>>()
  const routes = new Map<string, Route>()
  const parents = new Map<string, string>()
  let nextId = 1
  let failure: AppServerLost | null = null

  const poison = (reason: PoisonReason) =>
    Effect.suspend(() => {
      if (failure) return Effect.void
      failure = new AppServerLost({ generation, reason, stderrTail: redact(options.stderrTail()) })
      const error = failure
      for (const waiter of pending.values()) Deferred.doneUnsafe(waiter, Effect.fail(error))
      pending.clear()
      for (const route of routes.values()) Queue.failCauseUnsafe(route, Cause.fail(error))
      routes.clear()
      return Effect.asVoid(Deferred.succeed(lost, error))
    })

  const write = (message: unknown): Effect.Effect<void, AppServerLost> =>
    Effect.suspend((): Effect.Effect<void, AppServerLost> =>
      failure
        ? Effect.fail(failure)
        : Effect.catch(transport.write(`${JSON.stringify(message)}\n`), (reason) =>
            Effect.andThen(
              poison(reason),
              Effect.suspend(() => Effect.fail(failure!))
            )
          )
    )

  /** A sub-agent's message to its parent names the parent in the same form; taken for a child it would close a circle. */
  const isAncestor = (candidate: string, threadId: string): boolean => {
    for (let id: string | undefined = threadId; id !== undefined; id = parents.get(id))
      if (id === candidate) return true
    return false
  }

  const routeOf = (threadId: string | null): readonly [string, Route] | null => {
    for (let id = threadId; id !== null; id = parents.get(id) ?? null) {
      const route = routes.get(id)
      if (route) return [id, route]
    }
    return null
  }

  const deliver = (frame: Extract<Frame, { readonly _tag: "notification" | "request" }>) => {
    const { threadId, child } = threadsOf(frame.params)
    if (
      child !== null &&
      threadId !== null &&
      !parents.has(child) &&
      !routes.has(child) &&
      !isAncestor(child, threadId)
    ) {
      if (parents.size >= maxChildThreads) parents.delete(parents.keys().next().value!)
      parents.set(child, threadId)
    }
    const found = routeOf(threadId)
    if (found === null)
      return frame._tag === "request"
        ? Effect.ignore(write({ id: frame.id, error: noBorrower }))
        : Effect.void
    const [id, route] = found
    const { method, params } = frame
    const message: Incoming =
      frame._tag === "notification"
        ? { _tag: "notification", method, params }
        : {
            _tag: "request",
            method,
            params,
            respond: (result) => write({ id: frame.id, result }),
            refuse: write({ id: frame.id, error: notOurs })
          }
    if (Queue.offerUnsafe(route, message)) return Effect.void
    routes.delete(id)
    Queue.failCauseUnsafe(route, Cause.fail(new BorrowerShed({ threadId: id })))
    return frame._tag === "request" ? Effect.ignore(write({ id: frame.id, error: noBorrower })) : Effect.void
  }

  const split = makeLineSplitter()
  let garbage = 0
  const onChunk = (chunk: Uint8Array) =>
    Effect.gen(function* () {
      const lines = split(chunk)
      if (lines === null) return yield* poison({ _tag: "frame-too-large" })
      for (const line of lines) {
        const frame = parseFrame(line)
        garbage = frame._tag === "garbage" ? garbage + 1 : 0
        if (garbage >= maxGarbageLines) return yield* poison({ _tag: "unframeable", lines: garbage })
        if (frame._tag === "response" || frame._tag === "error") {
          const waiter = pending.get(frame.id)
          if (waiter) {
            pending.delete(frame.id)
            yield* Deferred.succeed(waiter, frame)
          }
        } else if (frame._tag !== "garbage") yield* deliver(frame)
      }
    })

  yield* transport.input.pipe(
    Stream.takeWhile(() => failure === null),
    Stream.runForEach(onChunk),
    Effect.matchEffect({ onFailure: poison, onSuccess: () => poison({ _tag: "stdio-closed" }) }),
    Effect.forkScoped
  )

  const request = <A>(
    method: string,
    params: unknown,
    result: Schema.Codec<A, unknown>,
    timeoutMs: number = requestTimeoutMs
  ) =>
    Effect.gen(function* () {
      if (failure) return yield* failure
      const id = nextId++
      const waiter = yield* Deferred.make<Frame, AppServerLost>()
      pending.set(id, waiter)
      const frame = yield* Effect.andThen(write({ id, method, params }), Deferred.await(waiter)).pipe(
        Effect.timeoutOrElse({
          duration: timeoutMs,
          orElse: () => Effect.fail(new AppServerRequestTimeout({ method, timeoutMs }))
        }),
        Effect.ensuring(Effect.sync(() => pending.delete(id)))
      )
      if (frame._tag === "error")
        return yield* new AppServerRejected({
          method,
          code: frame.code,
          detail: redact(frame.message).slice(0, maxDetailLength)
        })
      return yield* Schema.decodeUnknownEffect(result)(frame._tag === "response" ? frame.result : null).pipe(
        Effect.mapError(
          (error) =>
            new AppServerUnexpected({
              method,
              problem: error.message.replace(/\s*\n\s*/g, " ").slice(0, maxDetailLength)
            })
        )
      )
    })

  return {
    request,
    notify: (method) => write({ method }),
    thread: (threadId) =>
      Effect.acquireRelease(
        Effect.gen(function* () {
          const route: Route = yield* Queue.dropping<Incoming, AppServerLost | BorrowerShed>(
            threadQueueCapacity
          )
          if (failure) Queue.failCauseUnsafe(route, Cause.fail(failure))
          else routes.set(threadId, route)
          return route
        }),
        (route) =>
          Effect.suspend(() => {
            if (routes.get(threadId) === route) routes.delete(threadId)
            for (const [child, parent] of parents) if (parent === threadId) parents.delete(child)
            return Queue.shutdown(route)
          })
      ),
    lost: Deferred.await(lost),
    poison
  }
})
