/** Ending what interrupted threads left running, on this machine: real processes of real vices, and nobody else's. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { makeThreadEnder } from "../src/layers/internal/threadProcesses.ts"
import { InstanceMark, layer } from "../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../src/layers/ProcessIdentity.ts"
import { bystander, carriers, lives, marked, sleeper, started, vices } from "./support/markedProcesses.ts"

const live = Effect.provide(layer.pipe(Layer.provide(layerIdentity)))
const kinds = ["leaves its session and is orphaned", "ignores what it is asked", "is stopped"] as const

describe("ending what interrupted threads left running, on this machine", () => {
  it.live("ten threads at once: all of theirs in a few looks, and nobody else's", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const runs = (thread: string, command: ReadonlyArray<string>) =>
        marked(range.high, "env", `CODEX_THREAD_ID=${thread}`, ...command)
      const threads = Array.from({ length: 10 }, (_, n) => `thread-${n}`)
      const theirs = yield* Effect.forEach(
        threads.flatMap((thread) => kinds.map((kind) => [thread, vices[kind]!.command] as const)),
        ([thread, command]) => runs(thread, command),
        { concurrency: 4 }
      )
      const others = [
        yield* runs("thread-1-of-somebody", sleeper),
        yield* runs("", sleeper),
        yield* marked(range.high, ...sleeper),
        // Of another gateway, or of nobody.
        yield* marked(range.low - 1, "env", "CODEX_THREAD_ID=thread-1", ...sleeper),
        yield* started("env", "CODEX_THREAD_ID=thread-1", ...sleeper)
      ]
      const untouched = yield* bystander
      let scans = 0
      const counted = {
        members: (asked: typeof range) =>
          Effect.suspend(() => {
            scans++
            return marks.members(asked)
          })
      }
      const end = yield* makeThreadEnder(counted, range)
      yield* Effect.forEach(threads, (thread) => end([thread]), { concurrency: "unbounded", discard: true })
      // Nobody keeps their output open any more.
      yield* Effect.forEach(theirs, ({ silence }) => silence, { discard: true })
      assert.deepStrictEqual(
        {
          left: carriers(range.low, range.high).toSorted((a, b) => a - b),
          others: others.map(({ child }) => lives(child)),
          bystander: lives(untouched),
          few: scans <= 6
        },
        {
          left: others
            .slice(0, 3)
            .map(({ child }) => child.pid!)
            .toSorted((a, b) => a - b),
          others: others.map(() => true),
          bystander: true,
          few: true
        },
        `${scans} looks`
      )
    }).pipe(Effect.scoped, live)
  )
})
