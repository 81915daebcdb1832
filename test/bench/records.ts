/** What thousands of records of other gateways cost the one that prunes them or publishes beside them. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import type { Bridges } from "./bridges.ts"
import { startHelper } from "./helper.ts"
import { type Measured, median, row } from "./report.ts"

const startBridges = startHelper<Bridges>(new URL("./bridges.ts", import.meta.url), ["--expose-gc"])

const foreign = 10_000

/** Runtime directories are memory where there is a login session, and below the temp directory where there is none. */
const memory = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir()

export const prune = (quick: boolean) =>
  Effect.gen(function* () {
    const bridges = yield* startBridges
    const measure = Effect.fnUntraced(function* (options: {
      readonly id: string
      readonly base: string
      readonly files: number
      readonly rounds: number
      readonly warmup: number
    }) {
      const { id, ...rest } = options
      const { durations, stalls, bare, idle } = yield* bridges("prune", rest)
      const n = options.rounds
      const stall = (of: "all" | "own") => ({
        unit: "ms",
        value: median(stalls.map((stall) => stall[of])),
        floor: median(idle.map((stall) => stall[of])),
        floorIs: "an idle loop as long",
        n
      })
      return [
        row({
          id,
          what: `prune of ${options.files} records in ${options.base}, each of another dead owner`,
          unit: "ms",
          value: median(durations),
          floor: median(bare),
          floorIs: "reading and unlinking as many",
          n
        }),
        row({
          id: `${id}-stall`,
          what: "the event loop's longest stall meanwhile",
          ...stall("all"),
          ...(options.files === foreign ? { budget: { on: "value", atMost: 3 } } : {})
        }),
        row({
          id: `${id}-stall-own`,
          what: "the longest less the time that other processes had the CPU",
          ...stall("own")
        })
      ]
    })
    const rows = [
      yield* measure({ id: "prune-10", base: memory, files: 10, rounds: quick ? 5 : 15, warmup: 3 }),
      yield* measure({ id: "prune-1k", base: memory, files: 1000, rounds: quick ? 3 : 9, warmup: 2 }),
      yield* measure({ id: "prune-10k", base: memory, files: foreign, rounds: quick ? 3 : 5, warmup: 1 }),
      // Where files are made slowly, a round takes some ten seconds.
      memory === os.tmpdir() || quick
        ? []
        : yield* measure({ id: "prune-10k-disk", base: os.tmpdir(), files: foreign, rounds: 3, warmup: 0 })
    ]
    return { rows: rows.flat() } satisfies Measured
  })

export const register = (quick: boolean) =>
  Effect.gen(function* () {
    const bridges = yield* startBridges
    const { crowded, alone } = yield* bridges("register", {
      base: memory,
      files: foreign,
      rounds: quick ? 50 : 200
    })
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
