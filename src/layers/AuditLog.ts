/**
 * AuditLog, live: appends queue up for one fiber, which writes all that wait as one statement and wakes their callers.
 *
 * One INSERT of many rows is a transaction by itself: all of them are in the database, or none.
 */
import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import {
  auditable,
  type AuditEntry,
  AuditLog,
  AuditRow,
  AuditUnavailable,
  maxTailRows
} from "../services/AuditLog.ts"

export * from "../services/AuditLog.ts"

/** Rows of one INSERT: about a quarter of a millisecond of event loop, and no more than 1,200 of SQLite's 32,766 values. */
const maxBatchRows = 64

/** Callers beyond this many wait to be let into the queue. */
const maxWaitingRows = 1_024

/** What a slow reader of `live` may be behind before it loses the oldest. */
const maxUnreadRows = 256

interface Waiting {
  readonly row: Omit<AuditRow, "seq">
  readonly written: Deferred.Deferred<AuditRow, AuditUnavailable>
}

type Batch = Arr.NonEmptyReadonlyArray<Waiting>

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const appended = yield* Effect.acquireRelease(PubSub.sliding<AuditRow>(maxUnreadRows), PubSub.shutdown)
  const waiting = yield* Queue.bounded<Waiting, Cause.Done>(maxWaitingRows)

  const insert = Effect.fnUntraced(function* (batch: Batch) {
    // SQLite numbers the rows of one VALUES list in their order; the order of RETURNING it leaves open.
    const returned = yield* sql.unsafe<{ readonly seq: number }>(
      insertOf(batch.length),
      batch.flatMap(({ row }) => toColumns(row))
    )
    const seqs = returned.map(({ seq }) => seq).toSorted((a, b) => a - b)
    return batch.map(({ row }, index): AuditRow => ({ ...row, seq: seqs[index]! }))
  })

  const settle = Effect.fnUntraced(function* (batch: Batch) {
    const rows = yield* insert(batch).pipe(
      // Also a defect: a caller who never wakes would be a hook that hangs.
      Effect.catchCause((cause) => Effect.fail(unavailable(Cause.squash(cause)))),
      Effect.exit
    )
    // Before the callers wake, so that a reader who starts after an append does not see that append.
    if (Exit.isSuccess(rows)) yield* PubSub.publishAll(appended, rows.value)
    for (const [index, { written }] of batch.entries())
      Deferred.doneUnsafe(
        written,
        Exit.map(rows, (rows) => rows[index]!)
      )
  })

  const writer = yield* Queue.takeBetween(waiting, 1, maxBatchRows).pipe(
    Effect.flatMap((batch) =>
      Arr.isReadonlyArrayNonEmpty(batch) ? Effect.uninterruptible(settle(batch)) : Effect.void
    ),
    Effect.forever,
    Effect.forkScoped
  )
  // Runs before the writer is interrupted: what was let in is written.
  yield* Effect.addFinalizer(() => Effect.andThen(Queue.end(waiting), Fiber.await(writer)))

  const append = Effect.fnUntraced(function* (entry: AuditEntry) {
    const written = Deferred.makeUnsafe<AuditRow, AuditUnavailable>()
    const row = { ...auditable(entry), at: yield* Clock.currentTimeMillis }
    const accepted = yield* Queue.offer(waiting, { row, written })
    return accepted
      ? yield* Deferred.await(written)
      : yield* unavailable(new Error("the audit log is closed"))
  })

  const tail = Effect.fn("AuditLog.tail")(function* (limit: number) {
    const count = Math.max(0, Math.min(Math.trunc(limit), maxTailRows))
    const rows = yield* sql`SELECT * FROM audit ORDER BY seq DESC LIMIT ${count}`
    return (yield* decodeRows(rows.map(fromColumns))).toReversed()
  }, Effect.mapError(unavailable))

  return AuditLog.of({ append, tail, live: Stream.fromPubSub(appended) })
})

export const layer = Layer.effect(AuditLog, make)

/**
 * The statement's text per number of rows, `maxBatchRows` of them at most. The driver keeps each prepared; building them
 * anew took longer than running them.
 */
const inserts = new Map<number, string>()

const insertOf = (rows: number): string => {
  const known = inserts.get(rows)
  if (known !== undefined) return known
  const row = `(${columns.map(() => "?").join(", ")})`
  const text = `INSERT INTO audit (${columns.join(", ")}) VALUES ${Array.from({ length: rows }, () => row).join(", ")} RETURNING seq`
  inserts.set(rows, text)
  return text
}

const unavailable = (cause: unknown): AuditUnavailable => new AuditUnavailable({ cause })

const decodeRows = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ ...AuditRow.fields, votes: Schema.fromJsonString(AuditRow.fields.votes) }))
)

/** In the order of `toColumns`. */
const columns = [
  "at",
  "epoch",
  "relay_id",
  "run_id",
  "provider",
  "source",
  "event",
  "session_id",
  "agent_id",
  "spawned_by",
  "call_id",
  "tool",
  "subject",
  "verdict",
  "policy",
  "reason",
  "votes",
  "took_ms"
]

const toColumns = (row: Omit<AuditRow, "seq">): ReadonlyArray<unknown> => [
  row.at,
  row.epoch,
  row.relayId,
  row.runId,
  row.provider,
  row.source,
  row.event,
  row.sessionId,
  row.agentId,
  row.spawnedBy,
  row.callId,
  row.tool,
  row.subject,
  row.verdict,
  row.policy,
  row.reason,
  JSON.stringify(row.votes),
  row.tookMs
]

const fromColumns = (columns: Readonly<Record<string, unknown>>) => ({
  seq: columns["seq"],
  at: columns["at"],
  epoch: columns["epoch"],
  relayId: columns["relay_id"],
  runId: columns["run_id"],
  provider: columns["provider"],
  source: columns["source"],
  event: columns["event"],
  sessionId: columns["session_id"],
  agentId: columns["agent_id"],
  spawnedBy: columns["spawned_by"],
  callId: columns["call_id"],
  tool: columns["tool"],
  subject: columns["subject"],
  verdict: columns["verdict"],
  policy: columns["policy"],
  reason: columns["reason"],
  votes: columns["votes"],
  tookMs: columns["took_ms"]
})
