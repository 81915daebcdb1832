import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as SqlClient from "effect/sql/SqlClient"
import { ConstraintError, SqlError, UniqueViolation } from "effect/sql/SqlError"
import * as TestClock from "effect/testing/TestClock"
import { migrate, UnknownMigration } from "../src/layers/internal/nodeSqlite.ts"
import { DatabaseError, migrations, pendingMigrations } from "../src/services/Database.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"

const names = (list: ReadonlyArray<{ readonly name: string }>) => list.map(({ name }) => name)

const step = (name: string, ...statements: ReadonlyArray<string>) => ({ name, statements })

describe("Database", () => {
  it("what is pending follows what was applied; a strange or misplaced name stops it", () => {
    const known = [step("0001_a"), step("0002_b"), step("0003_c")]
    const answer = (...applied: ReadonlyArray<string>) =>
      Result.match(pendingMigrations(applied, known), { onSuccess: names, onFailure: (name) => name })
    assert.deepStrictEqual(
      [answer(), answer("0001_a"), answer("0001_a", "0002_b", "0003_c")],
      [["0001_a", "0002_b", "0003_c"], ["0002_b", "0003_c"], []]
    )
    assert.deepStrictEqual(
      [answer("0001_a", "0002_b", "0003_c", "0004_d"), answer("0002_b"), answer("0001_a", "0001_z")],
      ["0004_d", "0002_b", "0001_z"]
    )
  })

  it("released migrations ascend by name", () => {
    assert.deepStrictEqual(names(migrations), names(migrations).toSorted())
  })

  it("an error says what SQLite said and what to do", () => {
    const stages = ["open", "migrate"] as const
    assert.deepStrictEqual(
      stages.map(
        (stage) =>
          new DatabaseError({ path: "/s/holdfast.db", stage, cause: new Error("disk I/O error") }).message
      ),
      [
        "The state database /s/holdfast.db cannot be opened (disk I/O error). Check the directory's owner, mode and free space.",
        "The state database /s/holdfast.db cannot be brought up to date (disk I/O error); it may be from a newer holdfast. Move it away, or use that version."
      ]
    )
  })

  it.effect("migrations run once, in order, and each is recorded with its time", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* TestClock.setTime(1_000)
      const more = [
        ...migrations,
        step("9001_x", "CREATE TABLE x (n INTEGER) STRICT", "INSERT INTO x VALUES (7)")
      ]
      yield* migrate(sql, more)
      yield* migrate(sql, more)
      assert.deepStrictEqual(
        [
          yield* sql`SELECT name, applied_at FROM holdfast_migrations WHERE name LIKE '9%'`,
          yield* sql`SELECT n FROM x`
        ].map((rows) => rows.map((row) => ({ ...row }))),
        [[{ name: "9001_x", applied_at: 1_000 }], [{ n: 7 }]]
      )
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a migration that fails leaves nothing of itself", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const broken = [...migrations, step("9001_x", "CREATE TABLE x (n INTEGER) STRICT", "CREATE nonsense")]
      const error = yield* Effect.flip(migrate(sql, broken))
      assert.instanceOf(error, SqlError)
      assert.deepStrictEqual(yield* sql`SELECT name FROM sqlite_schema WHERE name = 'x'`, [])
      assert.deepStrictEqual(
        (yield* sql<{ name: string }>`SELECT name FROM holdfast_migrations`).map(({ name }) => name),
        names(migrations)
      )
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a database from a newer version is refused by the name of its migration, and not changed", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* migrate(sql, [...migrations, step("9001_future")])
      const error = yield* Effect.flip(
        migrate(sql, [...migrations, step("9000_mine", "CREATE TABLE mine (n)")])
      )
      assert.instanceOf(error, UnknownMigration)
      assert.include(error.message, "9001_future")
      assert.deepStrictEqual(yield* sql`SELECT name FROM sqlite_schema WHERE name = 'mine'`, [])
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("the audit table refuses to forget or to be rewritten", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`INSERT INTO audit (at, epoch, relay_id, run_id, provider, source, event, call_id, subject, verdict, policy, reason, votes, took_ms)
        VALUES (1, 'e', 'r', 'n', 'codex', 'hook', 'stop', 'c', '', 'allow', 'default', '', '[]', 0.1)`
      const errors = [
        yield* Effect.flip(sql`UPDATE audit SET verdict = 'deny'`),
        yield* Effect.flip(sql`DELETE FROM audit`)
      ]
      assert.deepStrictEqual(
        errors.map((error) => [error.reason instanceof ConstraintError, error.reason.message]),
        Array.from({ length: 2 }, () => [true, "audit is append-only"])
      )
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a failing transaction takes back what it wrote, a nested one only its part", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE t (n INTEGER UNIQUE) STRICT`
      const duplicate = sql`INSERT INTO t VALUES (3), (3)`
      yield* sql`INSERT INTO t VALUES (1)`.pipe(Effect.andThen(duplicate), sql.withTransaction, Effect.flip)
      yield* sql`INSERT INTO t VALUES (2)`.pipe(
        Effect.andThen(Effect.flip(sql.withTransaction(duplicate))),
        sql.withTransaction
      )
      assert.deepStrictEqual(yield* sql`SELECT n FROM t`.values, [[2]])
      const error = yield* Effect.flip(duplicate)
      assert.instanceOf(error.reason, UniqueViolation)
    }).pipe(Effect.provide(layerMemory))
  )

  it.effect("a statement of another fiber waits for the end of a transaction", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE TABLE t (n INTEGER) STRICT`
      const [begun, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const transaction = yield* sql`INSERT INTO t VALUES (1)`.pipe(
        Effect.andThen(Deferred.succeed(begun, undefined)),
        Effect.andThen(Deferred.await(go)),
        Effect.andThen(Effect.fail("rolled back")),
        sql.withTransaction,
        Effect.forkChild
      )
      yield* Deferred.await(begun)
      const outsider = yield* Effect.forkChild(sql`INSERT INTO t VALUES (2)`, { startImmediately: true })
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.await(transaction)
      yield* Fiber.join(outsider)
      assert.deepStrictEqual(yield* sql`SELECT n FROM t`.values, [[2]])
    }).pipe(Effect.provide(layerMemory))
  )
})
