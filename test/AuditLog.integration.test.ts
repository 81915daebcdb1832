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
import { entry } from "./support/AuditLog.ts"

const scratch = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-audit-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

const logAt = (database: string) =>
  Layer.fresh(layer.pipe(Layer.provide(layerDatabase))).pipe(
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (settings) => ({ ...settings, paths: { ...settings.paths, database } }))
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
