/** At a start: what is left of the runs of earlier epochs, looked at once for all of them, and then dealt with. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import {
  contains,
  type Marked,
  type MarkRange,
  overlaps,
  type SweepReport
} from "../../services/InstanceMark.ts"
import type { Extinction } from "../../services/Run.ts"
import type { ProcessIdentity } from "../../services/ProcessIdentity.ts"
import { dealingWithRun, type Reconciled, type RunDealing, type RunRecord } from "../../services/RunLedger.ts"
import { ancestorsOf, type Seen } from "./procfs.ts"
import { cookieBearers } from "./runCookie.ts"
import type { Ledger } from "./runLedger.ts"
import { sweepTree, type RunTree, type TreeHands } from "./runTree.ts"

/** Each holds the event loop for the time of a scan of /proc. */
const sweepsAtOnce = 8

export interface Planned {
  readonly record: RunRecord
  readonly dealing: RunDealing
  /** What a sweep would end. */
  readonly tree: RunTree
  /** It was ended already. */
  readonly done: Extinction | null
}

interface World {
  readonly identities: ProcessIdentity["Service"]
  /** That this process has, or is in. */
  readonly own: MarkRange | null
  /** Whether the holder of a run's row lives. */
  readonly isKept: (epoch: string) => boolean
  readonly lost: "both-lost" | "keeper-lost"
  /** Whoever was ended just before; of those that carried a run's mark that is the run's end. */
  readonly swept: ReadonlyArray<SweepReport>
  readonly marks: TreeHands["marks"]
  /** Only for a sweep, since it loads what a start does without. */
  readonly hands: Effect.Effect<TreeHands>
}

/** Touches nothing. */
export const planReconciliation = Effect.fnUntraced(function* (
  records: ReadonlyArray<RunRecord>,
  { identities, own, isKept, lost, marks, swept }: Omit<World, "hands">
): Effect.fn.Return<ReadonlyArray<Planned>> {
  if (records.length === 0) return []
  const { bootId } = identities.self
  const ours = new Set([process.pid, ...ancestorsOf(process.pid)])
  const marked = records.flatMap(({ bootId: of, mark }) => (of === bootId && mark !== null ? [mark] : []))
  const members: ReadonlyArray<Marked> =
    marked.length === 0
      ? []
      : yield* marks.members({
          low: Math.min(...marked.map(({ low }) => low)),
          high: Math.max(...marked.map(({ high }) => high))
        })
  const cookies = yield* cookieBearers
  return yield* Effect.forEach(records, (record) =>
    Effect.gen(function* () {
      const { runId, mark, pidNamespace } = record
      const verdict =
        record.leader === null
          ? null
          : yield* identities.verdict({ bootId: record.bootId, pidNamespace, ...record.leader })
      // Since a dead one's number may have had another owner, whose session it would name.
      const leader = verdict === "alive" ? record.leader : null
      const inRange = members.filter(
        (member) => mark !== null && contains(mark, member.mark) && !ours.has(member.identity.pid)
      )
      const withCookie = cookies.get(runId) ?? []
      const isLeader = (one: Seen) => one.pid === leader?.pid && one.startToken === leader.startToken
      const isMarked = inRange.some(({ identity }) => isLeader(identity))
      const others = inRange.filter(({ identity }) => !isLeader(identity))
      const dealing = dealingWithRun(
        {
          sameBoot: record.bootId === bootId,
          leader: verdict,
          leaderProven: isMarked || withCookie.some(isLeader),
          bearers: withCookie.length > 0 ? "proven" : others.length > 0 ? "unproven" : "none",
          held: mark !== null && own !== null && overlaps(mark, own),
          kept: isKept(record.epoch)
        },
        lost
      )
      // A machine without prlimit has started it without the mark that was claimed for it.
      const bears =
        isMarked || inRange.some(({ identity }) => withCookie.some(({ pid }) => pid === identity.pid))
      const report = swept.find(({ ended }) =>
        ended.some((one) => mark !== null && contains(mark, one.mark) && record.bootId === bootId)
      )
      const done: Extinction | null =
        dealing._tag === "close" && report !== undefined ? { proven: report.proven, survivors: [] } : null
      return {
        record,
        dealing: done === null ? dealing : ({ _tag: "sweep", lost } as const),
        tree: { runId, leader, mark: bears ? mark : null, cgroup: null, kin: new Map() },
        done
      }
    })
  )
})

export const reconcile = Effect.fnUntraced(function* (
  ledger: Ledger,
  records: ReadonlyArray<RunRecord>,
  world: World
) {
  const planned = yield* planReconciliation(records, world)
  const dealt = yield* Effect.forEach(
    planned,
    ({ record, dealing, tree, done }): Effect.Effect<Reconciled> =>
      dealing._tag === "sweep" && done === null
        ? world.hands.pipe(
            Effect.flatMap((hands) => sweepTree(tree, hands, false)),
            Effect.map(({ extinction }) => ({ runId: record.runId, dealing, extinction }))
          )
        : Effect.succeed({ runId: record.runId, dealing, extinction: done }),
    { concurrency: sweepsAtOnce }
  )
  const endedAt = yield* Clock.currentTimeMillis
  yield* ledger.together(
    Effect.forEach(
      dealt,
      ({ runId, dealing, extinction }) =>
        dealing._tag === "leave" || dealing._tag === "adopt"
          ? Effect.void
          : ledger.end(runId, { endedAt, reason: null, lost: dealing.lost, status: null, extinction }),
      { discard: true }
    )
  )
  for (const { runId, dealing } of dealt)
    if (dealing._tag === "leave")
      yield* Effect.logWarning("what is left of a run cannot be told, so it is left alone").pipe(
        Effect.annotateLogs({ run: runId, because: dealing.because })
      )
  return dealt
})
