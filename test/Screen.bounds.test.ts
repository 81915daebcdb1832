/** Screen: what looking at runs costs, and for how long. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { makeScreenModel } from "../src/layers/internal/screenModel.ts"
import { make as makeScreen } from "../src/layers/Screen.ts"
import { type LogChunk, RunLog } from "../src/services/RunLog.ts"
import { defaultSize, scrollbackLines } from "../src/services/Screen.ts"

const mb = 1024 * 1024
const soak = process.env["HOLDFAST_SOAK"] !== undefined
/** What a flood is, and what of it a screen may hold: here less than all, in full less than a quarter. */
const [floodBytes, heldAtMost] = soak ? [100 * mb, 24 * mb] : [4 * mb, 3 * mb]
const soakTimeoutMs = 300_000

/** Logs that all say the same, and how many readers follow each: a model follows its log for as long as it is kept. */
const countedLogs = (text: string) => {
  const followers = new Map<string, number>()
  const bytes = Buffer.from(text)
  const chunk: LogChunk = { _tag: "chunk", cursor: 0, bytes, missing: 0 }
  const count = (runId: string, by: number) =>
    Effect.sync(() => void followers.set(runId, (followers.get(runId) ?? 0) + by))
  const log = RunLog.of({
    open: () => Effect.die("nobody writes"),
    read: () => Stream.die("nobody reads"),
    remove: () => Effect.die("nobody removes"),
    info: (runId) =>
      Effect.succeed({
        runId,
        live: true,
        state: { _tag: "ok" },
        oldest: 0,
        end: bytes.length,
        keptBytes: bytes.length,
        lostBytes: 0
      }),
    replay: (runId, _, { follow }) =>
      follow
        ? Stream.unwrap(
            Effect.as(
              Effect.acquireRelease(count(runId, 1), () => count(runId, -1)),
              Stream.concat(Stream.succeed(chunk), Stream.never)
            )
          )
        : Stream.empty
  })
  const open = (): number => [...followers.values()].reduce((sum, each) => sum + each, 0)
  return { log, open, opened: () => followers.size }
}

const floods: Readonly<Record<string, string>> = {
  "coloured lines": "\x1b[38;2;1;2;3;4:3mthe quick brown fox jumps over the lazy dog\x1b[0m naïve 日本語\r\n",
  "one endless line": "no end of it ",
  "marks on one character": "e" + "\u0301".repeat(1_000),
  "links with long addresses": `\x1b]8;;http://example.org/${"a".repeat(1_900)}\x1b\\x\x1b]8;;\x1b\\`,
  "titles and clipboards": `\x1b]0;${"t".repeat(5_000)}\x07\x1b]52;c;${"QQ==".repeat(2_000)}\x07`,
  "a string without an end": "\x1b]0;" + "x".repeat(1_000)
}

/** The one that xterm holds all of. */
const quick = "marks on one character"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

const heldBytes = (): number => {
  collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

describe("Screen, bounded", () => {
  it.effect(
    "a screen is drawn when somebody looks, kept while somebody does, and gone 30 seconds after",
    () =>
      Effect.gen(function* () {
        const { log, open, opened } = countedLogs("hello\r\n")
        const { snapshot, modes } = yield* Effect.provideService(makeScreen, RunLog, log)
        const counts = [open()]
        for (const runId of ["a", "b", "c"]) yield* snapshot(runId)
        yield* modes("a")
        counts.push(open())
        yield* TestClock.adjust("29 seconds")
        yield* snapshot("a")
        counts.push(open())
        yield* TestClock.adjust("2 seconds")
        counts.push(open())
        yield* TestClock.adjust("28 seconds")
        counts.push(open())
        const again = yield* snapshot("a")
        counts.push(open())
        yield* TestClock.adjust("30 seconds")
        counts.push(open())
        assert.deepStrictEqual(
          { counts, opened: opened(), row: again.rows[0] },
          { counts: [0, 3, 3, 1, 0, 1, 0], opened: 3, row: "hello" }
        )
      })
  )

  it.effect(
    "no more than 64 screens are kept at once: the next one is refused, and drawn when one has gone",
    () =>
      Effect.gen(function* () {
        const { log, open } = countedLogs("hello\r\n")
        const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
        for (let i = 0; i < 64; i++) yield* snapshot(`run${i}`)
        const error = yield* Effect.flip(snapshot("one-more"))
        assert.deepStrictEqual([error._tag, open()], ["ScreenBroken", 64])
        yield* TestClock.adjust("30 seconds")
        yield* snapshot("one-more")
        assert.strictEqual(open(), 1)
      })
  )

  for (const [name, text] of Object.entries(floods).filter(([name]) => soak || name === quick))
    it(
      `a screen holds less than ${heldAtMost / mb} MB of ${floodBytes / mb} MB of ${name}`,
      () => {
        const before = heldBytes()
        const chunk = Buffer.from(text.repeat(Math.ceil(65_536 / text.length)))
        const model = makeScreenModel(defaultSize, scrollbackLines)
        for (let fed = 0; fed < floodBytes; fed += chunk.length) model.feed(chunk)
        const held = heldBytes() - before
        const drawn = model.draw().length
        model.dispose()
        assert.isBelow(held, heldAtMost)
        assert.isBelow(drawn, heldAtMost)
      },
      soakTimeoutMs
    )
})
