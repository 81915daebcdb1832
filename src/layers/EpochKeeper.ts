/**
 * Epoch, of a keeper: its row is in the ledger of keepers, written by the gateway before the fork, and its range of marks
 * was taken by the exec. Everything that it forks carries a mark of that range.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { Epoch, EpochLedgerError } from "../services/Epoch.ts"
import { InstanceMark, type SweepReport } from "../services/InstanceMark.ts"
import { KeeperBirth } from "../services/Keeper.ts"
import { ProcessIdentity } from "../services/ProcessIdentity.ts"
import { Settings } from "../services/Settings.ts"
import { makeClaims } from "./internal/claimMark.ts"
import { makeKeeperRows } from "./internal/keeperRows.ts"

export * from "../services/Epoch.ts"

const nothing: SweepReport = { ended: [], survivors: [], proven: false }

export const make = Effect.gen(function* () {
  const { keeperId, mark } = yield* KeeperBirth
  const rows = makeKeeperRows(yield* SqlClient)
  const { self } = yield* ProcessIdentity
  const marks = yield* InstanceMark
  const { state } = (yield* Settings).paths
  const failed = Effect.mapError((cause: unknown) => new EpochLedgerError({ state, cause }))

  const hard = yield* marks.own
  const taken = mark !== null && hard === mark.high ? mark : null
  // Before anything is forked: who comes next must find this process even if its gateway dies before it has noted it.
  yield* failed(rows.identify(keeperId, self))
  if (mark !== null && taken === null) yield* failed(rows.unmark(keeperId))

  return Epoch.of({
    current: { epoch: keeperId, owner: self, mark: taken, startedAt: yield* Clock.currentTimeMillis },
    unmarked:
      taken === null
        ? "The keeper carries no mark: what detaches itself from a run is found by its cookie."
        : null,
    outer: null,
    ...makeClaims(taken),
    swept: [],
    sweepOwn: Effect.gen(function* () {
      const report = taken === null ? nothing : yield* marks.sweep(taken)
      // What is left is for the next gateway to look at.
      if (report.survivors.length === 0)
        yield* Effect.catch(rows.end(keeperId), (cause) =>
          Effect.logWarning("The end of this keeper could not be recorded", cause)
        )
      return report
    }).pipe(Effect.withSpan("Epoch.sweepOwn"))
  })
})

export const layer = Layer.effect(Epoch, make)
