/** The ranges of marks inside one: as many as there is room for, nobody's twice, and none is lost. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { makeClaims } from "../src/layers/internal/claimMark.ts"
import { candidateRange, type MarkRange, overlaps, rangeOf } from "../src/services/InstanceMark.ts"

const warnings = () => {
  const said: Array<unknown> = []
  const layer = Logger.layer([Logger.make(({ message }) => void said.push(message))])
  return { said, provide: Effect.provide(Layer.fresh(layer)) }
}

const areDisjoint = (ranges: ReadonlyArray<MarkRange>): boolean =>
  ranges
    .toSorted((a, b) => a.low - b.low)
    .every((one, index, sorted) => index === 0 || !overlaps(one, sorted[index - 1]!))

/** One claim in a scope of its own. */
const claimIn = (claims: ReturnType<typeof makeClaims>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const range = yield* Scope.provide(claims.claimMark, scope)
    return { range, release: Scope.close(scope, Exit.void) }
  })

describe("Claims of marks", () => {
  it.effect(
    "2000 at once all get a range, disjoint and inside; the one that finds no room is warned of",
    () =>
      Effect.gen(function* () {
        const { said, provide } = warnings()
        const mark = candidateRange(null, yield* Random.next)!
        const claims = makeClaims(mark)
        yield* Effect.gen(function* () {
          const given = yield* Effect.forEach(Array.from({ length: 2_000 }), () => claims.claimMark)
          const ranges = given.flatMap((range) => range ?? [])
          assert.strictEqual(ranges.length, 2_000)
          assert.isTrue(ranges.every(({ low, high }) => mark.low <= low && high < mark.high))
          assert.isTrue(areDisjoint(ranges))
          const rest = yield* Effect.forEach(Array.from({ length: 48 }), () => claims.claimMark)
          assert.deepStrictEqual(
            rest.map((range) => range === null),
            [...Array<boolean>(47).fill(false), true]
          )
          // Whoever has none has inherited ours, and is vouched for by it.
          const claimed = yield* claims.claimed
          assert.deepStrictEqual(
            [claimed.length, claimed.at(-1)],
            [2_048, { low: mark.high, high: mark.high }]
          )
        }).pipe(Effect.scoped, provide)
        assert.deepStrictEqual(said, [
          ["no room for another mark: what starts without one is found only while it is seen"]
        ])
      }).pipe(Random.withSeed("2000"))
  )

  it.effect(
    "whatever is claimed and given back, no two that are open meet, and room that is given back is found",
    () =>
      Effect.gen(function* () {
        // Deep enough for few slots, so that it is full again and again.
        const claims = makeClaims(rangeOf(2 ** 12 + 2))
        const open: Array<{ readonly range: MarkRange; readonly release: Effect.Effect<void> }> = []
        for (let step = 0; step < 3_000; step++) {
          const full = open.length === 127
          if (!full && (yield* Random.nextBoolean)) {
            const { range, release } = yield* claimIn(claims)
            assert.isNotNull(range, `step ${step}, ${open.length} open`)
            open.push({ range, release })
          } else {
            const [one] = open.splice(Math.floor((yield* Random.next) * open.length), 1)
            yield* one?.release ?? Effect.void
          }
          if (step % 50 === 0) assert.isTrue(areDisjoint(open.map(({ range }) => range)), `step ${step}`)
        }
        assert.sameDeepMembers(
          [...(yield* claims.claimed)],
          open.map(({ range }) => range)
        )
      }).pipe(Random.withSeed("churn"))
  )

  it.effect("a slot that was given back is the last to be given again", () =>
    Effect.gen(function* () {
      const claims = makeClaims(candidateRange(null, 0.5)!)
      const first = yield* Effect.scoped(claims.claimMark)
      const next = yield* Effect.forEach(Array.from({ length: 2_047 }), () => Effect.scoped(claims.claimMark))
      assert.deepStrictEqual(next.indexOf(next.find((range) => range!.high === first!.high)!), 2_046)
    })
  )

  it.effect("without a mark, and as deep as marks go, there is none; the second is warned of", () =>
    Effect.gen(function* () {
      const { said, provide } = warnings()
      const given = yield* Effect.forEach([null, rangeOf(2 ** 41 + 3)], (mark) =>
        Effect.scoped(makeClaims(mark).claimMark)
      ).pipe(provide)
      assert.deepStrictEqual([given, said.length], [[null, null], 1])
    })
  )
})
