/**
 * Looks every few seconds at who carries a mark of this process's own range, and ends those for whom nobody vouches any
 * more: what got away from the end of its run, still forks faster than it is met, or lowered its mark within the range.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { janitorEveryMs, type Suspect, type Suspicions, suspectsOf } from "../../services/Containment.ts"
import type { InstanceMark, MarkRange } from "../../services/InstanceMark.ts"
import { ancestorsOf, isStill, markOf } from "./procfs.ts"
import type { ChildCalls } from "./runChild.ts"

export interface JanitorOptions {
  /** This process's own. */
  readonly range: MarkRange
  readonly claimed: Effect.Effect<ReadonlyArray<MarkRange>>
  readonly members: InstanceMark["Service"]["members"]
  readonly sweep: InstanceMark["Service"]["sweep"]
  readonly calls: Effect.Effect<Pick<ChildCalls, "signal">>
}

export const startJanitor = Effect.fnUntraced(function* ({
  range,
  claimed,
  members,
  sweep,
  calls
}: JanitorOptions): Effect.fn.Return<void, never, Scope.Scope> {
  let suspicions: Suspicions = new Map()
  let total = 0

  const end = Effect.fnUntraced(function* (suspects: ReadonlyArray<Suspect>) {
    const { signal } = yield* calls
    for (const one of suspects) {
      const outcome = signal(one.pid, "SIGKILL", () => isStill(one) && markOf(one.pid) === one.mark)
      if (outcome !== "sent") continue
      total++
      yield* Effect.logWarning("ended a process of ours that nobody vouched for").pipe(
        Effect.annotateLogs({ pid: one.pid, mark: one.mark, so_far: total })
      )
    }
  })

  const look = Effect.gen(function* () {
    const never = new Set([process.pid, ...ancestorsOf(process.pid)])
    const found = (yield* members(range)).filter(({ identity }) => !never.has(identity.pid))
    // After the marks: whatever was claimed before a mark was taken is in it.
    const open = yield* claimed
    const now = Number((yield* Clock.monotonicTimeNanos) / 1_000_000n)
    const seen = suspectsOf(
      found.map(({ identity: { pid, startToken }, mark }) => ({ pid, startToken, mark })),
      { range, liveness: "alive", open },
      suspicions,
      now
    )
    suspicions = seen.suspicions
    if (seen.ended.length > 0) yield* end(seen.ended)
    for (const mark of seen.moving) {
      const { ended, proven } = yield* sweep({ low: mark, high: mark })
      yield* Effect.logWarning(
        "swept a mark of ours that nobody vouched for and that never stood still"
      ).pipe(Effect.annotateLogs({ mark, ended: ended.length, proven }))
    }
  }).pipe(Effect.catchDefect((defect) => Effect.logError("a look at the marks broke", defect)))

  yield* Effect.sleep(janitorEveryMs).pipe(Effect.andThen(look), Effect.forever, Effect.forkScoped)
})
