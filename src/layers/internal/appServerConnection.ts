/**
 * One app-server connection over any pair of byte streams: requests matched to answers, everything else routed by thread.
 * Pending requests and routes fail together, once, when the connection is lost; until then one borrower's flood, silence or
 * deadline is its own affair.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  AppServerLost,
  AppServerOverloaded,
  AppServerRequestTimeout,
  AppServerUnexpected,
  type BorrowerShed,
  failureOfRejection,
  overloadedCode,
  type PoisonReason,
  type RequestFailure
} from "../../services/AppServerFailure.ts"
import {
  type AppServerConnection,
  type Incoming,
  threadQueueCapacity
} from "../../services/AppServerProcess.ts"
import {
  type Frame,
  leavesSomething,
  makeLineSplitter,
  mayDrop,
  opensThread,
  parseFrame,
  type RpcId,
  threadsOf,
  undoing
} from "../../services/AppServerProtocol.ts"
import { redact } from "../../services/Redaction.ts"
import { makeRoutes } from "./appServerRoutes.ts"
import { type Life, type Pulse, showsLife, untilSilent } from "./appServerWatch.ts"

/** Codex logs to stderr; one stray line on stdout is noise, this many in a row mean that framing is lost. */
const maxGarbageLines = 3
/** Requests given up on whose answers may still come; the oldest is forgotten, and its answer then counts as unknown. */
const maxAbandoned = 1024
/**
 * Answers that nobody waits for, per connection: a few are what a forgotten request or a clumsy middleman leaves behind;
 * more mean that the two sides count differently, and then any answer may be another request's.
 */
const maxUnknownResponses = 8
/** The server's requests about no thread that are worked on at once; the next one is refused as overload. */
const maxServerRequests = 16
/** Above every handler's own deadline (9 s for a token refresh), whose error says more; Codex gives up after 10 s. */
const serverRequestTimeoutMs = 9500
/** Refusals and undoings waiting to be written; reading waits when a server asks and does not read the answers. */
const maxOutgoing = 1024
/** Text routed before everybody else has a turn: 0.1 ms of work, so that no thread's lines hold up another's run. */
const batchCharacters = 32 * 1024
/** After a message for nobody so many lines are first looked at unparsed; what has an owner costs nothing extra. */
const watchedStrays = 256
/** An overloaded server took nothing, so asking again is safe: waits of up to 50 ms, 100 ms, ... with full jitter. */
const overloadAttempts = 6
const overloadBaseMs = 50
const overloadCapMs = 1000
/** A thread that is being unloaded refuses to be resumed until that is done, and says so; its MCP servers leave first. */
const closingAttempts = 80
const closingPauseMs = 100
/** What of a foreign error text is shown. */
const maxDetailLength = 300
/** JSON-RPC "method not found": what nobody here answers is refused, and Codex then does not run the call. */
const notOurs = { code: -32601, message: "this gateway does not answer such a request" }
const noBorrower = { code: -32601, message: "no run of this gateway owns that thread" }
const tooMany = { code: overloadedCode, message: "too many such requests at once" }
const broken = { code: -32603, message: "this gateway failed to answer" }
const tooLate = { code: -32603, message: "this gateway did not find the answer in time" }

export interface Transport {
  /** Fails with the reason when it knows one; a plain end is `stdio-closed`. */
  readonly input: Stream.Stream<Uint8Array, PoisonReason>
  readonly write: (text: string) => Effect.Effect<void, PoisonReason>
}

/** The error of a JSON-RPC answer. */
export interface RpcError {
  readonly code: number
  readonly message: string
}

export interface OpenConnection {
  readonly request: AppServerConnection["request"]
  readonly notify: (method: string) => Effect.Effect<void, AppServerLost>
  readonly thread: AppServerConnection["thread"]
  readonly lost: Effect.Effect<AppServerLost>
  /** Fails everything pending; the first reason stands. */
  readonly retire: (reason: PoisonReason) => Effect.Effect<void>
}

type Answer = Extract<Frame, { readonly _tag: "response" | "error" }>

/** "thread ... is closing; retry thread/resume after the thread is closed", measured on 0.169.0. */
const isClosing = (answer: Answer): boolean =>
  answer._tag === "error" && /\bis closing; retry\b/.test(answer.message)
type ServerRequest = Extract<Frame, { readonly _tag: "request" }>

export const open = Effect.fnUntraced(function* (options: {
  readonly generation: number
  readonly transport: Transport
  readonly requestTimeoutMs: number
  readonly stderrTail: () => string
  readonly life: Life
  /** Answers what the server asks about no thread, such as a fresh token. */
  readonly onServerRequest: (method: string, params: unknown) => Effect.Effect<unknown, RpcError>
}): Effect.fn.Return<OpenConnection, never, Scope.Scope> {
  const { generation, transport, requestTimeoutMs, life } = options
  const lost = yield* Deferred.make<AppServerLost>()
  const firstAnswer = yield* Deferred.make<void>()
  const outgoing = yield* Queue.bounded<unknown>(maxOutgoing)
  const serverRequests = yield* FiberSet.make<void>()
  const pending = new Map<RpcId, Deferred.Deferred<Answer, AppServerLost>>()
  const abandoned = new Map<RpcId, { readonly method: string; readonly params: unknown } | null>()
  const routes = makeRoutes()
  let nextId = 1
  let unknownResponses = 0
  let garbage = 0
  let strayLines = 0
  let failure: AppServerLost | null = null
  let heard = 0
  let nextHeard: Deferred.Deferred<void> | null = null

  const retire = (reason: PoisonReason) =>
    Effect.suspend(() => {
      if (failure) return Effect.void
      failure = new AppServerLost({ generation, reason, stderrTail: redact(options.stderrTail()) })
      const error = failure
      for (const waiter of pending.values()) Deferred.doneUnsafe(waiter, Effect.fail(error))
      pending.clear()
      routes.failAll(error)
      return Effect.asVoid(Deferred.succeed(lost, error))
    })

  const write = (message: unknown): Effect.Effect<void, AppServerLost> =>
    Effect.suspend((): Effect.Effect<void, AppServerLost> =>
      failure
        ? Effect.fail(failure)
        : Effect.catch(transport.write(`${JSON.stringify(message)}\n`), (reason) =>
            Effect.andThen(
              retire(reason),
              Effect.suspend(() => Effect.fail(failure!))
            )
          )
    )

  const refuse = ({ id }: ServerRequest, error: RpcError) => Queue.offer(outgoing, { id, error })

  /** What the server asks about no thread; never in the reader's way. */
  const answerServer = Effect.fnUntraced(function* (frame: ServerRequest) {
    const { id, method, params } = frame
    if ((yield* FiberSet.size(serverRequests)) >= maxServerRequests) return yield* refuse(frame, tooMany)
    const answered = options.onServerRequest(method, params).pipe(
      Effect.timeoutOrElse({
        duration: serverRequestTimeoutMs,
        orElse: () => Effect.fail<RpcError>(tooLate)
      }),
      Effect.catchDefect((defect) =>
        Effect.andThen(
          Effect.logError("a request of the app-server could not be answered", method, defect),
          Effect.fail<RpcError>(broken)
        )
      ),
      Effect.matchEffect({
        onSuccess: (result = null) => write({ id, result }),
        onFailure: ({ code, message }) => write({ id, error: { code, message } })
      })
    )
    return yield* FiberSet.run(serverRequests, Effect.ignore(answered))
  })

  const hasOwner = (threadId: string): boolean => routes.ownerOf(threadId) !== null

  const abandon = (id: RpcId, left: { readonly method: string; readonly params: unknown } | null): void => {
    if (abandoned.size >= maxAbandoned) abandoned.delete(abandoned.keys().next().value!)
    abandoned.set(id, left)
  }

  /** A request whose answer nobody waits for. */
  const unasked = (message: { readonly method: string; readonly params: unknown }) => {
    const id = nextId++
    abandon(id, null)
    return { id, ...message }
  }

  /** What is left to do when a frame could not just be put where it belongs. */
  type Rest = Effect.Effect<unknown> | null

  const deliver = (
    frame: Extract<Frame, { readonly _tag: "notification" | "request" }>,
    length: number
  ): Rest => {
    const { threadId, child } = threadsOf(frame.params)
    if (threadId === null) return frame._tag === "request" ? answerServer(frame) : null
    if (child !== null) routes.adopt(child, threadId)
    const route = routes.ownerOf(threadId)
    if (route !== null) {
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
      if (routes.offer(route, message, length)) return null
    }
    strayLines = watchedStrays
    return frame._tag === "request" ? refuse(frame, noBorrower) : null
  }

  const settle = (frame: Answer): Rest => {
    const waiter = pending.get(frame.id)
    if (waiter) {
      pending.delete(frame.id)
      Deferred.doneUnsafe(waiter, Effect.succeed(frame))
      Deferred.doneUnsafe(firstAnswer, Effect.void)
      return null
    }
    const late = abandoned.get(frame.id)
    if (abandoned.delete(frame.id)) {
      const undo = late && frame._tag === "response" ? undoing(late.method, late.params, frame.result) : null
      return undo === null ? null : Queue.offer(outgoing, unasked(undo))
    }
    if (++unknownResponses <= maxUnknownResponses) return null
    return retire({ _tag: "unknown-responses", count: unknownResponses })
  }

  const onLine = (line: string): Rest => {
    if (strayLines > 0) {
      strayLines--
      if (mayDrop(line, hasOwner)) {
        strayLines = watchedStrays
        garbage = 0
        return null
      }
    }
    const frame = parseFrame(line)
    if (frame._tag === "garbage")
      return ++garbage < maxGarbageLines ? null : retire({ _tag: "unframeable", lines: garbage })
    garbage = 0
    return frame._tag === "response" || frame._tag === "error" ? settle(frame) : deliver(frame, line.length)
  }

  const split = makeLineSplitter()
  let batch = 0
  const onChunk = Effect.fnUntraced(function* (chunk: Uint8Array) {
    heard++
    if (nextHeard !== null) {
      Deferred.doneUnsafe(nextHeard, Effect.void)
      nextHeard = null
    }
    const lines = split(chunk)
    if (lines === null) return yield* retire({ _tag: "frame-too-large" })
    for (const line of lines) {
      if (batch >= batchCharacters) {
        batch = 0
        yield* Effect.yieldNow
      }
      if (failure) return
      batch += line.length
      const rest = onLine(line)
      if (rest !== null) yield* rest
    }
  })

  yield* transport.input.pipe(
    Stream.takeWhile(() => failure === null),
    Stream.runForEach(onChunk),
    Effect.matchEffect({ onFailure: retire, onSuccess: () => retire({ _tag: "stdio-closed" }) }),
    Effect.forkScoped
  )
  yield* Effect.forkScoped(Effect.ignore(Effect.forever(Effect.flatMap(Queue.take(outgoing), write))))

  /** Sent once. An answer that comes after its asker has gone is expected, and not held against the server. */
  const attempt = (method: string, params: unknown): Effect.Effect<Answer, AppServerLost> =>
    Effect.suspend(() => {
      if (failure) return Effect.fail(failure)
      const id = nextId++
      const waiter = Deferred.makeUnsafe<Answer, AppServerLost>()
      pending.set(id, waiter)
      return Effect.andThen(write({ id, method, params }), Deferred.await(waiter)).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            if (!pending.delete(id)) return
            abandon(id, leavesSomething(method) ? { method, params } : null)
          })
        )
      )
    })

  const pulse: Pulse = {
    life,
    heard: () => heard,
    nextHeard: Effect.suspend(() => Deferred.await((nextHeard ??= Deferred.makeUnsafe<void>()))),
    probe: Effect.ignore(attempt("account/read", {}))
  }
  // Not before the first answer: `initialize` has a deadline of its own.
  yield* Deferred.await(firstAnswer).pipe(
    Effect.andThen(untilSilent(pulse)),
    Effect.flatMap(retire),
    Effect.raceFirst(Deferred.await(lost)),
    Effect.forkScoped
  )

  const overdue = Effect.fnUntraced(function* (method: string, timeoutMs: number) {
    if (opensThread(method) && !(yield* showsLife(pulse)))
      yield* retire({ _tag: "thread-indeterminate", method, timeoutMs })
    return yield* failure ?? new AppServerRequestTimeout({ method, timeoutMs })
  })

  const accepted = (
    method: string,
    params: unknown,
    timeoutMs: number
  ): Effect.Effect<Answer, RequestFailure> =>
    Effect.suspend(() => {
      let attempts = 0
      let closings = 0
      let resting = false
      const overloaded = () => Effect.fail(new AppServerOverloaded({ method, attempts }))
      const trying = Effect.gen(function* () {
        while (true) {
          const answer = yield* attempt(method, params)
          if (isClosing(answer) && ++closings < closingAttempts) {
            yield* Effect.sleep(closingPauseMs)
            continue
          }
          if (answer._tag !== "error" || answer.code !== overloadedCode) return answer
          if (++attempts >= overloadAttempts) return yield* overloaded()
          resting = true
          const ceiling = Math.min(overloadCapMs, overloadBaseMs * 2 ** (attempts - 1))
          yield* Effect.sleep((yield* Random.next) * ceiling)
          resting = false
        }
      })
      return Effect.timeoutOrElse(trying, {
        duration: timeoutMs,
        orElse: (): Effect.Effect<never, RequestFailure> =>
          resting ? overloaded() : overdue(method, timeoutMs)
      })
    })

  const request = Effect.fnUntraced(function* <A>(
    method: string,
    params: unknown,
    result: Schema.Codec<A, unknown>,
    timeoutMs: number = requestTimeoutMs
  ): Effect.fn.Return<A, RequestFailure> {
    const answer = yield* accepted(method, params, timeoutMs)
    if (answer._tag === "error")
      return yield* failureOfRejection(method, answer.code, redact(answer.message).slice(0, maxDetailLength))
    return yield* Schema.decodeUnknownEffect(result)(answer.result).pipe(
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
    thread: Effect.fnUntraced(function* (threadId: string) {
      const inbox = yield* Effect.acquireRelease(
        Queue.dropping<Incoming, AppServerLost | BorrowerShed>(threadQueueCapacity),
        Queue.shutdown
      )
      if (failure) Queue.failCauseUnsafe(inbox, Cause.fail(failure))
      else
        yield* Effect.acquireRelease(
          Effect.sync(() => routes.open(threadId, inbox)),
          (route) => Effect.sync(() => routes.close(route))
        )
      return inbox
    }),
    lost: Deferred.await(lost),
    retire
  }
})
