/**
 * Everything that descends from one attempt of a run: found, asked, killed, and looked for until nothing is left.
 *
 * With a mark that is a fact of the kernel; once nobody carries it any more, the other signs are looked at once, and
 * whoever they show is ended as well and said to be a hole in the mark. Without a mark it is the leader, its session and
 * descendants as far as they were seen, and whoever has the run's cookie: what is found is ended, and that nothing was
 * missed is never claimed.
 */
import * as Effect from "effect/Effect"
import { type CarriedMark, traceOf } from "../../services/Containment.ts"
import { contains, type InstanceMark, type MarkRange, overlaps } from "../../services/InstanceMark.ts"
import { processKey } from "../../services/ProcessIdentity.ts"
import type { Extinction } from "../../services/Run.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { killGroupMembers } from "./cgroups.ts"
import { endSeen } from "./endSeen.ts"
import type { Orphans } from "./orphans.ts"
import { ancestorsOf, isStill, markOf, type Seen, sight } from "./procfs.ts"
import type { ChildCalls } from "./runChild.ts"
import { makeSlices } from "./slices.ts"
import type { Traces } from "./traces.ts"

export interface RunTree {
  readonly runId: string
  /** Null when nobody knows which it was, or its number may have been another's since. */
  readonly leader: Seen | null
  readonly mark: MarkRange | null
  /** The directory of a cgroup that is its own. */
  readonly cgroup: string | null
  /** Those that were seen beside the leader. */
  readonly kin: Map<string, Seen>
}

export interface TreeHands {
  readonly marks: Pick<InstanceMark["Service"], "members" | "sweep">
  readonly signal: ChildCalls["signal"]
  readonly times: SettingsShape["mark"]
  readonly traces: Traces
  /** Whoever this process has adopted, of whichever run. */
  readonly orphans: Orphans["living"]
  /** The ranges of marks that are somebody's, this run's among them. */
  readonly claimed: Effect.Effect<ReadonlyArray<MarkRange>>
}

export interface TreeEnd {
  readonly extinction: Extinction
  readonly survivors: ReadonlyArray<Seen>
}

/** A tree that is still growing after so many frozen layers is ended by the sweep. */
const maxFreezes = 16
/** A warning names so many processes. */
const namedMost = 16

/** Its number is still its own, or nobody's: then a session of that number can only be its. */
const isUnambiguous = (leader: Seen): boolean => isStill(leader) || sight(leader.pid)._tag === "Gone"

/** While its leader lives or has just left, so that those who leave the tree later are known. */
export const rememberKin = ({ leader, kin }: RunTree, { traces }: Pick<TreeHands, "traces">) =>
  Effect.gen(function* () {
    if (leader === null || !isUnambiguous(leader)) return
    const now = yield* traces.kinOf(leader.pid)
    if (isUnambiguous(leader)) for (const one of now) kin.set(processKey(one), one)
  })

const withoutUs = (members: ReadonlyArray<Seen>): ReadonlyArray<Seen> => {
  const never = new Set([process.pid, ...ancestorsOf(process.pid)])
  return members.filter(({ pid }) => !never.has(pid))
}

/** The leader first. */
const membersOf = (tree: RunTree, hands: TreeHands): Effect.Effect<ReadonlyArray<Seen>> =>
  Effect.gen(function* () {
    const { runId, leader, mark, kin } = tree
    let members: ReadonlyArray<Seen>
    if (mark === null) {
      yield* rememberKin(tree, hands)
      for (const one of yield* hands.traces.bearers(runId, null)) kin.set(processKey(one), one)
      if (leader !== null) kin.set(processKey(leader), leader)
      members = [...kin.values()].filter(isStill)
    } else members = (yield* hands.marks.members(mark)).map(({ identity }): Seen => identity)
    const others = withoutUs(members)
    return [
      ...others.filter(({ pid }) => pid === leader?.pid),
      ...others.filter(({ pid }) => pid !== leader?.pid)
    ]
  })

/** Each right after a look at its start and mark. */
const signalAll = Effect.fnUntraced(function* (
  members: ReadonlyArray<Seen>,
  names: ReadonlyArray<NodeJS.Signals>,
  { signal }: Pick<TreeHands, "signal">,
  mayCarry: (carried: CarriedMark) => boolean
) {
  const turn = yield* makeSlices
  for (const one of members) {
    yield* turn
    const stands = () => isStill(one) && mayCarry(markOf(one.pid))
    for (const name of names) if (signal(one.pid, name, stands) !== "sent") break
  }
})

/** Without a mark of the run's own, whatever it carries. */
const carriesOf =
  ({ mark }: RunTree) =>
  (carried: CarriedMark): boolean =>
    mark === null || (typeof carried === "number" && contains(mark, carried))

/** To end in its own way: as a closing terminal says it, as a service manager does, and to those that are stopped too. */
export const askTree = (tree: RunTree, hands: TreeHands): Effect.Effect<void> =>
  rememberKin(tree, hands).pipe(
    Effect.andThen(membersOf(tree, hands)),
    Effect.flatMap((members) => signalAll(members, ["SIGHUP", "SIGTERM", "SIGCONT"], hands, carriesOf(tree)))
  )

/** `atOnce`: it was asked before, or is not to be. Otherwise whoever is left gets the sweep's own grace. */
export const sweepTree = Effect.fnUntraced(function* (
  tree: RunTree,
  hands: TreeHands,
  atOnce: boolean
): Effect.fn.Return<TreeEnd> {
  const { mark, cgroup } = tree
  // Before the kernel ends them all, so that whoever was never in it, or has left it, is known.
  if (atOnce && cgroup !== null) {
    yield* rememberKin(tree, hands)
    yield* killGroupMembers(cgroup)
  }
  const end = yield* mark === null ? sweepKin(tree, hands, atOnce) : sweepMarked(tree, mark, hands, atOnce)
  if (cgroup === null || !(yield* killGroupMembers(cgroup))) return end
  yield* Effect.logWarning("processes of a run were found by its cgroup alone").pipe(
    Effect.annotateLogs({ run: tree.runId })
  )
  const survivors = end.survivors.filter(isStill)
  return { extinction: { proven: false, survivors: survivors.map(({ pid }) => pid) }, survivors }
})

const sweepMarked = Effect.fnUntraced(function* (
  tree: RunTree,
  mark: MarkRange,
  hands: TreeHands,
  atOnce: boolean
): Effect.fn.Return<TreeEnd> {
  yield* rememberKin(tree, hands)
  if (atOnce) yield* killFrozen(tree, hands)
  const { survivors, proven } = yield* hands.marks.sweep(mark)
  const holes = yield* endTraced(tree, mark, hands, atOnce)
  const left = [...survivors.map(({ identity }): Seen => identity), ...holes.left]
  return {
    extinction: { proven: proven && holes.found === 0, survivors: left.map(({ pid }) => pid) },
    survivors: left
  }
})

/** Whoever something else than the mark ties to the run: ended, and said, since the mark should have found it. */
const endTraced = Effect.fnUntraced(function* (
  tree: RunTree,
  mark: MarkRange,
  hands: TreeHands,
  atOnce: boolean
) {
  const { runId, leader, kin } = tree
  // Before the claims: whoever a later run has begun is not among them, and an earlier one's claim is there.
  const orphans = yield* hands.orphans
  const vouched = (yield* hands.claimed).filter((range) => !overlaps(range, mark))
  const isTrace = (carried: CarriedMark) => traceOf(carried, mark, vouched) !== "other"
  const seen = new Map(kin)
  for (const one of yield* hands.traces.bearers(runId, leader?.startToken || null))
    seen.set(processKey(one), one)
  // Of this run, as no other is there whose it could be.
  if (vouched.length === 0) for (const one of orphans) seen.set(processKey(one), one)
  const turn = yield* makeSlices
  const found: Array<Seen> = []
  for (const one of withoutUs([...seen.values()])) {
    yield* turn
    if (isStill(one) && isTrace(markOf(one.pid))) found.push(one)
  }
  if (found.length === 0) return { found: 0, left: [] }
  yield* Effect.logWarning("a hole in the mark: processes of a run were found by other signs alone").pipe(
    Effect.annotateLogs({
      run: runId,
      processes: found
        .slice(0, namedMost)
        .map(({ pid }) => `${pid} (${markOf(pid)})`)
        .join(" ")
    })
  )
  const left = yield* endSeen({
    look: Effect.sync(() => found.filter((one) => isStill(one) && isTrace(markOf(one.pid)))),
    send: (members, names) => signalAll(members, names, hands, isTrace),
    graceMs: atOnce ? null : hands.times.killGraceMs,
    timeoutMs: hands.times.sweepTimeoutMs
  })
  return { found: found.length, left }
})

/** Who is stopped neither sees the others be killed nor answers it; whoever grows on is left to the sweep. */
const killFrozen = Effect.fnUntraced(function* (tree: RunTree, hands: TreeHands) {
  const frozen = new Set<string>()
  let members = yield* membersOf(tree, hands)
  for (let round = 0; round < maxFreezes; round++) {
    const fresh = members.filter((one) => !frozen.has(processKey(one)))
    if (fresh.length === 0) break
    yield* signalAll(fresh, ["SIGSTOP"], hands, carriesOf(tree))
    for (const one of fresh) frozen.add(processKey(one))
    members = yield* membersOf(tree, hands)
  }
  yield* signalAll(members, ["SIGKILL"], hands, carriesOf(tree))
})

const sweepKin = (tree: RunTree, hands: TreeHands, atOnce: boolean): Effect.Effect<TreeEnd> =>
  endSeen({
    look: membersOf(tree, hands),
    send: (members, names) => signalAll(members, names, hands, carriesOf(tree)),
    graceMs: atOnce ? null : hands.times.killGraceMs,
    timeoutMs: hands.times.sweepTimeoutMs
  }).pipe(
    Effect.map((survivors) => ({
      extinction: { proven: false, survivors: survivors.map(({ pid }) => pid) },
      survivors
    }))
  )
