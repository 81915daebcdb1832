/**
 * RunLog, fake: what runs print, in memory and without bounds. It never waits and never loses a byte; window sizes are not
 * kept, so there is no replay.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import {
  type LogChunk,
  type LogPosition,
  RunLog,
  RunLogMissing,
  tailLinesOffset
} from "../services/RunLog.ts"

interface Kept {
  bytes: Buffer
  live: boolean
  /** Completes when there is more, or the writer is gone; then it is another one. */
  changed: Deferred.Deferred<void>
}

export class FakeRunLog extends Context.Service<
  FakeRunLog,
  {
    /** All that a run has printed so far. */
    readonly text: (runId: string) => Effect.Effect<string>
    /** The runs whose logs were removed, in order. */
    readonly removed: Effect.Effect<ReadonlyArray<string>>
    /** Runs at the very moment at which a piece of output is kept, from now on. */
    readonly whenKept: (look: (runId: string) => void) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeRunLog") {}

const beginOf = ({ bytes }: Kept, from: LogPosition): number => {
  switch (from._tag) {
    case "start":
      return 0
    case "end":
      return bytes.length
    case "cursor":
      return Math.min(from.cursor, bytes.length)
    case "tail-bytes":
      return Math.max(0, bytes.length - from.bytes)
    case "tail-lines":
      return from.lines === 0 ? bytes.length : (tailLinesOffset(bytes, from.lines, true).offset ?? 0)
  }
}

const nobodyLooks = (_runId: string): void => undefined

export const layer: Layer.Layer<RunLog | FakeRunLog> = Layer.effectContext(
  Effect.gen(function* () {
    const logs = new Map<string, Kept>()
    const removed: Array<string> = []
    let whenKept = nobodyLooks

    const change = (kept: Kept): void => {
      const { changed } = kept
      kept.changed = Deferred.makeUnsafe()
      Deferred.doneUnsafe(changed, Effect.void)
    }

    const add = (runId: string, kept: Kept, bytes: Uint8Array): void => {
      whenKept(runId)
      kept.bytes = Buffer.concat([kept.bytes, bytes])
      change(kept)
    }

    const find = (runId: string) =>
      Effect.suspend(() => {
        const kept = logs.get(runId)
        return kept === undefined ? Effect.fail(new RunLogMissing({ runId })) : Effect.succeed(kept)
      })

    const next = (kept: Kept, follow: boolean) =>
      Effect.fnUntraced(function* (
        cursor: number
      ): Effect.fn.Return<readonly [LogChunk, number] | undefined> {
        while (cursor >= kept.bytes.length) {
          if (!follow || !kept.live) return undefined
          yield* Deferred.await(kept.changed)
        }
        const bytes = kept.bytes.subarray(cursor)
        return [{ _tag: "chunk", cursor, bytes, missing: 0 }, cursor + bytes.length]
      })

    const mocked = yield* Layer.build(
      Layer.mock(RunLog, {
        open: (runId) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              const kept = logs.get(runId) ?? {
                bytes: Buffer.alloc(0),
                live: true,
                changed: Deferred.makeUnsafe<void>()
              }
              kept.live = true
              logs.set(runId, kept)
              return kept
            }),
            (kept) =>
              Effect.sync(() => {
                kept.live = false
                change(kept)
              })
          ).pipe(
            Effect.map((kept) => ({
              end: Effect.sync(() => kept.bytes.length),
              append: (bytes) => Effect.sync(() => add(runId, kept, bytes)),
              offerUnsafe: (bytes) => {
                add(runId, kept, bytes)
                return true
              },
              resize: () => Effect.void,
              flush: Effect.void
            }))
          ),
        read: (runId, from, { follow }) =>
          Stream.unwrap(
            Effect.map(find(runId), (kept) => Stream.unfold(beginOf(kept, from), next(kept, follow)))
          ),
        info: (runId) =>
          Effect.map(find(runId), ({ bytes, live }) => ({
            runId,
            live,
            state: { _tag: "ok" },
            oldest: 0,
            end: bytes.length,
            keptBytes: bytes.length,
            lostBytes: 0
          })),
        remove: (runId) =>
          Effect.sync(() => {
            logs.delete(runId)
            removed.push(runId)
          })
      })
    )
    return mocked.pipe(
      Context.add(FakeRunLog, {
        text: (runId) => Effect.sync(() => logs.get(runId)?.bytes.toString() ?? ""),
        removed: Effect.sync(() => [...removed]),
        whenKept: (look) =>
          Effect.sync(() => {
            whenKept = look
          })
      })
    )
  })
)
