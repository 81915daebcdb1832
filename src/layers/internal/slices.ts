/** Work on thousands of processes in slices, between which everybody else has a turn. */
import * as Effect from "effect/Effect"

/** Nothing may hold the event loop for 20 ms: others have their slices in the same turn, and a collection of garbage takes 5. */
const sliceMs = 3

/** Asked between two of its steps: goes on at once until the slice is used up, then waits for its next turn. */
export const makeSlices: Effect.Effect<Effect.Effect<void>> = Effect.sync(() => {
  let began = performance.now()
  const yielded = Effect.map(Effect.yieldNow, () => {
    began = performance.now()
  })
  return Effect.suspend(() => (performance.now() - began < sliceMs ? Effect.void : yielded))
})
