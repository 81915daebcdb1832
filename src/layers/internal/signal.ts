/** Waiting for a condition on plain state: who changes the state calls `notify`, and nobody who waits misses it. */
import * as Effect from "effect/Effect"

export interface Signal {
  readonly notify: () => void
  readonly until: (condition: () => boolean) => Effect.Effect<void>
}

export const makeSignal = (): Signal => {
  const waiting = new Set<() => void>()
  return {
    notify: () => {
      if (waiting.size === 0) return
      // Those of now: who is woken may wait again at once.
      const now = Array.from(waiting)
      for (const look of now) look()
    },
    until: (condition) =>
      Effect.callback<void>((resume) => {
        // Looked at here and not before: between a look and the waiting a fiber may be made to yield.
        if (condition()) return resume(Effect.void)
        const look = (): void => {
          if (!condition()) return
          waiting.delete(look)
          resume(Effect.void)
        }
        waiting.add(look)
        return Effect.sync(() => waiting.delete(look))
      })
  }
}
