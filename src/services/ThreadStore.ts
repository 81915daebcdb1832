/** ThreadStore: which relay an agent's thread was given, so that a resumed thread gets the same hook command again. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"

export const ThreadRecord = Schema.Struct({
  threadId: Schema.String,
  relayId: Schema.String,
  /** Of the relay's last registration; the next one is higher. */
  generation: Schema.Int,
  cwd: Schema.String
})
export type ThreadRecord = typeof ThreadRecord.Type

export class ThreadStoreError extends Schema.TaggedError<ThreadStoreError>()("ThreadStoreError", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The thread table of the state database cannot be read or written. Check the disk under the state directory."
  }
}

export class ThreadStore extends Context.Service<
  ThreadStore,
  {
    readonly find: (threadId: string) => Effect.Effect<Option.Option<ThreadRecord>, ThreadStoreError>
    readonly remember: (record: ThreadRecord) => Effect.Effect<void, ThreadStoreError>
  }
>()("holdfast/ThreadStore") {}
