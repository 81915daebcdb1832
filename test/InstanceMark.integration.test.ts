/** InstanceMark against real processes of every vice; a mark is taken in a child, never in the test runner. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { InstanceMark, layer, rangeOf } from "../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../src/layers/ProcessIdentity.ts"
import { Settings } from "../src/services/Settings.ts"
import { bystander, carriers, lives, marked, sleeper, started, vices } from "./support/markedProcesses.ts"

const settings = Layer.effect(
  Settings,
  Effect.map(Settings, (all) => ({ ...all, mark: { killGraceMs: 60, sweepTimeoutMs: 8_000 } }))
)
const live = layer.pipe(Layer.provide([layerIdentity, settings]))

describe("InstanceMark on this machine", () => {
  for (const [vice, { command, forked }] of Object.entries(vices))
    it.live(`a sweep leaves nothing of one that ${vice}`, () =>
      Effect.gen(function* () {
        const marks = yield* InstanceMark
        const range = yield* marks.choose
        const other = yield* bystander
        const { silence } = yield* marked(range.high, command[0]!, ...command.slice(1))
        const { ended, survivors, proven } = yield* marks.sweep(range)
        yield* silence
        assert.deepStrictEqual(
          {
            left: carriers(range.low, range.high),
            survivors,
            proven,
            bystander: lives(other),
            seen: ended.length >= forked,
            marks: ended.every(({ mark }) => mark === range.high)
          },
          { left: [], survivors: [], proven: true, bystander: true, seen: true, marks: true },
          `${ended.length} ended`
        )
      }).pipe(Effect.provide(live))
    )

  it.live("a process of another range, or without a mark, is not touched", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const below = yield* marked(range.low - 1, ...sleeper)
      const above = yield* marked(range.high + 1, ...sleeper)
      const inside = yield* marked(range.low, ...sleeper)
      const none = yield* started(...sleeper)
      const before = yield* marks.members(range)
      const report = yield* marks.sweep(range)
      assert.deepStrictEqual(
        {
          members: before.map(({ identity, mark, command }) => ({ pid: identity.pid, mark, command })),
          report,
          lives: [below, above, none].map(({ child }) => lives(child)),
          states: [below, above, none].map(({ child }) => stateOf(child.pid!))
        },
        {
          members: [{ pid: inside.child.pid!, mark: range.low, command: "perl" }],
          report: { ended: before, survivors: [], proven: true },
          lives: [true, true, true],
          states: ["S", "S", "S"]
        }
      )
    }).pipe(Effect.provide(live))
  )

  it.live("a well-behaved process is asked first and may clean up", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const { child } = yield* marked(
        range.high,
        "sh",
        "-c",
        "trap 'echo cleaned; exit 7' TERM; echo up; while :; do sleep 0.01; done"
      )
      const [line, report] = yield* Effect.all([nextLine(child), marks.sweep(range)], { concurrency: 2 })
      assert.deepStrictEqual([line, report.survivors, report.proven], ["cleaned", [], true])
    }).pipe(Effect.provide(live))
  )

  it.live("a stopped process is woken to clean up as well", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const { child } = yield* marked(
        range.high,
        "perl",
        "-e",
        `$| = 1; use POSIX ":sys_wait_h"; my $pid = fork;
          unless ($pid) { $SIG{TERM} = sub { print "cleaned\\n"; exit }; kill STOP => $$; sleep 60; exit }
          $SIG{TERM} = "IGNORE"; waitpid $pid, WUNTRACED; print "up\\n"; waitpid $pid, 0`
      )
      const [line, report] = yield* Effect.all([nextLine(child), marks.sweep(range)], { concurrency: 2 })
      assert.deepStrictEqual([line, report.survivors, report.proven], ["cleaned", [], true])
    }).pipe(Effect.provide(live))
  )

  it.live("nobody sees another be killed, so nobody can answer it", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const { child, silence } = yield* marked(
        range.high,
        "perl",
        "-e",
        `$| = 1; $SIG{TERM} = "IGNORE"; for (1 .. 20) { unless (fork) { sleep 60; exit } }
          print "up\\n"; wait; print "one was killed\\n"; sleep 60`
      )
      const said: Array<string> = []
      child.stdout.on("data", (chunk) => said.push(String(chunk)))
      const { ended } = yield* marks.sweep(range)
      yield* silence
      assert.deepStrictEqual([said, ended.length], [[], 21])
    }).pipe(Effect.provide(live))
  )

  it.live("an empty range is proven at once", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      assert.deepStrictEqual(yield* marks.sweep(yield* marks.choose), {
        ended: [],
        survivors: [],
        proven: true
      })
    }).pipe(Effect.provide(live))
  )

  it.live("a range in use is not chosen, and the test runner carries no mark", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      yield* marked(range.high, ...sleeper)
      const next = yield* marks.choose
      assert.deepStrictEqual(
        {
          own: yield* marks.own,
          next: rangeOf(next.high),
          disjoint: next.high < range.low || next.low > range.high
        },
        { own: null, next, disjoint: true }
      )
    }).pipe(Effect.provide(live))
  )

  it.live(
    "a taken mark is this process's soft and hard limit, and its children's; a nested one lies inside it",
    () =>
      Effect.gen(function* () {
        const { line } = yield* started(
          process.execPath,
          new URL("./fixtures/takes-marks.ts", import.meta.url).pathname
        )
        const { first, second, child, refused } = JSON.parse(line)
        assert.deepStrictEqual(
          {
            nested: first.low <= second.low && second.high < first.high,
            widths: [first.high - first.low, second.high - second.low],
            child,
            refused
          },
          {
            nested: true,
            widths: [2 ** 32 - 4, 2 ** 21 - 4],
            child: [String(second.high), String(second.high)],
            refused: `its limit is ${second.high} already, below ${first.high}`
          }
        )
      })
  )

  it.live("without prlimit there is no mark, and the error says what to install", () =>
    Effect.gen(function* () {
      const { line } = yield* started(
        "env",
        "PATH=/nonexistent",
        process.execPath,
        new URL("./fixtures/takes-marks.ts", import.meta.url).pathname
      )
      assert.strictEqual(line, '{"unavailable":"there is no prlimit command on PATH (install util-linux)"}')
    })
  )

  it.live("a prlimit that does nothing is found out", () =>
    Effect.gen(function* () {
      const directory = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-mark-"))),
        (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
      )
      yield* Effect.sync(() => writeFileSync(join(directory, "prlimit"), "#!/bin/sh\n", { mode: 0o700 }))
      const { line } = yield* started(
        "env",
        `PATH=${directory}`,
        process.execPath,
        new URL("./fixtures/takes-marks.ts", import.meta.url).pathname
      )
      assert.match(line, /^\{"unavailable":"prlimit set \d+ but \/proc says unlimited"\}$/)
    })
  )
})

const nextLine = (child: { readonly stdout: NodeJS.ReadableStream }) =>
  Effect.callback<string>((resume) => {
    child.stdout.once("data", (chunk) => resume(Effect.succeed(String(chunk).trim())))
  })

const stateOf = (pid: number) => /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
