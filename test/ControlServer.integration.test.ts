/** The control socket against callers that leave in the middle of an answer, or never read one, and a gateway held up. */
import { NetSocket } from "@effect/platform-node/NodeSocket"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { Socket } from "effect/socket/Socket"
import { SocketServer } from "effect/socket/SocketServer"
import * as net from "node:net"
import { GatewayLost } from "../src/layers/ControlClient.ts"
import * as ControlServer from "../src/layers/ControlServer.ts"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { callerGraceMs, Callers, maxCallers } from "../src/services/Control.ts"
import { makePlace, settingsOf, startGateway } from "./support/gateway.ts"
import { busyRun, statusOf } from "./support/leases.ts"

const seconds = 90_000

const closed = (socket: net.Socket): Effect.Effect<void> =>
  Effect.callback((resume) => {
    if (socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
  })

const connected = (path: string): Effect.Effect<net.Socket, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<net.Socket>((resume) => {
      const socket = net.connect(path, () => resume(Effect.succeed(socket)))
      socket.on("error", () => undefined)
      socket.pause()
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

interface Live {
  readonly path: string
  readonly callers: Callers["Service"]
  readonly serve: (
    handler: (socket: Socket, connection: net.Socket) => Effect.Effect<unknown>
  ) => Effect.Effect<Fiber.Fiber<never, unknown>, never, Scope.Scope>
}

const live = <A, E>(promise: string, test: (server: Live) => Effect.Effect<A, E, Scope.Scope>) =>
  it.live(
    promise,
    () =>
      Effect.gen(function* () {
        const settings = settingsOf(yield* makePlace())
        const context = yield* Layer.build(ControlServer.layer.pipe(Layer.provide(settings)))
        return yield* Effect.gen(function* () {
          const server = yield* SocketServer
          assert(server.address._tag === "UnixPathAddress")
          return yield* test({
            path: server.address.path,
            callers: yield* Callers,
            serve: (handler) =>
              Effect.forkScoped(
                server.run((socket) =>
                  Effect.flatMap(Effect.serviceOption(NetSocket), (connection) =>
                    handler(socket, Option.getOrThrow(connection))
                  )
                )
              )
          })
        }).pipe(Effect.provide(context))
      }).pipe(Effect.scoped),
    seconds
  )

const ask = (tag: string, id: number): string =>
  `${JSON.stringify({ _tag: "Request", id, tag, payload: null, headers: [] })}\n`

describe("ControlServer", () => {
  live("what is written to a caller that has left is dropped, and the write ends", ({ path, serve }) =>
    Effect.gen(function* () {
      const written = yield* Deferred.make<void>()
      yield* serve((socket, connection) =>
        Effect.scoped(
          Effect.gen(function* () {
            const writer = yield* socket.writer
            yield* Effect.ignore(socket.reader)
            connection.resume()
            yield* closed(connection)
            // The library would wait here for a `drain` that nobody sends.
            yield* Effect.uninterruptible(Effect.orDie(writer.write("late")))
            yield* Effect.uninterruptible(Effect.orDie(writer.writeAll(["later", "latest"])))
            yield* Deferred.succeed(written, undefined)
          })
        )
      )
      const caller = yield* connected(path)
      caller.destroy()
      yield* Deferred.await(written)
    })
  )

  live(
    "a caller that does not read is cut off when the end hurries; one that reads slowly is not",
    ({ path, callers, serve }) =>
      Effect.gen(function* () {
        const block = "x".repeat(65_536)
        const blocks = 64
        const ended = yield* Deferred.make<void>()
        let slow: net.Socket | undefined
        yield* serve((socket, connection) =>
          Effect.scoped(
            Effect.gen(function* () {
              slow ??= connection
              const writer = yield* socket.writer
              yield* Effect.ignore(socket.reader)
              for (let i = 0; i < blocks; i++)
                yield* Effect.uninterruptible(Effect.ignore(writer.write(block)))
              if (connection === slow) {
                connection.destroySoon()
                yield* closed(connection)
              } else yield* Deferred.succeed(ended, undefined)
            })
          )
        )
        const reading = yield* connected(path)
        let received = 0
        const deaf = yield* connected(path)
        const deafCut = yield* Effect.forkChild(Deferred.await(ended), { startImmediately: true })
        yield* callers.hurry
        reading.on("data", (chunk) => {
          received += chunk.length
          reading.pause()
          setTimeout(() => reading.resume(), callerGraceMs / 100)
        })
        reading.resume()
        yield* Fiber.join(deafCut)
        assert.strictEqual(deaf.bytesRead < blocks * block.length, true)
        yield* closed(reading)
        assert.strictEqual(received, blocks * block.length)
      })
  )

  live("more callers than anybody needs are turned away, and make room again when they leave", (server) =>
    Effect.gen(function* () {
      yield* server.serve((socket) =>
        Effect.scoped(Effect.andThen(Effect.ignore(socket.reader), Effect.never))
      )
      const inside = yield* Effect.replicateEffect(connected(server.path), maxCallers)
      const outside = yield* connected(server.path)
      outside.resume()
      yield* closed(outside)
      assert.strictEqual(inside.filter((socket) => socket.closed).length, 0)
    })
  )

  it.live(
    "a gateway ends when callers left unanswered while it was stopped, and when one never reads",
    () =>
      Effect.gen(function* () {
        for (let round = 0; round < 8; round++) {
          const place = yield* makePlace()
          const gateway = yield* startGateway(place)
          if (round === 0) {
            const deaf = yield* connected(gateway.control)
            deaf.write(Array.from({ length: 5000 }, (_, id) => ask("Status", id)).join(""))
            yield* Effect.sleep(500)
          }
          process.kill(gateway.pid, "SIGSTOP")
          for (const tag of ["Status", "Leases", "Relays"]) {
            const caller = yield* connected(gateway.control)
            caller.end(`${ask(tag, 0)}{"_tag":"Ping"}\n{"_tag":"Interrupt","requestId":0}\n`)
            if (round % 2 === 0) caller.destroySoon()
          }
          process.kill(gateway.pid, "SIGCONT")
          assert.deepStrictEqual(yield* gateway.end("SIGTERM"), { code: 0, signal: null })
        }
      }).pipe(Effect.scoped),
    seconds
  )

  it.live(
    "a caller of a gateway that is stopped learns that it is lost, and not that somebody interrupted him",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const run = yield* busyRun(place, "stopped")
        yield* gateway.end("SIGTERM")
        assert.deepStrictEqual<unknown>((yield* run.ended).error, new GatewayLost({}))
      }).pipe(Effect.provide(providerLayer), Effect.scoped),
    seconds
  )

  it.live(
    "a gateway that is held up for 12 s costs nobody a turn, and one that is killed is a lost gateway",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const run = yield* busyRun(place, "held-up")
        process.kill(gateway.pid, "SIGSTOP")
        // Twice what the library waits by default.
        yield* Effect.sleep(12_000)
        process.kill(gateway.pid, "SIGCONT")
        yield* run.release
        const ended = yield* run.ended
        assert.deepStrictEqual([ended.error, statusOf(ended)], [null, "completed"])
        const other = yield* busyRun(place, "left-alone")
        yield* gateway.end("SIGKILL")
        assert.deepStrictEqual<unknown>((yield* other.ended).error, new GatewayLost({}))
      }).pipe(Effect.provide(providerLayer), Effect.scoped),
    seconds
  )
})
