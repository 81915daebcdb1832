/**
 * How a Codex turn is stopped and nothing of it left: the interrupt is confirmed or the app-server is poison, and the
 * commands that Codex keeps running in the background after an interrupt are ended until none is listed.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { RequestFailure } from "../../services/AppServerFailure.ts"
import type { AppServerConnection } from "../../services/AppServerProcess.ts"

/** Each small question beside a turn gets this long; Codex answers them in about 10 ms. */
export const cleanupTimeoutMs = 5000
/** Looks at what is left in the background; `clean` alone leaves nothing, measured on 0.169.0. */
const maxLooks = 3

const Terminals = Schema.Struct({ data: Schema.Array(Schema.Struct({ processId: Schema.String })) })

/** Nothing runs any more that could be interrupted. */
const isOver = (error: RequestFailure): boolean =>
  error._tag === "AppServerLost" ||
  error._tag === "ThreadNotFound" ||
  (error._tag === "AppServerRejected" && /no active turn/i.test(error.detail))

/**
 * Interrupts a turn; false when that was not confirmed in time, and then the app-server is retired: a turn that goes on
 * unseen would act for nobody. `ended` completes when the turn's end was seen by other means.
 */
export const interruptTurn = (
  server: AppServerConnection,
  turn: { readonly threadId: string; readonly turnId: string },
  timeoutMs: number,
  ended: Effect.Effect<void>
): Effect.Effect<boolean> => {
  const asked = (ms: number, orElse: () => Effect.Effect<boolean>): Effect.Effect<boolean> =>
    server.request("turn/interrupt", turn, Schema.Unknown, ms).pipe(
      Effect.asVoid,
      Effect.catch((error) => (isOver(error) ? Effect.void : Effect.never)),
      Effect.raceFirst(ended),
      Effect.as(true),
      Effect.timeoutOrElse({ duration: ms, orElse })
    )
  const retired = server.retire({
    _tag: "interrupt-unconfirmed",
    threadId: turn.threadId,
    timeoutMs: timeoutMs + cleanupTimeoutMs
  })
  // A gateway that was held up finds its deadline passed and the answer unread; the second question lets it read.
  return asked(timeoutMs, () => asked(cleanupTimeoutMs, () => Effect.as(retired, false)))
}

/** Ends what a thread left in the background. */
export const cleanThread = Effect.fnUntraced(
  function* (server: AppServerConnection, threadId: string) {
    yield* server.request("thread/backgroundTerminals/clean", { threadId }, Schema.Unknown, cleanupTimeoutMs)
    for (let look = 0; look < maxLooks; look++) {
      const { data } = yield* server.request(
        "thread/backgroundTerminals/list",
        { threadId },
        Terminals,
        cleanupTimeoutMs
      )
      if (data.length === 0) return
      for (const { processId } of data)
        yield* server.request(
          "thread/backgroundTerminals/terminate",
          { threadId, processId },
          Schema.Unknown,
          cleanupTimeoutMs
        )
    }
    yield* Effect.logWarning("commands of an ended turn still run").pipe(Effect.annotateLogs({ threadId }))
  },
  (cleaning) => Effect.ignore(cleaning)
)
