/** The ledger of keepers as rows of the state database. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { KeeperRecord } from "../../services/Keeper.ts"
import type { Identity } from "../../services/ProcessIdentity.ts"

const Row = Schema.Struct({
  keeper_id: Schema.String,
  epoch: Schema.String,
  boot_id: Schema.String,
  pid_namespace: Schema.String,
  pid: Schema.NullOr(Schema.Int),
  start_token: Schema.NullOr(Schema.String),
  mark_low: Schema.NullOr(Schema.Int),
  mark_high: Schema.NullOr(Schema.Int),
  socket_path: Schema.String,
  started_at: Schema.Finite
})

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(Row))

const recordOf = (row: typeof Row.Type): KeeperRecord => ({
  keeperId: row.keeper_id,
  epoch: row.epoch,
  identity:
    row.pid === null || row.start_token === null
      ? null
      : { bootId: row.boot_id, pidNamespace: row.pid_namespace, pid: row.pid, startToken: row.start_token },
  bootId: row.boot_id,
  mark: row.mark_low === null || row.mark_high === null ? null : { low: row.mark_low, high: row.mark_high },
  socketPath: row.socket_path,
  startedAt: row.started_at
})

export const makeKeeperRows = (sql: SqlClient) => ({
  /** Newest first. */
  open: sql`SELECT keeper_id, epoch, boot_id, pid_namespace, pid, start_token, mark_low, mark_high, socket_path, started_at
    FROM keepers WHERE ended_at IS NULL ORDER BY started_at DESC, keeper_id DESC`.pipe(
    Effect.flatMap(decodeRows),
    Effect.map((rows) => rows.map(recordOf))
  ),
  insert: ({ keeperId, epoch, mark, socketPath, startedAt, bootId }: KeeperRecord, pidNamespace: string) =>
    sql`INSERT INTO keepers ${sql.insert({
      keeper_id: keeperId,
      epoch,
      boot_id: bootId,
      pid_namespace: pidNamespace,
      mark_low: mark?.low ?? null,
      mark_high: mark?.high ?? null,
      socket_path: socketPath,
      started_at: startedAt
    })}`,
  identify: (keeperId: string, { pid, startToken }: Pick<Identity, "pid" | "startToken">) =>
    sql`UPDATE keepers SET pid = ${pid}, start_token = ${startToken} WHERE keeper_id = ${keeperId}`,
  unmark: (keeperId: string) =>
    sql`UPDATE keepers SET mark_low = NULL, mark_high = NULL WHERE keeper_id = ${keeperId}`,
  end: Effect.fnUntraced(function* (keeperId: string) {
    const now = yield* Clock.currentTimeMillis
    yield* sql`UPDATE keepers SET ended_at = COALESCE(ended_at, ${now}) WHERE keeper_id = ${keeperId}`
  })
})
