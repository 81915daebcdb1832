/**
 * Epoch: one life of one gateway. There is at most one live epoch per state directory.
 *
 * The row is written before the mark is taken and before anything is forked, so whatever an epoch leaves behind can be
 * found by the next one.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { contains, MarkRange, overlaps, SweepReport } from "./InstanceMark.ts"
import { Identity, type Verdict } from "./ProcessIdentity.ts"

export const EpochRecord = Schema.Struct({
  /** A ULID. */
  epoch: Schema.String,
  owner: Identity,
  /** Null where the system has no mark (macOS) or refused it. */
  mark: Schema.NullOr(MarkRange),
  startedAt: Schema.Finite
})
export type EpochRecord = typeof EpochRecord.Type

/** What was done about one earlier epoch whose owner is dead. */
export const EpochSwept = Schema.Struct({ epoch: Schema.String, report: SweepReport })
export type EpochSwept = typeof EpochSwept.Type

export class GatewayAlreadyRunning extends Schema.TaggedError<GatewayAlreadyRunning>()(
  "GatewayAlreadyRunning",
  {
    pid: Schema.Int,
    state: Schema.String,
    /** `unknown`: its owner is in another pid namespace of this boot, so nobody here can say whether it lives. */
    verdict: Schema.Literals(["alive", "unknown"])
  }
) {
  override get message(): string {
    if (this.verdict === "unknown")
      return `Another container or pid namespace may be running a gateway for ${this.state} (pid ${this.pid} there), which cannot be seen from here. Stop it there with \`holdfast down\`, or set HOLDFAST_HOME to a directory that is not shared.`
    return `A gateway is already running for ${this.state} (pid ${this.pid}). Use it, stop it with \`holdfast down\`, or set HOLDFAST_HOME for a second one.`
  }
}

export class EpochLedgerError extends Schema.TaggedError<EpochLedgerError>()("EpochLedgerError", {
  state: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `The ledger of gateways in ${this.state} could not be read or written, so none was started. Check the directory's owner and free space, and try again.`
  }
}

/** A row of the ledger that is not closed: its owner may live, or what it left behind may. */
export interface OpenEpoch {
  readonly record: EpochRecord
  readonly ended: boolean
  readonly verdict: Verdict
}

/** What becomes of each open row at a start: one that blocks fails it, one to leave waits for a later start. */
export type Dealing = "blocks" | "sweep" | "close" | "leave"

/** The start itself: its boot, its own range and the limit it was started with. */
export interface Start {
  readonly bootId: string
  readonly mark: MarkRange | null
  readonly hard: number | null
}

/**
 * A dead epoch's range is swept unless somebody alive is inside: ourselves (started from a process that the dead one
 * left behind), or an owner that ended its epoch and went on living.
 */
export const dealingWith = (row: OpenEpoch, rows: ReadonlyArray<OpenEpoch>, start: Start): Dealing => {
  if (row.verdict !== "dead") return row.ended ? "leave" : "blocks"
  const { mark, owner } = row.record
  if (mark === null || owner.bootId !== start.bootId) return "close"
  const held = [
    start.mark,
    ...rows.filter((other) => other.verdict !== "dead").map((other) => other.record.mark)
  ]
  const within = start.hard !== null && contains(mark, start.hard)
  return within || held.some((range) => range !== null && overlaps(range, mark)) ? "leave" : "sweep"
}

export class Epoch extends Context.Service<
  Epoch,
  {
    readonly current: EpochRecord
    /** Why there is no mark, when there is none. */
    readonly unmarked: string | null
    /** The hard limit that this process was started with; null when it was unlimited. */
    readonly outer: number | null
    /**
     * A range of its own inside this epoch's, for one child and all that it will fork; nobody else gets it while the scope
     * is open. Null where there is no mark, and, with a warning, where there is no room.
     */
    readonly claimMark: Effect.Effect<MarkRange | null, never, Scope.Scope>
    /** Those that are open: somebody living vouches for whoever carries a mark of theirs. */
    readonly claimed: Effect.Effect<ReadonlyArray<MarkRange>>
    /** What the start found of dead epochs and ended. */
    readonly swept: ReadonlyArray<EpochSwept>
    /** Ends every marked process of this epoch but this one; run at shutdown, after everything that should end by itself did. */
    readonly sweepOwn: Effect.Effect<SweepReport>
  }
>()("holdfast/Epoch") {}
