/** Slow is not dead, on the real codex: more busy threads than cores. Small here; a hundred by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { makePlace, startGateway } from "./support/gateway.ts"
import { leaseOf, runOf, scripted, shell, statusOf } from "./support/leases.ts"

const threads = process.env["HOLDFAST_SOAK"] ? 100 : 20

describe("the shared app-server", () => {
  it.live(
    `slow is not dead: ${threads} busy threads on the machine's cores retire nothing`,
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        yield* scripted("is busy", [
          shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"),
          { say: "counted" }
        ])
        const all = yield* Effect.forEach(
          Array.from({ length: threads }),
          () => runOf(place, { prompt: "is busy", startTimeoutMs: 60_000 }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          all.map((ended) => [statusOf(ended), ended.failure]),
          all.map(() => ["completed", null])
        )
        const { generation, retired, faults } = yield* leaseOf(place)
        assert.deepStrictEqual({ generation, retired, faults }, { generation: 1, retired: null, faults: 0 })
      }).pipe(Effect.provide(providerLayer)),
    120_000
  )
})
