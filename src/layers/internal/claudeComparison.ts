/**
 * Compares what a Claude session did with what was decided of it, by what it tells after each call and by what it writes down.
 *
 * The hooks are not trusted to say that they are missing: the transcript is looked at by the clock, and once more at the end.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { AuditUnavailable } from "../../services/AuditLog.ts"
import { transcriptsOf } from "../../services/ClaudeDriver.ts"
import type { HookEvent } from "../../services/HookEvent.ts"
import { readTranscript, transcriptSize } from "./claudeTranscript.ts"

/** Files of one session: its own, those of its sub-agents, and what follows a `/clear`. The oldest is forgotten. */
const maxFiles = 256

/** Between two looks: half of the minute within which a missing guard must show. */
export const compareEveryMs = 30_000

export interface Comparison {
  /** Of each event before it is decided. */
  readonly heard: (event: HookEvent) => Effect.Effect<void>
  /** One look at what was written since the last. */
  readonly look: Effect.Effect<void>
  /** The id of a call that was made undecided, or although it was refused. */
  readonly undecided: Deferred.Deferred<string>
}

export const makeComparison = Effect.fnUntraced(function* (
  isDecided: (callId: string) => Effect.Effect<boolean, AuditUnavailable>
) {
  const undecided = Deferred.makeUnsafe<string>()
  const files = new Map<string, number>()
  const oneLook = yield* Semaphore.make(1)

  const check = (callId: string) =>
    Effect.flatMap(isDecided(callId), (decided) =>
      decided ? Effect.void : Effect.asVoid(Deferred.succeed(undecided, callId))
    )

  const name = Effect.fnUntraced(function* (file: string) {
    if (files.has(file)) return
    if (files.size >= maxFiles) files.delete(files.keys().next().value!)
    files.set(file, Number.MAX_SAFE_INTEGER)
    // What it holds by now was done before: by a session that this one goes on with.
    files.set(file, yield* transcriptSize(file))
  })

  const heard = Effect.fnUntraced(function* (event: HookEvent) {
    yield* Effect.forEach(transcriptsOf(event.raw), name, { discard: true })
    if (event.event === "post_tool_use" && event.callId._tag === "native")
      yield* Effect.ignore(check(event.callId.id))
  })

  const look = oneLook.withPermit(
    Effect.suspend(() =>
      Effect.forEach(
        [...files],
        ([file, offset]) =>
          readTranscript(file, offset, check).pipe(
            Effect.tap((next) => Effect.sync(() => files.set(file, next))),
            // Without the log nobody can tell: the same again at the next look.
            Effect.ignore
          ),
        { discard: true }
      )
    )
  )

  return { heard, look, undecided } satisfies Comparison
})
