/** Two machines, as two homes: a gateway and its node, both as they ship, with a way between them that can be cut. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import type { ConfigFile } from "../../src/services/ConfigFile.ts"
import { runDefaults, type RunSpec } from "../../src/services/Run.ts"
import { isOver } from "../../src/services/RunControl.ts"
import { makeCutter } from "./cutter.ts"
import { ask, makePlace, type Place, startGatewayAs } from "./gateway.ts"

const freePort = Effect.scoped(Effect.map(makeCutter(1), ({ port }) => port))

/** Whom a gateway sees of its nodes: `name state`. */
export const seenBy = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const client = yield* ControlClient
      const { nodes } = yield* client.ListNodes()
      return nodes.map(
        ({ name, connection, revokedAt }) =>
          `${name} ${revokedAt !== null ? "revoked" : connection === null ? "away" : "connected"}`
      )
    })
  )

export const until = <A>(what: string, look: Effect.Effect<A, unknown>, holds: (value: A) => boolean) =>
  Effect.gen(function* () {
    const end = Date.now() + 30_000
    for (;;) {
      const value = yield* Effect.orDie(look)
      if (holds(value)) return value
      if (Date.now() > end)
        return yield* Effect.die(new Error(`not in time: ${what}: ${JSON.stringify(value)}`))
      yield* Effect.sleep(50)
    }
  })

export const isConnected = (names: ReadonlyArray<string>): boolean => names.includes("box connected")

interface Options {
  readonly central?: ConfigFile
  readonly own?: ConfigFile
  readonly words?: ReadonlyArray<string>
}

const pair = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      return yield* (yield* ControlClient).PairNode()
    })
  )

export const world = Effect.fnUntraced(function* ({ central = {}, own = {}, words = [] }: Options = {}) {
  const home = yield* makePlace(central)
  const there = yield* makePlace(own)
  const port = yield* freePort
  const listen = ["--listen-nodes", `127.0.0.1:${port}`]
  const gateway = yield* startGatewayAs(home, ...listen)
  const cutter = yield* makeCutter(port)
  const { pins, code, url } = yield* pair(home)
  assert.strictEqual(url, `wss://127.0.0.1:${port}/nodes`)
  const dialled = `wss://127.0.0.1:${cutter.port}/nodes`
  const node = yield* startGatewayAs(
    there,
    "--node",
    "--gateway",
    dialled,
    "--pin",
    pins[1]!,
    "--code",
    code,
    "--name",
    "box",
    ...words
  )
  yield* until("the node is connected", seenBy(home), isConnected)
  return { home, there, gateway, node, cutter, listen, code }
})

export const specOf = (place: Place, script: string): RunSpec => ({
  ...runDefaults,
  command: "/bin/sh",
  args: ["-c", script],
  cwd: place.workspace
})

export const startOn = (home: Place, spec: RunSpec) =>
  ask(
    home,
    Effect.gen(function* () {
      return yield* (yield* ControlClient).StartRun({ spec, variables: {}, node: "box" })
    })
  )

export const over = (place: Place, runId: string) =>
  ask(
    place,
    Effect.gen(function* () {
      const client = yield* ControlClient
      return yield* client
        .WatchRun({ runId })
        .pipe(Stream.filter(isOver), Stream.runHead, Effect.flatMap(Effect.fromOption))
    })
  )

export const logOf = (place: Place, runId: string) =>
  ask(
    place,
    Effect.gen(function* () {
      const client = yield* ControlClient
      const pieces = yield* Stream.runCollect(
        client.ReadRun({ runId, from: { _tag: "start" }, follow: false })
      )
      return Buffer.concat(pieces.map(({ bytes }) => bytes)).toString("utf8")
    })
  )
