/** Decisions over the socket, without any hook process: the time of one, and the gateway's CPU for each of very many. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { readRecord } from "../../src/services/BridgeStore.ts"
import { generationHeader, hookPath, relayHeader } from "../../src/services/HookWire.ts"
import { makePlace, startGateway } from "../support/gateway.ts"
import type { Caller, Target } from "./caller.ts"
import type { Echo } from "./echo.ts"
import { BenchFailed, cpuMs, openRelay, payload, startHelper } from "./helper.ts"
import { type Measured, median, quantile, row } from "./report.ts"

const clients = 16

/** A gateway with a relay, a raw server, and the same question for both; `close` as each client of ours sends it. */
const world = Effect.gen(function* () {
  const place = yield* makePlace()
  const gateway = yield* startGateway(place)
  const relay = yield* openRelay(place)
  const record = readRecord(fs.readFileSync(relay.recordPath, "utf8"))
  if (typeof record === "string") return yield* new BenchFailed({ problem: `the record is ${record}` })
  const rawServer = Effect.fnUntraced(function* (name: string, database: string | null) {
    const echo = yield* startHelper<Echo>(new URL("./echo.ts", import.meta.url))
    const socketPath = path.join(place.runtimeDir, `${name}.sock`)
    return { socketPath, pid: yield* echo("listen", { socketPath, database }) }
  })
  const raw = yield* rawServer("raw", null)
  const durable = yield* rawServer("durable", path.join(place.home, "questions.db"))
  const caller = yield* startHelper<Caller>(new URL("./caller.ts", import.meta.url))
  const to =
    (socketPath: string) =>
    (connection: "close" | "keep-alive"): Target => ({
      socketPath,
      request: [
        `POST ${hookPath("pre_tool_use")} HTTP/1.1`,
        "host: holdfast",
        `connection: ${connection}`,
        `authorization: Bearer ${record.token}`,
        `${relayHeader}: ${record.relayId}`,
        `${generationHeader}: ${record.generation}`,
        "content-type: application/json",
        `content-length: ${Buffer.byteLength(payload)}`,
        "",
        payload
      ].join("\r\n")
    })
  return {
    caller,
    gateway: { pid: gateway.pid, target: to(record.socketPath) },
    raw: { pid: raw.pid, target: to(raw.socketPath) },
    durable: { pid: durable.pid, target: to(durable.socketPath) }
  }
})

export const latency = (quick: boolean) =>
  Effect.gen(function* () {
    const { caller, gateway, raw } = yield* world
    const [decisions, floor] = yield* caller("latency", {
      targets: [gateway.target("close"), raw.target("close")],
      rounds: quick ? 1000 : 4000,
      warmup: 1000
    })
    const at = (id: string, what: string, q: number, atMost: number) =>
      row({
        id,
        what: `one decision over a connection of its own, ${what}`,
        unit: "ms",
        value: quantile(decisions!, q),
        floor: quantile(floor!, q),
        floorIs: "raw node:http",
        n: decisions!.length,
        budget: { on: "value", atMost }
      })
    return {
      rows: [at("decision-p50", "p50", 0.5, 0.2), at("decision-p99", "p99", 0.99, 0.6)]
    } satisfies Measured
  })

export const serverCpu = (quick: boolean) =>
  Effect.gen(function* () {
    const rounds = quick ? 3 : 9
    const questions = 4000
    // The gateway's code is optimised after some ten thousand decisions; half as much again until then.
    const warmup = 4
    const { caller, ...servers } = yield* world
    const names = ["gateway", "raw", "durable"] as const
    const us = { gateway: [] as Array<number>, raw: [] as Array<number>, durable: [] as Array<number> }
    let rate = 0
    for (let round = -warmup; round < rounds; round++) {
      for (const name of round % 2 === 0 ? names : names.toReversed()) {
        const { pid, target } = servers[name]
        const before = cpuMs(pid)
        const took = yield* caller("load", { target: target("keep-alive"), clients, questions })
        if (round < 0) continue
        us[name].push(((cpuMs(pid) - before) * 1000) / questions)
        if (name === "gateway") rate += questions / took / rounds
      }
    }
    const against = (floor: "raw" | "durable") => ({
      unit: "us",
      value: median(us.gateway),
      floor: median(us[floor]),
      n: rounds
    })
    return {
      rows: [
        row({
          id: "decision-cpu",
          what: `the gateway's CPU for one decision, keep-alive, ${clients} clients, ${Math.round(rate * 1000)} decisions/s`,
          ...against("raw"),
          floorIs: "raw node:http",
          budget: { on: "ratio", atMost: 2 }
        }),
        row({
          id: "decision-cpu-row",
          what: "the same",
          ...against("durable"),
          floorIs: "raw node:http that writes a row before it answers"
        })
      ]
    } satisfies Measured
  })
