/**
 * Epoch, live: a row of the state database. The claim is one transaction whose first statement is a write, so of two
 * gateways that start at once the second waits for the first's row and reads it.
 */
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { randomBytes } from "node:crypto"
import {
  dealingWith,
  Epoch,
  EpochLedgerError,
  type EpochRecord,
  type EpochSwept,
  GatewayAlreadyRunning,
  type OpenEpoch
} from "../services/Epoch.ts"
import { InstanceMark, type MarkRange, overlaps, type SweepReport } from "../services/InstanceMark.ts"
import { ProcessIdentity } from "../services/ProcessIdentity.ts"
import { Settings } from "../services/Settings.ts"
import { makeClaims } from "./internal/claimMark.ts"
import { makeKeeperRows } from "./internal/keeperRows.ts"

export * from "../services/Epoch.ts"

/** A fresh range meets one that is still to be swept once in 2048 draws, and then could not be swept in this life. */
const draws = 8
export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  const ledger = makeLedger(sql)
  const identities = yield* ProcessIdentity
  const marks = yield* InstanceMark
  const { state } = (yield* Settings).paths
  const failed = Effect.mapError((cause: unknown) => new EpochLedgerError({ state, cause }))

  const unswept = [
    ...(yield* failed(ledger.open)).flatMap(({ record }) => record.mark ?? []),
    ...(yield* failed(makeKeeperRows(sql).open)).flatMap(({ mark }) => mark ?? [])
  ]
  const choose = Effect.gen(function* () {
    let range = yield* marks.choose
    for (let draw = 1; draw < draws && unswept.some((other) => overlaps(other, range)); draw++)
      range = yield* marks.choose
    return range
  })
  const hard = yield* marks.own
  const chosen = yield* Effect.match(choose, {
    onSuccess: (mark) => ({ mark, unmarked: null }),
    onFailure: ({ message }) => ({ mark: null, unmarked: message })
  })
  const record: EpochRecord = {
    epoch: yield* ulid,
    owner: identities.self,
    mark: chosen.mark,
    startedAt: yield* Clock.currentTimeMillis
  }

  const claim = Effect.gen(function* () {
    yield* ledger.insert(record)
    const rows = yield* Effect.forEach(yield* ledger.openBeside(record.epoch), (row) =>
      Effect.map(identities.verdict(row.record.owner), (verdict): OpenEpoch => ({ ...row, verdict }))
    )
    const dealt = rows.map((row) => ({
      row,
      dealing: dealingWith(row, rows, { bootId: record.owner.bootId, mark: record.mark, hard })
    }))
    const blocking = dealt.find(({ dealing }) => dealing === "blocks")?.row
    return blocking === undefined
      ? dealt
      : yield* new GatewayAlreadyRunning({
          pid: blocking.record.owner.pid,
          state,
          verdict: blocking.verdict === "alive" ? "alive" : "unknown"
        })
  }).pipe(
    ledger.transaction,
    Effect.mapError((error) =>
      error instanceof GatewayAlreadyRunning ? error : new EpochLedgerError({ state, cause: error })
    )
  )

  const clean = yield* Ref.make(false)
  const dealt = yield* Effect.acquireRelease(claim, () =>
    Effect.flatMap(Ref.get(clean), (swept) => ledger.end(record.epoch, swept)).pipe(
      // The next start finds the owner dead and closes the row then.
      Effect.catch((cause) => Effect.logWarning("The end of this epoch could not be recorded", cause))
    )
  )

  const unmarked =
    record.mark === null
      ? chosen.unmarked
      : yield* Effect.match(marks.take(record.mark), {
          onSuccess: () => null,
          onFailure: ({ message }) => message
        })
  const current: EpochRecord = unmarked === null ? record : { ...record, mark: null }
  if (record.mark !== null && current.mark === null) yield* failed(ledger.unmark(record.epoch))

  const swept: Array<EpochSwept> = []
  for (const { row, dealing } of dealt) {
    const { epoch, mark } = row.record
    if (dealing === "sweep" && mark !== null) {
      const report = yield* marks.sweep(mark)
      swept.push({ epoch, report })
      if (isClean(report)) yield* failed(ledger.end(epoch, true))
    } else if (dealing === "close") yield* failed(ledger.end(epoch, true))
  }

  const { claimMark, claimed } = makeClaims(current.mark)
  const sweepOwn = (range: MarkRange) =>
    Effect.tap(marks.sweep(range), (report) => Ref.set(clean, isClean(report)))
  return Epoch.of({
    current,
    unmarked,
    outer: hard,
    claimMark,
    claimed,
    swept,
    sweepOwn: (current.mark === null ? Effect.succeed(nothing) : sweepOwn(current.mark)).pipe(
      Effect.withSpan("Epoch.sweepOwn")
    )
  })
})

export const layer = Layer.effect(Epoch, make)

const nothing: SweepReport = { ended: [], survivors: [], proven: false }

const isClean = (report: SweepReport): boolean => report.survivors.length === 0

const { ulid } = SecureRandom.make((size) => new Uint8Array(randomBytes(size)))

const Row = Schema.Struct({
  epoch: Schema.String,
  boot_id: Schema.String,
  pid_namespace: Schema.String,
  pid: Schema.Int,
  start_token: Schema.String,
  mark_low: Schema.NullOr(Schema.Int),
  mark_high: Schema.NullOr(Schema.Int),
  started_at: Schema.Finite,
  ended_at: Schema.NullOr(Schema.Finite)
})

const openOf = (row: typeof Row.Type): Omit<OpenEpoch, "verdict"> => ({
  record: {
    epoch: row.epoch,
    owner: {
      bootId: row.boot_id,
      pidNamespace: row.pid_namespace,
      pid: row.pid,
      startToken: row.start_token
    },
    mark: row.mark_low === null || row.mark_high === null ? null : { low: row.mark_low, high: row.mark_high },
    startedAt: row.started_at
  },
  ended: row.ended_at !== null
})

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(Row))

const makeLedger = (sql: SqlClient) => {
  /** An epoch that ended without a sweep is open as well: whatever it left behind is still to be found. */
  const openBeside = (epoch: string) =>
    sql`SELECT epoch, boot_id, pid_namespace, pid, start_token, mark_low, mark_high, started_at, ended_at FROM epochs
      WHERE epoch <> ${epoch} AND (ended_at IS NULL OR (swept_at IS NULL AND mark_low IS NOT NULL))
      ORDER BY started_at, epoch`.pipe(
      Effect.flatMap(decodeRows),
      Effect.map((rows) => rows.map(openOf))
    )
  return {
    openBeside,
    open: openBeside(""),
    transaction: sql.withTransaction,
    insert: ({ epoch, owner, mark, startedAt }: EpochRecord) =>
      sql`INSERT INTO epochs ${sql.insert({
        epoch,
        boot_id: owner.bootId,
        pid_namespace: owner.pidNamespace,
        pid: owner.pid,
        start_token: owner.startToken,
        mark_low: mark?.low ?? null,
        mark_high: mark?.high ?? null,
        started_at: startedAt
      })}`,
    unmark: (epoch: string) =>
      sql`UPDATE epochs SET mark_low = NULL, mark_high = NULL WHERE epoch = ${epoch}`,
    end: Effect.fnUntraced(function* (epoch: string, swept: boolean) {
      const now = yield* Clock.currentTimeMillis
      yield* sql`UPDATE epochs SET ended_at = COALESCE(ended_at, ${now}), swept_at = ${swept ? now : null}
        WHERE epoch = ${epoch}`
    })
  }
}
