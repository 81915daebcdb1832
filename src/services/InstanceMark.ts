/**
 * InstanceMark: the kernel-inherited mark by which whatever a gateway forked can be found again.
 *
 * On Linux a hard RLIMIT_LOCKS value: unenforced since 2.4, inherited over fork, exec and setsid, world-readable in
 * /proc/PID/limits, and an unprivileged process can only lower it. The gateway takes a range's upper bound for itself
 * before its first fork, so every descendant carries a value of that range without being registered.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Identity } from "./ProcessIdentity.ts"

/** A mark m belongs to the range when low <= m <= high. */
export const MarkRange = Schema.Struct({ low: Schema.Int, high: Schema.Int })
export type MarkRange = typeof MarkRange.Type

/** A process that carries a mark of a range. */
export const Marked = Schema.Struct({ identity: Identity, mark: Schema.Int, command: Schema.String })
export type Marked = typeof Marked.Type

/** What a sweep did. `survivors` are those that would not go in time (another user's, or stuck in the kernel). */
export const SweepReport = Schema.Struct({
  ended: Schema.Array(Marked),
  survivors: Schema.Array(Marked),
  /** A scan found nothing and the kernel's fork counters prove that none was born meanwhile. */
  proven: Schema.Boolean
})
export type SweepReport = typeof SweepReport.Type

export class MarkUnavailable extends Schema.TaggedError<MarkUnavailable>()("MarkUnavailable", {
  problem: Schema.String
}) {
  override get message(): string {
    return `This process cannot take an instance mark: ${this.problem}. Processes that detach from their agent will not be found.`
  }
}

/** A hard limit of `null` is unlimited. */
export interface Locks {
  readonly soft: number | null
  readonly hard: number | null
}

const limitOf = (text: string): number | null => (text === "unlimited" ? null : Number(text))

/** The line of RLIMIT_LOCKS in /proc/PID/limits; null when there is none (another kernel's idea of that file). */
export const parseLocks = (limits: string): Locks | null => {
  const [, soft, hard] = /^Max file locks\s+(unlimited|\d+)\s+(unlimited|\d+)\s/m.exec(limits) ?? []
  return soft === undefined || hard === undefined ? null : { soft: limitOf(soft), hard: limitOf(hard) }
}

/**
 * How far apart marks of a level lie, by a mark's last two bits: a gateway outside every other (and its keeper) takes the
 * widest, what it starts the next, a gateway inside of that the third, and what that starts the last. So whoever inherits
 * a finite limit knows from that number alone how far down the range reaches that an outer sweep will cover. There are a
 * million of the widest, since two state directories know nothing of each other's and a range that is swept late must not
 * have become another's meanwhile; 2047 runs in each, 511 gateways in a run, 1023 runs in each of those. One still deeper
 * gets no mark.
 */
const slotWidths = [2 ** 32, 2 ** 21, 2 ** 12, 2 ** 2] as const
const levels = slotWidths.length

/** Marks stay below this, so that shells whose arithmetic is a double keep them exact. */
const markCeiling = 2 ** 52

/** Everything above the next mark of its level. */
export const rangeOf = (mark: number): MarkRange => ({
  low: Math.max(1, mark - slotWidths[mark % levels]! + levels),
  high: mark
})

export const overlaps = (a: MarkRange, b: MarkRange): boolean => a.low <= b.high && b.low <= a.high

export const contains = (range: MarkRange, mark: number): boolean => range.low <= mark && mark <= range.high

/** Ranges of one level side by side, the highest first: whoever takes one of them meets nobody who has another. */
export interface Slots {
  readonly count: number
  readonly at: (index: number) => MarkRange
}

const slotsIn = (outer: MarkRange, level: number): Slots => {
  const width = slotWidths[level]!
  // The outer bound itself is the mark of whoever is outside.
  const under = outer.high - 1
  const top = under - ((((under - level) % levels) + levels) % levels)
  const count = Math.max(0, Math.floor((top - width + levels - outer.low) / width) + 1)
  return { count, at: (index) => rangeOf(top - index * width) }
}

const isFreeLimit = (hard: number | null): hard is null => hard === null || hard >= markCeiling

/** What a hard limit leaves to those who are below it. */
const outerOf = (hard: number | null): MarkRange =>
  isFreeLimit(hard) ? { low: 1, high: markCeiling - 1 } : rangeOf(hard)

/**
 * The ranges below a hard limit: of the widest level under the limit's own of which there is room for `least`, all inside
 * the range of the limit where that is a mark of ours. Null when there is no room.
 */
export const slotsBelow = (hard: number | null, least = 1): Slots | null => {
  const outer = outerOf(hard)
  for (let level = isFreeLimit(hard) ? 0 : (hard % levels) + 1; level < levels; level++) {
    const slots = slotsIn(outer, level)
    if (slots.count >= least) return slots
  }
  return null
}

/**
 * The range of a gateway, which one random number in [0, 1) picks below its hard limit: from the upper half, so that its
 * keeper, which inherits its limit and can only lower it, finds one below.
 */
export const candidateRange = (hard: number | null, random: number): MarkRange | null => {
  const slots = slotsBelow(hard, 2)
  return slots === null ? null : slots.at(Math.floor(random * Math.floor(slots.count / 2)))
}

/**
 * A range of the same level as `range` and within the same outer range, wholly below it: what a child of its bearer may
 * take. `hard` is the limit that the bearer was started with. Null when there is no room; whether it is free, only a look
 * at the marks in use can say.
 */
export const siblingRange = (range: MarkRange, hard: number | null, random: number): MarkRange | null => {
  const slots = slotsIn(outerOf(hard), range.high % levels)
  const width = slotWidths[range.high % levels]!
  const first = Math.max(0, Math.floor((slots.at(0).high - range.low) / width) + 1)
  const below = slots.count - first
  return below <= 0 ? null : slots.at(first + Math.floor(random * below))
}

/**
 * Whether a range meets none of the marks that are in use. Those from our own hard limit up are outside us by
 * inheritance: their ranges cover ours, and are meant to.
 */
export const isFree = (range: MarkRange, hard: number | null, inUse: Iterable<number>): boolean => {
  for (const mark of inUse) if ((hard === null || mark < hard) && overlaps(range, rangeOf(mark))) return false
  return true
}

/** /proc/loadavg's last pid of our namespace, and the machine's count of forks from /proc/stat. */
export interface ForkMark {
  readonly lastPid: number
  readonly forks: number
}

export const parseForkMark = (loadavg: string, stat: string): ForkMark | null => {
  const lastPid = Number(/\s(\d+)\s*$/.exec(loadavg)?.[1])
  const forks = Number(/^processes (\d+)$/m.exec(stat)?.[1])
  // A kernel that does not count (gVisor) says 0.
  return lastPid > 0 && forks > 0 ? { lastPid, forks } : null
}

/** More births than this between two looks are not followed one by one: the whole list is read again. */
const followedBirths = 256
/** A fork has its number before it can be seen; so many numbers back cover every fork that was half done at a look. */
const halfDone = 64
/** The smallest pid_max of a 64-bit system: fewer forks than this cannot have gone once around. */
const pidCycle = 32_768

/**
 * Which pids may have appeared between two looks. The kernel hands them out in ascending order and starts again from
 * the bottom (idr_alloc_cyclic), and counts a fork at the moment it can be seen. So an unmoved count means nobody
 * (`none`); otherwise whoever appeared is in the gap or was half done before it. `more`: the numbers moved as well, so
 * another look must follow; a count that moves alone is another namespace's.
 */
export const bornBetween = (
  from: ForkMark | null,
  to: ForkMark | null
): { readonly first: number; readonly last: number; readonly more: boolean } | "none" | "many" => {
  if (from === null || to === null) return "many"
  if (to.forks === from.forks) return "none"
  const gap = to.lastPid - from.lastPid
  if (to.forks < from.forks || to.forks - from.forks >= pidCycle || gap < 0 || gap > followedBirths)
    return "many"
  return { first: Math.max(1, from.lastPid - halfDone + 1), last: to.lastPid, more: gap > 0 }
}

/** Newest first: one that forks and dies at once is met before it is gone, even after the numbers started again. */
export const newestFirst = (pids: ReadonlyArray<number>, lastPid: number): ReadonlyArray<number> => {
  const age = (pid: number) => (pid <= lastPid ? lastPid - pid : lastPid - pid + 2 ** 23)
  return pids.toSorted((a, b) => age(a) - age(b))
}

/** How a sweep goes on: `Look` is the scan a sweep starts with, `Freeze` one that stops whomever it meets. */
export type SweepStep =
  | { readonly _tag: "Look" }
  | { readonly _tag: "Ask" }
  | { readonly _tag: "Wait"; readonly ms: number; readonly next: "Grace" | "Freeze" }
  | { readonly _tag: "Grace" }
  | { readonly _tag: "Freeze" }
  | { readonly _tag: "Kill" }
  | { readonly _tag: "Prove" }
  | { readonly _tag: "Done"; readonly proven: boolean }

export interface SweepPlan {
  readonly step: SweepStep
  readonly deadline: number
  /** Null until the members were asked. */
  readonly graceEnds: number | null
  readonly freezes: number
  readonly pauseMs: number
  readonly doubts: number
}

/** What a step met: members that can be signalled, those it saw for the first time, and what `Prove` found out. */
export interface SweepSeen {
  readonly members: number
  readonly fresh: number
  readonly proof: "proven" | "found" | "doubtful" | null
}

/** The members are looked up one by one in the grace, which costs 20 microseconds each. */
const graceStepMs = 20
/** A tree that is still growing after so many frozen layers is killed layer by layer instead. */
const maxFreezes = 64
/** From a killed process to its disappearance: under a millisecond, or 50 for one with gigabytes to give back. */
const killPauseMs = { first: 1, most: 50 } as const
/** Empty scans with births that could not be followed, before emptiness is accepted without proof. */
const maxDoubts = 4

export const startSweep = (
  now: number,
  settings: { readonly killGraceMs: number; readonly sweepTimeoutMs: number }
): SweepPlan => ({
  step: { _tag: "Look" },
  deadline: now + settings.sweepTimeoutMs,
  graceEnds: null,
  freezes: 0,
  pauseMs: killPauseMs.first,
  doubts: 0
})

/** The escalation: look, ask, grace, freeze to a fixpoint, kill, and prove; back to freezing whenever somebody is left. */
export const nextSweep = (
  plan: SweepPlan,
  seen: SweepSeen,
  now: number,
  settings: { readonly killGraceMs: number }
): SweepPlan => {
  const go = (step: SweepStep, change: Partial<SweepPlan> = {}): SweepPlan => ({ ...plan, ...change, step })
  const wait = (ms: number, next: "Grace" | "Freeze", change: Partial<SweepPlan> = {}) =>
    go({ _tag: "Wait", ms: Math.max(1, Math.min(ms, plan.deadline - now)), next }, change)
  if (seen.proof === "proven") return go({ _tag: "Done", proven: true })
  if (now >= plan.deadline) return go({ _tag: "Done", proven: false })
  switch (plan.step._tag) {
    case "Look":
      return go({ _tag: seen.members > 0 ? "Ask" : "Prove" })
    case "Ask":
      return seen.members > 0
        ? wait(graceStepMs, "Grace", { graceEnds: now + settings.killGraceMs })
        : go({ _tag: "Freeze" })
    case "Wait":
      return go({ _tag: plan.step.next })
    case "Grace":
      return seen.members > 0 && now < (plan.graceEnds ?? now)
        ? wait(graceStepMs, "Grace")
        : go({ _tag: "Freeze" })
    case "Freeze":
      if (seen.fresh > 0 && plan.freezes < maxFreezes) return go(plan.step, { freezes: plan.freezes + 1 })
      return go({ _tag: seen.members > 0 ? "Kill" : "Prove" }, { freezes: 0 })
    case "Kill":
      return wait(plan.pauseMs, "Freeze", {
        pauseMs: Math.min(plan.pauseMs * 2, killPauseMs.most),
        doubts: 0
      })
    case "Prove":
      if (seen.proof === "found") return go({ _tag: "Freeze" }, { doubts: 0 })
      return plan.doubts + 1 >= maxDoubts
        ? go({ _tag: "Done", proven: false })
        : wait(plan.pauseMs, "Freeze", { doubts: plan.doubts + 1 })
    case "Done":
      return plan
  }
}

/**
 * A command that starts under a mark of its own: prlimit(1) of util-linux lowers its own hard limit and becomes the
 * program, so that the pid is the program's and nothing it forks was ever without the mark.
 */
export const underMark = (
  mark: MarkRange | null,
  program: string,
  args: ReadonlyArray<string>
): { readonly program: string; readonly args: ReadonlyArray<string> } =>
  mark === null
    ? { program, args }
    : { program: "prlimit", args: [`--locks=${mark.high}:${mark.high}`, "--", program, ...args] }

export class InstanceMark extends Context.Service<
  InstanceMark,
  {
    /** A random free range below this process's own hard limit, nested inside it when that is finite. */
    readonly choose: Effect.Effect<MarkRange, MarkUnavailable>
    /** Lowers this process's hard limit to `range.high` and reads it back. */
    readonly take: (range: MarkRange) => Effect.Effect<void, MarkUnavailable>
    /** This process's hard limit now; null when it is unlimited or the system has none. */
    readonly own: Effect.Effect<number | null>
    /** Newest first. A range of everything shows every finite mark of this pid namespace. */
    readonly members: (range: MarkRange) => Effect.Effect<ReadonlyArray<Marked>>
    /** Ends every process of the range but this one: ask, grace, then freeze, verify and kill until a scan is proven empty. */
    readonly sweep: (range: MarkRange) => Effect.Effect<SweepReport>
  }
>()("holdfast/InstanceMark") {}
