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

export class InstanceMark extends Context.Service<
  InstanceMark,
  {
    /** A random free range below this process's own hard limit, nested inside it when that is finite. */
    readonly choose: Effect.Effect<MarkRange, MarkUnavailable>
    /** Lowers this process's hard limit to `range.high` and reads it back. */
    readonly take: (range: MarkRange) => Effect.Effect<void, MarkUnavailable>
    readonly members: (range: MarkRange) => Effect.Effect<ReadonlyArray<Marked>>
    /** Ends every process of the range but this one: ask, grace, then freeze, verify and kill until a scan is proven empty. */
    readonly sweep: (range: MarkRange) => Effect.Effect<SweepReport>
  }
>()("holdfast/InstanceMark") {}
