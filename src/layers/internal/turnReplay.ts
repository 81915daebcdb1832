/** The events of one turn for readers who come late: kept up to a bound, oldest dropped, each reader from the first that is kept. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { AgentEvent, AgentRunError } from "../../services/AgentDriver.ts"

/** Events on their way to one reader. */
const buffered = 64

export interface TurnReplay {
  readonly emit: (event: AgentEvent) => Effect.Effect<void>
  readonly end: (exit: Exit.Exit<unknown, AgentRunError>) => Effect.Effect<void>
  readonly isOver: () => boolean
  readonly events: Stream.Stream<AgentEvent, AgentRunError>
}

export const makeReplay = (limit: number): TurnReplay => {
  const kept: Array<AgentEvent> = []
  let dropped = 0
  let over: Exit.Exit<unknown, AgentRunError> | null = null
  let changed = Deferred.makeUnsafe<void>()
  const wake = (): void => {
    const before = changed
    changed = Deferred.makeUnsafe<void>()
    Deferred.doneUnsafe(before, Effect.void)
  }
  return {
    emit: (event) =>
      Effect.sync(() => {
        kept.push(event)
        if (kept.length > limit) {
          kept.shift()
          dropped++
        }
        wake()
      }),
    end: (exit) =>
      Effect.sync(() => {
        over ??= exit
        wake()
      }),
    isOver: () => over !== null,
    events: Stream.callback<AgentEvent, AgentRunError>(
      (queue) =>
        Effect.gen(function* () {
          let at = 0
          while (true) {
            if (at < dropped) {
              yield* Queue.offer(queue, {
                _tag: "notice",
                text: `${dropped - at} earlier events are not kept`
              })
              at = dropped
            }
            const event = kept[at - dropped]
            if (event !== undefined) {
              at++
              yield* Queue.offer(queue, event)
            } else if (over === null) yield* Deferred.await(changed)
            else return yield* Exit.isSuccess(over) ? Queue.end(queue) : Queue.failCause(queue, over.cause)
          }
        }),
      { bufferSize: buffered }
    )
  }
}
