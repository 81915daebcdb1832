/** The gateway itself: how soon it is ready, and what it takes while nobody asks for anything. */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as path from "node:path"
import { dist, makePlace, startGateway } from "../support/gateway.ts"
import { child, cpuMs, rssMb, startHelper } from "./helper.ts"
import { type Measured, median, row } from "./report.ts"
import type { Stopwatch } from "./stopwatch.ts"

/** From ready to idle: what a start left to do is done. */
const settleMs = 3000

export const ready = (quick: boolean) =>
  Effect.gen(function* () {
    const place = yield* makePlace()
    const stopwatch = yield* startHelper<Stopwatch>(new URL("./stopwatch.ts", import.meta.url))
    const node = { command: process.execPath, env: place.env, input: "" }
    const { server, floor } = yield* stopwatch("ready", {
      server: { ...node, args: ["--no-warnings", path.join(dist, "gateway.mjs"), "--json"] },
      floor: { ...node, args: ["-e", "0"] },
      rounds: quick ? 7 : 15,
      warmup: 2
    })
    return {
      rows: [
        row({
          id: "gateway-ready",
          what: "the gateway, started to ready",
          unit: "ms",
          value: median(server),
          floor: median(floor),
          floorIs: "node -e 0",
          n: server.length,
          budget: { on: "ratio", atMost: 6 }
        })
      ]
    } satisfies Measured
  })

export const idle = (quick: boolean) =>
  Effect.gen(function* () {
    const seconds = quick ? 3 : 5
    const place = yield* makePlace()
    const { pid } = yield* startGateway(place)
    const bare = yield* child(() =>
      childProcess.spawn(process.execPath, ["-e", "setInterval(() => {}, 1e6)"], { stdio: "ignore" })
    )
    const pids = [pid, bare.pid!] as const
    yield* Effect.sleep(settleMs)
    const before = pids.map(cpuMs)
    const from = performance.now()
    yield* Effect.sleep(seconds * 1000)
    const elapsed = (performance.now() - from) / 1000
    const [cpu, bareCpu] = pids.map((pid, index) => (cpuMs(pid) - before[index]!) / elapsed)
    const [rss, bareRss] = pids.map(rssMb)
    return {
      rows: [
        row({
          id: "gateway-rss",
          what: `the gateway's memory, idle for ${(settleMs / 1000 + elapsed).toFixed(0)} s`,
          unit: "MB",
          value: rss!,
          floor: bareRss!,
          floorIs: "node doing nothing",
          n: 1,
          budget: { on: "value", atMost: 90 }
        }),
        row({
          id: "gateway-cpu",
          what: `the gateway's CPU, idle, over ${elapsed.toFixed(0)} s`,
          unit: "ms/s",
          value: cpu!,
          floor: bareCpu!,
          floorIs: "node doing nothing",
          n: 1,
          budget: { on: "value", atMost: 1 }
        })
      ]
    } satisfies Measured
  })
