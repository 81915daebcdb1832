/**
 * Ends processes that are known by having been seen, where no mark finds them: asked, killed after a grace, and looked for
 * until none is left or the time is over.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { Seen } from "./procfs.ts"

export interface SeenEnding {
  /** Whoever is there now: each look finds who has joined since. */
  readonly look: Effect.Effect<ReadonlyArray<Seen>>
  /** Each right after a check that it is still who was seen. */
  readonly send: (members: ReadonlyArray<Seen>, names: ReadonlyArray<NodeJS.Signals>) => Effect.Effect<void>
  /** From being asked to being killed; null: killed at once. */
  readonly graceMs: number | null
  /** For all of it, the grace included. */
  readonly timeoutMs: number
}

/** Between two looks at those that were asked or killed. */
const lookMs = 50

/** Those that would not end. */
export const endSeen = Effect.fnUntraced(function* ({
  look,
  send,
  graceMs,
  timeoutMs
}: SeenEnding): Effect.fn.Return<ReadonlyArray<Seen>> {
  const now = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))
  const began = yield* now
  const killAt = began + (graceMs ?? 0)
  let members = yield* look
  if (graceMs !== null) yield* send(members, ["SIGTERM", "SIGCONT"])
  while (members.length > 0 && (yield* now) - began < timeoutMs) {
    if ((yield* now) >= killAt) yield* send(members, ["SIGKILL"])
    yield* Effect.sleep(lookMs)
    members = yield* look
  }
  return members
})
