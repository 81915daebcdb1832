/** Rows of the Claude sessions that are live: what the next gateway needs to answer their hooks again. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { ClaudeRecord } from "../../services/ClaudeDriver.ts"

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(ClaudeRecord))

export const makeClaudeLedger = Effect.gen(function* () {
  const sql = yield* SqlClient
  return {
    all: sql`SELECT run_id AS "runId", relay_id AS "relayId", generation, spawned_by AS "spawnedBy",
      canary_by AS "canaryBy" FROM claude_sessions ORDER BY relay_id`.pipe(Effect.flatMap(decodeRows)),
    note: (record: ClaudeRecord) =>
      Effect.asVoid(sql`INSERT INTO claude_sessions (relay_id, run_id, generation, spawned_by, canary_by)
        VALUES (${record.relayId}, ${record.runId}, ${record.generation}, ${record.spawnedBy}, ${record.canaryBy})
        ON CONFLICT (relay_id) DO UPDATE SET run_id = excluded.run_id, generation = excluded.generation,
          canary_by = excluded.canary_by`),
    forget: (relayId: string) => Effect.asVoid(sql`DELETE FROM claude_sessions WHERE relay_id = ${relayId}`)
  }
})
