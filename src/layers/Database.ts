/**
 * Database, live: SQLite at the state directory's path, private from its first byte, and up to date before anyone asks.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { chmodSync, closeSync, lstatSync, openSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseError, migrations } from "../services/Database.ts"
import { Settings } from "../services/Settings.ts"
import { connect, migrate, UnknownMigration } from "./internal/nodeSqlite.ts"
import { effectiveUid, ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/Database.ts"

export const make = Effect.gen(function* () {
  const { database: path } = (yield* Settings).paths
  const failed = (stage: DatabaseError["stage"]) => (cause: unknown) =>
    new DatabaseError({ path, stage, cause })

  yield* Effect.mapError(ensurePrivateDirectory(dirname(path)), failed("open"))
  yield* Effect.try({ try: () => ensurePrivateFile(path), catch: failed("open") })
  const sql = yield* Effect.mapError(connect(path), failed("open"))
  yield* Effect.mapError(migrate(sql, migrations), (cause) =>
    failed(isUnreadable(cause) ? "open" : "migrate")(cause)
  )
  return sql
})

export const layer = Layer.effect(SqlClient.SqlClient, make).pipe(Layer.provide(Reactivity.layer))

const fileMode = 0o600

/**
 * SQLite creates files by the umask, and gives `-wal` and `-shm` the mode of the database: so the database is created
 * here. An existing one is only looked at: closing a descriptor of it would drop the locks of every connection that this
 * process has to it.
 */
const ensurePrivateFile = (path: string): void => {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) closeSync(openSync(path, "a", fileMode))
  for (const file of [path, `${path}-wal`, `${path}-shm`]) {
    const stats = lstatSync(file, { throwIfNoEntry: false })
    if (stats === undefined) continue
    if (!stats.isFile() || stats.uid !== effectiveUid())
      throw new Error(`${file} is not a regular file of this user`)
    // The umask can only take bits away; more than these come from elsewhere.
    if ((stats.mode & 0o7777) !== fileMode) chmodSync(file, fileMode)
  }
}

/** SQLITE_CORRUPT and SQLITE_NOTADB, which SQLite finds when it first reads a page, not when it opens. */
const isUnreadable = (error: SqlError | UnknownMigration): boolean => {
  const cause: unknown = error instanceof UnknownMigration ? undefined : error.reason.cause
  return cause instanceof Error && "errcode" in cause && [11, 26].includes(Number(cause.errcode) & 0xff)
}
