/** The turns that an earlier gateway left: each taken up at the start, and kept for its caller to come back, for a while. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import {
  type AgentEvent,
  type AgentRunError,
  attachGraceMs,
  maxReplayed,
  TurnNotFound
} from "../../services/AgentDriver.ts"
import type { TurnRecord } from "../../services/TurnStore.ts"
import { makeReplay, type TurnReplay } from "./turnReplay.ts"

interface Left {
  readonly replay: TurnReplay
  readonly turn: Fiber.Fiber<void>
  readers: number
  /** Somebody has come back to it. */
  attached: boolean
}

/** Returns when all are followed or known to be lost, and no later than `startMs`: then nobody else gets their threads. */
export const makeTurnsLeft = Effect.fnUntraced(function* (
  records: ReadonlyArray<TurnRecord>,
  takeUp: (
    record: TurnRecord,
    emit: (event: AgentEvent) => Effect.Effect<unknown>,
    taken: Deferred.Deferred<void>
  ) => Effect.Effect<void, AgentRunError>,
  startMs: number
) {
  const left = new Map<string, Left>()
  /** A turn that still runs is interrupted, and its end waited for. */
  const forget = (runId: string, { turn }: Left) =>
    Effect.andThen(
      Fiber.interrupt(turn),
      Effect.sync(() => left.delete(runId))
    )

  const take = Effect.fnUntraced(function* (record: TurnRecord) {
    const { runId } = record
    const replay = makeReplay(maxReplayed)
    const taken = yield* Deferred.make<void>()
    const turn = yield* takeUp(record, replay.emit, taken).pipe(
      Effect.exit,
      Effect.flatMap(replay.end),
      Effect.forkScoped
    )
    const one: Left = { replay, turn, readers: 0, attached: false }
    left.set(runId, one)
    yield* Effect.forkScoped(
      Effect.andThen(
        Effect.sleep(attachGraceMs),
        Effect.suspend(() => (one.attached ? Effect.void : forget(runId, one)))
      )
    )
    return taken
  })
  const taking = yield* Effect.forEach(records, take)
  yield* Effect.timeoutOption(Effect.forEach(taking, Deferred.await, { discard: true }), startMs)

  const attach = (runId: string): Stream.Stream<AgentEvent, AgentRunError> =>
    Stream.unwrap(
      Effect.gen(function* () {
        const one = left.get(runId)
        if (one === undefined) return yield* new TurnNotFound({ runId })
        one.attached = true
        yield* Effect.acquireRelease(
          Effect.sync(() => one.readers++),
          // As a run ends with its stream.
          () => Effect.suspend(() => (--one.readers > 0 ? Effect.void : forget(runId, one)))
        )
        return one.replay.events
      })
    )
  return { attach }
})
