/** At a start: what is left of the runs of earlier epochs, looked at once for all of them, and then dealt with. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { contains, type Marked, overlaps } from "../../services/InstanceMark.ts"
import type { EpochRecord } from "../../services/Epoch.ts"
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
}

interface World {
  readonly identities: ProcessIdentity["Service"]
  readonly current: EpochRecord
  readonly marks: TreeHands["marks"]
  /** Only for a sweep, since it loads what a start does without. */
  readonly hands: Effect.Effect<TreeHands>
}

/** Touches nothing. */
const planReconciliation = Effect.fnUntraced(function* (
  records: ReadonlyArray<RunRecord>,
  { identities, current, marks }: World
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
      const dealing = dealingWithRun({
        sameBoot: record.bootId === bootId,
        leader: verdict,
        leaderProven: isMarked || withCookie.some(isLeader),
        bearers: withCookie.length > 0 ? "proven" : others.length > 0 ? "unproven" : "none",
        held: mark !== null && current.mark !== null && overlaps(mark, current.mark)
      })
      // A machine without prlimit has started it without the mark that was claimed for it.
      const bears =
        isMarked || inRange.some(({ identity }) => withCookie.some(({ pid }) => pid === identity.pid))
      return {
        record,
        dealing,
        tree: { runId, leader, mark: bears ? mark : null, cgroup: null, kin: new Map() }
      }
    })
  )
})

export const reconcile = Effect.fnUntraced(function* (ledger: Ledger, world: World) {
  const records = yield* ledger.openBeside(world.current.epoch)
  const planned = yield* planReconciliation(records, world)
  const dealt = yield* Effect.forEach(
    planned,
    ({ record, dealing, tree }): Effect.Effect<Reconciled> =>
      dealing._tag === "sweep"
        ? world.hands.pipe(
            Effect.flatMap((hands) => sweepTree(tree, hands, false)),
            Effect.map(({ extinction }) => ({ runId: record.runId, dealing, extinction }))
          )
        : Effect.succeed({ runId: record.runId, dealing, extinction: null }),
    { concurrency: sweepsAtOnce }
  )
  const endedAt = yield* Clock.currentTimeMillis
  yield* ledger.together(
    Effect.forEach(
      dealt,
      ({ runId, dealing, extinction }) =>
        dealing._tag === "leave"
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
