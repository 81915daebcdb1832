/** ThreadStore, live: one row a thread in the state database. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { ThreadRecord, ThreadStore, ThreadStoreError } from "../services/ThreadStore.ts"

export * from "../services/ThreadStore.ts"

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(ThreadRecord))
const failed = Effect.mapError((cause: unknown) => new ThreadStoreError({ cause }))

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  return ThreadStore.of({
    find: Effect.fn("ThreadStore.find")(function* (threadId: string) {
      const rows = yield* sql`SELECT thread_id AS "threadId", relay_id AS "relayId", generation, cwd
        FROM threads WHERE thread_id = ${threadId}`.pipe(Effect.flatMap(decodeRows))
      return Option.fromNullishOr(rows[0])
    }, failed),
    remember: Effect.fn("ThreadStore.remember")(function* (record: ThreadRecord) {
      const now = yield* Clock.currentTimeMillis
      yield* sql`INSERT INTO threads (thread_id, relay_id, generation, cwd, updated_at)
        VALUES (${record.threadId}, ${record.relayId}, ${record.generation}, ${record.cwd}, ${now})
        ON CONFLICT (thread_id) DO UPDATE SET relay_id = excluded.relay_id, generation = excluded.generation,
          cwd = excluded.cwd, updated_at = excluded.updated_at`
    }, failed)
  })
})

export const layer = Layer.effect(ThreadStore, make)
