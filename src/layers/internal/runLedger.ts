/** The ledger of runs as rows of the state database; every statement is one row's, or one bounded list. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Leader } from "../../services/Run.ts"
import { RunLedgerError } from "../../services/PtySupervisor.ts"
import { RunEnd, RunRecord } from "../../services/RunLedger.ts"

const Row = Schema.Struct({
  run_id: Schema.String,
  epoch: Schema.String,
  spec: Schema.fromJsonString(RunRecord.fields.spec),
  boot_id: Schema.String,
  pid_namespace: Schema.String,
  mark_low: Schema.NullOr(Schema.Int),
  mark_high: Schema.NullOr(Schema.Int),
  created_at: Schema.Finite,
  attempt: Schema.Int,
  pid: Schema.NullOr(Schema.Int),
  start_token: Schema.NullOr(Schema.String),
  ended_at: Schema.NullOr(Schema.Finite),
  outcome: Schema.NullOr(Schema.fromJsonString(RunEnd))
})

const decodeRow = Schema.decodeUnknownResult(Row)

const recordOf = (row: typeof Row.Type): RunRecord => ({
  runId: row.run_id,
  epoch: row.epoch,
  spec: row.spec,
  bootId: row.boot_id,
  pidNamespace: row.pid_namespace,
  mark: row.mark_low === null || row.mark_high === null ? null : { low: row.mark_low, high: row.mark_high },
  createdAt: row.created_at,
  attempt: row.attempt,
  leader: row.pid === null || row.start_token === null ? null : { pid: row.pid, startToken: row.start_token },
  end: row.outcome
})

/** A row that cannot be read (another version's) is said and left alone: neither listed nor dealt with. */
const readable = Effect.fnUntraced(function* (rows: ReadonlyArray<unknown>) {
  const records: Array<RunRecord> = []
  for (const row of rows) {
    const decoded = decodeRow(row)
    if (Result.isSuccess(decoded)) records.push(recordOf(decoded.success))
    else yield* Effect.logWarning("a run in the ledger cannot be read", decoded.failure.message)
  }
  return records
})

export type Ledger = ReturnType<typeof makeLedger>

export const makeLedger = (sql: SqlClient) => {
  const failed = Effect.mapError((cause: unknown) => new RunLedgerError({ cause }))
  return {
    /** Several rows at once, or none. */
    together: <A, E, R>(work: Effect.Effect<A, E, R>) =>
      sql
        .withTransaction(work)
        .pipe(
          Effect.mapError((cause) =>
            cause instanceof RunLedgerError ? cause : new RunLedgerError({ cause })
          )
        ),
    open: sql`SELECT * FROM runs WHERE ended_at IS NULL ORDER BY run_id`.pipe(
      Effect.flatMap(readable),
      failed
    ),
    openBeside: (epoch: string) =>
      sql`SELECT * FROM runs WHERE epoch <> ${epoch} AND ended_at IS NULL ORDER BY run_id`.pipe(
        Effect.flatMap(readable),
        failed
      ),
    /** Those of earlier epochs, and whichever of this one are over; newest first. */
    past: (epoch: string, most: number) =>
      sql`SELECT * FROM runs WHERE epoch <> ${epoch} OR ended_at IS NOT NULL ORDER BY run_id DESC LIMIT ${most}`.pipe(
        Effect.flatMap(readable),
        failed
      ),
    insert: (record: RunRecord) =>
      failed(
        sql`INSERT INTO runs ${sql.insert({
          run_id: record.runId,
          epoch: record.epoch,
          spec: JSON.stringify(record.spec),
          boot_id: record.bootId,
          pid_namespace: record.pidNamespace,
          mark_low: record.mark?.low ?? null,
          mark_high: record.mark?.high ?? null,
          created_at: record.createdAt,
          attempt: record.attempt
        })}`
      ),
    noteLeader: (runId: string, { pid, startToken }: Leader, attempt: number) =>
      failed(
        sql`UPDATE runs SET pid = ${pid}, start_token = ${startToken}, attempt = ${attempt} WHERE run_id = ${runId}`
      ),
    end: (runId: string, end: RunEnd) =>
      failed(
        sql`UPDATE runs SET ended_at = ${end.endedAt}, outcome = ${JSON.stringify(end)} WHERE run_id = ${runId}`
      ),
    remove: (runId: string) => failed(sql`DELETE FROM runs WHERE run_id = ${runId}`),
    /** Forgets the oldest that are over, so that one more fits; says which. */
    makeRoom: Effect.fnUntraced(function* (most: number) {
      const [count] = yield* sql<{ readonly rows: number }>`SELECT count(*) AS rows FROM runs`
      const excess = (count?.rows ?? 0) - most + 1
      if (excess <= 0) return []
      const gone = yield* sql<{ readonly run_id: string }>`SELECT run_id FROM runs WHERE ended_at IS NOT NULL
        ORDER BY run_id LIMIT ${excess}`
      for (const { run_id } of gone) yield* sql`DELETE FROM runs WHERE run_id = ${run_id}`
      return gone.map(({ run_id }) => run_id)
    }, failed)
  }
}
