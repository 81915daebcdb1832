/** What thousands of records of other gateways cost the one that prunes them or publishes beside them. */
import * as Effect from "effect/Effect"
import type { Bridges } from "./bridges.ts"
import { startHelper } from "./helper.ts"
import { type Measured, median, row } from "./report.ts"

const startBridges = startHelper<Bridges>(new URL("./bridges.ts", import.meta.url), ["--expose-gc"])

const foreign = 10_000

export const prune = (quick: boolean) =>
  Effect.gen(function* () {
    const bridges = yield* startBridges
    const rows = yield* Effect.forEach([10, 1000, foreign], (files) =>
      Effect.gen(function* () {
        const rounds = quick ? 3 : files === foreign ? 7 : 15
        const measured = yield* bridges("prune", { files, rounds })
        const name = files >= 1000 ? `${files / 1000}k` : String(files)
        return [
          row({
            id: `prune-${name}`,
            what: `prune of ${files} records, each of another dead owner`,
            unit: "ms",
            value: median(measured.durations),
            floor: median(measured.bare),
            floorIs: "reading and unlinking as many",
            n: rounds
          }),
          row({
            id: `prune-${name}-stall`,
            what: "the event loop's longest stall meanwhile",
            unit: "ms",
            value: median(measured.stalls),
            floor: median(measured.idle),
            floorIs: "an idle loop as long",
            n: rounds,
            ...(files === foreign ? { budget: { on: "value", atMost: 3 } } : {})
          })
        ]
      })
    )
    return { rows: rows.flat() } satisfies Measured
  })

export const register = (quick: boolean) =>
  Effect.gen(function* () {
    const bridges = yield* startBridges
    const { crowded, alone } = yield* bridges("register", { files: foreign, rounds: quick ? 50 : 200 })
    return {
      rows: [
        row({
          id: "register-10k",
          what: `a relay's registration beside ${foreign} records of others, until it may be used`,
          unit: "ms",
          value: median(crowded),
          floor: median(alone),
          floorIs: "beside none",
          n: crowded.length,
          budget: { on: "value", atMost: 1 }
        })
      ]
    } satisfies Measured
  })
