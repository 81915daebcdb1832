/** One hook as a provider starts it: by every client the machine has, with the gateway up and down, alone and with 31 others. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import * as HookClients from "../../src/layers/HookClients.ts"
import { BridgeRecordText } from "../../src/services/BridgeStore.ts"
import { preference } from "../../src/services/HookClients.ts"
import { type HookClient, hookCommand } from "../../src/services/HookRelay.ts"
import { failureAnswer } from "../../src/services/HookWire.ts"
import { Settings } from "../../src/services/Settings.ts"
import { ask, eventually, makePlace, type Place, startGateway, startGatewayWith } from "../support/gateway.ts"
import { ensure, openRelay, payload, settingsOf, startHelper } from "./helper.ts"
import { type LeftOut, type Measured, median, row } from "./report.ts"
import type { Command, Stopwatch } from "./stopwatch.ts"

const startStopwatch = startHelper<Stopwatch>(new URL("./stopwatch.ts", import.meta.url))

/** A provider's default for a hook, far above everything here. */
const providerTimeoutMs = 30_000
const width = 32

/** The hook's whole command, in the shell that Codex starts it in. */
const hookOf = (place: Place, client: HookClient, recordPath: string): Command => ({
  command: "/bin/bash",
  args: [
    "-c",
    hookCommand({ client, recordPath, event: "pre_tool_use", direction: "closed", providerTimeoutMs })
  ],
  env: place.env,
  input: payload
})

const nodeFloor = (place: Place): Command => ({
  command: process.execPath,
  args: ["-e", "0"],
  env: place.env,
  input: payload
})

const trueFloor = (place: Place): Command => ({
  command: "/bin/true",
  args: [],
  env: place.env,
  input: payload
})

const clientsOf = (place: Place) =>
  HookClients.HookClients.use(({ best, found }) => Effect.map(found, (found) => ({ best, found }))).pipe(
    Effect.provide(HookClients.layer.pipe(Layer.provide(Layer.succeed(Settings, settingsOf(place)))))
  )

/** Codex takes silence for an allowed call. */
const isAllow = ({ status, stdout, stderr }: { status: number | null; stdout: string; stderr: string }) =>
  status === 0 && stdout === "" && stderr === ""

type Outcomes = ReadonlyArray<{
  readonly outcome: Parameters<typeof isAllow>[0]
  readonly count: number
}>

const fails =
  (cause: "dead-owner" | "not-found") =>
  ({ status, stdout }: Outcomes[number]["outcome"]): boolean =>
    status === 0 && stdout === failureAnswer("pre_tool_use", "closed", cause).stdout

const counted = (outcomes: Outcomes, is: (outcome: Outcomes[number]["outcome"]) => boolean): number =>
  outcomes.reduce((sum, { outcome, count }) => sum + (is(outcome) ? count : 0), 0)

const allAre = (name: string, outcomes: Outcomes, is: (outcome: Outcomes[number]["outcome"]) => boolean) =>
  ensure(
    outcomes.every(({ outcome }) => is(outcome)),
    `${name}: not every hook was answered as it had to be: ${JSON.stringify(outcomes)}`
  )

const decided = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const relays = yield* (yield* ControlClient).Relays()
      return relays.reduce((sum, relay) => sum + relay.decided, 0)
    })
  )

export const oneHook = (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 15 : 41
    const warmup = 3
    const place = yield* makePlace()
    yield* startGateway(place)
    const { found, best } = yield* clientsOf(place)
    const relay = yield* openRelay(place)
    yield* ensure(
      relay.commands["pre_tool_use"] === hookOf(place, best, relay.recordPath).args[1],
      "the gateway's hook command is not the measured one"
    )
    const stopwatch = yield* startStopwatch
    const hooks = found.map((client) => hookOf(place, client, relay.recordPath))
    const measured = yield* stopwatch("runs", {
      cases: [nodeFloor(place), trueFloor(place), ...hooks],
      rounds,
      warmup
    })
    const [node, bare] = measured.map(({ ms }) => median(ms)) as [number, number]
    const byClient = found.map((client, index) => ({ client, ...measured[index + 2]! }))
    for (const { client, outcomes } of byClient) yield* allAre(client.kind, outcomes, isAllow)
    yield* ensure(
      (yield* decided(place)) === found.length * (rounds + warmup),
      "the gateway did not decide each of the hooks that were answered"
    )
    const rows = byClient.map(({ client: { kind }, ms }) =>
      row({
        id: `hook-${kind}`,
        what: `one hook by way of ${kind}, command to answer`,
        unit: "ms",
        value: median(ms),
        floor: node,
        floorIs: "node -e 0",
        n: ms.length,
        ...(kind === "node"
          ? { budget: { on: "ratio", atMost: 1.25 } }
          : kind === best.kind
            ? { budget: { on: "ratio", atMost: 0.35 } }
            : {})
      })
    )
    const fastest = byClient.find(({ client }) => client.kind === best.kind)!
    return {
      rows: [
        ...rows,
        row({
          id: "hook-true",
          what: `the same by way of ${best.kind}`,
          unit: "ms",
          value: median(fastest.ms),
          floor: bare,
          floorIs: "/bin/true",
          n: fastest.ms.length
        })
      ],
      leftOut: missing("hook", found)
    } satisfies Measured
  })

const missing = (id: string, found: ReadonlyArray<HookClient>): ReadonlyArray<LeftOut> =>
  preference
    .filter((kind) => !found.some((client) => client.kind === kind))
    .map((kind) => ({
      id: `${id}-${kind}`,
      why: `this machine has no ${kind} that can talk to a Unix socket`
    }))

export const memory = (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 3 : 7
    const place = yield* makePlace()
    const { found, best } = yield* clientsOf(place)
    const socketPath = path.join(place.runtimeDir, "waits.sock")
    const recordPath = path.join(place.runtimeDir, "record")
    const now = Date.now()
    fs.writeFileSync(
      recordPath,
      yield* Schema.encodeEffect(BridgeRecordText)({
        version: 1,
        relayId: "bench",
        generation: 1,
        owner: {
          epoch: "bench",
          identity: { bootId: "bench", pidNamespace: "bench", pid: process.pid, startToken: "bench" }
        },
        socketPath,
        token: "bench",
        publishedAt: now,
        expiresAt: now + 600_000
      })
    )
    const bareNode: Command = {
      ...nodeFloor(place),
      args: [
        "-e",
        `require("node:net").connect(process.argv[1]).end("GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n").resume()`,
        socketPath
      ]
    }
    const stopwatch = yield* startStopwatch
    const peaks = yield* stopwatch("memory", {
      socketPath,
      cases: [bareNode, ...found.map((client) => hookOf(place, client, recordPath))],
      rounds
    })
    const [node, ...clients] = peaks.map((kb) => median(kb) / 1024)
    return {
      rows: found.map(({ kind }, index) =>
        row({
          id: `memory-${kind}`,
          what: `one hook by way of ${kind}, all its processes and their shell, peak`,
          unit: "MB",
          value: clients[index]!,
          floor: node!,
          floorIs: "node with one connection",
          n: rounds,
          ...(kind === best.kind && kind !== "node" ? { budget: { on: "value", atMost: 12 } } : {})
        })
      ),
      leftOut: missing("memory", found)
    } satisfies Measured
  })

const LoopDelay = Schema.fromJsonString(
  Schema.Struct({ p99: Schema.Finite, max: Schema.Finite, count: Schema.Int })
)

/** The gateway's own measure of its loop since it was last asked. */
const loopDelayOf = (pid: number, file: string) =>
  Effect.gen(function* () {
    fs.rmSync(file, { force: true })
    process.kill(pid, "SIGUSR2")
    yield* eventually("the loop's delays", () => fs.existsSync(file) && fs.readFileSync(file, "utf8") !== "")
    return yield* Effect.orDie(Schema.decodeEffect(LoopDelay)(fs.readFileSync(file, "utf8")))
  })

const together = (width: number, atMostMs: number | null) => (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 3 : 9
    const warmup = 1
    const fresh = yield* makePlace()
    const loopFile = path.join(fresh.home, "loop.json")
    const place = { ...fresh, env: { ...fresh.env, LOOP_DELAY_FILE: loopFile } }
    const { pid } = yield* startGatewayWith(place, new URL("./loopDelay.ts", import.meta.url))
    const { best } = yield* clientsOf(place)
    const relay = yield* openRelay(place)
    const stopwatch = yield* startStopwatch
    yield* loopDelayOf(pid, loopFile)
    const [hooks, bare] = yield* stopwatch("together", {
      cases: [hookOf(place, best, relay.recordPath), trueFloor(place)],
      rounds,
      warmup,
      width
    })
    const delay = yield* loopDelayOf(pid, loopFile)
    const asked = width * (rounds + warmup)
    const answered = counted(hooks!.outcomes, isAllow)
    return {
      rows: [
        row({
          id: `hooks-${width}`,
          what: `${width} hooks at once by way of ${best.kind}, the slowest; ${answered} of ${asked} answered allow`,
          unit: "ms",
          value: median(hooks!.ms),
          floor: median(bare!.ms),
          floorIs: `${width} x /bin/true at once`,
          n: rounds,
          ...(atMostMs === null ? {} : { budget: { on: "value", atMost: atMostMs } as const }),
          whole: answered === asked && (yield* decided(place)) === asked
        }),
        row({
          id: `hooks-${width}-loop`,
          what: `how late the gateway's loop is meanwhile, 99th percentile; at most ${delay.max.toFixed(1)} ms`,
          unit: "ms",
          value: delay.p99,
          floor: 1,
          floorIs: "the timer that measures it",
          n: delay.count,
          budget: { on: "value", atMost: 20 }
        })
      ]
    } satisfies Measured
  })

export const atOnce = together(width, 250)

/** The cores of this machine bound it; what counts is that every one of them is answered. */
export const manyAtOnce = together(200, null)

export const gatewayDown = (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 15 : 41
    const place = yield* makePlace()
    yield* startGateway(place)
    const { best } = yield* clientsOf(place)
    const relay = yield* openRelay(place)
    const dead = yield* makePlace()
    const victim = yield* startGateway(dead)
    const stale = yield* openRelay(dead)
    yield* victim.end("SIGKILL")
    yield* ensure(fs.existsSync(stale.recordPath), "the dead gateway's record is gone")
    const stopwatch = yield* startStopwatch
    const [up, refused, absent] = yield* stopwatch("runs", {
      cases: [
        hookOf(place, best, relay.recordPath),
        hookOf(dead, best, stale.recordPath),
        hookOf(place, best, `${relay.recordPath.slice(0, -32)}${"0".repeat(32)}`)
      ],
      rounds,
      warmup: 3
    })
    yield* allAre("gateway up", up!.outcomes, isAllow)
    yield* allAre("gateway dead", refused!.outcomes, fails("dead-owner"))
    yield* allAre("no record", absent!.outcomes, fails("not-found"))
    const against = (id: string, what: string, ms: ReadonlyArray<number>) =>
      row({
        id,
        what: `${what}, by way of ${best.kind}`,
        unit: "ms",
        value: median(ms),
        floor: median(up!.ms),
        floorIs: "gateway up",
        n: ms.length,
        budget: { on: "ratio", atMost: 1.1 }
      })
    return {
      rows: [
        against("down-refused", "the answer when the gateway was killed: record there, refused", refused!.ms),
        against("down-absent", "the answer when no record is there", absent!.ms)
      ]
    } satisfies Measured
  })
