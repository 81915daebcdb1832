/**
 * Compares what a Claude session did with what was decided of it, by what it tells after each call and by what it writes down.
 *
 * The hooks are not trusted to say that they are missing: the transcript is looked at by the clock, and once more at the end.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import * as crypto from "node:crypto"
import type { AuditUnavailable } from "../../services/AuditLog.ts"
import { transcriptsOf } from "../../services/ClaudeDriver.ts"
import type { HookEvent } from "../../services/HookEvent.ts"
import type { Decision } from "../../services/Policy.ts"
import { readTranscript } from "./claudeTranscript.ts"

/** Files of one session: its own, those of its sub-agents, and what follows a `/clear`. The oldest is forgotten. */
const maxFiles = 256

/** Between two looks: half of the minute within which a missing guard must show. */
export const compareEveryMs = 30_000

/** Calls under way of which is known what was decided. */
const maxInputs = 4096

const digestOf = (input: unknown): string => crypto.hash("sha256", JSON.stringify(input) ?? "", "base64url")

export interface Comparison {
  /** Of each event before it is decided. */
  readonly heard: (event: HookEvent) => Effect.Effect<void>
  /** Of each event once it is decided. */
  readonly judged: (event: HookEvent, decision: Decision) => Effect.Effect<void>
  /** From when on its calls count; else from now on. */
  readonly begun: (atMs: number) => Effect.Effect<void>
  /** One look at what was written since the last. */
  readonly look: Effect.Effect<void>
  /** The id of a call that was made undecided, or although it was refused. */
  readonly undecided: Deferred.Deferred<string>
}

export const makeComparison = Effect.fnUntraced(function* (
  isDecided: (callId: string) => Effect.Effect<boolean, AuditUnavailable>
) {
  const undecided = Deferred.makeUnsafe<string>()
  let sinceMs = yield* Clock.currentTimeMillis
  const files = new Map<string, number>()
  const inputs = new Map<string, string>()
  const oneLook = yield* Semaphore.make(1)

  const check = (callId: string) =>
    Effect.flatMap(isDecided(callId), (decided) =>
      decided ? Effect.void : Effect.asVoid(Deferred.succeed(undecided, callId))
    )

  const name = (file: string): void => {
    if (files.has(file)) return
    if (files.size >= maxFiles) files.delete(files.keys().next().value!)
    files.set(file, 0)
  }

  const heard = Effect.fnUntraced(function* (event: HookEvent) {
    transcriptsOf(event.raw).forEach(name)
    if (event.event === "post_tool_use" && event.callId._tag === "native")
      yield* Effect.ignore(check(event.callId.id))
  })

  /**
   * A hook of somebody else's (a repository may bring some) can change a call after it was decided: the last answer counts
   * there. What was made is judged when it is told, and one that would have been refused was made undecided.
   */
  const judged = ({ event, call, callId }: HookEvent, { verdict }: Decision) =>
    Effect.suspend(() => {
      if (call === null || callId._tag !== "native") return Effect.void
      if (event === "pre_tool_use") {
        if (inputs.size >= maxInputs) inputs.delete(inputs.keys().next().value!)
        inputs.set(callId.id, digestOf(verdict._tag === "rewrite" ? verdict.input : call.input))
        return Effect.void
      }
      if (event !== "post_tool_use") return Effect.void
      const decided = inputs.get(callId.id)
      inputs.delete(callId.id)
      return decided === undefined || verdict._tag !== "deny" || decided === digestOf(call.input)
        ? Effect.void
        : Effect.asVoid(Deferred.succeed(undecided, callId.id))
    })

  const look = oneLook.withPermit(
    Effect.suspend(() =>
      Effect.forEach(
        [...files],
        ([file, offset]) =>
          readTranscript(file, offset, sinceMs, check).pipe(
            Effect.tap((next) => Effect.sync(() => files.set(file, next))),
            // Without the log nobody can tell: the same again at the next look.
            Effect.ignore
          ),
        { discard: true }
      )
    )
  )

  const begun = (atMs: number) =>
    Effect.sync(() => {
      sinceMs = atMs
    })

  return { heard, judged, begun, look, undecided } satisfies Comparison
})
