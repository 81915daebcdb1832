/**
 * What a child prints, pulled: nothing is read ahead but one bounded buffer per stream, and the kernel holds the child back.
 *
 * It ends when every stream has, or when its leader has left and those it left behind have had their time.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Stream from "effect/Stream"
import type { Readable } from "node:stream"
import { lingerMs, type OutputChunk } from "./runChild.ts"

/** After its leader's exit and their time, so much is read of those left behind: more than any terminal or pipe holds. */
const lateLimitBytes = 1024 * 1024

/** Of the event loop, without a byte: one may already have been past its reading when it began to count. */
const idleTurns = 2

export interface OutputSource {
  readonly from: OutputChunk["from"]
  readonly stream: Readable
  /** What was still in the kernel when the stream took itself for ended. */
  readonly rest: Array<Uint8Array>
}

export interface ChildOutput {
  readonly output: Stream.Stream<OutputChunk>
  readonly abandon: Effect.Effect<void>
  /** For a source to call: nothing will come any more but what it holds. */
  readonly ended: (source: OutputSource) => void
  /** The leader has left: waits for the last byte to be handed over, but for those left behind no longer than their time. */
  readonly finish: Effect.Effect<void>
}

/** In the very step that forks: a stream that is let flow before somebody listens loses what it reads. */
export const outputOf = (sources: ReadonlyArray<OutputSource>): ChildOutput => {
  const open = new Set(sources)
  /** In the order in which they had something to read. */
  const ready = new Set<OutputSource>()
  const moved = Latch.makeUnsafe(false)
  const over = Deferred.makeUnsafe<void>()
  let isOver = false
  let isLate = false
  let lateBytes = 0

  const isReady = (source: OutputSource) => {
    ready.add(source)
    moved.openUnsafe()
  }
  for (const source of sources)
    source.stream.on("error", () => undefined).on("readable", () => isReady(source))

  const end = () => {
    isOver = true
    Deferred.doneUnsafe(over, Effect.void)
    moved.openUnsafe()
  }
  const next = (): OutputChunk | null => {
    for (const source of ready) {
      ready.delete(source)
      const bytes = (source.stream.read() as Uint8Array | null) ?? source.rest.shift() ?? null
      if (bytes === null) continue
      // To the back, so that one that floods does not keep the other from being read.
      ready.add(source)
      return { from: source.from, bytes }
    }
    return null
  }

  const take = Effect.gen(function* () {
    for (let idle = 0; ;) {
      if (isOver) return yield* Cause.done()
      moved.closeUnsafe()
      const chunk = lateBytes > lateLimitBytes ? null : next()
      if (chunk !== null) {
        if (isLate) lateBytes += chunk.bytes.length
        return chunk
      }
      if (open.size === 0 || lateBytes > lateLimitBytes || idle >= idleTurns) end()
      else if (isLate) {
        idle += 1
        yield* turn
      } else yield* moved.await
    }
  })

  return {
    output: Stream.fromEffectRepeat(take),
    abandon: Effect.sync(() => {
      if (isOver) return
      end()
      for (const { stream, rest } of sources) {
        rest.length = 0
        stream.removeAllListeners("readable").on("data", () => undefined)
      }
    }),
    ended: (source) => {
      open.delete(source)
      if (isOver) source.rest.length = 0
      isReady(source)
    },
    finish: Effect.gen(function* () {
      yield* Effect.timeoutOption(Deferred.await(over), lingerMs)
      isLate = true
      moved.openUnsafe()
      yield* Deferred.await(over)
    })
  }
}

const turn = Effect.callback<void>((resume) => {
  const immediate = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(immediate))
})
