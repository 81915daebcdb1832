/** RunLog on real files: what it promises of bytes, cursors, restarts and disks that refuse. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import {
  appendFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync
} from "node:fs"
import { DiskRefused, type LogDisk, nodeDisk } from "../src/layers/internal/logFiles.ts"
import { random } from "./support/random.ts"
import { chunksOf, runLogs, stateDirectory, textOf } from "./support/RunLog.ts"

const start = { _tag: "start" } as const
const all = { follow: false } as const
const live = { follow: true } as const
const bytes = (text: string): Uint8Array => Buffer.from(text)
const numbered = (from: number, to: number): string =>
  Array.from({ length: to - from }, (_, i) => `line ${String(from + i).padStart(5, "0")}\n`).join("")

/** A disk that refuses while the lever says so; ENOSPC, as a full one. */
const fickleDisk = () => {
  const lever = { full: false, written: Deferred.makeUnsafe<void>() }
  const disk: LogDisk = {
    open: nodeDisk.open,
    write: (fd, buffers) =>
      Effect.suspend(() => {
        if (lever.full)
          return Effect.fail(new DiskRefused({ cause: Object.assign(new Error(), { code: "ENOSPC" }) }))
        return Effect.tap(nodeDisk.write(fd, buffers), () => Deferred.succeed(lever.written, undefined))
      })
  }
  return { lever, disk }
}

describe("RunLog", () => {
  it.live(
    "what is appended is read again from the start, from a cursor, and from the last lines or bytes",
    () =>
      Effect.gen(function* () {
        const { open, log } = yield* runLogs({})
        const writer = yield* open("a")
        for (let i = 0; i < 100; i++) yield* writer.append(bytes(numbered(i, i + 1)))
        const look = Effect.all([
          textOf(log.read("a", start, all)),
          chunksOf(log.read("a", { _tag: "cursor", cursor: 1_090 }, all)),
          chunksOf(log.read("a", { _tag: "tail-lines", lines: 2 }, all)),
          chunksOf(log.read("a", { _tag: "tail-bytes", bytes: 6 }, all)),
          chunksOf(log.read("a", { _tag: "end" }, all)),
          chunksOf(log.read("a", { _tag: "tail-lines", lines: 0 }, all)),
          textOf(log.read("a", { _tag: "tail-lines", lines: 5_000 }, all))
        ])
        const expected = [
          numbered(0, 100),
          [{ cursor: 1_090, text: "ine 00099\n", missing: 0 }],
          [{ cursor: 1_078, text: numbered(98, 100), missing: 0 }],
          [{ cursor: 1_094, text: "00099\n", missing: 0 }],
          [],
          [],
          numbered(0, 100)
        ]
        assert.deepStrictEqual(yield* look, expected)
        yield* writer.flush
        assert.deepStrictEqual(yield* look, expected)
      })
  )

  it.live("directories and files are for their owner only", () =>
    Effect.gen(function* () {
      const { state, open } = yield* runLogs({})
      const writer = yield* open("a")
      yield* writer.resize({ cols: 80, rows: 24 })
      yield* writer.append(bytes("x"))
      yield* writer.flush
      const directory = `${state}/runs/a`
      assert.deepStrictEqual(
        [`${state}/runs`, directory, ...readdirSync(directory).map((name) => `${directory}/${name}`)].map(
          (path) => statSync(path).mode & 0o7777
        ),
        [0o700, 0o700, 0o600, 0o600]
      )
    })
  )

  it.live("cursors go on after a restart, also in the midst of a segment", () =>
    Effect.gen(function* () {
      const state = yield* stateDirectory
      for (let life = 0; life < 5; life++) {
        const { open, close } = yield* runLogs({ state, limits: { segmentBytes: 1_000 } })
        const writer = yield* open("a")
        assert.strictEqual(yield* writer.end, life * 1_650)
        yield* writer.append(bytes(numbered(life * 150, life * 150 + 150)))
        yield* close
      }
      const { log } = yield* runLogs({ state })
      assert.strictEqual(yield* textOf(log.read("a", start, all)), numbered(0, 750))
      const { live, end, oldest, keptBytes, lostBytes } = yield* log.info("a")
      assert.deepStrictEqual(
        { live, end, oldest, keptBytes, lostBytes },
        { live: false, end: 8_250, oldest: 0, keptBytes: 8_250, lostBytes: 0 }
      )
    })
  )

  it.live("a torn last write is fewer bytes, and the log goes on from there", () =>
    Effect.gen(function* () {
      const state = yield* stateDirectory
      const first = yield* runLogs({ state })
      const writer = yield* first.open("a")
      yield* writer.resize({ cols: 80, rows: 24 })
      yield* writer.append(bytes("0123456789"))
      yield* writer.resize({ cols: 100, rows: 30 })
      yield* first.close
      const directory = `${state}/runs/a`
      truncateSync(`${directory}/output.0000000000000000.log`, 7)
      appendFileSync(`${directory}/output.marks`, "12")
      const second = yield* runLogs({ state })
      const again = yield* second.open("a")
      assert.strictEqual(yield* again.end, 7)
      yield* again.append(bytes("abc"))
      const items = yield* Stream.runCollect(second.log.replay("a", start, all))
      assert.deepStrictEqual(
        items.map((item) =>
          item._tag === "chunk" ? Buffer.from(item.bytes).toString() : `${item.cursor} ${item.cols}`
        ),
        ["0 80", "0123456", "7 100", "abc"]
      )
    })
  )

  it.live("a full log loses its oldest segments, and a reader from before is told how much", () =>
    Effect.gen(function* () {
      const { state, open, log } = yield* runLogs({ limits: { bytesPerRun: 4_400, segmentBytes: 1_100 } })
      const writer = yield* open("a")
      for (let i = 0; i < 1_000; i += 10) {
        yield* writer.append(bytes(numbered(i, i + 10)))
        yield* writer.flush
      }
      const { oldest, end, keptBytes } = yield* log.info("a")
      const kept = readdirSync(`${state}/runs/a`)
        .filter((name) => name.endsWith(".log"))
        .reduce((sum, name) => sum + statSync(`${state}/runs/a/${name}`).size, 0)
      assert.deepStrictEqual([end, keptBytes, kept], [11_000, end - oldest, keptBytes])
      assert.isAtMost(kept, 4_400)
      const [first] = yield* chunksOf(log.read("a", { _tag: "cursor", cursor: 100 }, all))
      assert.deepStrictEqual([first!.cursor, first!.missing], [oldest, oldest - 100])
      assert.strictEqual(yield* textOf(log.read("a", start, all)), numbered(0, 1_000).slice(oldest))
    })
  )

  it.live(
    "a follower sees history and what comes without a gap or a duplicate, and ends with the writer",
    () =>
      Effect.gen(function* () {
        const next = random(5)
        const { open, log, close } = yield* runLogs({ limits: { segmentBytes: 50_000 } })
        const writer = yield* open("a")
        const text = numbered(0, 20_000)
        let at = 0
        const fibers = []
        while (at < text.length) {
          if (fibers.length < 20 && next() < 0.1) {
            const cursor = Math.floor(next() * at)
            const follower = textOf(log.read("a", { _tag: "cursor", cursor }, live))
            fibers.push({ cursor, fiber: yield* Effect.forkChild(follower, { startImmediately: true }) })
          }
          const size = 1 + Math.floor(next() ** 4 * 4_000)
          yield* writer.append(bytes(text.slice(at, at + size)))
          at += size
          if (next() < 0.05) yield* Effect.yieldNow
        }
        yield* close
        assert.strictEqual(fibers.length, 20)
        for (const { cursor, fiber } of fibers)
          assert.isTrue((yield* Fiber.join(fiber)) === text.slice(cursor))
      })
  )

  it.live(
    "of 20 followers the one that stalls is dropped with its place; the writer and the others do not notice",
    () =>
      Effect.gen(function* () {
        const { open, log, close } = yield* runLogs({ limits: { followerLagBytes: 100_000 } })
        const writer = yield* open("a")
        const release = yield* Deferred.make<void>()
        const stalled = yield* log.read("a", start, live).pipe(
          Stream.runForEach(() => Deferred.await(release)),
          Effect.flip,
          Effect.forkChild({ startImmediately: true })
        )
        const others = yield* Effect.forEach(Array.from({ length: 19 }), () =>
          Effect.forkChild(textOf(log.read("a", start, live)), { startImmediately: true })
        )
        const text = numbered(0, 30_000)
        for (let at = 0; at < text.length; at += 10_000) {
          yield* writer.append(bytes(text.slice(at, at + 10_000)))
          yield* writer.flush
        }
        yield* Deferred.succeed(release, undefined)
        const error = yield* Fiber.join(stalled)
        yield* close
        for (const fiber of others) assert.isTrue((yield* Fiber.join(fiber)) === text)
        assert.deepStrictEqual(
          error._tag === "LogReaderSlow" && [error.cursor > 0, error.cursor + error.behind],
          [true, text.length]
        )
      })
  )

  it.live(
    "a full disk holds nobody up: the newest bytes are held, the rest is a gap that is counted when it ends",
    () =>
      Effect.gen(function* () {
        const { lever, disk } = fickleDisk()
        const { open, log } = yield* runLogs({ disk, limits: { tailBytes: 1_100, retryMs: 20 } })
        const writer = yield* open("a")
        yield* writer.append(bytes(numbered(0, 100)))
        yield* writer.flush
        lever.full = true
        lever.written = Deferred.makeUnsafe()
        yield* writer.append(bytes(numbered(100, 200)))
        yield* writer.flush
        yield* writer.append(bytes(numbered(200, 5_000)))
        const degraded = yield* log.info("a")
        assert.deepStrictEqual(
          [
            degraded.state._tag,
            degraded.state._tag === "degraded" && degraded.state.reason,
            degraded.lostBytes
          ],
          ["degraded", "ENOSPC", 55_000 - 1_100 - 1_100]
        )
        assert.strictEqual(
          yield* textOf(log.read("a", { _tag: "tail-bytes", bytes: 1_100 }, all)),
          numbered(4_900, 5_000)
        )
        lever.full = false
        yield* Deferred.await(lever.written)
        // The write is done; who did it has yet to say so.
        yield* Effect.yieldNow
        yield* writer.append(bytes(numbered(5_000, 5_001)))
        yield* writer.flush
        const { state, lostBytes } = yield* log.info("a")
        assert.strictEqual(state._tag, "ok")
        assert.strictEqual(lostBytes, degraded.lostBytes)
        const chunks = yield* chunksOf(log.read("a", start, all))
        assert.strictEqual(
          chunks.reduce((sum, { missing }) => sum + missing, 0),
          lostBytes
        )
        assert.isTrue(
          chunks
            .map(({ text }) => text)
            .join("")
            .endsWith(numbered(5_000, 5_001))
        )
      })
  )

  it.live("a disk that never takes a byte still gives a run a log, in memory", () =>
    Effect.gen(function* () {
      const disk: LogDisk = { open: () => openSync("/dev/full", "w"), write: nodeDisk.write }
      const { open, log } = yield* runLogs({ disk, limits: { tailBytes: 110 } })
      const writer = yield* open("a")
      const follower = yield* Effect.forkChild(log.read("a", start, live).pipe(Stream.take(1), chunksOf), {
        startImmediately: true
      })
      yield* writer.append(bytes(numbered(0, 1)))
      assert.deepStrictEqual(yield* Fiber.join(follower), [{ cursor: 0, text: numbered(0, 1), missing: 0 }])
      yield* writer.flush
      for (let i = 1; i < 100; i++) yield* writer.append(bytes(numbered(i, i + 1)))
      const { state, oldest, end } = yield* log.info("a")
      assert.deepStrictEqual([state._tag === "degraded" && state.reason, oldest, end], ["ENOSPC", 990, 1_100])
      assert.strictEqual(
        yield* textOf(log.read("a", { _tag: "tail-lines", lines: 3 }, all)),
        numbered(97, 100)
      )
    })
  )

  it.live("what waits for a slow disk is bounded: the writer waits, and nothing is lost", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const disk: LogDisk = {
        open: nodeDisk.open,
        write: (fd, buffers) => Effect.andThen(Deferred.await(gate), nodeDisk.write(fd, buffers))
      }
      const { open, log, close } = yield* runLogs({ disk, limits: { bufferBytes: 10_000 } })
      const writer = yield* open("a")
      const text = numbered(0, 5_000)
      const appending = yield* Effect.forkChild(writer.append(bytes(text)), { startImmediately: true })
      assert.isFalse(writer.offerUnsafe(bytes("no room")))
      assert.strictEqual(yield* writer.end, 10_000)
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(appending)
      yield* close
      assert.isTrue((yield* textOf(log.read("a", start, all))) === text)
    })
  )

  it.live(
    "over the total budget the logs of the runs that ended first go, and what others keep beside them stays",
    () =>
      Effect.gen(function* () {
        const state = yield* stateDirectory
        const limits = { totalBytes: 3_000, segmentBytes: 500 }
        for (const [index, runId] of ["one", "two", "three"].entries()) {
          const { open, close } = yield* runLogs({ state, limits: { ...limits, totalBytes: 1_000_000 } })
          const writer = yield* open(runId)
          yield* writer.append(bytes(numbered(0, 100)))
          yield* close
          mkdirSync(`${state}/runs/${runId}/bin`)
          writeFileSync(`${state}/runs/${runId}/bin/x`, String(index))
          yield* Effect.sleep(10)
        }
        const { open, log, close } = yield* runLogs({ state, limits })
        const writer = yield* open("four")
        yield* writer.append(bytes(numbered(0, 100)))
        yield* close
        const found = yield* Effect.forEach(["one", "two", "three", "four"], (runId) =>
          log.info(runId).pipe(
            Effect.map(({ keptBytes }) => keptBytes),
            Effect.catchTag("RunLogMissing", () => Effect.succeed("gone"))
          )
        )
        assert.deepStrictEqual(found, ["gone", "gone", 1_100, 1_100])
        assert.deepStrictEqual(readdirSync(`${state}/runs/one`), ["bin"])
      })
  )

  it.live("a log has one writer, is not removed under it, and is gone when it is removed", () =>
    Effect.gen(function* () {
      const state = yield* stateDirectory
      const { open, log, close } = yield* runLogs({ state })
      yield* open("a")
      const tags = yield* Effect.forEach(
        [open("a"), log.remove("a"), open("../a"), log.info("../a"), log.info("b"), log.remove("b")],
        (effect: Effect.Effect<unknown, { readonly _tag: string; readonly problem?: string }, never>) =>
          Effect.match(effect, {
            onFailure: ({ _tag, problem }) => `${_tag} ${problem ?? ""}`,
            onSuccess: () => "done"
          })
      )
      assert.deepStrictEqual(tags, [
        "RunLogRefused in-use",
        "RunLogRefused in-use",
        "RunLogRefused invalid-id",
        "RunLogRefused invalid-id",
        "RunLogMissing ",
        "done"
      ])
      assert.deepStrictEqual(yield* chunksOf(log.read("a", start, all)), [])
      yield* close
      const next = yield* runLogs({ state })
      yield* next.log.remove("a")
      assert.deepStrictEqual(readdirSync(`${state}/runs`), [])
    })
  )
})
