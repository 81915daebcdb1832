/** The caller's end of a private socket: whatever becomes of the connection, every question comes to an end. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { makePrivateClient } from "../src/layers/internal/privateClient.ts"

class Lost extends Schema.TaggedError<Lost>()("Lost", {}) {}

const Group = RpcGroup.make(
  Rpc.make("Count", { success: Schema.Int, stream: true }),
  Rpc.make("Question", { success: Schema.String })
)

/** More than the library holds for a reader. */
const many = 40

type Request = { readonly _tag: string; readonly id: string; readonly tag: string }

/** A peer that does with each request what the test says. */
const peer = Effect.fnUntraced(function* (answer: (request: Request, connection: net.Socket) => void) {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "holdfast-client-"))),
    (made) => Effect.sync(() => fs.rmSync(made, { recursive: true }))
  )
  const socketPath = path.join(directory, "peer.sock")
  yield* Effect.acquireRelease(
    Effect.callback<net.Server>((resume) => {
      const server = net.createServer((connection) => {
        connection.on("error", () => {})
        connection.on("data", (bytes) => {
          for (const line of bytes.toString().split("\n").filter(Boolean))
            answer(JSON.parse(line) as Request, connection)
        })
      })
      server.listen(socketPath, () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
      })
  )
  return socketPath
})

const say = (connection: net.Socket, message: unknown) => connection.write(`${JSON.stringify(message)}\n`)

describe("the caller's end of a private socket", () => {
  it.live(
    "what is asked and not answered is lost with the connection, and so is what is asked afterwards",
    () =>
      Effect.gen(function* () {
        const socketPath = yield* peer((request, connection) => {
          if (request._tag === "Request") connection.destroy()
        })
        const { client, gone } = yield* makePrivateClient(Group, socketPath, () => new Lost())
        const first = yield* Effect.flip(client.Question())
        yield* gone
        const later = yield* Effect.flip(client.Question())
        const stream = yield* Effect.flip(Stream.runDrain(client.Count()))
        assert.deepStrictEqual([first._tag, later._tag, stream._tag], ["Lost", "Lost", "Lost"])
      })
  )

  it.live("a connection that closes while a reader holds it up is noticed, and its reader ends too", () =>
    Effect.gen(function* () {
      const socketPath = yield* peer((request, connection) => {
        if (request.tag === "Count")
          say(connection, {
            _tag: "Chunk",
            requestId: request.id,
            values: Array.from({ length: many }, (_, index) => index)
          })
        if (request.tag === "Question") connection.destroy()
      })
      const { client, gone } = yield* makePrivateClient(Group, socketPath, () => new Lost())
      const reading = yield* Deferred.make<void>()
      const goOn = yield* Deferred.make<void>()
      const reader = yield* client.Count().pipe(
        Stream.runForEach(() => Effect.andThen(Deferred.succeed(reading, undefined), Deferred.await(goOn))),
        Effect.flip,
        Effect.forkScoped
      )
      yield* Deferred.await(reading)
      const asked = yield* Effect.flip(client.Question())
      yield* gone
      yield* Deferred.succeed(goOn, undefined)
      assert.deepStrictEqual([asked._tag, (yield* Fiber.join(reader))._tag], ["Lost", "Lost"])
    })
  )

  it.live("nobody listens: the system's word for it", () =>
    Effect.gen(function* () {
      const refused = yield* Effect.flip(makePrivateClient(Group, "/nowhere/at/all.sock", () => new Lost()))
      assert.deepStrictEqual([refused._tag, refused.code], ["NotConnected", "ENOENT"])
    })
  )
})
