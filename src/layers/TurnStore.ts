/** TurnStore, live: one row a run in the state database. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import {
  type TurnRecord,
  TurnRecord as Record,
  TurnStore,
  TurnStoreError,
  TurnTerms
} from "../services/TurnStore.ts"

export * from "../services/TurnStore.ts"

const Row = Schema.Struct({ ...Record.fields, terms: Schema.fromJsonString(TurnTerms) })
const decodeRows = Schema.decodeUnknownEffect(Schema.Array(Row))
const encodeTerms = Schema.encodeEffect(Schema.fromJsonString(TurnTerms))
const failed = Effect.mapError((cause: unknown) => new TurnStoreError({ cause }))

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  return TurnStore.of({
    note: Effect.fn("TurnStore.note")(function* (turn: TurnRecord) {
      const terms = yield* encodeTerms(turn.terms)
      yield* sql`INSERT INTO turns (run_id, thread_id, turn_id, server_run, relay_id, generation, spawned_by, cwd, terms,
          started_at, deadline)
        VALUES (${turn.runId}, ${turn.threadId}, ${turn.turnId}, ${turn.serverRun}, ${turn.relayId}, ${turn.generation},
          ${turn.spawnedBy}, ${turn.cwd}, ${terms}, ${turn.startedAt}, ${turn.deadline})
        ON CONFLICT (run_id) DO UPDATE SET thread_id = excluded.thread_id, turn_id = excluded.turn_id,
          server_run = excluded.server_run, relay_id = excluded.relay_id, generation = excluded.generation,
          terms = excluded.terms, started_at = excluded.started_at, deadline = excluded.deadline`
    }, failed),
    forget: Effect.fn("TurnStore.forget")(function* (runId: string) {
      yield* sql`DELETE FROM turns WHERE run_id = ${runId}`
    }, failed),
    all: Effect.flatMap(
      sql`SELECT run_id AS "runId", thread_id AS "threadId", turn_id AS "turnId",
          server_run AS "serverRun", relay_id AS "relayId", generation, spawned_by AS "spawnedBy", cwd, terms,
          started_at AS "startedAt", deadline
        FROM turns ORDER BY started_at, run_id`,
      decodeRows
    ).pipe(failed)
  })
})

export const layer = Layer.effect(TurnStore, make)
