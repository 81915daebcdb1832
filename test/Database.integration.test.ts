import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as SqlClient from "effect/sql/SqlClient"
import {
  chmodSync,
  mkdtempSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { layer } from "../src/layers/Database.ts"
import { migrations } from "../src/services/Database.ts"
import { Settings } from "../src/services/Settings.ts"

const scratch = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-database-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

/** Below the scratch directory, in a state directory that does not exist yet. */
const databaseIn = (directory: string) => join(directory, "state", "holdfast.db")

const opened = (path: string) =>
  Layer.fresh(layer).pipe(
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (settings) => ({ ...settings, paths: { ...settings.paths, database: path } }))
      )
    )
  )

const mode = (path: string) => (statSync(path).mode & 0o7777).toString(8)

const use = <A, E>(path: string, effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.provide(effect, opened(path))

const refusal = (path: string) =>
  Effect.map(Effect.flip(use(path, SqlClient.SqlClient)), ({ stage, message }) => ({ stage, message }))

describe("Database on disk", () => {
  it.live("directory, database, WAL and shared memory are private from the start, whatever the umask", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      const umask = process.umask(0)
      yield* Effect.addFinalizer(() => Effect.sync(() => process.umask(umask)))
      const modes = yield* use(
        path,
        Effect.sync(() => [join(path, ".."), path, `${path}-wal`, `${path}-shm`].map(mode))
      )
      assert.deepStrictEqual(modes, ["700", "600", "600", "600"])
    })
  )

  it.live("a database that others may read is closed to them", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      yield* use(path, SqlClient.SqlClient)
      chmodSync(path, 0o666)
      const modes = yield* use(
        path,
        Effect.sync(() => [path, `${path}-wal`].map(mode))
      )
      assert.deepStrictEqual(modes, ["600", "600"])
    })
  )

  it.live("it runs with a write-ahead log, foreign keys and a bounded wait", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      const answers = yield* use(
        path,
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const names = ["journal_mode", "synchronous", "foreign_keys", "busy_timeout"]
          return yield* Effect.forEach(names, (name) => sql.unsafe(`PRAGMA ${name}`).values)
        })
      )
      assert.deepStrictEqual(answers.flat(2), ["wal", 1, 1, 1000])
    })
  )

  it.live("a second start finds what the first one wrote and migrates nothing again", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      const write = SqlClient.SqlClient.use((sql) => sql`INSERT INTO threads VALUES ('t', 'r', 1, '/', 5)`)
      const read = SqlClient.SqlClient.use((sql) =>
        Effect.all([
          sql`SELECT thread_id FROM threads`.values,
          sql`SELECT name FROM holdfast_migrations`.values
        ])
      )
      yield* use(path, write)
      assert.deepStrictEqual(yield* use(path, read), [[["t"]], migrations.map(({ name }) => [name])])
    })
  )

  it.live("several connections may open a new one at once", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      const write = (thread: string) =>
        use(
          path,
          SqlClient.SqlClient.use((sql) => sql`INSERT INTO threads VALUES (${thread}, 'r', 1, '/', 5)`)
        )
      yield* Effect.all([write("a"), write("b"), write("c")], { concurrency: "unbounded" })
      const rows = yield* use(
        path,
        SqlClient.SqlClient.use((sql) => sql`SELECT thread_id FROM threads ORDER BY thread_id`.values)
      )
      assert.deepStrictEqual(rows, [["a"], ["b"], ["c"]])
    })
  )

  it.live("a database from a newer version is refused and stays as it was, byte for byte", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      yield* use(
        path,
        SqlClient.SqlClient.use((sql) => sql`INSERT INTO holdfast_migrations VALUES ('9001_future', 1)`)
      )
      const before = readFileSync(path)
      assert.deepStrictEqual(yield* refusal(path), {
        stage: "migrate",
        message: `The state database ${path} cannot be brought up to date (it has the migration 9001_future, which this version does not know); it may be from a newer holdfast. Move it away, or use that version.`
      })
      assert.isTrue(before.equals(readFileSync(path)))
    })
  )

  it.live("a file that is no database, or a damaged one, is refused at the opening and kept", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const path = databaseIn(directory)
      mkdirSync(join(directory, "state"), { mode: 0o700 })
      const noise = Buffer.alloc(8192, "no database ")
      writeFileSync(path, noise, { mode: 0o600 })
      assert.strictEqual((yield* refusal(path)).stage, "open")
      assert.isTrue(noise.equals(readFileSync(path)))

      rmSync(path)
      yield* use(path, SqlClient.SqlClient)
      const damaged = readFileSync(path).fill(0xff, 100, 4096)
      writeFileSync(path, damaged)
      assert.strictEqual((yield* refusal(path)).stage, "open")
    })
  )

  it.live("a link in its place is refused, as is a directory", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const path = databaseIn(directory)
      mkdirSync(join(directory, "state"), { mode: 0o700 })
      symlinkSync(join(directory, "elsewhere"), path)
      const link = yield* refusal(path)
      rmSync(path)
      mkdirSync(path)
      assert.deepStrictEqual([link.stage, (yield* refusal(path)).stage], ["open", "open"])
      assert.include(link.message, "is not a regular file of this user")
    })
  )

  it.live("a state directory that is a link is refused with the reason", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      mkdirSync(join(directory, "real"))
      symlinkSync(join(directory, "real"), join(directory, "state"))
      const { stage, message } = yield* refusal(databaseIn(directory))
      assert.strictEqual(stage, "open")
      assert.include(message, "it is a symbolic link")
    })
  )

  it.live("a database that is deleted or replaced under it takes no more rows", () =>
    Effect.gen(function* () {
      const path = databaseIn(yield* scratch)
      const failures = yield* use(
        path,
        Effect.gen(function* () {
          const sql = yield* SqlClient.SqlClient
          const probe = sql`SELECT count(*) AS n FROM audit`
          yield* probe
          rmSync(path)
          const deleted = yield* Effect.flip(probe)
          writeFileSync(path, "")
          const replaced = yield* Effect.flip(probe)
          return [deleted, replaced].map((error) =>
            /deleted or replaced under us/.test(String(error.message))
          )
        })
      )
      assert.deepStrictEqual(failures, [true, true])
    })
  )
})
