/**
 * TurnStore: the turns in progress on an app-server that may outlive its gateway: what the next one needs to go on with them.
 *
 * A row is written before its turn starts and goes with its end, so what a gateway finds at its start is a turn that nobody
 * watches. There is no prompt in it, no environment, and of the configuration only what may stand on a command line.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { sandboxModes } from "./ConfigFile.ts"

/** What was asked of Codex when the thread was opened, to be asked again and compared. */
export const TurnTerms = Schema.Struct({
  sandbox: Schema.Literals(sandboxModes),
  config: Schema.Record(Schema.String, Schema.Json),
  /** The hook commands as they are installed, by event, and their time limit at Codex. */
  commands: Schema.Record(Schema.String, Schema.String),
  hookTimeoutMs: Schema.Int
})
export type TurnTerms = typeof TurnTerms.Type

export const TurnRecord = Schema.Struct({
  runId: Schema.String,
  threadId: Schema.String,
  /** Null before Codex has said that it has started. */
  turnId: Schema.NullOr(Schema.String),
  /** The run that is the app-server. */
  serverRun: Schema.String,
  relayId: Schema.String,
  /** Of the relay's last registration; the next one is higher. */
  generation: Schema.Int,
  spawnedBy: Schema.NullOr(Schema.String),
  cwd: Schema.String,
  terms: TurnTerms,
  /** Epoch milliseconds, as the next gateway has another monotonic clock. */
  startedAt: Schema.Finite,
  deadline: Schema.Finite
})
export type TurnRecord = typeof TurnRecord.Type

export class TurnStoreError extends Schema.TaggedError<TurnStoreError>()("TurnStoreError", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The table of turns in the state database cannot be read or written, so none was started. Check the disk under the state directory."
  }
}

export class TurnStore extends Context.Service<
  TurnStore,
  {
    /** One row a run; a later one replaces it. */
    readonly note: (record: TurnRecord) => Effect.Effect<void, TurnStoreError>
    readonly forget: (runId: string) => Effect.Effect<void, TurnStoreError>
    /** Oldest first. */
    readonly all: Effect.Effect<ReadonlyArray<TurnRecord>, TurnStoreError>
  }
>()("holdfast/TurnStore") {}
