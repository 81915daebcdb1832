/** Screen: a snapshot and the stream after it are worth as much as the whole log. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { execFileSync } from "node:child_process"
import { existsSync } from "node:fs"
import * as pty from "node-pty"
import { makeScreenModel, type ScreenModel } from "../src/layers/internal/screenModel.ts"
import { make as makeScreen } from "../src/layers/Screen.ts"
import { RunLog } from "../src/services/RunLog.ts"
import { scrollbackLines } from "../src/services/Screen.ts"
import { random } from "./support/random.ts"
import { runLogs } from "./support/RunLog.ts"
import { generatedSession, type Session, type SessionItem, shownBy } from "./support/terminalSessions.ts"

/** Less than the sessions print, so that lines leave it. */
const scrollback = 40

const play = (model: ScreenModel, items: ReadonlyArray<SessionItem>): void => {
  for (const item of items)
    if ("bytes" in item) model.feed(item.bytes)
    else model.resize(item)
}

/** At random points of a session: the copy shows the same at once, and the same at the end. */
const attachesLike = (session: Session, seed: number): void => {
  const next = random(seed)
  const full = makeScreenModel(session, scrollback)
  const points = Array.from({ length: 6 }, () => Math.floor(next() * session.items.length)).toSorted(
    (a, b) => a - b
  )
  const copies: Array<ScreenModel> = []
  for (const [index, point] of [...points, session.items.length].entries()) {
    const items = session.items.slice(points[index - 1] ?? 0, point)
    for (const model of [full, ...copies]) play(model, items)
    const copy = makeScreenModel({ cols: full.terminal.cols, rows: full.terminal.rows }, scrollback)
    copy.feed(full.draw())
    copies.push(copy)
    for (const [which, model] of copies.entries())
      assert.deepStrictEqual(
        shownBy(model.terminal),
        shownBy(full.terminal),
        `${session.name}, attached at ${[...points, "the end"][which]}, looked at ${point}`
      )
  }
  for (const model of [full, ...copies]) model.dispose()
}

/** What a real program prints on a terminal of 100 columns; null when this machine lacks it. */
const recorded = (name: string, command: string, typed: ReadonlyArray<string>) =>
  Effect.callback<Session | null>((resume) => {
    try {
      execFileSync("/bin/sh", ["-c", `command -v ${command.split(" ")[0]}`])
    } catch {
      return resume(Effect.succeed(null))
    }
    const items: Array<SessionItem> = []
    const [cols, rows] = [100, 30]
    const env = { PATH: "/usr/bin:/bin", TERM: "xterm-256color", LANG: "C.UTF-8", HOME: "/nonexistent" }
    const terminal = pty.spawn("/bin/sh", ["-c", command], { cols, rows, cwd: "/", env, encoding: null })
    let left = [...typed]
    terminal.onData((data) => {
      items.push({ bytes: Buffer.from(data) })
      // What is typed follows on what is shown, and a resize on what is typed.
      const keys = left.shift()
      if (keys === undefined) return
      if (keys.startsWith("size ")) {
        const [cols, rows] = keys.slice(5).split("x").map(Number) as [number, number]
        terminal.resize(cols, rows)
        items.push({ cols, rows })
      } else terminal.write(keys)
    })
    terminal.onExit(() => resume(Effect.succeed({ name, cols, rows, items })))
    return Effect.sync(() => terminal.kill("SIGKILL"))
  })

describe("Screen", () => {
  for (let seed = 0; seed < 30; seed++)
    it(`a snapshot at any point and the stream after it give what a full replay gives: session ${seed}`, () => {
      attachesLike(generatedSession(seed), seed + 1000)
    })

  for (const [name, command, typed] of [
    ["ls", "ls --color=always -la /usr/bin /etc", []],
    ["vi", "vi -u NONE -n /etc/services", ["size 70x20", "GG", "size 120x40", "ixx\x1b", ":q!\r"]],
    ["top", "top -b -n 2 -d 0.1", []],
    ["less", "less /etc/services", ["size 60x15", " ", "G", "size 100x40", "q"]]
  ] as const)
    it.live(`a snapshot of a real program gives what a full replay gives: ${name}`, () =>
      Effect.gen(function* () {
        const session = yield* recorded(name, command, typed)
        // Nothing to record where the program is not installed; the generated ones have what it would print.
        if (session === null) return assert.isFalse(existsSync(`/usr/bin/${name}`))
        assert.isAbove(session.items.length, 1)
        attachesLike(session, 7)
      }).pipe(Effect.timeout("20 seconds"))
    )

  it.live(
    "a snapshot and the log from its cursor are the run's screen, with bytes and resizes in between",
    () =>
      Effect.gen(function* () {
        const { open, log } = yield* runLogs({})
        const { snapshot } = yield* Effect.provideService(makeScreen, RunLog, log)
        const session = generatedSession(3)
        const writer = yield* open("run")
        yield* writer.resize(session)
        const half = Math.floor(session.items.length / 2)
        const write = (items: ReadonlyArray<SessionItem>) =>
          Effect.forEach(items, (item) => ("bytes" in item ? writer.append(item.bytes) : writer.resize(item)))
        yield* write(session.items.slice(0, half))
        const { bytes, cursor, size, missing } = yield* snapshot("run")
        yield* write(session.items.slice(half))
        const attached = makeScreenModel(size, scrollbackLines)
        attached.feed(bytes)
        const rest = log.replay("run", { _tag: "cursor", cursor }, { follow: false })
        yield* Stream.runForEach(rest, (item) =>
          Effect.sync(() => (item._tag === "chunk" ? attached.feed(item.bytes) : attached.resize(item)))
        )
        const full = makeScreenModel(session, scrollbackLines)
        play(full, session.items)
        assert.deepStrictEqual([shownBy(attached.terminal), missing], [shownBy(full.terminal), 0])
        const last = yield* snapshot("run")
        const drawn = makeScreenModel(last.size, scrollbackLines)
        drawn.feed(last.bytes)
        assert.deepStrictEqual(shownBy(drawn.terminal), shownBy(full.terminal))
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
