/**
 * Epoch: one life of one gateway. There is at most one live epoch per state directory.
 *
 * The row is written before the mark is taken and before anything is forked, so whatever an epoch leaves behind can be
 * found by the next one.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { MarkRange, SweepReport } from "./InstanceMark.ts"
import { Identity } from "./ProcessIdentity.ts"

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
    state: Schema.String
  }
) {
  override get message(): string {
    return `A gateway is already running for ${this.state} (pid ${this.pid}). Use it, stop it with \`holdfast down\`, or set HOLDFAST_HOME for a second one.`
  }
}

export class Epoch extends Context.Service<
  Epoch,
  {
    readonly current: EpochRecord
    /** Why there is no mark, when there is none. */
    readonly unmarked: string | null
    /** What the start found of dead epochs and ended. */
    readonly swept: ReadonlyArray<EpochSwept>
    /** Ends every marked process of this epoch but this one; run at shutdown, after everything that should end by itself did. */
    readonly sweepOwn: Effect.Effect<SweepReport>
  }
>()("holdfast/Epoch") {}
