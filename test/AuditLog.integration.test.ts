import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { mkdtempSync, rmSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { layer } from "../src/layers/AuditLog.ts"
import { layer as layerDatabase } from "../src/layers/Database.ts"
import { AuditLog } from "../src/services/AuditLog.ts"
import { Settings } from "../src/services/Settings.ts"
import { entry } from "../src/testing/AuditLog.ts"

const scratch = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-audit-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

const logAt = (database: string) =>
  Layer.fresh(layer.pipe(Layer.provide(layerDatabase))).pipe(
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (settings) => ({
          ...settings,
          paths: { ...settings.paths, database, auditHead: `${database}.head` }
        }))
      )
    )
  )

describe("AuditLog on disk", () => {
  it.live(
    "an answered append is in the file for every other process, and numbers go on after a restart",
    () =>
      Effect.gen(function* () {
        const path = join(yield* scratch, "state", "holdfast.db")
        const seen = yield* Effect.gen(function* () {
          const log = yield* AuditLog
          yield* Effect.forEach([1, 2, 3], () => log.append(entry), { concurrency: "unbounded" })
          const other = new DatabaseSync(path, { readOnly: true })
          const count = other.prepare("SELECT count(*) AS n FROM audit").get()
          other.close()
          return count?.["n"]
        }).pipe(Effect.provide(logAt(path)))
        const next = yield* Effect.provide(
          AuditLog.use((log) => log.append(entry)),
          logAt(path)
        )
        assert.deepStrictEqual([seen, next.seq], [3, 4])
      })
  )

  it.live(
    "while another process holds the database for longer than we wait, an append fails and says so",
    () =>
      Effect.gen(function* () {
        const path = join(yield* scratch, "state", "holdfast.db")
        yield* Effect.gen(function* () {
          const log = yield* AuditLog
          const other = new DatabaseSync(path)
          other.exec("BEGIN IMMEDIATE")
          const error = yield* Effect.flip(log.append(entry))
          other.exec("ROLLBACK")
          other.close()
          assert.strictEqual(error.name, "AuditUnavailable")
          assert.strictEqual((yield* log.append(entry)).seq, 1)
        }).pipe(Effect.provide(logAt(path)))
      })
  )
})

/** Whoever can write the file can also drop its triggers. */
const tamper = (path: string, ...statements: ReadonlyArray<string>) =>
  Effect.sync(() => {
    const other = new DatabaseSync(path)
    for (const trigger of ["audit_is_append_only_update", "audit_is_append_only_delete"])
      other.exec(`DROP TRIGGER ${trigger}`)
    for (const statement of statements) other.exec(statement)
    other.close()
  })

describe("AuditLog, verified", () => {
  const log = Effect.fnUntraced(function* (rows: number) {
    const path = join(yield* scratch, "state", "holdfast.db")
    const settings = logAt(path)
    // Over two starts, so that the second one takes up the first one's chain.
    for (const half of [Math.ceil(rows / 2), Math.floor(rows / 2)])
      yield* Effect.provide(
        AuditLog.use((log) =>
          Effect.forEach(Array.from({ length: half }), () => log.append(entry), { concurrency: "unbounded" })
        ),
        settings
      )
    const verified = Effect.provide(
      AuditLog.use((log) => log.verify),
      settings
    )
    const seen = Effect.map(verified, ({ findings }) => findings.map(({ kind, seq }) => `${kind} ${seq}`))
    return { path, verified, seen }
  })

  it.live("is whole over restarts, with a checkpoint every thousand rows", () =>
    Effect.gen(function* () {
      const { verified } = yield* log(2_500)
      const { rows, older, checkpoints, found, head, last } = yield* verified
      assert.deepStrictEqual(
        { rows, older, checkpoints, found, head },
        { rows: 2_500, older: 0, checkpoints: 2, found: 0, head: last }
      )
    })
  )

  for (const [what, statement, findings] of [
    ["an edited row", "UPDATE audit SET verdict = 'deny' WHERE seq = 3", ["changed 3"]],
    ["a deleted row", "DELETE FROM audit WHERE seq = 4", ["missing 4"]],
    ["a log that was cut off", "DELETE FROM audit WHERE seq > 7", ["cut-off 8"]],
    [
      "two rows that changed places",
      "UPDATE audit SET seq = -1 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 5; UPDATE audit SET seq = 5 WHERE seq = -1",
      ["changed 2", "changed 3", "changed 5", "changed 6"]
    ],
    [
      "a row without a link",
      "INSERT INTO audit SELECT 11, at, epoch, relay_id, run_id, provider, source, event, session_id, agent_id, call_id, tool, subject, verdict, policy, reason, votes, took_ms, spawned_by, NULL FROM audit WHERE seq = 1",
      ["unchained 11"]
    ]
  ] as const)
    it.live(`${what} shows`, () =>
      Effect.gen(function* () {
        const { path, seen } = yield* log(10)
        assert.deepStrictEqual(yield* seen, [])
        yield* tamper(path, statement)
        assert.deepStrictEqual(yield* seen, [...findings])
      })
    )

  it.live("what was cut off still shows after the next start has written on", () =>
    Effect.gen(function* () {
      const { path, seen } = yield* log(10)
      yield* tamper(path, "DELETE FROM audit WHERE seq > 7")
      yield* Effect.provide(
        AuditLog.use((log) => log.append(entry)),
        logAt(path)
      )
      assert.deepStrictEqual(yield* seen, ["missing 8"])
    })
  )
})
