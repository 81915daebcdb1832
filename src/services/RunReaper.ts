/**
 * RunReaper: what is made of the runs whose keeper is gone: found by mark and cookie, ended where they are provably ours,
 * and closed in the ledger with the reason.
 *
 * The rule for one record is `dealingWithRun`. A plan touches nothing.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { SweepReport } from "./InstanceMark.ts"
import type { RunLedgerError } from "./PtySupervisor.ts"
import type { LossReason } from "./Run.ts"
import type { Reconciled } from "./RunLedger.ts"

export class RunReaper extends Context.Service<
  RunReaper,
  {
    /** What `reap` would do now; `extinction` is null everywhere. */
    readonly plan: Effect.Effect<ReadonlyArray<Reconciled>, RunLedgerError>
    /**
     * `lost`: how those that ran are told to have been lost; `swept`: what was done before, which counts as theirs where it
     * carried their marks. Runs of a keeper that lives are named and left alone.
     */
    readonly reap: (
      lost: Extract<LossReason, "both-lost" | "keeper-lost">,
      swept: ReadonlyArray<SweepReport>
    ) => Effect.Effect<ReadonlyArray<Reconciled>, RunLedgerError>
  }
>()("holdfast/RunReaper") {}
