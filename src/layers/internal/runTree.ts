/**
 * Everything that descends from one attempt of a run: found, asked, killed, and looked for until nothing is left.
 *
 * With a mark that is a fact of the kernel. Without one it is the leader, its session and descendants as far as they were
 * seen, and whoever has the run's cookie: what is found is ended, and that nothing was missed is never claimed.
 */
import * as Effect from "effect/Effect"
import { contains, type InstanceMark, type MarkRange } from "../../services/InstanceMark.ts"
import type { Extinction } from "../../services/Run.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { endSeen } from "./endSeen.ts"
import { ancestorsOf, isStill, kinOf, markOf, type Seen, sight } from "./procfs.ts"
import type { ChildCalls } from "./runChild.ts"
import { cookieBearers } from "./runCookie.ts"

export interface RunTree {
  readonly runId: string
  /** Null when nobody knows which it was, or its number may have been another's since. */
  readonly leader: Seen | null
  readonly mark: MarkRange | null
  /** Without a mark: those that were seen. */
  readonly kin: Map<string, Seen>
}

export interface TreeHands {
  readonly marks: Pick<InstanceMark["Service"], "members" | "sweep">
  readonly signal: ChildCalls["signal"]
  readonly times: SettingsShape["mark"]
}

export interface TreeEnd {
  readonly extinction: Extinction
  readonly survivors: ReadonlyArray<Seen>
}

/** Signals, 40 microseconds each, before everybody else has a turn. */
const batch = 64
/** A tree that is still growing after so many frozen layers is ended by the sweep. */
const maxFreezes = 16

const keyOf = ({ pid, startToken }: Seen): string => `${pid}/${startToken}`

/** Its number is still its own, or nobody's: then a session of that number can only be its. */
const isUnambiguous = (leader: Seen): boolean => isStill(leader) || sight(leader.pid)._tag === "Gone"

/** While its leader lives or has just left, so that those who leave the tree later are known. */
export const rememberKin = ({ mark, leader, kin }: RunTree): void => {
  if (mark !== null || leader === null || !isUnambiguous(leader)) return
  const now = kinOf(leader.pid)
  if (isUnambiguous(leader)) for (const one of now) kin.set(keyOf(one), one)
}

/** The leader first. */
const membersOf = (tree: RunTree, { marks }: TreeHands): Effect.Effect<ReadonlyArray<Seen>> =>
  Effect.gen(function* () {
    const { runId, leader, mark, kin } = tree
    let members: ReadonlyArray<Seen>
    if (mark === null) {
      rememberKin(tree)
      for (const one of (yield* cookieBearers).get(runId) ?? []) kin.set(keyOf(one), one)
      if (leader !== null) kin.set(keyOf(leader), leader)
      members = [...kin.values()].filter(isStill)
    } else members = (yield* marks.members(mark)).map(({ identity }): Seen => identity)
    const never = new Set([process.pid, ...ancestorsOf(process.pid)])
    const others = members.filter(({ pid }) => !never.has(pid))
    return [
      ...others.filter(({ pid }) => pid === leader?.pid),
      ...others.filter(({ pid }) => pid !== leader?.pid)
    ]
  })

/** Each right after a look at its start and mark. */
const signalAll = Effect.fnUntraced(function* (
  { mark }: RunTree,
  members: ReadonlyArray<Seen>,
  names: ReadonlyArray<NodeJS.Signals>,
  signal: ChildCalls["signal"]
) {
  for (const [index, one] of members.entries()) {
    if (index % batch === batch - 1) yield* Effect.yieldNow
    const stands = () => {
      if (!isStill(one)) return false
      if (mark === null) return true
      const carried = markOf(one.pid)
      return typeof carried === "number" && contains(mark, carried)
    }
    for (const name of names) if (signal(one.pid, name, stands) !== "sent") break
  }
})

/** To end in its own way: as a closing terminal says it, as a service manager does, and to those that are stopped too. */
export const askTree = (tree: RunTree, hands: TreeHands): Effect.Effect<void> =>
  Effect.flatMap(membersOf(tree, hands), (members) =>
    signalAll(tree, members, ["SIGHUP", "SIGTERM", "SIGCONT"], hands.signal)
  )

/** `atOnce`: it was asked before, or is not to be. Otherwise whoever is left gets the sweep's own grace. */
export const sweepTree = (tree: RunTree, hands: TreeHands, atOnce: boolean): Effect.Effect<TreeEnd> =>
  tree.mark === null ? sweepKin(tree, hands, atOnce) : sweepMarked(tree, tree.mark, hands, atOnce)

const sweepMarked = Effect.fnUntraced(function* (
  tree: RunTree,
  mark: MarkRange,
  hands: TreeHands,
  atOnce: boolean
): Effect.fn.Return<TreeEnd> {
  if (atOnce) yield* killFrozen(tree, hands)
  const { survivors, proven } = yield* hands.marks.sweep(mark)
  const left = survivors.map(({ identity }): Seen => identity)
  return { extinction: { proven, survivors: left.map(({ pid }) => pid) }, survivors: left }
})

/** Who is stopped neither sees the others be killed nor answers it; whoever grows on is left to the sweep. */
const killFrozen = Effect.fnUntraced(function* (tree: RunTree, hands: TreeHands) {
  const frozen = new Set<string>()
  let members = yield* membersOf(tree, hands)
  for (let round = 0; round < maxFreezes; round++) {
    const fresh = members.filter((one) => !frozen.has(keyOf(one)))
    if (fresh.length === 0) break
    yield* signalAll(tree, fresh, ["SIGSTOP"], hands.signal)
    for (const one of fresh) frozen.add(keyOf(one))
    members = yield* membersOf(tree, hands)
  }
  yield* signalAll(tree, members, ["SIGKILL"], hands.signal)
})

const sweepKin = (tree: RunTree, hands: TreeHands, atOnce: boolean): Effect.Effect<TreeEnd> =>
  endSeen({
    look: membersOf(tree, hands),
    send: (members, names) => signalAll(tree, members, names, hands.signal),
    graceMs: atOnce ? null : hands.times.killGraceMs,
    timeoutMs: hands.times.sweepTimeoutMs
  }).pipe(
    Effect.map((survivors) => ({
      extinction: { proven: false, survivors: survivors.map(({ pid }) => pid) },
      survivors
    }))
  )
