/**
 * A supervised child, many times over: no byte of a burst is ever lost, and nothing piles up. `npm run soak` runs 1,000
 * bursts and 2,000 children of each kind, everything else ten.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { burst, cycle, directory, holdings, kinds, readers, stuckPaste, whole } from "./support/runChild.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
const bursts = soak ? 1_000 : 10
const largeBursts = soak ? 200 : 3
const cycles = soak ? 2_000 : 10
const pastes = soak ? 40 : 1
const timeout = 600_000

describe("RunChild, many times over", () => {
  for (const kind of kinds)
    for (const [reader, part] of readers)
      for (const [count, size] of [
        [bursts, 64 * 1024],
        [largeBursts, 300 * 1024]
      ] as const)
        it.live(
          `${Math.ceil(count / part)} ${kind} that print ${size} bytes and leave are whole for one who ${reader}`,
          () =>
            Effect.gen(function* () {
              for (let round = 1; round <= count / part; round++)
                assert.deepStrictEqual(yield* burst(kind, reader, size), whole(size), `round ${round}`)
            }),
          timeout
        )

  for (const kind of kinds)
    it.live(
      `${cycles} children on ${kind}, ten at a time, leave no descriptor, thread or zombie`,
      () =>
        Effect.gen(function* () {
          yield* cycle(kind)
          const before = yield* holdings
          yield* Effect.replicateEffect(cycle(kind), cycles, { concurrency: 10, discard: true })
          assert.deepStrictEqual(yield* holdings, before)
        }),
      timeout
    )

  for (const kind of kinds)
    it.live(
      `${pastes} pastes into stopped children on ${kind} never reach another file`,
      () =>
        Effect.gen(function* () {
          const files = yield* directory
          for (let round = 1; round <= pastes; round++)
            assert.deepStrictEqual(
              yield* stuckPaste(kind, files, 1_000),
              { share: "below 5 %", strayBytes: 0, status: { code: null, signal: "SIGKILL" } },
              `round ${round}`
            )
        }),
      timeout
    )
})
