/**
 * A server on a Unix socket of this user alone: 0600 in a private directory, taken over only from nobody.
 *
 * No caller holds it up. What is written to one that left is dropped, and one that does not read its answers can be cut off.
 */
import { NetSocket } from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { isSocketError, make as makeSocket, type Socket } from "effect/socket/Socket"
import { SocketServer } from "effect/socket/SocketServer"
import * as fs from "node:fs"
import type * as net from "node:net"
import * as path from "node:path"
import { ensurePrivateDirectory } from "./privateDirectory.ts"
import { checkSocketPath, clearStaleSocket } from "./unixSocket.ts"

/**
 * A socket whose writes end. The library waits for `drain` or `close` after a write, which never come when the connection
 * closed before it; and it waits in a place that cannot be interrupted.
 */
const dropping = (socket: Socket, connection: net.Socket): Socket => {
  const unlessGone = <E>(write: Effect.Effect<void, E>): Effect.Effect<void, E> =>
    Effect.suspend(() => (connection.writable ? write : Effect.void))
  return makeSocket({
    reader: socket.reader,
    writer: Effect.map(socket.writer, ({ write, writeAll }) => ({
      write: (chunk) => unlessGone(write(chunk)),
      writeAll: (chunks) => unlessGone(writeAll(chunks))
    }))
  })
}

export interface PrivateServerOptions<E> {
  readonly socketPath: string
  readonly fail: (problem: "in-use" | "unusable") => E
  /** Past this a connection is closed at once. */
  readonly maxCallers: number
  /** Who is not admitted is cut off before a byte is read. */
  readonly admits: (connection: net.Socket) => boolean
}

export const makePrivateServer = Effect.fnUntraced(function* <E>(options: PrivateServerOptions<E>) {
  const { socketPath, fail, maxCallers, admits } = options
  yield* checkSocketPath(socketPath)
  yield* ensurePrivateDirectory(path.dirname(socketPath))
  yield* clearStaleSocket(socketPath, fail)
  const server = yield* Effect.mapError(NodeSocketServer.make({ path: socketPath }), () => fail("unusable"))
  // The directory already keeps others out; the mode says the same to whoever looks at the file alone.
  yield* Effect.try({ try: () => fs.chmodSync(socketPath, 0o600), catch: () => fail("unusable") })

  /** Who is connected, with how much had been sent when it was last looked at. */
  const callers = new Map<net.Socket, number>()
  return {
    server: SocketServer.of({
      ...server,
      run: (handler) =>
        server.run((socket) =>
          Effect.gen(function* () {
            // The library gives it to every handler without saying so in a type.
            const connection = Option.getOrThrow(yield* Effect.serviceOption(NetSocket))
            if (callers.size >= maxCallers || !admits(connection)) return connection.destroy()
            callers.set(connection, 0)
            connection.once("close", () => callers.delete(connection))
            return yield* handler(dropping(socket, connection))
          }).pipe(
            // A caller that leaves in the middle of an answer is its own business; the library would log it as an error.
            Effect.catchCauseIf(
              (cause) => isSocketError(Cause.squash(cause)),
              () => Effect.logDebug("a caller left a private socket")
            )
          )
        )
    }),
    /** Ends every connection that took nothing of its answer since the last call. */
    cutOff: Effect.sync(() => {
      for (const [connection, sent] of callers) {
        // What the connection holds back itself counts as written.
        const taken = connection.bytesWritten - connection.writableLength
        if (connection.writableLength > 0 && taken === sent) connection.destroy()
        else callers.set(connection, taken)
      }
    })
  }
})
