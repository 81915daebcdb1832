/**
 * One WebSocket between a node and its gateway, and the two conversations on it: in one the gateway asks and the node answers,
 * in the other the node asks. A frame is the letter of its conversation and then text of that conversation's protocol.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import {
  CloseEvent,
  make as makeSocket,
  type Socket,
  SocketCloseError,
  SocketError,
  SocketWriteError
} from "effect/socket/Socket"
import type WebSocket from "ws"

/** Of who asks. */
export type Lane = "g" | "n"

/** A hook's payload has at most 5 MB, and is quoted once more as JSON here. */
export const maxMessageBytes = 12 * 1024 * 1024
/** Frames of one conversation that are not read yet; then nothing more is read of the connection. */
const maxUnreadFrames = 256
/** The same in characters. */
const maxUnread = 16 * 1024 * 1024
/** What the other side has not taken yet; one that is so far behind is not reading. */
const maxUnsentBytes = 64 * 1024 * 1024

export class WsClosed extends Schema.TaggedError<WsClosed>()("WsClosed", {
  code: Schema.Int,
  reason: Schema.String
}) {
  override get message(): string {
    return this.reason === ""
      ? `The connection was closed (${this.code}).`
      : `The connection was closed: ${this.reason}.`
  }
}

export interface WsLink {
  readonly lane: (lane: Lane) => Socket
  /** The next of the messages that come before there are lanes: a text. */
  readonly greeting: Effect.Effect<string, WsClosed>
  readonly greet: (text: string) => Effect.Effect<void, WsClosed>
  readonly closed: Effect.Effect<WsClosed>
  /** Milliseconds of the monotonic clock at which something of the other side came last. */
  readonly heardAt: () => number
  /** Milliseconds since then. */
  readonly silentMs: () => number
  readonly ping: Effect.Effect<void>
  readonly close: (code: number, reason: string) => Effect.Effect<void>
}

/** RFC 6455, 7.4: what a side may say; a reason has 123 bytes at most. */
export const closeCodes = { normal: 1000, policy: 1008, restart: 1012, later: 1013 } as const
const maxReasonLength = 120
/** A close that is not answered. */
const closeGraceMs = 1_000

const writeFailed = (problem: string) =>
  new SocketError({ reason: new SocketWriteError({ cause: new Error(problem) }) })

/**
 * Closed, whatever comes, with the scope. The first `greetings` messages belong to no lane and each later one does: told by
 * their number, because the next one may be here before anybody has read the last of them.
 */
export const makeWsLink = Effect.fnUntraced(function* (
  socket: WebSocket,
  greetings: number
): Effect.fn.Return<WsLink, never, Scope.Scope> {
  const greeted = yield* Queue.bounded<string>(greetings)
  const lanes = {
    g: yield* Queue.bounded<string>(maxUnreadFrames),
    n: yield* Queue.bounded<string>(maxUnreadFrames)
  }
  const over = yield* Deferred.make<WsClosed>()
  let toGreet = greetings
  const unread = { g: 0, n: 0 }
  const clock = yield* Clock.Clock
  const now = (): number => Number(clock.currentTimeNanosUnsafe()) / 1e6
  let heardAt = now()

  const end = (code: number, reason: string): void => {
    Deferred.doneUnsafe(over, Effect.succeed(new WsClosed({ code, reason })))
  }
  const refuse = (problem: string): void => socket.close(closeCodes.policy, problem)

  const onMessage = (data: WebSocket.RawData, isBinary: boolean): void => {
    heardAt = now()
    if (isBinary) return refuse("binary frames are not spoken here")
    // `ws` hands out one Buffer where nothing else is asked for.
    const text = (data as Buffer).toString("utf8")
    if (toGreet > 0) {
      toGreet--
      Queue.offerUnsafe(greeted, text)
      return
    }
    const lane = text[0]
    if (lane !== "g" && lane !== "n") return refuse("a frame of no conversation")
    if (!Queue.offerUnsafe(lanes[lane], text.slice(1))) refuse("answers are not read")
    else {
      unread[lane] += text.length
      if (Queue.sizeUnsafe(lanes[lane]) > maxUnreadFrames / 2 || unread[lane] > maxUnread) socket.pause()
    }
  }
  socket.on("message", onMessage)
  socket.on("pong", () => (heardAt = now()))
  socket.on("ping", () => (heardAt = now()))
  socket.on("error", (error) => end(1006, error.message))
  socket.on("close", (code, reason) => end(code, reason.toString("utf8")))
  if (socket.readyState !== socket.OPEN) end(1006, "it was closed already")

  const closed = Deferred.await(over)
  const send = (text: string): Effect.Effect<void, SocketError> =>
    Effect.callback<void, SocketError>((resume) => {
      if (socket.readyState !== socket.OPEN) return resume(Effect.fail(writeFailed("closed")))
      if (socket.bufferedAmount > maxUnsentBytes) {
        socket.terminate()
        return resume(Effect.fail(writeFailed("the other side does not read")))
      }
      socket.send(text, (error) =>
        resume(error === undefined || error === null ? Effect.void : Effect.fail(writeFailed(error.message)))
      )
    })

  const lane = (name: Lane): Socket =>
    makeSocket({
      reader: Effect.succeed({
        pull: Effect.raceFirst(
          Effect.tap(Queue.takeBetween(lanes[name], 1, maxUnreadFrames), () =>
            Effect.sync(() => {
              unread[name] = 0
              if (socket.isPaused) socket.resume()
            })
          ) as Effect.Effect<[string, ...Array<string>]>,
          Effect.flatMap(closed, ({ code }) =>
            Effect.fail(new SocketError({ reason: new SocketCloseError({ code }) }))
          )
        ),
        upgrade: () => Effect.fail(writeFailed("it is TLS already"))
      }),
      writer: Effect.succeed({
        write: (chunk) => (chunk instanceof CloseEvent ? Effect.void : send(`${name}${textOf(chunk)}`)),
        writeAll: (chunks) => send(`${name}${chunks.map(textOf).join("")}`)
      })
    })

  const close = (code: number, reason: string) =>
    Effect.suspend(() => {
      if (socket.readyState === socket.OPEN) socket.close(code, reason.slice(0, maxReasonLength))
      return Effect.timeoutOrElse(Effect.asVoid(closed), {
        duration: closeGraceMs,
        orElse: () => Effect.sync(() => socket.terminate())
      })
    })
  yield* Effect.addFinalizer(() => close(closeCodes.normal, ""))

  return {
    lane,
    greeting: Effect.raceFirst(Queue.take(greeted), Effect.flatMap(closed, Effect.fail)),
    greet: (text) =>
      Effect.mapError(send(text), () => new WsClosed({ code: 1006, reason: "it was lost while greeting" })),
    closed,
    heardAt: () => heardAt,
    silentMs: () => now() - heardAt,
    ping: Effect.sync(() => {
      if (socket.readyState === socket.OPEN) socket.ping()
    }),
    close
  }
})

const textOf = (chunk: string | Uint8Array): string =>
  typeof chunk === "string" ? chunk : Buffer.from(chunk).toString("utf8")
