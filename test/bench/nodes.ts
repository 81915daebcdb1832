/** Nodes: what a TLS handshake costs, and what a gateway spends on two hundred of them that come at once and stay. */
import * as Effect from "effect/Effect"
import { admissionsPerSecond } from "../../src/services/NodeAdmission.ts"
import { makePlace, startGatewayAs } from "../support/gateway.ts"
import type { Dialler } from "./dialler.ts"
import { cpuMs, ensure, rssMb, startHelper } from "./helper.ts"
import { connect } from "./kept.ts"
import { type Measured, median, row } from "./report.ts"

const startDialler = startHelper<Dialler>(new URL("./dialler.ts", import.meta.url))

const fleet = 200
/** What coming and going leaves to do is done. */
const settleMs = 2_000

export const handshakes = (quick: boolean) =>
  Effect.gen(function* () {
    const dialler = yield* startDialler
    const rounds = quick ? 20 : 50
    const { full, resumed, bare, wrong } = yield* dialler("handshakes", { rounds, warmup: 10 })
    const facts = { unit: "ms", n: rounds, whole: wrong === 0 }
    return {
      rows: [
        row({
          ...facts,
          id: "tls-full",
          what: "a full handshake of the session cache over loopback, both ends",
          value: median(full),
          floor: median(bare),
          floorIs: "a bare one",
          budget: { on: "ratio", atMost: 1.5 }
        }),
        row({
          ...facts,
          id: "tls-resumed",
          what: `a resumed one; ${wrong} that were not what they had to be`,
          value: median(resumed),
          floor: median(full),
          floorIs: "the full one",
          // Without a way between, both are one round trip: what is saved is a signature and its verification.
          budget: { on: "ratio", atMost: 1.25 }
        })
      ]
    } satisfies Measured
  })

export const twoHundred = (quick: boolean) =>
  Effect.gen(function* () {
    const idleSeconds = quick ? 3 : 10
    const place = yield* makePlace()
    const { pid } = yield* startGatewayAs(place, "--listen-nodes", "127.0.0.1:0")
    const client = yield* connect(place)
    const dialler = yield* startDialler
    const { bare } = yield* dialler("handshakes", { rounds: 20, warmup: 10 })
    const { url, pins } = yield* client.PairNode()
    const gateway = { url, pin: pins[1]! }
    for (let n = 0; n < fleet; n++)
      yield* dialler("pair", { gateway, n, code: (yield* client.PairNode()).code })
    // A node hears that it is welcome a moment before the gateway counts it.
    const allAreIn = Effect.gen(function* () {
      const end = performance.now() + settleMs
      for (;;) {
        const { nodes } = yield* client.ListNodes()
        const count = nodes.filter(({ connection }) => connection !== null).length
        if (count === fleet) return
        yield* ensure(performance.now() < end, `only ${count} of ${fleet} nodes are in`)
        yield* Effect.sleep(50)
      }
    })
    const cpuOver = Effect.fnUntraced(function* (seconds: number) {
      const before = cpuMs(pid)
      yield* Effect.sleep(seconds * 1000)
      return (cpuMs(pid) - before) / seconds
    })
    const idle = yield* cpuOver(quick ? 2 : 5)
    const samples: Array<{ readonly ms: number; readonly cpu: number; readonly kb: number }> = []
    let busy = Number.NaN
    const rounds = quick ? 2 : 3
    for (let round = 1; round <= rounds; round++) {
      yield* Effect.sleep(settleMs)
      const before = { cpu: cpuMs(pid), rss: rssMb(pid) }
      const ms = yield* dialler("enter", { gateway })
      const cpu = (cpuMs(pid) - before.cpu) / fleet
      yield* allAreIn
      yield* Effect.sleep(settleMs)
      samples.push({ ms, cpu, kb: ((rssMb(pid) - before.rss) * 1024) / fleet })
      if (round === rounds) busy = yield* cpuOver(idleSeconds)
      yield* allAreIn
      yield* dialler("leave", undefined)
    }
    return {
      rows: [
        row({
          id: "nodes-200",
          what: `${fleet} nodes at once, dialled to the last one in`,
          unit: "ms",
          value: median(samples.map((one) => one.ms)),
          floor: ((fleet - admissionsPerSecond) / admissionsPerSecond) * 1000,
          floorIs: "what the door lets in",
          n: samples.length,
          budget: { on: "value", atMost: 5_000 }
        }),
        row({
          id: "nodes-200-cpu",
          what: "the gateway's CPU per node that comes in",
          unit: "ms",
          value: median(samples.map((one) => one.cpu)),
          floor: median(bare),
          floorIs: "a bare TLS handshake, both ends",
          n: samples.length
        }),
        row({
          id: "nodes-200-rss",
          what: "the gateway's memory per node that is in, of the first that came at once",
          unit: "KB",
          value: samples[0]!.kb,
          floor: 0,
          floorIs: "nothing",
          n: fleet,
          budget: { on: "value", atMost: 400 }
        }),
        row({
          id: "nodes-200-idle",
          what: `the gateway's CPU with ${fleet} silent nodes, over ${idleSeconds} s`,
          unit: "ms/s",
          value: busy,
          floor: idle,
          floorIs: "with none",
          n: 1
        })
      ]
    } satisfies Measured
  })
