/**
 * Containment: whose a process is, by the mark it carries and by what else ties it to a run. No process of this user carries
 * a mark of ours unless somebody living vouches for it.
 */
import * as Context from "effect/Context"
import { contains, type MarkRange } from "./InstanceMark.ts"
import { processKey, type Verdict } from "./ProcessIdentity.ts"

/** `none`: no limit at all. `unreadable`: the system would not say. */
export type CarriedMark = number | "none" | "unreadable"

/**
 * What a process is that something else than its mark ties to a run, whose marked processes are gone: `hole`: it carries
 * none, or was missed; `ghost`: it has lowered its limit below the run's range, which whoever descends from it can do and
 * nobody can undo; `other`: a mark that the run cannot have given it, or for which somebody vouches.
 */
export type Trace = "hole" | "ghost" | "other"

/** `vouched`: the ranges that somebody living has, without the run's own. */
export const traceOf = (carried: CarriedMark, run: MarkRange, vouched: ReadonlyArray<MarkRange>): Trace => {
  if (carried === "none") return "hole"
  if (carried === "unreadable") return "other"
  if (contains(run, carried)) return "hole"
  return carried < run.low && !vouched.some((range) => contains(range, carried)) ? "ghost" : "other"
}

/**
 * Whether orphans of this process's runs become its children. True for a program that starts nothing but runs: who is its
 * child and no run's leader is an orphan then. An app that embeds the runs has children of its own.
 */
export const AdoptsOrphans = Context.Reference<boolean>("holdfast/AdoptsOrphans", {
  defaultValue: () => false
})

/** Who holds a range of marks for as long as it lives: a gateway, a keeper. */
export interface Holder {
  readonly range: MarkRange
  readonly liveness: Verdict
  /** The ranges inside that it vouches for; null where that is not known, and a living one vouches for all. */
  readonly open: ReadonlyArray<MarkRange> | null
}

/**
 * Whose a process with a finite mark is. `fresh`: it carries a living holder's own mark, as whatever it has just forked does
 * until it has lowered it. `orphaned`: of a range whose holder is dead or does not vouch for it. `unknown`: of nobody's
 * range; it may be another program's use of the limit, so it is reported and never ended for that alone.
 */
export type Belonging = "vouched" | "fresh" | "orphaned" | "unknown"

export const belongingOf = (carried: number, holders: ReadonlyArray<Holder>): Belonging => {
  const within = holders.filter(({ range }) => contains(range, carried))
  const living = within.filter(({ liveness }) => liveness !== "dead")
  if (living.some(({ open }) => open === null || open.some((range) => contains(range, carried))))
    return "vouched"
  if (living.some(({ range }) => range.high === carried)) return "fresh"
  return within.length > 0 ? "orphaned" : "unknown"
}

/** Between two looks of a holder at who carries its marks. */
export const janitorEveryMs = 5_000

/** What a holder forks lowers its mark within milliseconds; the longest of its own tools runs for 35 s. */
export const freshMs = 60_000

/** A process that was met at a look, by its number and start. */
export interface Suspect {
  readonly pid: number
  readonly startToken: string
  readonly mark: number
}

/** Since when each process, by `processKey`, and each mark has been without anybody who vouches for it; monotonic milliseconds. */
export type Suspicions = ReadonlyMap<string, number>

const markKey = (mark: number): string => `mark ${mark}`

/**
 * One look of a holder at its own range: who is to be ended now, and who is to be looked at again. Nobody is ended at first
 * sight: a claim may be given between the reading of a mark and that of the claims, and an identity that has been without
 * one for two looks is of no later run. `moving`: marks that have been nobody's for as long, while whoever carries them is
 * another process at each look: one that forks and leaves for its life is met by the chase of a sweep alone.
 */
export const suspectsOf = (
  members: ReadonlyArray<Suspect>,
  holder: Holder,
  before: Suspicions,
  now: number
): {
  readonly ended: ReadonlyArray<Suspect>
  readonly moving: ReadonlyArray<number>
  readonly suspicions: Suspicions
} => {
  const suspicions = new Map<string, number>()
  const ended: Array<Suspect> = []
  const orphaned = new Set<number>()
  for (const member of members) {
    const belonging = belongingOf(member.mark, [holder])
    if (belonging === "vouched" || belonging === "unknown") continue
    const since = before.get(processKey(member)) ?? now
    suspicions.set(processKey(member), since)
    const patience = belonging === "fresh" ? freshMs : janitorEveryMs
    if (now - since >= patience) ended.push(member)
    if (belonging === "orphaned") orphaned.add(member.mark)
  }
  for (const { mark } of ended) orphaned.delete(mark)
  const moving: Array<number> = []
  for (const mark of orphaned) {
    const since = before.get(markKey(mark)) ?? now
    suspicions.set(markKey(mark), since)
    if (now - since >= janitorEveryMs) moving.push(mark)
  }
  return { ended, moving, suspicions }
}
