/** The ranges of marks inside one range: each claimed by one child and all that it forks, and given back with a scope. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { type MarkRange, slotsBelow } from "../../services/InstanceMark.ts"

export interface Claims {
  /** Nobody else gets it while the scope is open. Null where there is no mark, and, with a warning, no room. */
  readonly claimMark: Effect.Effect<MarkRange | null, never, Scope.Scope>
  /** Those that are open now; with one that found no room, the mark itself, which its child has inherited. */
  readonly claimed: Effect.Effect<ReadonlyArray<MarkRange>>
}

/** Within the range of a gateway or keeper; null for one without a mark. */
export const makeClaims = (mark: MarkRange | null): Claims => {
  const slots = mark === null ? null : slotsBelow(mark.high)
  const open = new Map<number, MarkRange>()
  let withoutRoom = 0
  /** The first is random; then each slot is left alone for as long as there are others, since a ledger may still name it. */
  let next: number | null = null

  const claim = Effect.gen(function* () {
    if (slots === null || open.size >= slots.count) {
      withoutRoom++
      if (mark !== null)
        yield* Effect.logWarning(
          "no room for another mark: what starts without one is found only while it is seen"
        ).pipe(Effect.annotateLogs({ claimed: open.size }))
      return null
    }
    const start: number = next ?? Math.floor((yield* Random.next) * slots.count)
    let slot = start
    while (open.has(slot)) slot = (slot + 1) % slots.count
    next = (slot + 1) % slots.count
    open.set(slot, slots.at(slot))
    return slot
  })

  const release = (slot: number | null) =>
    Effect.sync(() => {
      if (slot === null) withoutRoom--
      else open.delete(slot)
    })

  return {
    claimMark: Effect.acquireRelease(claim, release).pipe(
      Effect.map((slot) => (slot === null ? null : slots!.at(slot)))
    ),
    claimed: Effect.sync(() => [
      ...open.values(),
      ...(mark !== null && withoutRoom > 0 ? [{ low: mark.high, high: mark.high }] : [])
    ])
  }
}
