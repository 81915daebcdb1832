/**
 * A hunt for anything that gets away: forests of random vices under one mark, swept at a random moment. The seed of a
 * failure is in its message. `npm run soak` runs 300 rounds, everything else three.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import { InstanceMark, layer } from "../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../src/layers/ProcessIdentity.ts"
import { Settings } from "../src/services/Settings.ts"
import { bystander, carriers, lives, marked, vices } from "./support/markedProcesses.ts"

const rounds = process.env["HOLDFAST_SOAK"] ? 300 : 3
const settings = Layer.effect(
  Settings,
  Effect.map(Settings, (all) => ({ ...all, mark: { killGraceMs: 40, sweepTimeoutMs: 9_000 } }))
)
const live = layer.pipe(Layer.provide([layerIdentity, settings]))

const round = (seed: number) =>
  Effect.gen(function* () {
    const marks = yield* InstanceMark
    const range = yield* marks.choose
    const other = yield* bystander
    const names = Object.keys(vices)
    const forest = yield* Effect.all(Array.from({ length: 1 + (seed % 5) }, () => Random.choice(names)))
    const trees = yield* Effect.forEach(
      forest,
      (name) => {
        const [command, ...args] = vices[name]!.command
        return marked(range.high - names.indexOf(name), command!, ...args)
      },
      { concurrency: "unbounded" }
    )
    yield* Effect.sleep(yield* Random.nextIntBetween(0, 20))
    const { survivors } = yield* marks.sweep(range)
    yield* Effect.forEach(trees, ({ silence }) => silence, { discard: true })
    assert.deepStrictEqual(
      { left: carriers(range.low, range.high), survivors, bystander: lives(other) },
      { left: [], survivors: [], bystander: true },
      `seed ${seed}: ${forest.join(", ")}`
    )
  }).pipe(Random.withSeed(seed), Effect.scoped, Effect.provide(live))

describe("InstanceMark under random forests", () => {
  it.live(
    `leaves nothing in ${rounds} rounds`,
    () =>
      Effect.gen(function* () {
        for (let seed = 1; seed <= rounds; seed++) yield* round(seed)
      }),
    rounds * 10_000
  )
})
