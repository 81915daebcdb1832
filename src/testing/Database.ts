/** The state database in memory, with every migration applied; gone with its scope. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import { connect, migrate } from "../layers/internal/nodeSqlite.ts"
import { migrations } from "../services/Database.ts"

/** The same before its first migration. */
export const layerEmpty: Layer.Layer<SqlClient.SqlClient> = Layer.effect(
  SqlClient.SqlClient,
  connect(":memory:")
).pipe(Layer.provide(Reactivity.layer), Layer.orDie)

export const layer: Layer.Layer<SqlClient.SqlClient> = Layer.effect(
  SqlClient.SqlClient,
  Effect.tap(SqlClient.SqlClient, (sql) => Effect.orDie(migrate(sql, migrations)))
).pipe(Layer.provide(Layer.fresh(layerEmpty)))
