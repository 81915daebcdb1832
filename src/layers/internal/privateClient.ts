/**
 * The caller's end of a private Unix socket: one connection for as long as its scope, whose every question is answered or
 * lost with it.
 *
 * The connection is ours and not dialled by the library, which waits for `drain` or `close` after a write to one that closed
 * before it: its one fiber that reads then never says that the connection is gone, and nobody who asked is answered.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcClient from "effect/rpc/RpcClient"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { make as makeSocket, Socket, SocketError, SocketWriteError } from "effect/socket/Socket"
import * as Stream from "effect/Stream"
import * as net from "node:net"
import { errorCode } from "./errorCode.ts"

/**
 * The kernel closes a local socket with the process behind it, so silence says only that the process is stopped, in a
 * debugger or on a machine that was put to sleep. By the library's 5 s each of those would cost every caller its turn.
 */
const pingIntervalMs = 60_000
/** Longer than anybody stops one on purpose: as long as Linux lets TCP try in vain by default (tcp_retries2). */
const pingTimeoutMs = 15 * 60_000

/** Nobody took the call; the code is the system's, ENOENT or ECONNREFUSED where nobody listens. */
export class NotConnected extends Schema.TaggedError<NotConnected>()("NotConnected", {
  path: Schema.String,
  code: Schema.String
}) {
  override get message(): string {
    return `Nobody answers on ${this.path} (${this.code}).`
  }
}

/** A local socket connects or is refused at once, with a full queue too (EAGAIN): there is nothing to wait for. */
const dial = (path: string): Effect.Effect<net.Socket, NotConnected, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<net.Socket, NotConnected>((resume) => {
      const connection = net.createConnection(path)
      connection.once("connect", () => resume(Effect.succeed(connection)))
      connection.on("error", (error) =>
        resume(Effect.fail(new NotConnected({ path, code: errorCode(error) ?? "unknown" })))
      )
      return Effect.sync(() => connection.destroy())
    }),
    (connection) => Effect.sync(() => connection.destroySoon())
  )

const closed = Effect.fail(
  new SocketError({ reason: new SocketWriteError({ cause: new Error("the connection is closed") }) })
)

/** A socket whose writes end: a message of no use any more would hold up whoever sends it. */
const unlessClosed =
  (connection: net.Socket) =>
  (write: Effect.Effect<void, SocketError>): Effect.Effect<void, SocketError> =>
    Effect.suspend(() => (connection.writable ? write : closed))

/** Reads once: what ends its reader ends the connection. */
const socketOf = (connection: net.Socket): Effect.Effect<Socket> =>
  Effect.map(
    NodeSocket.fromDuplex(
      Effect.acquireRelease(
        Effect.suspend(() => (connection.destroyed ? closed : Effect.succeed(connection))),
        () => Effect.sync(() => connection.destroySoon())
      )
    ),
    ({ reader, writer }) => {
      const guard = unlessClosed(connection)
      return makeSocket({
        reader,
        writer: Effect.map(writer, ({ write, writeAll }) => ({
          write: (chunk) => guard(write(chunk)),
          writeAll: (chunks) => guard(writeAll(chunks))
        }))
      })
    }
  )

/**
 * A transport that fails, even as the library's defect on writing, is a lost peer; so is one that ends, which interrupts
 * what it has not answered. An interruption of the caller itself never comes by here.
 */
const isLoss = (cause: Cause.Cause<unknown>): boolean => {
  if (Cause.hasInterruptsOnly(cause)) return true
  const error = Cause.squash(cause)
  return (
    Predicate.isTagged(error, "RpcClientError") ||
    (Cause.hasDies(cause) && Predicate.isTagged(error, "SocketError"))
  )
}

type Answer<E> = Effect.Effect<unknown, E> | Stream.Stream<unknown, E>
type Call<E> = (...args: ReadonlyArray<never>) => Answer<E>

interface PrivateClient<Rpcs extends Rpc.Any, E> {
  readonly client: RpcClient.RpcClient<Rpcs, E>
  /** Completes when the connection is gone, whatever became of the peer. */
  readonly gone: Effect.Effect<void>
}

export const makePrivateClient = Effect.fnUntraced(function* <Rpcs extends Rpc.Any, E>(
  group: RpcGroup.RpcGroup<Rpcs>,
  path: string,
  lost: () => E
) {
  const connection = yield* dial(path)
  const gone = yield* Deferred.make<void>()
  const over = () => Deferred.doneUnsafe(gone, Effect.void)
  connection.once("close", over)
  if (connection.closed) over()
  const protocol = yield* Layer.build(
    RpcClient.layerProtocolSocket({
      retryTransientErrors: false,
      retryPolicy: Schedule.recurs(0),
      pingInterval: pingIntervalMs,
      pingTimeout: pingTimeoutMs
    }).pipe(Layer.provide([Layer.effect(Socket, socketOf(connection)), RpcSerialization.layerNdjson]))
  )
  const plain = yield* Effect.provide(
    RpcClient.make(group as unknown as RpcGroup.RpcGroup<Rpc.Rpc<"any", Schema.Any>>),
    protocol
  )
  const loss = Effect.andThen(
    Deferred.await(gone),
    Effect.suspend(() => Effect.fail(lost()))
  )
  const orLost = (answer: Answer<unknown>): Answer<unknown> =>
    Stream.isStream(answer)
      ? Stream.catchCauseIf(Stream.interruptWhen(answer, loss), isLoss, () => Stream.fail(lost()))
      : Effect.catchCauseIf(Effect.raceFirst(answer, loss), isLoss, () => Effect.fail(lost()))
  const client = Object.fromEntries(
    Object.entries<Call<unknown>>(plain as never).map(([tag, call]) => [
      tag,
      (...args: ReadonlyArray<never>) => orLost(call(...args))
    ])
  )
  const one: PrivateClient<Rpcs, E> = {
    client: client as unknown as RpcClient.RpcClient<Rpcs, E>,
    gone: Deferred.await(gone)
  }
  return one
})
