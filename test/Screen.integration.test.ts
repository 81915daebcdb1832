/** Screen: a snapshot and the stream after it are worth as much as the whole log. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { make as makeScreen } from "../src/layers/Screen.ts"
import { RunLog } from "../src/services/RunLog.ts"
import { scrollbackLines } from "../src/services/Screen.ts"
import { attachesOf, recordedSessions } from "./support/attaches.ts"
import { differences, rawTerminal, type RawTerminal } from "./support/rawTerminal.ts"
import { runLogs } from "./support/RunLog.ts"
import type { Session, SessionItem } from "./support/terminalSessions.ts"

/** Where the half of a wide character that a narrower window cut in two is still on the screen. */
const cut = "tmux-vim"

const played = (session: Session): RawTerminal => {
  const terminal = rawTerminal(session, scrollbackLines)
  terminal.play(session.items)
  return terminal
}

describe("Screen", () => {
  for (const [index, session] of recordedSessions.filter(({ name }) => name !== cut).entries())
    it(`a snapshot at any point and the stream after it give what a full replay gives: ${session.name}`, () => {
      const attaches = attachesOf(session, index)!
      assert.strictEqual(attaches.length, 7)
      assert.deepStrictEqual(
        attaches.filter(({ differs }) => differs.size > 0),
        []
      )
    })

  it("a wide character that a narrower window cut in two is a blank, and nothing else differs", () => {
    const session = recordedSessions.find(({ name }) => name === cut)!
    // Enough points for some to be where it stands.
    const attaches = Array.from({ length: 10 }, (_, seed) => attachesOf(session, seed)!).flat()
    const differing = attaches.filter(({ differs }) => differs.size > 0)
    assert.isAbove(differing.length, 0)
    for (const { differs, beyond } of differing) {
      assert.include(beyond, "half of a wide character")
      assert.deepStrictEqual([...differs.keys()], ["width"])
    }
  })

  it.live(
    "a snapshot and the log from its cursor are the run's screen, with bytes and resizes in between",
    () =>
      Effect.gen(function* () {
        const { open, log } = yield* runLogs({})
        const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
        const session = recordedSessions.find(({ name }) => name === "vim-edit")!
        const writer = yield* open("run")
        yield* writer.resize(session)
        const half = Math.floor(session.items.length / 2)
        const write = (items: ReadonlyArray<SessionItem>) =>
          Effect.forEach(items, (item) => ("bytes" in item ? writer.append(item.bytes) : writer.resize(item)))
        yield* write(session.items.slice(0, half))
        const { bytes, cursor, size, missing } = yield* snapshot("run")
        yield* write(session.items.slice(half))
        const attached = rawTerminal(size, scrollbackLines)
        attached.write(bytes)
        const rest = log.replay("run", { _tag: "cursor", cursor }, { follow: false })
        yield* Stream.runForEach(rest, (item) =>
          Effect.sync(() => (item._tag === "chunk" ? attached.write(item.bytes) : attached.resize(item)))
        )
        const full = played(session)
        assert.deepStrictEqual([...differences(full, attached)], [])
        const last = yield* snapshot("run")
        const drawn = rawTerminal(last.size, scrollbackLines)
        drawn.write(last.bytes)
        assert.deepStrictEqual([...differences(full, drawn)], [])
        assert.strictEqual(missing, 0)
      })
  )

  it.live(
    "a screen whose log has lost its beginning is drawn from what is kept, and says what is missing",
    () =>
      Effect.gen(function* () {
        const { open, log } = yield* runLogs({ limits: { bytesPerRun: 40_000, segmentBytes: 10_000 } })
        const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
        const writer = yield* open("run")
        for (let i = 0; i < 10_000; i++) yield* writer.append(Buffer.from(`line ${i}\r\n`))
        yield* writer.flush
        const { oldest, end } = yield* log.info("run")
        const { missing, cursor, rows, at } = yield* snapshot("run")
        assert.deepStrictEqual(
          { missing, cursor, at, rows: rows.slice(-3) },
          { missing: oldest, cursor: end, at: { x: 0, y: 23 }, rows: ["line 9998", "line 9999", ""] }
        )
        assert.isAbove(oldest, 0)
      })
  )

  it.live("erasing up to the last cell of the alternate screen, where xterm throws, is drawn", () =>
    Effect.gen(function* () {
      const { open, log } = yield* runLogs({})
      const { snapshot, modes } = yield* Effect.provideService(makeScreen, RunLog, log)
      const writer = yield* open("run")
      yield* writer.resize({ cols: 20, rows: 3 })
      yield* writer.append(Buffer.from("\x1b[?1049h\x1b[99;99H\x1b[1Jstill here\x1b[?2004h"))
      const { rows } = yield* snapshot("run")
      assert.deepStrictEqual(
        [rows, (yield* modes("run")).bracketedPaste],
        [["", "                   s", "till here"], true]
      )
    })
  )

  it.live("a resize with nothing printed after it is on the next snapshot", () =>
    Effect.gen(function* () {
      const { open, log } = yield* runLogs({})
      const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
      const writer = yield* open("run")
      const sizes = []
      for (const cols of [80, 100, 60]) {
        yield* writer.resize({ cols, rows: 10 })
        sizes.push((yield* snapshot("run")).size)
      }
      assert.deepStrictEqual(
        sizes,
        [80, 100, 60].map((cols) => ({ cols, rows: 10 }))
      )
    })
  )

  it.live("a run without a log has no screen", () =>
    Effect.gen(function* () {
      const { log } = yield* runLogs({})
      const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
      const error = yield* Effect.flip(snapshot("none"))
      assert.strictEqual(error._tag, "RunLogMissing")
    })
  )
})
