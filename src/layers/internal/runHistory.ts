/**
 * Runs that are over, or that an earlier gateway left; those of earlier gateways are read when they are first asked for:
 * nobody does in a gateway's first second, and thousands of rows take a tenth of one.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { infoOfRecord, maxRuns, type RunInfo, RunNotFound } from "../../services/PtySupervisor.ts"
import type { Ledger } from "./runLedger.ts"

export const makeHistory = Effect.fnUntraced(function* (ledger: Ledger, epoch: string) {
  const past = new Map<string, RunInfo>()
  const reading = yield* Semaphore.make(1)
  let isRead = false

  const read = Effect.suspend(() =>
    isRead
      ? Effect.void
      : ledger.past(epoch, maxRuns).pipe(
          Effect.map((records) => {
            isRead = true
            for (const record of records)
              if (!past.has(record.runId)) past.set(record.runId, infoOfRecord(record))
          }),
          // Without it the runs of this gateway are there all the same.
          Effect.catch((error) => Effect.logWarning(error.message, error.cause))
        )
  ).pipe(reading.withPermits(1))

  return {
    add: (info: RunInfo): void => void past.set(info.id, info),
    forget: (runId: string): void => void past.delete(runId),
    /** Of this gateway, without a look at the ledger. */
    known: (runId: string): RunInfo | undefined => past.get(runId),
    all: Effect.map(read, () => [...past.values()]),
    find: Effect.fnUntraced(function* (runId: string) {
      if (!past.has(runId)) yield* read
      return past.get(runId) ?? (yield* new RunNotFound({ ref: runId }))
    })
  }
})
