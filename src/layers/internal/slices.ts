/** Work on thousands of processes in slices, between which everybody else has a turn. */
import * as Effect from "effect/Effect"

/** A quarter of the 20 ms for which nothing may hold the event loop: others may have a slice in the same turn. */
const sliceMs = 5

/** Asked between two of its steps: goes on at once until the slice is used up, then waits for its next turn. */
export const makeSlices: Effect.Effect<Effect.Effect<void>> = Effect.sync(() => {
  let began = performance.now()
  const yielded = Effect.map(Effect.yieldNow, () => {
    began = performance.now()
  })
  return Effect.suspend(() => (performance.now() - began < sliceMs ? Effect.void : yielded))
})
