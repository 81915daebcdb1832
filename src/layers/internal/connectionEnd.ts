/** How a connection ends, seen from outside: whether it is lost at this moment, and when its process has gone. */
import * as Effect from "effect/Effect"
import type { AppServerLost } from "../../services/AppServerFailure.ts"
import type { AppServerConnection, Gone } from "../../services/AppServerProcess.ts"

/** How long a child's `gone` may come after its scope has closed; they come together. */
const goneAfterCloseMs = 1000

/** Null when it is not lost. */
export const lostNow = (lost: Effect.Effect<AppServerLost>): Effect.Effect<AppServerLost | null> =>
  Effect.raceFirst(lost, Effect.as(Effect.yieldNow, null))

const neverStarted: Gone = { confirmed: true, code: null, signal: null }
const unknown: Gone = { confirmed: false, code: null, signal: null }

/** A child that never was in anybody's hands has gone when its scope has closed; another says it itself, and sooner. */
export const goneOf = (
  connection: AppServerConnection | null,
  closed: Effect.Effect<unknown>
): Effect.Effect<Gone> =>
  connection === null
    ? Effect.as(closed, neverStarted)
    : Effect.raceFirst(
        connection.gone,
        Effect.andThen(
          closed,
          Effect.timeoutOrElse(connection.gone, {
            duration: goneAfterCloseMs,
            orElse: () => Effect.succeed(unknown)
          })
        )
      )
