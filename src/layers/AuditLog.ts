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
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import * as crypto from "node:crypto"
import {
  type AuditHead,
  checkpointEvery,
  type Checkpoint,
  endCheck,
  linkOf,
  nextCheck,
  startCheck
} from "../services/AuditChain.ts"
import {
  auditable,
  type AuditEntry,
  AuditLog,
  AuditRecord,
  AuditRow,
  AuditUnavailable,
  maxTailRows
} from "../services/AuditLog.ts"
import { Redactor } from "../services/Redaction.ts"
import { Settings } from "../services/Settings.ts"
import { makeHead, readHead } from "./internal/auditHead.ts"

export * from "../services/AuditLog.ts"

/** Rows of one INSERT: about a quarter of a millisecond of event loop, and no more than 1,300 of SQLite's 32,766 values. */
const maxBatchRows = 64

/** Callers beyond this many wait to be let into the queue. */
const maxWaitingRows = 1_024

/** The last word on each guard is among the last few. */
const maxGuardRows = 256

/** What a slow reader of `live` may be behind before it loses the oldest. */
const maxUnreadRows = 256

interface Waiting {
  readonly row: Omit<AuditRow, "seq">
  readonly written: Deferred.Deferred<AuditRow, AuditUnavailable>
}

type Batch = Arr.NonEmptyReadonlyArray<Waiting>

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const { paths } = yield* Settings
  const hide = yield* Redactor
  const appended = yield* Effect.acquireRelease(PubSub.sliding<AuditRow>(maxUnreadRows), PubSub.shutdown)
  const waiting = yield* Queue.bounded<Waiting, Cause.Done>(maxWaitingRows)

  const head = yield* Effect.option(makeHead(paths.auditHead))
  if (Option.isNone(head))
    yield* Effect.logWarning(
      "the head of the audit log cannot be kept, so that a cut end would not show"
    ).pipe(Effect.annotateLogs({ file: paths.auditHead }))
  /** The last row that is in the database; null: it has to be looked up. */
  let last: AuditHead | null = null

  const insert = Effect.fnUntraced(function* (batch: Batch) {
    const before: AuditHead = last ?? goOn(yield* endOf(sql), yield* headIn(sql, readHead(paths.auditHead)))
    last = null
    let end = before
    const linked = batch.map(({ row }) => {
      const numbered: AuditRow = { ...row, seq: end.seq + 1 }
      end = { seq: numbered.seq, rows: end.rows + 1, hash: linkOf(sha256, end.hash, numbered) }
      return { row: numbered, hash: end.hash }
    })
    yield* sql.unsafe(
      insertOf(batch.length),
      linked.flatMap(({ row, hash }) => toColumns(row, hash))
    )
    for (const { row, hash } of linked)
      // The rows are there; one checkpoint less is less to compare with, and no reason to refuse a call.
      if (row.seq % checkpointEvery === 0)
        yield* Effect.ignore(sql`INSERT INTO audit_checkpoints (seq, hash) VALUES (${row.seq}, ${hash})`)
    if (Option.isSome(head)) head.value(end)
    last = end
    return linked.map(({ row }) => row)
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
    const row = { ...auditable(entry, hide), at: yield* Clock.currentTimeMillis }
    const accepted = yield* Queue.offer(waiting, { row, written })
    return accepted
      ? yield* Deferred.await(written)
      : yield* unavailable(new Error("the audit log is closed"))
  })

  const tail = Effect.fn("AuditLog.tail")(function* (limit: number) {
    const count = Math.max(0, Math.min(Math.trunc(limit), maxTailRows))
    const rows = yield* sql`SELECT * FROM audit ORDER BY seq DESC LIMIT ${count}`
    return (yield* decodeRecords(rows.map(fromColumns))).map(rowOf).toReversed()
  }, Effect.mapError(unavailable))

  const decided = Effect.fn("AuditLog.decided")(function* (relayId: string, callId: string, event: string) {
    const rows = yield* sql`SELECT * FROM audit
      WHERE relay_id = ${relayId} AND call_id = ${callId} AND source = 'hook' AND event = ${event}
      ORDER BY seq LIMIT 1`
    const [record] = yield* decodeRecords(rows.map(fromColumns))
    return record === undefined ? null : rowOf(record)
  }, Effect.mapError(unavailable))

  const isDecided = Effect.fn("AuditLog.isDecided")(function* (relayId: string, callId: string) {
    const rows = yield* sql`SELECT 1 FROM audit WHERE relay_id = ${relayId} AND call_id = ${callId}
      AND source IN ('hook', 'approval') AND event IN ('pre_tool_use', 'permission_request')
      AND verdict <> 'deny' LIMIT 1`
    return rows.length > 0
  }, Effect.mapError(unavailable))

  const hasHook = Effect.fn("AuditLog.hasHook")(function* (relayId: string) {
    const rows = yield* sql`SELECT 1 FROM audit WHERE relay_id = ${relayId} AND source = 'hook'
      AND policy <> 'unanswered' LIMIT 1`
    return rows.length > 0
  }, Effect.mapError(unavailable))

  const guardRows = Effect.gen(function* () {
    const rows = yield* sql`SELECT * FROM audit
      WHERE source IN ('incident', 'canary', 'client') OR policy = 'unanswered' ORDER BY seq DESC LIMIT ${maxGuardRows}`
    const decoded = yield* Effect.forEach(rows.map(fromColumns), (row) => Effect.option(decodeRecords([row])))
    return decoded.flatMap((found) => (Option.isSome(found) ? found.value.map(rowOf) : [])).toReversed()
  }).pipe(Effect.mapError(unavailable), Effect.withSpan("AuditLog.guardRows"))

  const find = Effect.fn("AuditLog.find")(function* (seq: number) {
    const rows = yield* sql`SELECT * FROM audit WHERE seq = ${seq}`
    return (yield* decodeRecords(rows.map(fromColumns)))[0] ?? null
  }, Effect.mapError(unavailable))

  const verify = Effect.gen(function* () {
    // Before the rows: what is appended meanwhile is behind it.
    const kept = readHead(paths.auditHead)
    const checkpoints = yield* sql<Checkpoint>`SELECT seq, hash FROM audit_checkpoints ORDER BY seq`
    const noted = new Set([...checkpoints.map(({ seq }) => seq), ...(kept === null ? [] : [kept.seq])])
    const stored = new Map<number, string | null>()
    const check = yield* Stream.runFold(
      pages(sql),
      () => startCheck,
      (check, record) => {
        if (noted.has(record.seq)) stored.set(record.seq, record.hash)
        return nextCheck(sha256, check, { row: rowOf(record), hash: record.hash })
      }
    )
    return endCheck(check, kept, checkpoints, (seq) => stored.get(seq) ?? null)
  }).pipe(Effect.mapError(unavailable), Effect.withSpan("AuditLog.verify"))

  return AuditLog.of({
    append,
    tail,
    decided,
    isDecided,
    hasHook,
    guardRows,
    find,
    all: pages(sql),
    verify,
    live: Stream.fromPubSub(appended)
  })
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
  const text = `INSERT INTO audit (${columns.join(", ")}) VALUES ${Array.from({ length: rows }, () => row).join(", ")}`
  inserts.set(rows, text)
  return text
}

const unavailable = (cause: unknown): AuditUnavailable =>
  cause instanceof AuditUnavailable ? cause : new AuditUnavailable({ cause })

const decodeRecords = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ ...AuditRecord.fields, votes: Schema.fromJsonString(AuditRow.fields.votes) }))
)

const rowOf = ({ hash: _hash, ...row }: AuditRecord): AuditRow => row

/** Rows that are read at once: a few milliseconds. */
const pageRows = 500

/** All rows, a page at a time, by their numbers. */
const pages = (sql: SqlClient.SqlClient) =>
  Stream.paginate(0, (after: number) =>
    Effect.gen(function* () {
      const found = yield* sql`SELECT * FROM audit WHERE seq > ${after} ORDER BY seq LIMIT ${pageRows}`
      const records = yield* decodeRecords(found.map(fromColumns))
      const next = records.length < pageRows ? Option.none<number>() : Option.some(records.at(-1)!.seq)
      return [records, next] as const
    }).pipe(Effect.mapError(unavailable))
  )

const sha256 = (text: string): string => crypto.hash("sha256", text, "base64url")

/** The head that was kept, and whether the row it names is still the one that was written. */
const headIn = Effect.fnUntraced(function* (sql: SqlClient.SqlClient, head: AuditHead | null) {
  if (head === null || head.rows === 0) return null
  const [row] = yield* sql<{ readonly hash: string | null }>`SELECT hash FROM audit WHERE seq = ${head.seq}`
  return { head, stands: row?.hash === head.hash }
})

/**
 * What the next row follows. Where the row that the head names is gone or another one, it follows the head: so the gap or
 * the broken link stays in the chain, and does not go with the head that is written over.
 */
const goOn = (
  end: AuditHead,
  kept: { readonly head: AuditHead; readonly stands: boolean } | null
): AuditHead =>
  kept === null || kept.stands
    ? end
    : { seq: Math.max(end.seq, kept.head.seq), rows: end.rows, hash: kept.head.hash }

/** The last row, as it is in the database; rows from before the chain are linked here, once. */
const endOf = Effect.fnUntraced(function* (sql: SqlClient.SqlClient) {
  const [found] = yield* sql<{ readonly seq: number; readonly hash: string | null; readonly rows: number }>`
    SELECT seq, hash, (SELECT count(*) FROM audit) AS rows FROM audit ORDER BY seq DESC LIMIT 1`
  if (found === undefined) return startCheck.last
  if (found.hash !== null) return { seq: found.seq, rows: found.rows, hash: found.hash }
  const check = yield* Stream.runFold(
    pages(sql),
    () => startCheck,
    (check, record) => nextCheck(sha256, check, { row: rowOf(record), hash: record.hash })
  )
  return check.last
})

/** In the order of `toColumns`. */
const columns = [
  "seq",
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
  "took_ms",
  "hash"
]

const toColumns = (row: AuditRow, hash: string): ReadonlyArray<unknown> => [
  row.seq,
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
  row.tookMs,
  hash
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
  tookMs: columns["took_ms"],
  hash: columns["hash"]
})
