/** What a supervised child prints and is told, on real terminals and pipes: not a byte lost, not a byte astray. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import { join } from "node:path"
import { inputLimitBytes } from "../src/layers/internal/runChild.ts"
import { random } from "./support/random.ts"
import {
  awaitText,
  burst,
  deaf,
  directory,
  kinds,
  launched,
  printed,
  readers,
  stateOf,
  stuckPaste,
  ticksOf,
  whole
} from "./support/runChild.ts"

const bursts = 20

/** A kernel that is asked once more than this has had its time. */
const settleMs = 300

describe("RunChild output", () => {
  for (const kind of kinds)
    for (const [reader, part] of readers)
      for (const size of [64 * 1024, 300 * 1024])
        it.live(
          `${bursts / part} ${kind} that print ${size} bytes and leave are whole for one who ${reader}`,
          () =>
            Effect.gen(function* () {
              for (let round = 1; round <= bursts / part; round++)
                assert.deepStrictEqual(yield* burst(kind, reader, size), whole(size), `round ${round}`)
            })
        )

  it.live("bytes go through pipes unchanged, whatever they are and wherever they are cut", () =>
    Effect.gen(function* () {
      const next = random(4)
      const noise = Buffer.from(Array.from({ length: 300_000 }, () => Math.floor(next() * 256)))
      const text = Buffer.from("äöü€😀\r\n\u0000\u0004".repeat(10_000))
      const all = Buffer.concat([noise, text])
      const child = yield* launched("pipes", "cat")
      for (let at = 0; at < all.length; at += 9_973) yield* child.write(all.subarray(at, at + 9_973))
      yield* child.closeInput
      const chunks = yield* Stream.runCollect(child.output)
      assert.isTrue(Buffer.concat(chunks.map(({ bytes }) => bytes)).equals(all))
      assert.deepStrictEqual(yield* child.exited, { code: 0, signal: null })
    })
  )

  it.live("a character that is cut in two comes through a terminal unchanged", () =>
    Effect.gen(function* () {
      const child = yield* launched(
        "terminal",
        "perl",
        "-e",
        '$|=1; for (split //, "\\xf0\\x9f\\x98\\x80\\xff") { print; select undef, undef, undef, .02 }'
      )
      const chunks = yield* Stream.runCollect(child.output)
      assert.deepStrictEqual(Buffer.concat(chunks.map(({ bytes }) => bytes)).toString("hex"), "f09f9880ff")
    })
  )

  it.live("the two pipes are told apart", () =>
    Effect.gen(function* () {
      const child = yield* launched("pipes", "sh", "-c", "echo out; echo err >&2; exit 3")
      const chunks = yield* Stream.runCollect(child.output)
      const of = (from: string) =>
        Buffer.concat(chunks.filter((chunk) => chunk.from === from).map(({ bytes }) => bytes)).toString()
      assert.deepStrictEqual(
        { out: of("stdout"), err: of("stderr"), status: yield* child.exited },
        { out: "out\n", err: "err\n", status: { code: 3, signal: null } }
      )
    })
  )

  for (const kind of kinds)
    it.live(`a child on ${kind} that nobody reads is held back and costs nothing`, () =>
      Effect.gen(function* () {
        const child = yield* launched(kind, "yes")
        yield* Effect.sleep(settleMs)
        const before = { ticks: ticksOf(child.pid), memory: process.memoryUsage().arrayBuffers }
        yield* Effect.sleep(settleMs)
        const grown = process.memoryUsage().arrayBuffers - before.memory
        assert.deepStrictEqual(
          { state: stateOf(child.pid), ticks: ticksOf(child.pid) - before.ticks, grown: grown > 256 * 1024 },
          { state: "S", ticks: 0, grown: false }
        )
        // It goes on when somebody reads, and stops again.
        yield* child.output.pipe(Stream.take(200), Stream.runDrain)
        yield* Effect.sleep(settleMs)
        assert.strictEqual(stateOf(child.pid), "S")
      })
    )

  it.live("a reader that is interrupted takes nothing with it", () =>
    Effect.gen(function* () {
      const size = 64 * 1024
      const child = yield* launched(
        "terminal",
        "perl",
        "-e",
        `$|=1; for (1..${size / 64}) { print "x" x 64; select undef, undef, undef, .0002 }`
      )
      let length = 0
      const read = Stream.runForEach(child.output, ({ bytes }) =>
        Effect.sync(() => {
          length += bytes.length
        })
      )
      for (let done = false; !done;) done = (yield* Effect.timeoutOption(read, 3))._tag === "Some"
      assert.strictEqual(length, size)
    })
  )

  for (const kind of kinds)
    it.live(`a child on ${kind} whose output is abandoned is not held up, and its end is told`, () =>
      Effect.gen(function* () {
        const child = yield* launched(kind, "sh", "-c", "head -c 500000 /dev/zero; exit 4")
        yield* child.abandonOutput
        assert.deepStrictEqual(
          { status: yield* child.exited, rest: yield* printed(child) },
          { status: { code: 4, signal: null }, rest: "" }
        )
      })
    )

  for (const kind of kinds)
    for (const [what, left] of [
      ["keep silent", "sleep 5"],
      ["never stop", "timeout 5 yes"]
    ] as const)
      it.live(`those a child leaves behind on ${kind} that ${what} do not hold up its end`, () =>
        Effect.gen(function* () {
          const child = yield* launched(kind, "sh", "-c", `trap '' HUP; (${left}) & exit 5`)
          const started = performance.now()
          yield* Stream.runDrain(child.output)
          const status = yield* child.exited
          assert.deepStrictEqual(
            { status, late: performance.now() - started > 2_000 },
            { status: { code: 5, signal: null }, late: false }
          )
        })
      )
})

describe("RunChild input", () => {
  for (const kind of kinds)
    it.live(`a 1 MB paste on ${kind} into a stopped child costs next to nothing and goes nowhere else`, () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* stuckPaste(kind, yield* directory, 2_000), {
          share: "below 5 %",
          strayBytes: 0,
          status: { code: null, signal: "SIGKILL" }
        })
      })
    )

  for (const kind of kinds)
    it.live(`what a child on ${kind} does not read is refused beyond a limit`, () =>
      Effect.gen(function* () {
        const child = yield* deaf(kind)
        // The system takes a little of it.
        yield* child.write(Buffer.alloc(inputLimitBytes))
        yield* Effect.sleep(settleMs)
        const { _tag, pid, refusedBytes } = yield* Effect.flip(
          child.write(Buffer.alloc(inputLimitBytes))
        ).pipe(Effect.map((error) => ({ refusedBytes: 0, ...error })))
        assert.deepStrictEqual(
          { _tag, pid, refusedBytes },
          { _tag: "InputFull", pid: child.pid, refusedBytes: inputLimitBytes }
        )
      })
    )

  it.live("the end of the input finds room in a terminal that is full of it", () =>
    Effect.gen(function* () {
      const child = yield* launched("terminal", "sh", "-c", "stty -echo; echo up; sleep 0.3; cat | wc -l")
      yield* awaitText(child, "up")
      const lines = Buffer.from(`${"x".repeat(63)}\n`.repeat(inputLimitBytes / 64))
      yield* child.write(lines)
      // As much again as the system has taken of it.
      for (let more = 64; more < 64 * 1024; more += 64)
        yield* Effect.ignore(child.write(lines.subarray(0, 64)))
      yield* child.closeInput
      assert.isAtLeast(Number(yield* printed(child)), inputLimitBytes / 64)
    })
  )

  it.live("a large paste arrives whole in a terminal that is read late", () =>
    Effect.gen(function* () {
      const size = 1_000_000
      const child = yield* launched(
        "terminal",
        "sh",
        "-c",
        `stty raw -echo; echo up; sleep 0.3; head -c ${size} | cksum`
      )
      yield* awaitText(child, "up")
      const next = random(7)
      const paste = Buffer.from(Array.from({ length: size }, () => Math.floor(next() * 256)))
      yield* child.write(paste)
      const file = join(yield* directory, "paste")
      fs.writeFileSync(file, paste)
      const expected = yield* printed(yield* launched("pipes", "sh", "-c", `cksum < ${file}`))
      assert.strictEqual((yield* printed(child)).trim(), expected.trim())
    })
  )

  for (const [kind, told] of [
    ["pipes", "abc"],
    ["terminal", "abcabc"]
  ] as const)
    it.live(`the end of the input on ${kind} comes after what was written, in the middle of a line too`, () =>
      Effect.gen(function* () {
        const child = yield* launched(kind, "cat")
        yield* child.write(Buffer.from("abc"))
        yield* child.closeInput
        assert.deepStrictEqual(
          { text: yield* printed(child), status: yield* child.exited },
          { text: told, status: { code: 0, signal: null } }
        )
        const error = yield* Effect.flip(child.write(Buffer.from("late")))
        assert.strictEqual(error._tag, "InputClosed")
      })
    )
})
