/** The operator's own descriptors: raw bytes in and out, the terminal's mode and size, and signals. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import type { Residue } from "../../services/Attachment.ts"
import type { WindowSize } from "../../services/Run.ts"

/** Nobody reads what is written any more. */
export class OutputClosed extends Schema.TaggedError<OutputClosed>()("OutputClosed", {}) {
  override get message(): string {
    return "Nobody reads the output any more."
  }
}

const stdout = 1
/** A descriptor that somebody else made non-blocking is asked again. */
const againMs = 5

/** All of it, in order, while timers and signals are served: a write of Node's own would stop them where nobody reads. */
export const writeOut = (bytes: Uint8Array): Effect.Effect<void, OutputClosed> =>
  Effect.callback<void, OutputClosed>((resume) => {
    const put = (from: number): void => {
      if (from >= bytes.length) return resume(Effect.void)
      fs.write(stdout, bytes, from, bytes.length - from, null, (error, written) => {
        if (error === null) put(from + written)
        else if (error.code === "EAGAIN") setTimeout(put, againMs, from)
        else resume(Effect.fail(new OutputClosed()))
      })
    }
    put(0)
  })

export const isTerminal = (): boolean => process.stdin.isTTY && process.stdout.isTTY

const within = (number: number | undefined, otherwise: number): number =>
  Math.max(1, Math.min(1000, number || otherwise))

/** Of the operator's terminal; the usual one where there is none. */
export const windowSize = (): WindowSize => ({
  cols: within(process.stdout.columns, 80),
  rows: within(process.stdout.rows, 24)
})

/** The size after each change of it; the last of several at once. */
export const windowSizes: Stream.Stream<WindowSize> = Stream.callback<WindowSize>(
  (queue) => {
    const tell = (): void => void Queue.offerUnsafe(queue, windowSize())
    return Effect.acquireRelease(
      Effect.sync(() => process.stdout.on("resize", tell)),
      () => Effect.sync(() => process.stdout.off("resize", tell))
    )
  },
  { bufferSize: 1, strategy: "sliding" }
)

/** What is typed or piped in, until its end; the descriptor is given up with the scope. */
export const input = Effect.map(
  Effect.addFinalizer(() => Effect.sync(() => process.stdin.destroy())),
  (): Stream.Stream<Uint8Array> =>
    Stream.catch(
      NodeStream.fromReadable<Uint8Array>({ evaluate: () => process.stdin, closeOnDone: false }),
      () => Stream.empty
    )
)

/** 128 and the number of SIGHUP. */
const hungUp = 129
const leave = (): void => process.exit(hungUp)

/** Every key as it is, for as long as the scope; then the terminal is as it was, by whatever way the program ends. */
export const rawTerminal = (residue: Residue) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      let done = false
      const restore = (): void => {
        if (done) return
        done = true
        process.stdin.setRawMode(false)
        try {
          fs.writeSync(stdout, residue.undo())
        } catch {
          // A terminal that is gone needs nothing.
        }
      }
      process.on("exit", restore)
      process.on("SIGHUP", leave)
      process.stdin.setRawMode(true)
      return restore
    }),
    (restore) =>
      Effect.sync(() => {
        restore()
        process.off("exit", restore)
        process.off("SIGHUP", leave)
      })
  )

const endSignals = ["SIGINT", "SIGTERM"] as const

/** The signals that would end this program, as they come, instead of that: the library's own listeners are put aside. */
export const takenSignals: Stream.Stream<NodeJS.Signals> = Stream.callback<NodeJS.Signals>((queue) => {
  const tell = (name: NodeJS.Signals): void => void Queue.offerUnsafe(queue, name)
  return Effect.acquireRelease(
    Effect.sync(() => {
      const before = endSignals.map((name) => ({ name, listeners: process.listeners(name) }))
      for (const { name } of before) process.removeAllListeners(name).on(name, tell)
      return before
    }),
    (before) =>
      Effect.sync(() => {
        for (const { name, listeners } of before) {
          process.off(name, tell)
          for (const listener of listeners) process.on(name, listener)
        }
      })
  )
})
