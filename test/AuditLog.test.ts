import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import * as TestClock from "effect/testing/TestClock"
import { layer } from "../src/layers/AuditLog.ts"
import { migrate } from "../src/layers/internal/nodeSqlite.ts"
import {
  auditable,
  type AuditEntry,
  AuditLog,
  AuditUnavailable,
  maxReasonLength,
  maxSubjectLength,
  maxTailRows
} from "../src/services/AuditLog.ts"
import { migrations } from "../src/services/Database.ts"
import { entry } from "../src/testing/AuditLog.ts"
import * as Redaction from "../src/layers/Redaction.ts"
import { Settings } from "../src/services/Settings.ts"
import { layer as layerMemory, layerEmpty } from "../src/testing/Database.ts"

const Log = layer.pipe(Layer.provideMerge(layerMemory))

/** Of a gateway with a credential in its environment that looks like nothing. */
const LogWithSecret = Log.pipe(
  Layer.provide(Redaction.layer),
  Layer.provide(
    Layer.effect(
      Settings,
      Effect.map(Settings, (settings) => ({ ...settings, environment: { DEPLOY_TOKEN: "plain-words-here" } }))
    )
  )
)

const call = (n: number): AuditEntry => ({ ...entry, callId: `call-${n}` })

const calls = (count: number) => Array.from({ length: count }, (_, n) => call(n))

const written = SqlClient.SqlClient.use(
  (sql) => sql<{ readonly call_id: string }>`SELECT call_id FROM audit ORDER BY seq`
).pipe(Effect.map((rows) => rows.map((row) => row.call_id)))

/** Holds the only connection until `go`: whatever is appended meanwhile has to wait. */
const stall = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const [held, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
  yield* Deferred.succeed(held, undefined).pipe(
    Effect.andThen(Deferred.await(go)),
    sql.withTransaction,
    Effect.forkChild
  )
  yield* Deferred.await(held)
  return go
})

/** Starts at once, so that it stands where the code put it when this returns. */
const begun = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })

describe("AuditLog", () => {
  it.effect("the gateway's own credentials are in no row, and decided calls are told from refused ones", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const row = yield* log.append({
        ...entry,
        relayId: "r",
        callId: "a",
        subject: "curl -u x:plain-words-here",
        reason: "plain-words-here"
      })
      assert.notInclude(JSON.stringify(row), "plain-words-here")
      yield* log.append({ ...entry, relayId: "r", callId: "b", verdict: "deny" })
      const decided = yield* Effect.forEach(["a", "b", "c"], (callId) => log.isDecided("r", callId))
      assert.deepStrictEqual(decided, [true, false, false])
      assert.deepStrictEqual([yield* log.hasHook("r"), yield* log.hasHook("another")], [true, false])
    }).pipe(Effect.provide(LogWithSecret))
  )

  it.effect("the rows that break and mend guards are found among however many", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      yield* log.append({ ...entry, source: "incident", callId: "i" })
      yield* Effect.forEach(calls(300), log.append, { concurrency: "unbounded", discard: true })
      yield* log.append({ ...entry, source: "canary", callId: "c" })
      const found = yield* log.guardRows
      assert.deepStrictEqual(
        found.map(({ callId }) => callId),
        ["i", "c"]
      )
    }).pipe(Effect.provide(Log))
  )

  it.effect("a row comes back with its number and time, and is what tail shows", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      yield* TestClock.setTime(5_000)
      const odd: AuditEntry = {
        ...entry,
        source: "incident",
        sessionId: null,
        agentId: "child",
        spawnedBy: "run-0",
        tool: null,
        subject: "näme\u0000 'quoted' 🛠",
        verdict: "rewrite",
        votes: [
          { policy: "a", verdict: "ask", failed: null },
          { policy: "b", verdict: "deny", failed: "timed-out" }
        ],
        tookMs: 12
      }
      const rows = [yield* log.append(entry), yield* log.append(odd)]
      assert.deepStrictEqual(rows, [
        { ...entry, seq: 1, at: 5_000 },
        { ...odd, seq: 2, at: 5_000 }
      ])
      assert.deepStrictEqual(yield* log.tail(10), rows)
    }).pipe(Effect.provide(Log))
  )

  it.effect("rows from before there were helpers are nobody's, and the log goes on after them", () =>
    Effect.gen(function* () {
      yield* migrate(yield* SqlClient.SqlClient, migrations.slice(0, 1))
      const sql = yield* SqlClient.SqlClient
      yield* sql`INSERT INTO audit (at, epoch, relay_id, run_id, provider, source, event, session_id, call_id, tool, subject, verdict, policy, reason, votes, took_ms)
        VALUES (1, ${entry.epoch}, 'relay-1', 'run-1', 'codex', 'hook', 'pre_tool_use', 'thread-1', 'call-1', 'Bash', 'ls', 'allow', 'default', ${entry.reason}, '[]', 0.25)`
      yield* migrate(sql, migrations)
      const { append, tail } = yield* AuditLog
      yield* append({ ...entry, spawnedBy: "run-0" })
      assert.deepStrictEqual(yield* tail(10), [
        { ...entry, seq: 1, at: 1 },
        { ...entry, spawnedBy: "run-0", seq: 2, at: 0 }
      ])
    }).pipe(Effect.provide(layer.pipe(Layer.provideMerge(layerEmpty))))
  )

  it.effect("appends of one moment are all written, each caller with its own row", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const rows = yield* Effect.forEach(calls(500), log.append, { concurrency: "unbounded" })
      assert.deepStrictEqual(
        rows.map(({ callId, seq }) => `${callId} ${seq}`),
        calls(500).map(({ callId }, n) => `${callId} ${n + 1}`)
      )
      assert.deepStrictEqual(
        yield* written,
        calls(500).map(({ callId }) => callId)
      )
    }).pipe(Effect.provide(Log))
  )

  it.effect("appends of one moment share a transaction: a row that cannot be written leaves none", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const bad = { ...call(99), tookMs: Number.NaN }
      const exits = yield* Effect.forEach([...calls(3), bad], (one) => Effect.flip(log.append(one)), {
        concurrency: "unbounded"
      })
      assert.isTrue(exits.every((error) => error instanceof AuditUnavailable))
      assert.deepStrictEqual(yield* written, [])
      assert.strictEqual((yield* log.append(call(4))).callId, "call-4")
    }).pipe(Effect.provide(Log))
  )

  it.effect("a log that cannot be written fails its callers, and works again when it can", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const sql = yield* SqlClient.SqlClient
      yield* sql`ALTER TABLE audit RENAME TO gone`
      const errors = [yield* Effect.flip(log.append(entry)), yield* Effect.flip(log.tail(1))]
      assert.deepStrictEqual(
        errors.map(({ message }) => message),
        Array.from(
          { length: 2 },
          () =>
            "The audit log cannot be written, so nothing may be decided. Check the disk under the state directory."
        )
      )
      yield* sql`ALTER TABLE gone RENAME TO audit`
      assert.strictEqual((yield* log.append(entry)).seq, 1)
    }).pipe(Effect.provide(Log))
  )

  it.effect("a full queue makes callers wait, in order, and loses none", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const go = yield* stall
      const many = calls(3_000)
      const fiber = yield* begun(Effect.forEach(many, log.append, { concurrency: "unbounded" }))
      assert.isUndefined(fiber.pollUnsafe())
      yield* Deferred.succeed(go, undefined)
      const rows = yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        rows.map(({ seq }) => seq),
        many.map((_, n) => n + 1)
      )
    }).pipe(Effect.provide(Log))
  )

  it.effect("interrupting a caller loses nobody else's row", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const go = yield* stall
      const fibers = yield* Effect.forEach(calls(2_000), (one) => begun(log.append(one)))
      const [interrupted, others] = [
        fibers.filter((_, n) => n % 3 === 0),
        fibers.filter((_, n) => n % 3 !== 0)
      ]
      yield* Fiber.interruptAll(interrupted)
      yield* Deferred.succeed(go, undefined)
      const rows = yield* Fiber.joinAll(others)
      const kept = new Set(yield* written)
      assert.deepStrictEqual(
        rows.map(({ callId }) => callId).filter((callId) => !kept.has(callId)),
        []
      )
      assert.strictEqual(others.length, rows.length)
    }).pipe(Effect.provide(Log))
  )

  it.effect("closing writes what was let in, and refuses what comes later", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.build(layer).pipe(Scope.provide(scope))
      const log = yield* Effect.provide(AuditLog, context)
      const go = yield* stall
      const waiting = yield* begun(Effect.forEach(calls(1_500), log.append, { concurrency: "unbounded" }))
      const closing = yield* begun(Scope.close(scope, Exit.void))
      const late = yield* begun(Effect.flip(log.append(call(9_999))))
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual((yield* Fiber.join(waiting)).length, 1_500)
      yield* Fiber.join(closing)
      assert.instanceOf(yield* Fiber.join(late), AuditUnavailable)
      assert.strictEqual((yield* written).length, 1_500)
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a live reader sees what is appended from then on and ends with the log", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.build(layer).pipe(Scope.provide(scope))
      const log = yield* Effect.provide(AuditLog, context)
      yield* log.append(call(0))
      const reader = yield* begun(Stream.runCollect(log.live))
      const rows = [yield* log.append(call(1)), yield* log.append(call(2))]
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(reader), rows)
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a reader that falls behind loses the oldest and slows no decision", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      const [first, read] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const seen: Array<string> = []
      const reader = yield* log.live.pipe(
        Stream.takeUntil(({ callId }) => callId === "call-5000"),
        Stream.runForEach(({ callId }) =>
          Effect.sync(() => seen.push(callId)).pipe(
            Effect.andThen(Deferred.succeed(first, undefined)),
            Effect.andThen(Deferred.await(read))
          )
        ),
        begun
      )
      yield* log.append(call(0))
      yield* Deferred.await(first)
      yield* Effect.forEach(calls(1_000), log.append)
      yield* Deferred.succeed(read, undefined)
      yield* log.append(call(5_000))
      yield* Fiber.join(reader)
      assert.isBelow(seen.length, 600)
      assert.deepStrictEqual(seen.slice(-3), ["call-998", "call-999", "call-5000"])
    }).pipe(Effect.provide(Log))
  )

  it.effect("tail shows the last rows, oldest first, and never more than its bound", () =>
    Effect.gen(function* () {
      const log = yield* AuditLog
      yield* Effect.forEach(calls(maxTailRows + 5), log.append, { concurrency: "unbounded", discard: true })
      const seqs = (limit: number) => Effect.map(log.tail(limit), (rows) => rows.map(({ seq }) => seq))
      assert.deepStrictEqual(yield* seqs(3), [1_003, 1_004, 1_005])
      assert.deepStrictEqual([yield* seqs(0), yield* seqs(-1)], [[], []])
      const all = yield* seqs(1_000_000)
      assert.deepStrictEqual([all.length, all[0]], [maxTailRows, 6])
    }).pipe(Effect.provide(Log))
  )

  it("subject and reason are redacted first and cut then, between characters", () => {
    const secret = `sk-${"x1".repeat(20)}`
    const { subject, reason } = auditable({
      ...entry,
      subject: `${"a ".repeat(maxSubjectLength / 2 - 2)}${secret}`,
      reason: `${"b".repeat(maxReasonLength - 1)}🛠`
    })
    assert.strictEqual(subject, `${"a ".repeat(maxSubjectLength / 2 - 2)}[red`)
    assert.strictEqual(reason, `${"b".repeat(maxReasonLength - 1)}\ufffd`)
  })
})
