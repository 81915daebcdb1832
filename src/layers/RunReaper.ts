/** RunReaper, live: the open rows of the ledger against the process list. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { InstanceMark, type MarkRange, rangeOf } from "../services/InstanceMark.ts"
import { ProcessIdentity } from "../services/ProcessIdentity.ts"
import { RunLedgerError } from "../services/PtySupervisor.ts"
import type { Reconciled } from "../services/RunLedger.ts"
import { RunReaper } from "../services/RunReaper.ts"
import { Settings } from "../services/Settings.ts"
import { Syscalls } from "../services/Syscalls.ts"
import { makeKeeperRows } from "./internal/keeperRows.ts"
import { noOrphans } from "./internal/orphans.ts"
import { makeLedger } from "./internal/runLedger.ts"
import { onDisk, placesIn } from "./internal/runPlaces.ts"
import { planReconciliation, reconcile } from "./internal/runReconcile.ts"
import { makeTraces } from "./internal/traces.ts"

export * from "../services/RunReaper.ts"

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  const ledger = makeLedger(sql)
  const keepers = makeKeeperRows(sql)
  const identities = yield* ProcessIdentity
  const marks = yield* InstanceMark
  const { mark: times, paths } = yield* Settings
  const calls = (yield* Syscalls).table

  /** Keepers that may live: those whose identity cannot be told too, for whoever they hold is not ours to end. */
  const living = Effect.gen(function* () {
    const found = new Map<string, MarkRange | null>()
    for (const { keeperId, identity, mark } of yield* keepers.open)
      if (identity !== null && (yield* identities.verdict(identity)) !== "dead") found.set(keeperId, mark)
    return found
  }).pipe(Effect.mapError((cause) => new RunLedgerError({ cause })))

  const world = Effect.gen(function* () {
    const records = yield* ledger.open
    const hard = records.length === 0 ? null : yield* marks.own
    const kept = records.length === 0 ? new Map<string, MarkRange | null>() : yield* living
    return {
      records,
      claimed: [...kept.values()].filter((mark) => mark !== null),
      seen: {
        identities,
        own: hard === null ? null : rangeOf(hard),
        isKept: (epoch: string) => kept.has(epoch),
        marks
      }
    }
  })

  return RunReaper.of({
    plan: Effect.gen(function* () {
      const { records, seen } = yield* world
      const planned = yield* planReconciliation(records, { ...seen, lost: "both-lost", swept: [] })
      return planned.map(({ record, dealing }): Reconciled => ({
        runId: record.runId,
        dealing,
        extinction: null
      }))
    }).pipe(Effect.withSpan("RunReaper.plan")),
    reap: Effect.fn("RunReaper.reap")(function* (lost, swept) {
      const { records, seen, claimed } = yield* world
      const dealt = yield* reconcile(ledger, records, {
        ...seen,
        lost,
        swept,
        hands: Effect.map(Effect.all([calls, makeTraces]), ([{ signal }, traces]) => ({
          marks,
          times,
          signal,
          traces,
          orphans: noOrphans.living,
          claimed: Effect.succeed(claimed)
        }))
      })
      const closed = dealt.filter(isClosed).map(({ runId }) => runId)
      if (closed.length > 0) yield* (yield* placesIn(paths, onDisk)).remove(closed)
      return dealt
    })
  })
})

export const layer = Layer.effect(RunReaper, make)

const isClosed = ({ dealing }: Reconciled): boolean => dealing._tag === "close" || dealing._tag === "sweep"
