/**
 * Containment: whose a process is, by the mark it carries and by what else ties it to a run. No process of this user carries
 * a mark of ours unless somebody living vouches for it.
 */
import { contains, type MarkRange } from "./InstanceMark.ts"

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
