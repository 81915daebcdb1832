/** A live epoch without a ledger: its record is fixed, nothing was found at its start, and its own sweep finds nothing. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Epoch, type EpochRecord } from "../../src/services/Epoch.ts"
import { range } from "./InstanceMark.ts"
import { identity } from "./ProcessIdentity.ts"

export const record = (over: Partial<EpochRecord> = {}): EpochRecord => ({
  epoch: "01J0000000000000000000000A",
  owner: identity(1000),
  mark: range(0),
  startedAt: 0,
  ...over
})

export const layer = (over: Partial<EpochRecord> = {}): Layer.Layer<Epoch> =>
  Layer.succeed(Epoch, {
    current: record(over),
    unmarked: null,
    swept: [],
    sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
  })
