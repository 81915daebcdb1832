/** Sub-ranges of one instance's range of marks, one for each child and all that it will fork. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { candidateRange, type MarkRange, overlaps } from "../../services/InstanceMark.ts"

/**
 * An epoch's range is 1024 times as wide as one of these, so a draw meets one of n that are taken with at most 2n in 1024:
 * with eight taken all of these draws fail once in 10^115.
 */
const claimDraws = 64

export const makeClaims = (mark: MarkRange | null) => {
  const claimed = new Set<MarkRange>()
  return Effect.acquireRelease(
    Effect.gen(function* () {
      if (mark === null) return null
      for (let draw = 0; draw < claimDraws; draw++) {
        const range = candidateRange(mark.high, yield* Random.next)
        if (range === null) return null
        if ([...claimed].some((other) => overlaps(other, range))) continue
        claimed.add(range)
        return range
      }
      return null
    }),
    (range) => Effect.sync(() => range !== null && claimed.delete(range))
  )
}
