/**
 * What is typed into a terminal: kept in order and in bounds while the child does not read. Nobody tells when a terminal
 * takes bytes again, so it is tried now and then instead of at once.
 */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import { InputClosed, InputFull, inputLimitBytes, type RunChild } from "./runChild.ts"

/** Between two tries: a program that reads is back within the first; each that finds no room doubles it. */
const pauseMs = { first: 2, most: 100 } as const

const nothing = Buffer.alloc(0)

/** VEOF as node-pty sets it. */
const endOfFile = 4
const newLine = 10
const carriageReturn = 13

/** The end of the input finds room where nothing else does. */
const endBytes = 2

export interface PtyInput extends Pick<RunChild, "write" | "closeInput"> {
  /** What still waits is dropped. */
  readonly close: () => void
}

export const makeInput = Effect.fnUntraced(function* (
  pid: number,
  feed: (bytes: Uint8Array) => number | "full" | "closed"
): Effect.fn.Return<PtyInput, never, Scope.Scope> {
  const wanted = yield* Latch.make(false)
  /** Null when it takes no more. */
  let waiting: Buffer | null = nothing
  /** What was typed last, since a ^D in the middle of a line only hands that line over. */
  let last = newLine

  const close = () => {
    waiting = null
  }
  const push = (): "moved" | "stuck" => {
    if (waiting === null || waiting.length === 0) return "moved"
    const taken = feed(waiting)
    if (taken === "full") return "stuck"
    if (taken === "closed") close()
    else waiting = taken === waiting.length ? nothing : waiting.subarray(taken)
    return "moved"
  }

  yield* Effect.forkScoped(
    Effect.gen(function* () {
      for (let pause: number = pauseMs.first; ;) {
        if (waiting === null) return
        if (waiting.length === 0) {
          wanted.closeUnsafe()
          yield* wanted.await
        }
        yield* Effect.sleep(pause)
        pause = push() === "stuck" ? Math.min(pause * 2, pauseMs.most) : pauseMs.first
      }
    })
  )
  yield* Effect.addFinalizer(() => Effect.sync(close))

  const put = (bytes: Uint8Array, limit: number) =>
    Effect.suspend((): Effect.Effect<void, InputFull | InputClosed> => {
      if (waiting === null) return Effect.fail(new InputClosed({ pid }))
      if (bytes.length === 0) return Effect.void
      if (waiting.length + bytes.length > limit)
        return Effect.fail(new InputFull({ pid, waitingBytes: waiting.length, refusedBytes: bytes.length }))
      const isIdle = waiting.length === 0
      waiting = Buffer.concat([waiting, bytes])
      last = bytes.at(-1)!
      if (isIdle) push()
      if (waiting !== null && waiting.length > 0) wanted.openUnsafe()
      return Effect.void
    })

  return {
    write: (bytes) => put(bytes, inputLimitBytes),
    closeInput: Effect.suspend(() => {
      const isAtStart = last === newLine || last === carriageReturn || last === endOfFile
      const end = Uint8Array.from(isAtStart ? [endOfFile] : [endOfFile, endOfFile])
      return Effect.ignore(put(end, inputLimitBytes + endBytes))
    }),
    close
  }
})
