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

/**
 * From the first sight of an adopted zombie to its burial: whoever has started it takes its status within a turn of its
 * event loop, and a status that is taken by another is lost to it.
 */
export const burialMs = 1_000

/** Since when a process has been dead and unburied, by its number and start; monotonic milliseconds. */
export type Waiting = ReadonlyMap<string, number>

interface Dead {
  readonly pid: number
  readonly startToken: string
}

/** One look at the dead among one's children: who is to be buried now, and who is to be looked at again. */
export const burialsOf = <One extends Dead>(
  dead: ReadonlyArray<One>,
  before: Waiting,
  now: number
): { readonly due: ReadonlyArray<One>; readonly waiting: Waiting } => {
  const waiting = new Map<string, number>()
  const due: Array<One> = []
  for (const one of dead) {
    const key = processKey(one)
    const since = before.get(key) ?? now
    if (now - since >= burialMs) due.push(one)
    else waiting.set(key, since)
  }
  return { due, waiting }
}

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

/** Since when each of them has been without anybody who vouches for it, by `processKey`; monotonic milliseconds. */
export type Suspicions = ReadonlyMap<string, number>

/**
 * One look of a holder at its own range: who is to be ended now, and who is to be looked at again. Nobody is ended at first
 * sight: a claim may be given between the reading of a mark and that of the claims, and an identity that has been without
 * one for two looks is of no later run.
 */
export const suspectsOf = (
  members: ReadonlyArray<Suspect>,
  holder: Holder,
  before: Suspicions,
  now: number
): { readonly ended: ReadonlyArray<Suspect>; readonly suspicions: Suspicions } => {
  const suspicions = new Map<string, number>()
  const ended: Array<Suspect> = []
  for (const member of members) {
    const belonging = belongingOf(member.mark, [holder])
    if (belonging === "vouched" || belonging === "unknown") continue
    const since = before.get(processKey(member)) ?? now
    suspicions.set(processKey(member), since)
    const patience = belonging === "fresh" ? freshMs : janitorEveryMs
    if (now - since >= patience) ended.push(member)
  }
  return { ended, suspicions }
}
