/**
 * A live epoch without a ledger: its record is fixed, nothing was found at its start, and its own sweep finds nothing.
 * It has no mark for anybody else unless a test gives it one.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Epoch, type EpochRecord } from "../services/Epoch.ts"
import type { MarkRange } from "../services/InstanceMark.ts"
import { range } from "./InstanceMark.ts"
import { identity } from "./ProcessIdentity.ts"

export const record = (over: Partial<EpochRecord> = {}): EpochRecord => ({
  epoch: "01J0000000000000000000000A",
  owner: identity(1000),
  mark: range(0),
  startedAt: 0,
  ...over
})

export const layerOf = (over: Partial<EpochRecord>, claim: MarkRange | null = null): Layer.Layer<Epoch> =>
  Layer.succeed(Epoch, {
    current: record(over),
    unmarked: null,
    outer: null,
    claimMark: Effect.succeed(claim),
    claimed: Effect.succeed(claim === null ? [] : [claim]),
    swept: [],
    sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
  })

export const layer = layerOf({})
