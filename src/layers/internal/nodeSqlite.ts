/**
 * An effect/sql client on node:sqlite: one connection, one owner, statements prepared once.
 *
 * node:sqlite is synchronous: a statement holds the event loop while it runs, and so does the wait for another process's
 * lock. That is why the busy timeout is short, and why queries here are small.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import { statSync } from "node:fs"
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite"
import { type Migration, pendingMigrations } from "../../services/Database.ts"

/** A second holds the event loop at worst; hooks are given thirty. */
const busyTimeoutMs = 1_000

/** Our own statements are some dozens; the bound is for an embedder who builds text per call. */
const maxPreparedStatements = 200

/** SQLite keeps the WAL file at its largest size ever unless told otherwise; 16 MiB is four times its checkpoint. */
const maxWalBytes = 16_777_216

const pragmas = [
  "journal_mode=WAL",
  // With WAL this loses no committed row when the process dies; a power cut may take the last ones, in order.
  "synchronous=NORMAL",
  "foreign_keys=ON",
  "trusted_schema=OFF",
  `journal_size_limit=${maxWalBytes}`
]

/** Opens the file as it is (`:memory:` for none) and closes it with the scope. Creating it privately is the caller's part. */
export const connect = (
  path: string
): Effect.Effect<SqlClient.SqlClient, SqlError.SqlError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const database = yield* Effect.acquireRelease(
      attempt("open", () => new DatabaseSync(path, { timeout: busyTimeoutMs, defensive: true })),
      (database) => Effect.sync(() => database.close())
    )
    yield* attempt("open", () => {
      for (const pragma of pragmas) database.exec(`PRAGMA ${pragma}`)
    })
    const connection = connectionOn(database, yield* attempt("open", () => stillThere(path)))
    return yield* SqlClient.make({
      ...SqlClient.makeSqliteAcquirers({
        connection: Effect.succeed(connection),
        semaphore: yield* Semaphore.make(1),
        isTransaction: () => database.isTransaction
      }),
      driver: "node:sqlite",
      compiler: Statement.makeCompilerSqlite(),
      // A deferred transaction that starts by reading cannot wait for a writer: it fails at once with SQLITE_BUSY.
      beginTransaction: "BEGIN IMMEDIATE",
      prepareTransactionControls: true,
      releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
      spanAttributes: [["db.system.name", "sqlite"]]
    })
  })

/**
 * Runs what is missing, each migration in its own transaction. Fails with the name of an applied migration that this
 * version does not know, before anything is changed.
 */
export const migrate = (
  sql: SqlClient.SqlClient,
  known: ReadonlyArray<Migration>
): Effect.Effect<void, SqlError.SqlError | UnknownMigration> =>
  Effect.gen(function* () {
    for (const { name, statements } of yield* pending(sql, known)) {
      yield* Effect.gen(function* () {
        // Another process may have been faster while this one waited for the lock.
        if (!(yield* pending(sql, known)).some((migration) => migration.name === name)) return
        yield* sql`CREATE TABLE IF NOT EXISTS holdfast_migrations (name TEXT PRIMARY KEY, applied_at REAL NOT NULL) STRICT`
        for (const statement of statements) yield* sql.unsafe(statement)
        yield* sql`INSERT INTO holdfast_migrations ${sql.insert({ name, applied_at: yield* Clock.currentTimeMillis })}`
      }).pipe(sql.withTransaction)
    }
  })

/** Not an error of the contract: the layer says it in the contract's words. */
export class UnknownMigration extends Error {
  readonly _tag = "UnknownMigration"
  constructor(name: string) {
    super(`it has the migration ${name}, which this version does not know`)
  }
}

const pending = (sql: SqlClient.SqlClient, known: ReadonlyArray<Migration>) =>
  Effect.gen(function* () {
    const table =
      yield* sql`SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'holdfast_migrations'`
    const applied =
      table.length === 0
        ? []
        : yield* sql<{ readonly name: string }>`SELECT name FROM holdfast_migrations ORDER BY name`
    const rest = pendingMigrations(
      applied.map((row) => row.name),
      known
    )
    return Result.isSuccess(rest) ? rest.success : yield* Effect.fail(new UnknownMigration(rest.failure))
  })

const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, SqlError.SqlError> =>
  Effect.try({ try: run, catch: (cause) => sqlError(operation, cause) })

/** The classifier looks for SQLite's number in `errno`; node:sqlite keeps it in `errcode`. */
const sqlError = (operation: string, cause: unknown): SqlError.SqlError => {
  const error = cause instanceof Error ? cause : new Error(String(cause))
  if ("errcode" in error && !("errno" in error)) Object.assign(error, { errno: error.errcode })
  return new SqlError.SqlError({
    reason: SqlError.classifySqliteError(error, { message: error.message, operation })
  })
}

interface Prepared {
  readonly statement: StatementSync
  readonly returnsRows: boolean
}

const shaped = (
  rows: Effect.Effect<ReadonlyArray<never>, SqlError.SqlError>,
  transform: (<A extends object>(rows: ReadonlyArray<A>) => ReadonlyArray<A>) | undefined
) => (transform === undefined ? rows : Effect.map(rows, transform))

/**
 * A file that was deleted or replaced takes rows that nobody will ever read; SQLite does not notice. Looked at by name: a
 * second descriptor of ours would drop SQLite's locks when it is closed.
 */
const stillThere = (path: string): (() => void) => {
  if (path === ":memory:") return () => undefined
  const opened = statSync(path, { bigint: true })
  return () => {
    const now = statSync(path, { bigint: true, throwIfNoEntry: false })
    if (now?.ino !== opened.ino || now.dev !== opened.dev)
      throw new Error("the database file was deleted or replaced under us")
  }
}

const connectionOn = (database: DatabaseSync, checkFile: () => void): Connection => {
  const prepared = new Map<string, Prepared>()

  const prepare = (text: string): Prepared => {
    const statement = database.prepare(text)
    return { statement, returnsRows: statement.columns().length > 0 }
  }

  const cached = (text: string): Prepared => {
    const known = prepared.get(text)
    if (known !== undefined) return known
    const oldest = prepared.size < maxPreparedStatements ? undefined : prepared.keys().next().value
    if (oldest !== undefined) prepared.delete(oldest)
    const fresh = prepare(text)
    prepared.set(text, fresh)
    return fresh
  }

  const run = (
    text: string,
    parameters: ReadonlyArray<unknown>,
    { arrays = false, raw = false, find = cached } = {}
  ): Effect.Effect<ReadonlyArray<never>, SqlError.SqlError> =>
    Effect.withFiber((fiber) =>
      attempt("execute", () => {
        checkFile()
        const { statement, returnsRows } = find(text)
        statement.setReadBigInts(Context.get(fiber.context, SqlClient.SafeIntegers))
        statement.setReturnArrays(arrays)
        // What SQLite cannot hold is refused by node:sqlite itself, by type.
        const values = parameters as ReadonlyArray<SQLInputValue>
        const result: unknown = returnsRows ? statement.all(...values) : statement.run(...values)
        // The interface has `any` rows: their type is the caller's claim.
        return (returnsRows || raw ? result : []) as ReadonlyArray<never>
      })
    )

  return {
    execute: (text, parameters, transform) => shaped(run(text, parameters), transform),
    executeRaw: (text, parameters) => run(text, parameters, { raw: true }),
    executeValues: (text, parameters) => run(text, parameters, { arrays: true }),
    executeValuesUnprepared: (text, parameters) => run(text, parameters, { arrays: true, find: prepare }),
    executeUnprepared: (text, parameters, transform) =>
      shaped(run(text, parameters, { find: prepare }), transform),
    // Read whole: node:sqlite has no cursor that outlives the call without holding the connection.
    executeStream: (text, parameters, transform) =>
      Stream.fromIterableEffect(shaped(run(text, parameters), transform))
  }
}
