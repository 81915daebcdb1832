/** Supervised children under test, and what this process holds open: read here by other code than the one under test. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { closeSync, fstatSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { launchChild } from "../../src/layers/internal/launchChild.ts"
import {
  type ChildSpec,
  lingerMs,
  type OutputChunk,
  type RunChild
} from "../../src/layers/internal/runChild.ts"
import { layer, Syscalls } from "../../src/layers/Syscalls.ts"

export type Kind = "terminal" | "pipes"
export const kinds: ReadonlyArray<Kind> = ["terminal", "pipes"]

/** The real ones. What the test runner got from whoever started it is nobody's of ours, and no child's. */
const calls = Effect.gen(function* () {
  const table = yield* (yield* Syscalls).table
  for (const fd of readdirSync("/proc/self/fd").map(Number)) if (fd > 2) table.closeOnExec(fd)
  return table
}).pipe(Effect.provide(layer), Effect.cached, Effect.runSync)

/** A command as `kind`, with this process's PATH and nothing else. */
export const specOf = (kind: Kind, command: string, ...args: ReadonlyArray<string>): ChildSpec => ({
  command,
  args,
  cwd: tmpdir(),
  env: { PATH: process.env["PATH"]! },
  mark: null,
  pty: kind === "terminal" ? { cols: 80, rows: 24 } : null
})

export const launched = (kind: Kind, command: string, ...args: ReadonlyArray<string>) =>
  launchedAs(specOf(kind, command, ...args))

export const launchedAs = (spec: ChildSpec) => Effect.flatMap(calls, (table) => launchChild(spec, table))

export const fixture = (name: string): string =>
  fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

const textOf = (chunks: ReadonlyArray<OutputChunk>): string =>
  Buffer.concat(chunks.map(({ bytes }) => bytes)).toString()

export const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-child-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true }))
)

/** All it prints until its end. */
export const printed = (child: RunChild) => Effect.map(Stream.runCollect(child.output), textOf)

/** Pulls until the output so far holds a text. */
export const awaitText = (child: RunChild, text: string) =>
  child.output.pipe(
    Stream.mapAccum(
      () => "",
      (sofar, chunk) => {
        const now = sofar + Buffer.from(chunk.bytes).toString()
        return [now, [now]] as const
      }
    ),
    Stream.takeUntil((sofar) => sofar.includes(text)),
    Stream.runLast
  )

const statOf = (pid: number | string): ReadonlyArray<string> => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8")
    return text.slice(text.lastIndexOf(")") + 2).split(" ")
  } catch {
    return []
  }
}

export const stateOf = (pid: number): string => statOf(pid)[0] ?? "gone"

/** In ticks of 10 ms, in the kernel and outside. */
export const ticksOf = (pid: number): number => Number(statOf(pid)[11]) + Number(statOf(pid)[12])

/**
 * What this process holds: descriptors, threads, and children that are there or not yet buried. The thread that waited for
 * a terminal's leader is joined in a turn of the event loop after the exit was told.
 */
export const holdings = Effect.gen(function* () {
  yield* Effect.sleep(50)
  return {
    descriptors: readdirSync("/proc/self/fd").length,
    threads: readdirSync("/proc/self/task").length,
    children: readdirSync("/proc").filter((pid) => Number(statOf(pid)[1]) === process.pid).length
  }
})

/** One child, from its start to its end. */
export const cycle = (kind: Kind) =>
  Effect.scoped(
    Effect.gen(function* () {
      const child = yield* launched(kind, "true")
      yield* Stream.runDrain(child.output)
      yield* child.exited
    })
  )

/** One that never reads. Of a line that is too long a terminal drops the rest instead of waiting, so it is raw. */
export const deaf = (kind: Kind) =>
  Effect.tap(launched(kind, "sh", "-c", "stty raw -echo 2> /dev/null; echo up; exec sleep 60"), (child) =>
    awaitText(child, "up")
  )

const pasteBytes = 1024 * 1024
/** Opened right after the kill, so that the numbers it set free are among them. */
const foreignFiles = 60

/** A paste into a stopped child, its kill, and what other files got of it. */
export const stuckPaste = (kind: Kind, directory: string, watchMs: number) =>
  Effect.gen(function* () {
    const child = yield* deaf(kind)
    yield* child.signalLeader("SIGSTOP")
    yield* child.write(Buffer.alloc(pasteBytes, "x"))
    const before = process.cpuUsage()
    yield* Effect.sleep(watchMs)
    const { user, system } = process.cpuUsage(before)
    const share = (user + system) / 1000 / watchMs
    yield* child.signalLeader("SIGKILL")
    const atOnce = opened(directory, "a")
    yield* Stream.runDrain(child.output)
    const status = yield* child.exited
    const later = opened(directory, "b")
    yield* Effect.sleep(250)
    const files = [...atOnce, ...later]
    const strayBytes = files.reduce((sum, fd) => sum + fstatSync(fd).size, 0)
    for (const fd of files) closeSync(fd)
    return { share: share < 0.05 ? "below 5 %" : `${(share * 100).toFixed(1)} %`, strayBytes, status }
  }).pipe(Effect.scoped)

const opened = (directory: string, name: string): ReadonlyArray<number> =>
  Array.from({ length: foreignFiles }, (_, index) => openSync(join(directory, `${name}${index}`), "w"))

export type Reader =
  | "reads at once"
  | "reads slowly"
  | "is away when the child leaves"
  | "comes back long after the child has left"
/** With the part of the rounds that each has the time for. */
export const readers: ReadonlyArray<readonly [Reader, number]> = [
  ["reads at once", 1],
  ["reads slowly", 4],
  ["is away when the child leaves", 1],
  ["comes back long after the child has left", 10]
]

/** So much of the end fits into a terminal or pipe that nobody reads. */
const unreadBytes = 4096

/** What came of a child that prints `size` bytes and leaves: that many as they were printed, and the status. */
export const burst = (kind: Kind, reader: Reader, size: number) =>
  Effect.gen(function* () {
    const child = yield* launched(kind, "perl", fixture("prints-and-leaves.pl"), String(size))
    let length = 0
    let wrong = 0
    const isLate = reader === "comes back long after the child has left"
    let isAway = isLate || reader === "is away when the child leaves"
    yield* Stream.runForEach(child.output, ({ bytes }) =>
      Effect.gen(function* () {
        for (const [index, byte] of bytes.entries()) if (byte !== byteAt(length + index)) wrong += 1
        length += bytes.length
        if (reader === "reads slowly") yield* Effect.sleep(1)
        if (isAway && length >= size - unreadBytes) {
          isAway = false
          yield* child.reaped
          if (isLate) yield* Effect.sleep(lingerMs * 1.5)
        }
      })
    )
    return { length, wrong, status: yield* child.exited }
  }).pipe(Effect.scoped)

/** Of the numbers in eight digits each that follow one another. */
const byteAt = (position: number): number => {
  const number = Math.floor(position / 8)
  const digit = 7 - (position % 8)
  return 48 + (Math.floor(number / 10 ** digit) % 10)
}

export const whole = (size: number) => ({ length: size, wrong: 0, status: { code: 7, signal: null } })
