/** Conversations that are there already, as the connections of a server: for a library that serves nothing else. */
import * as Effect from "effect/Effect"
import type { Socket } from "effect/socket/Socket"
import { SocketServer } from "effect/socket/SocketServer"

type Serve = (socket: Socket) => Effect.Effect<void>

/** `run` serves each of its connections; what ends one is nobody else's affair. */
export const serverOf = (run: (serve: Serve) => Effect.Effect<never>): SocketServer["Service"] =>
  SocketServer.of({
    // Of no use to anybody, and asked for by the type.
    address: { _tag: "UnixSocketAddress", path: "node" } as unknown as SocketServer["Service"]["address"],
    run: (handler) =>
      Effect.contextWith((context) =>
        run((socket) =>
          Effect.ignoreCause(
            Effect.provideContext(Effect.asVoid(Effect.scoped(handler(socket) as never)), context as never)
          )
        )
      ) as never
  })
