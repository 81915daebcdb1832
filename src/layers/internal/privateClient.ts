/**
 * The caller's end of a private Unix socket: one connection for as long as its scope, whose every question is answered or
 * lost with it.
 *
 * The connection is ours and not dialled by the library, which waits for `drain` or `close` after a write to one that closed
 * before it: its one fiber that reads then never says that the connection is gone, and nobody who asked is answered.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcClient from "effect/rpc/RpcClient"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { make as makeSocket, type Socket, SocketError, SocketWriteError } from "effect/socket/Socket"
import * as net from "node:net"
import { errorCode } from "./errorCode.ts"
import { makeClientOver } from "./rpcClient.ts"

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
  const over = yield* Deferred.make<void>()
  const gone = Deferred.await(over)
  const close = () => Deferred.doneUnsafe(over, Effect.void)
  connection.once("close", close)
  if (connection.closed) close()
  const client = yield* makeClientOver(group, { socket: socketOf(connection), gone }, lost)
  const one: PrivateClient<Rpcs, E> = { client, gone }
  return one
})
