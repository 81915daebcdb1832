/** A turn's row: there from before it starts to its end, and left for the next gateway where there is to be one. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { AppServerConnection } from "../../services/AppServerProcess.ts"
import type { AuditLog } from "../../services/AuditLog.ts"
import type { Relay } from "../../services/RelayRegistry.ts"
import type { TurnRecord, TurnStore, TurnStoreError, TurnTerms } from "../../services/TurnStore.ts"
import { failedAt } from "./agentFailure.ts"

/** What makes turns outlive their gateway. */
export interface Keeping extends Pick<TurnStore["Service"], "note" | "forget"> {
  /** Asked while something ends. */
  readonly leaving: Effect.Effect<boolean>
  /** What the gateway before left. */
  readonly left: ReadonlyArray<TurnRecord>
  /** Whether the run that is an app-server still runs. */
  readonly runs: (serverRun: string) => Effect.Effect<boolean>
  readonly audit: Pick<AuditLog["Service"], "tail">
}

/** A row that stays is found by the next start, which finds that its turn has ended. */
const logged = (noting: Effect.Effect<void, TurnStoreError>): Effect.Effect<void> =>
  Effect.catch(noting, (error) => Effect.logWarning(error.message, error.cause))

export const forgetUnlessLeaving = (
  { leaving, forget }: Pick<Keeping, "leaving" | "forget">,
  runId: string
): Effect.Effect<void> => Effect.flatMap(leaving, (left) => (left ? Effect.void : logged(forget(runId))))

interface Beginning extends Omit<TurnRecord, "turnId" | "serverRun" | "startedAt" | "deadline" | "terms"> {
  /** Until its deadline. */
  readonly leftMs: number
  readonly terms: Omit<TurnTerms, "config" | "commands"> & {
    /** Scalars only; others are not let through. */
    readonly config: Readonly<Record<string, unknown>>
    readonly commands: Relay["commands"]
  }
}

/** Gives what notes the turn's id; without one it is found as the thread's last. */
export const noteTurn = Effect.fnUntraced(function* (
  keeping: Keeping | null,
  { runId: serverRun }: AppServerConnection,
  { leftMs, ...turn }: Beginning
) {
  if (keeping === null || serverRun === null) return () => Effect.void
  const startedAt = yield* Clock.currentTimeMillis
  const record: TurnRecord = {
    ...turn,
    terms: turn.terms as TurnTerms,
    turnId: null,
    serverRun,
    startedAt,
    deadline: startedAt + leftMs
  }
  yield* Effect.acquireRelease(Effect.mapError(keeping.note(record), failedAt("record")), () =>
    forgetUnlessLeaving(keeping, turn.runId)
  )
  return (turnId: string) => logged(keeping.note({ ...record, turnId }))
})
