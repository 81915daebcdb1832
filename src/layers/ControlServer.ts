/**
 * Control, the gateway's socket: in the private runtime directory, 0600, taken over only from nobody.
 *
 * No caller holds the gateway up. What is written to one that left is dropped, and while the gateway ends, one that does not
 * read its answers is cut off.
 */
import { NetSocket } from "@effect/platform-node/NodeSocket"
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { isSocketError, make as makeSocket, type Socket } from "effect/socket/Socket"
import { SocketServer } from "effect/socket/SocketServer"
import * as fs from "node:fs"
import type * as net from "node:net"
import { Callers, callerGraceMs, maxCallers } from "../services/Control.ts"
import { Settings } from "../services/Settings.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { checkSocketPath, clearStaleSocket } from "./internal/unixSocket.ts"

export * from "../services/Control.ts"

export class ControlSocketUnusable extends Schema.TaggedError<ControlSocketUnusable>()(
  "ControlSocketUnusable",
  {
    path: Schema.String,
    problem: Schema.Literals(["in-use", "unusable"])
  }
) {
  override get message(): string {
    return this.problem === "in-use"
      ? `Another gateway answers on ${this.path}. Use it, stop it, or set HOLDFAST_HOME for a second one.`
      : `The control socket ${this.path} cannot be opened. Check the directory's owner, mode and free space, or set HOLDFAST_RUNTIME_DIR.`
  }
}

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

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const path = paths.controlSocket
  yield* checkSocketPath(path)
  yield* ensurePrivateDirectory(paths.runtime)
  yield* clearStaleSocket(path, (problem) => new ControlSocketUnusable({ path, problem }))
  const server = yield* Effect.mapError(
    NodeSocketServer.make({ path }),
    () => new ControlSocketUnusable({ path, problem: "unusable" })
  )
  // The directory already keeps others out; the mode says the same to whoever looks at the file alone.
  yield* Effect.try({
    try: () => fs.chmodSync(path, 0o600),
    catch: () => new ControlSocketUnusable({ path, problem: "unusable" })
  })

  /** Who is connected, with how much had been sent when it was last looked at. */
  const callers = new Map<net.Socket, number>()
  const cutOff = Effect.sync(() => {
    for (const [connection, sent] of callers) {
      // What the connection holds back itself counts as written.
      const taken = connection.bytesWritten - connection.writableLength
      if (connection.writableLength > 0 && taken === sent) connection.destroy()
      else callers.set(connection, taken)
    }
  })
  const scope = yield* Effect.scope

  return Context.make(
    SocketServer,
    SocketServer.of({
      ...server,
      run: (handler) =>
        server.run((socket) =>
          Effect.gen(function* () {
            // The library gives it to every handler without saying so in a type.
            const connection = Option.getOrThrow(yield* Effect.serviceOption(NetSocket))
            if (callers.size >= maxCallers) return connection.destroy()
            callers.set(connection, 0)
            connection.once("close", () => callers.delete(connection))
            return yield* handler(dropping(socket, connection))
          }).pipe(
            // A caller that leaves in the middle of an answer is its own business; the library would log it as an error.
            Effect.catchCauseIf(
              (cause) => isSocketError(Cause.squash(cause)),
              () => Effect.logDebug("a caller left the control socket")
            )
          )
        )
    })
  ).pipe(
    Context.add(
      Callers,
      Callers.of({
        hurry: cutOff.pipe(
          Effect.andThen(Effect.sleep(callerGraceMs)),
          Effect.forever,
          Effect.forkIn(scope),
          Effect.asVoid
        )
      })
    )
  )
})

export const layer = Layer.effectContext(make)

/** Goes on top of the server that answers, so that it is the first to close. */
export const hurryAtEnd = Layer.effectDiscard(
  Effect.flatMap(Callers, ({ hurry }) => Effect.addFinalizer(() => hurry))
)
