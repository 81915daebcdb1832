/**
 * RunLedger: what is written down of a run, so that whoever comes next can find it and say how it ended.
 *
 * The row is there before the process, its identity right after the fork, its end last. A gateway that starts deals with
 * every open row of an earlier epoch by what it can prove: a process is ended only when it is provably the run's.
 */
import * as Schema from "effect/Schema"
import { MarkRange } from "./InstanceMark.ts"
import type { Verdict } from "./ProcessIdentity.ts"
import { ExitReason, ExitStatus, Extinction, Leader, LossReason, RunSpec } from "./Run.ts"

/** In the environment of everything that a run starts; its value is the run's id. No secret: its tools inherit it. */
export const cookieVariable = "HOLDFAST_RUN"

/** How it ended, as far as anybody saw. */
export const RunEnd = Schema.Struct({
  /** Epoch milliseconds. */
  endedAt: Schema.Finite,
  reason: Schema.NullOr(ExitReason),
  lost: Schema.NullOr(LossReason),
  status: Schema.NullOr(ExitStatus),
  /** Null: nothing was looked for, since it never ran or another boot has ended it. */
  extinction: Schema.NullOr(Extinction)
})
export type RunEnd = typeof RunEnd.Type

export const RunRecord = Schema.Struct({
  runId: Schema.String,
  /** Who started it. */
  epoch: Schema.String,
  spec: RunSpec,
  /** Where its processes are, known before there are any. */
  bootId: Schema.String,
  pidNamespace: Schema.String,
  /** Of all its attempts; null where there is none. */
  mark: Schema.NullOr(MarkRange),
  createdAt: Schema.Finite,
  /** The last one that was noted; zero before the first. */
  attempt: Schema.Int,
  leader: Schema.NullOr(Leader),
  end: Schema.NullOr(RunEnd)
})
export type RunRecord = typeof RunRecord.Type

/** What a look at the system shows of an open row. */
export interface RunSighting {
  readonly sameBoot: boolean
  /** Null when no leader was noted. */
  readonly leader: Verdict | null
  /** Its leader carries the run's mark or cookie beside its identity. */
  readonly leaderProven: boolean
  /** Others: some have the run's cookie; some are in the range of its mark, and none has the cookie; there are none. */
  readonly bearers: "proven" | "unproven" | "none"
  /** Its range of marks meets the one that this gateway has now, or was started under. */
  readonly held: boolean
  /** The keeper that holds it lives. */
  readonly kept: boolean
}

export const LeftBecause = Schema.Literals([
  /** It is of another pid namespace, or the system does not say. */
  "identity-unknown",
  /** Somebody has its number or its mark, and nothing proves that it is the run's. */
  "not-proven",
  /** This gateway has that range of marks now, or runs inside of it. */
  "mark-held"
])

/** What becomes of an open row at a start. */
export const RunDealing = Schema.Union([
  /** Its keeper lives and goes on with it. */
  Schema.TaggedStruct("adopt", {}),
  /** Nothing of it can live. */
  Schema.TaggedStruct("close", { lost: LossReason }),
  /** What lives of it is ended, and then it is closed. */
  Schema.TaggedStruct("sweep", { lost: LossReason }),
  /** Nothing is touched; the next start looks again. */
  Schema.TaggedStruct("leave", { because: LeftBecause })
])
export type RunDealing = typeof RunDealing.Type

/** What was done about one run of an earlier epoch. */
export const Reconciled = Schema.Struct({
  runId: Schema.String,
  dealing: RunDealing,
  /** Of a sweep. */
  extinction: Schema.NullOr(Extinction)
})
export type Reconciled = typeof Reconciled.Type

const close = (lost: LossReason): RunDealing => ({ _tag: "close", lost })
const leave = (because: typeof LeftBecause.Type): RunDealing => ({ _tag: "leave", because })

/** An identity alone ends nobody: a number may change hands within one tick of its clock. */
export const dealingWithRun = (
  seen: RunSighting,
  lost: Extract<LossReason, "both-lost" | "keeper-lost"> = "both-lost"
): RunDealing => {
  const { sameBoot, leader, leaderProven, bearers } = seen
  const sweep: RunDealing = seen.held ? leave("mark-held") : { _tag: "sweep", lost }
  if (seen.kept) return { _tag: "adopt" }
  if (!sameBoot) return close("foreign-boot")
  if (leader === "unknown") return leave("identity-unknown")
  if (leader === "alive") return leaderProven ? sweep : leave("not-proven")
  if (bearers === "proven") return sweep
  if (bearers === "unproven") return leave("not-proven")
  return close(leader === null ? "never-started" : lost)
}
