/** The server's side of a connection, over two queues: what we wrote, and a way to say lines. */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { open, type RpcError } from "../../src/layers/internal/appServerConnection.ts"
import { AppServerLost } from "../../src/services/AppServerFailure.ts"

const encoder = new TextEncoder()

export interface Written {
  readonly params?: unknown
  readonly id?: number
  readonly method?: string
  readonly result?: unknown
  readonly error?: { readonly code: number; readonly message: string }
}

export const makePeer = Effect.fnUntraced(function* (
  options: {
    readonly generation?: number
    readonly cpuTimeMs?: () => number | null
    readonly onServerRequest?: (method: string, params: unknown) => Effect.Effect<unknown, RpcError>
  } = {}
) {
  const input = yield* Queue.unbounded<Uint8Array, Cause.Done>()
  const written = yield* Queue.unbounded<Written>()
  let breaks = false
  const connection = yield* open({
    generation: options.generation ?? 7,
    requestTimeoutMs: 1000,
    stderrTail: () => "panic: api_key=sk-abcdefghijklmnopqrstuvwx",
    life: {
      probeIntervalMs: 10_000,
      probeTimeoutMs: 10_000,
      silentLimitMs: 30_000,
      cpuTimeMs: options.cpuTimeMs ?? (() => null)
    },
    onServerRequest: options.onServerRequest ?? (() => Effect.fail({ code: -32601, message: "no" })),
    transport: {
      input: Stream.fromQueue(input),
      write: (text) =>
        breaks
          ? Effect.fail({ _tag: "write-failed", code: "EPIPE" } as const)
          : Effect.asVoid(Queue.offer(written, JSON.parse(text)))
    }
  })
  const say = (value: unknown) =>
    Effect.andThen(
      Queue.offer(input, encoder.encode(`${typeof value === "string" ? value : JSON.stringify(value)}\n`)),
      TestClock.adjust(0)
    )
  return {
    connection,
    written,
    say,
    /** Bytes, cut anywhere. */
    send: (chunk: Uint8Array) => Queue.offer(input, chunk),
    /** Everything said so far has been routed when this is done. */
    settle: Effect.scoped(
      Effect.gen(function* () {
        const inbox = yield* connection.thread("settle")
        yield* say({ method: "settle", params: { threadId: "settle" } })
        yield* Queue.take(inbox)
      })
    ),
    hangUp: Queue.end(input),
    breakPipe: () => {
      breaks = true
    }
  }
})
export type Peer = Effect.Success<ReturnType<typeof makePeer>>

export const lost = (reason: AppServerLost["reason"], generation = 7) =>
  new AppServerLost({ generation, reason, stderrTail: "panic: api_key=[redacted]" })

/** What is the reason by now, if the connection is lost. */
export const reasonNow = Effect.fnUntraced(function* (peer: Peer) {
  const waiting = yield* Effect.forkChild(peer.connection.lost, { startImmediately: true })
  const exit = waiting.pollUnsafe()
  yield* Fiber.interrupt(waiting)
  return exit?._tag === "Success" ? exit.value.reason : null
})
