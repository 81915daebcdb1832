/**
 * Database: the one SQLite file of a state directory: its schema, as migrations that run at start.
 *
 * A database that a newer version has touched is refused as it is; one that is damaged is never repaired by guessing.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

export class DatabaseError extends Schema.TaggedError<DatabaseError>()("DatabaseError", {
  path: Schema.String,
  stage: Schema.Literals(["open", "migrate"]),
  cause: Schema.Defect()
}) {
  override get message(): string {
    const detail = this.cause instanceof Error && this.cause.message !== "" ? ` (${this.cause.message})` : ""
    return this.stage === "open"
      ? `The state database ${this.path} cannot be opened${detail}. Check the directory's owner, mode and free space.`
      : `The state database ${this.path} cannot be brought up to date${detail}; it may be from a newer holdfast. Move it away, or use that version.`
  }
}

export interface Migration {
  readonly name: string
  readonly statements: ReadonlyArray<string>
}

/** Ascending and append-only: a released migration never changes. Names become rows of `holdfast_migrations`. */
export const migrations: ReadonlyArray<Migration> = [
  {
    name: "0001_ground_floor",
    statements: [
      `CREATE TABLE epochs (
        epoch TEXT PRIMARY KEY,
        boot_id TEXT NOT NULL, pid_namespace TEXT NOT NULL, pid INTEGER NOT NULL, start_token TEXT NOT NULL,
        mark_low INTEGER, mark_high INTEGER,
        started_at REAL NOT NULL, ended_at REAL, swept_at REAL
      ) STRICT`,
      `CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL, epoch TEXT NOT NULL, relay_id TEXT NOT NULL, run_id TEXT NOT NULL, provider TEXT NOT NULL,
        source TEXT NOT NULL, event TEXT NOT NULL, session_id TEXT, agent_id TEXT, call_id TEXT NOT NULL, tool TEXT,
        subject TEXT NOT NULL, verdict TEXT NOT NULL, policy TEXT NOT NULL, reason TEXT NOT NULL, votes TEXT NOT NULL,
        took_ms REAL NOT NULL
      ) STRICT`,
      `CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END`,
      `CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END`,
      `CREATE TABLE threads (
        thread_id TEXT PRIMARY KEY, relay_id TEXT NOT NULL, generation INTEGER NOT NULL, cwd TEXT NOT NULL, updated_at REAL NOT NULL
      ) STRICT`
    ]
  },
  // Null in every older row: no run was spawned by another then.
  { name: "0002_helpers", statements: ["ALTER TABLE audit ADD COLUMN spawned_by TEXT"] },
  {
    name: "0003_runs",
    statements: [
      `CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, epoch TEXT NOT NULL, spec TEXT NOT NULL,
        boot_id TEXT NOT NULL, pid_namespace TEXT NOT NULL, mark_low INTEGER, mark_high INTEGER,
        created_at REAL NOT NULL,
        attempt INTEGER NOT NULL, pid INTEGER, start_token TEXT,
        ended_at REAL, outcome TEXT
      ) STRICT`,
      "CREATE INDEX runs_open ON runs (epoch) WHERE ended_at IS NULL"
    ]
  },
  {
    name: "0004_keepers",
    statements: [
      `CREATE TABLE keepers (
        keeper_id TEXT PRIMARY KEY, epoch TEXT NOT NULL,
        boot_id TEXT NOT NULL, pid_namespace TEXT NOT NULL, pid INTEGER, start_token TEXT,
        mark_low INTEGER, mark_high INTEGER, socket_path TEXT NOT NULL,
        started_at REAL NOT NULL, ended_at REAL
      ) STRICT`
    ]
  },
  {
    name: "0005_turns",
    statements: [
      `CREATE TABLE turns (
        run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, turn_id TEXT, server_run TEXT NOT NULL,
        relay_id TEXT NOT NULL, generation INTEGER NOT NULL, spawned_by TEXT,
        cwd TEXT NOT NULL, terms TEXT NOT NULL, started_at REAL NOT NULL, deadline REAL NOT NULL
      ) STRICT`
    ]
  },
  {
    name: "0006_approvals",
    statements: [
      `CREATE TABLE approvals (
        approval_id TEXT PRIMARY KEY, relay_id TEXT NOT NULL, call_key TEXT NOT NULL, state TEXT NOT NULL,
        created_at REAL NOT NULL, live_until REAL NOT NULL, body TEXT NOT NULL
      ) STRICT`,
      "CREATE INDEX approvals_of_call ON approvals (call_key, created_at)",
      "CREATE INDEX approvals_of_relay ON approvals (relay_id, created_at)",
      "CREATE INDEX approvals_live ON approvals (state, live_until)"
    ]
  },
  {
    name: "0007_audit_chain",
    statements: [
      // Null in every older row, which cannot be changed any more: the first link holds them.
      "ALTER TABLE audit ADD COLUMN hash TEXT",
      // A hook that comes back after a restart is told what it was told before.
      "CREATE INDEX audit_of_call ON audit (relay_id, call_id)",
      `CREATE TABLE audit_checkpoints (seq INTEGER PRIMARY KEY, hash TEXT NOT NULL) STRICT`,
      `CREATE TRIGGER audit_checkpoints_stay_update BEFORE UPDATE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END`,
      `CREATE TRIGGER audit_checkpoints_stay_delete BEFORE DELETE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END`
    ]
  },
  {
    name: "0008_claude_sessions",
    statements: [
      `CREATE TABLE claude_sessions (
        relay_id TEXT PRIMARY KEY, run_id TEXT, generation INTEGER NOT NULL, spawned_by TEXT, canary_by REAL
      ) STRICT`,
      // What breaks and mends the guards, found at once in however long a log.
      `CREATE INDEX audit_of_guards ON audit (seq) WHERE source IN ('incident', 'canary', 'client') OR policy = 'unanswered'`
    ]
  },
  {
    name: "0009_nodes",
    statements: [
      `CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY, public_key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        paired_at REAL NOT NULL, last_seen_at REAL, revoked_at REAL
      ) STRICT`,
      "CREATE UNIQUE INDEX nodes_by_name ON nodes (name) WHERE revoked_at IS NULL",
      `CREATE TABLE node_codes (
        digest TEXT PRIMARY KEY, created_at REAL NOT NULL, expires_at REAL NOT NULL, used_at REAL
      ) STRICT`
    ]
  }
]

/** The migrations still to run, or the first name that this version cannot explain: one it lacks, or has elsewhere. */
export const pendingMigrations = (
  applied: ReadonlyArray<string>,
  known: ReadonlyArray<Migration>
): Result.Result<ReadonlyArray<Migration>, string> => {
  const strange = applied.find((name, index) => known[index]?.name !== name)
  return strange === undefined ? Result.succeed(known.slice(applied.length)) : Result.fail(strange)
}
