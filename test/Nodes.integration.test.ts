/** Two machines, as two homes: a gateway and its node, both as they ship, with a way between them that can be cut. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import type { ConfigFile } from "../src/services/ConfigFile.ts"
import { runDefaults, type RunSpec } from "../src/services/Run.ts"
import { isOver } from "../src/services/RunControl.ts"
import { makeCutter } from "./support/cutter.ts"
import { ask, eventually, holdfast, makePlace, type Place, startGatewayAs } from "./support/gateway.ts"
import { openRelay, payload } from "./support/relays.ts"

const partitionMs = process.env["HOLDFAST_SOAK"] ? 30_000 : 3_000

const freePort = Effect.scoped(Effect.map(makeCutter(1), ({ port }) => port))

/** Whom a gateway sees of its nodes: `name state`. */
const seenBy = (place: Place) =>
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

const until = <A>(what: string, look: Effect.Effect<A, unknown>, holds: (value: A) => boolean) =>
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

const isConnected = (names: ReadonlyArray<string>): boolean => names.includes("box connected")

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

const world = Effect.fnUntraced(function* ({ central = {}, own = {}, words = [] }: Options = {}) {
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

const specOf = (place: Place, script: string): RunSpec => ({
  ...runDefaults,
  command: "/bin/sh",
  args: ["-c", script],
  cwd: place.workspace
})

const startOn = (home: Place, spec: RunSpec) =>
  ask(
    home,
    Effect.gen(function* () {
      return yield* (yield* ControlClient).StartRun({ spec, variables: {}, node: "box" })
    })
  )

const over = (place: Place, runId: string) =>
  ask(
    place,
    Effect.gen(function* () {
      const client = yield* ControlClient
      return yield* client
        .WatchRun({ runId })
        .pipe(Stream.filter(isOver), Stream.runHead, Effect.flatMap(Effect.fromOption))
    })
  )

const logOf = (place: Place, runId: string) =>
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

describe("a gateway and its node", () => {
  it.live(
    "a run there is one of ours: started, seen, written to, read and stopped by its id, with its status",
    () =>
      Effect.gen(function* () {
        const { home, there } = yield* world()
        const on = (...args: ReadonlyArray<string>) => holdfast(home, args)
        const out = yield* on(
          "run",
          "--node",
          "box",
          "--no-pty",
          "--",
          "sh",
          "-c",
          "echo $PWD; echo bad >&2; exit 7"
        )
        assert.deepStrictEqual([out.stdout, out.code], [`${there.home}\nbad\n`, 7])
        const { stdout } = yield* on(
          "run",
          "-d",
          "--node",
          "box",
          "--name",
          "far",
          "--",
          "sh",
          "-c",
          "read x; echo got $x; sleep 60"
        )
        const id = stdout.trim()
        yield* on("send", "far", "hello\n")
        yield* until("its answer", on("logs", id), ({ stdout }) => stdout.includes("got hello"))
        assert.match(
          (yield* on("ps")).stdout,
          new RegExp(`^ID +NAME +NODE[^]*${id.slice(0, 14)} +far +box +running`)
        )
        assert.match((yield* holdfast(there, ["ps"])).stdout, /far +running/)
        assert.strictEqual((yield* on("stop", "far")).code, 0)
        assert.match((yield* on("ps", "-a")).stdout, /far +box +exited[^]*stopped by operator/)
        assert.strictEqual((yield* on("logs", "nobody")).code, 4)
        const away = yield* on("run", "--node", "elsewhere", "--no-pty", "--", "true")
        assert.match(away.stderr, /There is no node "elsewhere"/)
        assert.match(
          (yield* holdfast(there, ["status"])).stdout,
          /node of +wss:.* as box: connected; hooks decided by the gateway/
        )
      }),
    120_000
  )

  it.live(
    "a run survives a partition with every byte, can be stopped after it, and what was asked meanwhile ran once",
    () =>
      Effect.gen(function* () {
        const { home, there, cutter } = yield* world()
        const counting = yield* startOn(
          home,
          specOf(
            there,
            `i=0; while [ $i -lt ${partitionMs / 10} ]; do i=$((i+1)); echo line $i; sleep 0.015; done`
          )
        )
        const lasting = yield* startOn(home, specOf(there, "sleep 600"))
        // The question arrives, its answer does not: asked again, it must not be there twice.
        yield* cutter.muteNear
        const file = path.join(there.workspace, "ran")
        const starting = yield* startOn(home, specOf(there, `echo ran >> ${file}`)).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        yield* eventually("it has run there", () => fs.existsSync(file))
        yield* cutter.cut
        yield* until("the node is away", seenBy(home), (names) => names.includes("box away"))
        assert.match((yield* holdfast(there, ["status"])).stdout, /hooks denied: cut off/)
        yield* Effect.sleep(partitionMs)
        yield* cutter.mend
        yield* until("it is back", seenBy(home), isConnected)
        const once = yield* Fiber.join(starting)
        assert.strictEqual((yield* over(home, once.id)).status?.code, 0)
        assert.strictEqual(fs.readFileSync(file, "utf8"), "ran\n")
        assert.strictEqual((yield* over(home, counting.id)).status?.code, 0)
        const lines = (yield* logOf(home, counting.id)).trimEnd().split("\n")
        assert.deepStrictEqual(
          lines,
          Array.from({ length: partitionMs / 10 }, (_, i) => `line ${i + 1}`)
        )
        assert.strictEqual((yield* holdfast(home, ["stop", lasting.id])).code, 0)
        assert.deepStrictEqual((yield* over(home, lasting.id)).reason, { _tag: "stopped", by: "operator" })
      }),
    180_000
  )

  it.live(
    "it comes back to the next gateway by itself, as the one it was; revoked, it is cut off within a second and stays out",
    () =>
      Effect.gen(function* () {
        const { home, there, gateway, node, listen, code } = yield* world()
        const run = yield* startOn(home, specOf(there, "sleep 600"))
        yield* gateway.end("SIGTERM")
        yield* startGatewayAs(home, ...listen)
        yield* until("it is back", seenBy(home), isConnected)
        assert.deepStrictEqual(yield* seenBy(home), ["box connected"])
        assert.match((yield* holdfast(home, ["ps"])).stdout, new RegExp(run.id.slice(0, 14)))
        const from = Date.now()
        yield* holdfast(home, ["nodes", "revoke", "box"])
        yield* until("it gave up", holdfast(there, ["status"]), ({ stdout }) => stdout.includes("gave up"))
        assert.isBelow(Date.now() - from, 3_000)
        assert.deepStrictEqual(yield* seenBy(home), ["box revoked"])
        // Its run goes on, under its own gateway.
        assert.match((yield* holdfast(there, ["ps"])).stdout, /running/)
        // What it was paired with, and what it is known by, is nowhere but in its file.
        const { privateKey } = JSON.parse(
          fs.readFileSync(path.join(there.home, "state/node/identity.json"), "utf8")
        ) as { readonly privateKey: string }
        const shown = [
          node.stderr(),
          gateway.stderr(),
          fs.readFileSync(`/proc/${node.pid}/cmdline`, "utf8"),
          fs.readFileSync(`/proc/${node.pid}/environ`, "utf8"),
          fs.readFileSync(path.join(there.home, "state/node/gateway.json"), "utf8"),
          (yield* holdfast(there, ["status", "--json"])).stdout,
          (yield* holdfast(home, ["nodes", "--json"])).stdout
        ].join("\n")
        assert.notInclude(shown, code)
        assert.notInclude(shown, privateKey)
      }),
    120_000
  )

  it.live(
    "a hook there is decided by our policy, and by the declared rule while the node is cut off",
    () =>
      Effect.gen(function* () {
        const no = { policies: [{ id: "central", priority: 1, verdict: "deny" as const, command: "touch" }] }
        const central = { policy: { default: "allow" as const, ...no } }
        const own = {
          policy: {
            default: "allow" as const,
            policies: [{ id: "own", priority: 1, verdict: "deny" as const, command: "rm" }]
          }
        }
        for (const words of [[], ["--cut-off", "local"]]) {
          const { home, there, cutter } = yield* world({ central, own, words })
          const decide = yield* openRelay(there)
          const verdicts = () =>
            Effect.forEach(["touch x", "rm x", "ls"], (command) => decide(payload(command)))
          assert.deepStrictEqual(yield* verdicts(), ["central", "allowed", "allowed"])
          const audit = (yield* holdfast(home, ["audit", "tail", "--json"])).stdout
          assert.match(audit, /"relayId":"n-[0-9a-f]{16}\//)
          yield* cutter.cut
          yield* until("it is away", seenBy(home), (names) => names.includes("box away"))
          assert.match((yield* holdfast(home, ["ps"])).stdout, /the node box is away; its runs go on there/)
          assert.deepStrictEqual(
            yield* verdicts(),
            words.length === 0 ? ["cut off", "cut off", "cut off"] : ["allowed", "own", "allowed"]
          )
          yield* cutter.mend
          yield* until("it is back", seenBy(home), isConnected)
          assert.deepStrictEqual(yield* verdicts(), ["central", "allowed", "allowed"])
        }
      }),
    180_000
  )
})
