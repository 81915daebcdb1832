/** The promises of PtySupervisor with real processes: how runs begin, what they print, how they end, and what is true about it. */
import { assert, describe, type it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { readdirSync } from "node:fs"
import type { ExitReason, ExitStatus, RunSpec } from "../../src/services/Run.ts"
import {
  over,
  printed,
  shell,
  specOf,
  type supervisorOf,
  untilPrinted,
  type WorldOptions
} from "../support/ptySupervisor.ts"
import { fixture } from "../support/runChild.ts"

const pty = { cols: 80, rows: 24 }

/** How one run ends by itself. */
const ends: Readonly<Record<string, readonly [RunSpec, ExitReason, ExitStatus | null]>> = {
  "an exit code": [shell("exit 3"), { _tag: "exited", code: 3 }, { code: 3, signal: null }],
  "an exit code on a terminal": [
    shell("exit 3", { pty }),
    { _tag: "exited", code: 3 },
    { code: 3, signal: null }
  ],
  "a signal": [
    shell("kill -9 $$"),
    { _tag: "signalled", signal: "SIGKILL" },
    { code: null, signal: "SIGKILL" }
  ],
  "a signal on a terminal": [
    shell("kill -9 $$", { pty }),
    { _tag: "signalled", signal: "SIGKILL" },
    { code: null, signal: "SIGKILL" }
  ],
  "its overall timeout": [
    shell("trap 'exit 9' HUP TERM; while :; do sleep 0.05; done", { timeoutMs: 200 }),
    { _tag: "overall-timeout", timeoutMs: 200 },
    { code: 9, signal: null }
  ],
  "its start-up timeout": [
    shell("exec sleep 60", { startTimeoutMs: 200 }),
    { _tag: "startup-timeout", timeoutMs: 200 },
    { code: null, signal: "SIGHUP" }
  ],
  "its silence": [
    shell("echo once; exec sleep 60", { idleTimeoutMs: 300 }),
    { _tag: "no-output-timeout", timeoutMs: 300 },
    { code: null, signal: "SIGHUP" }
  ]
}

/** What both layers promise. `worldOf` gives a life of one of them, which ends with the scope. */
export const suite = (
  name: string,
  worldOf: (options?: WorldOptions) => ReturnType<typeof supervisorOf>,
  live: typeof it.live
) =>
  describe(name, () => {
    for (const [what, [spec, reason, status]] of Object.entries(ends))
      live(`a run that ends by ${what} says so, and so does the ledger`, () =>
        Effect.gen(function* () {
          const world = yield* worldOf()
          const { id } = yield* world.runs.start(spec)
          const info = yield* over(world, id)
          assert.deepStrictEqual(
            {
              end: {
                state: info.state,
                reason: info.reason,
                status: info.status,
                extinction: info.extinction
              },
              ledger: yield* world.endsOf([id])
            },
            {
              end: { state: "Exited", reason, status, extinction: { proven: true, survivors: [] } },
              ledger: [{ reason: reason._tag, extinction: { proven: true, survivors: [] } }]
            }
          )
        })
      )

    for (const [kind, size] of [
      ["a terminal", pty],
      ["pipes", null]
    ] as const)
      live(`64 KB that are printed on ${kind} right before the exit are whole in the log`, () =>
        Effect.gen(function* () {
          const bytes = 64 * 1024
          const world = yield* worldOf()
          const spec = specOf("perl", { args: [fixture("prints-and-leaves.pl"), String(bytes)], pty: size })
          const texts = yield* Effect.forEach(
            Array.from({ length: 10 }),
            () =>
              Effect.gen(function* () {
                const { id } = yield* world.runs.start(spec)
                yield* over(world, id)
                return yield* printed(world.log, id)
              }),
            { concurrency: 5 }
          )
          const whole = Array.from({ length: bytes / 8 }, (_, number) =>
            String(number).padStart(8, "0")
          ).join("")
          assert.deepStrictEqual(
            texts.map((text) => text === whole),
            texts.map(() => true)
          )
        })
      )

    live("a command that cannot be started is a spawn error that says why, and leaves nothing", () =>
      Effect.gen(function* () {
        const world = yield* worldOf()
        const failing = [
          specOf("no-such-command", { restart: "permanent" }),
          specOf("/etc/passwd", { pty }),
          specOf("true", { cwd: "/nonexistent" })
        ]
        const infos = yield* Effect.forEach(failing, (spec) =>
          Effect.flatMap(world.runs.start(spec), ({ id }) => over(world, id))
        )
        assert.deepStrictEqual(
          {
            ends: infos.map(({ reason, status, attempt }) => [
              reason?._tag === "spawn-error" ? reason.problem : reason,
              status,
              attempt
            ]),
            left: world.left()
          },
          {
            ends: [
              ["command-not-found", null, 1],
              ["not-executable", null, 1],
              ["cwd-missing", null, 1]
            ],
            left: []
          }
        )
      })
    )

    live("fifty runs at once, half of them on terminals, each end with what was theirs", () =>
      Effect.gen(function* () {
        const world = yield* worldOf()
        const numbers = Array.from({ length: 50 }, (_, number) => number)
        const ended = yield* Effect.forEach(
          numbers,
          (number) =>
            Effect.gen(function* () {
              const { id } = yield* world.runs.start(
                shell(`echo run ${number}; exit ${number}`, { pty: number % 2 === 0 ? pty : null })
              )
              const { status } = yield* over(world, id)
              return [status?.code, (yield* printed(world.log, id)).trim()]
            }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          { ended, left: world.left() },
          { ended: numbers.map((number) => [number, `run ${number}`]), left: [] }
        )
      })
    )

    live("a child gets the named variables, its own and its cookie, and no secret of the gateway", () =>
      Effect.gen(function* () {
        const world = yield* worldOf({
          environment: {
            PATH: process.env["PATH"]!,
            LANG: "C",
            AWS_SECRET: "s",
            HOLDFAST_HOME: "/h",
            TERM: "dumb"
          }
        })
        const environmentOf = (size: RunSpec["pty"]) =>
          Effect.gen(function* () {
            const { id } = yield* world.runs.start(
              specOf("env", { env: { MINE: "1", HOLDFAST_RUN: "forged" }, pty: size })
            )
            yield* over(world, id)
            const text = (yield* printed(world.log, id)).replaceAll("\r", "").replaceAll(id, "<id>")
            const lines = text.replaceAll(id.slice(-12), "<end>").trimEnd().split("\n")
            return lines.toSorted()
          })
        const both = [
          "HOLDFAST_RUN=<id>",
          "LANG=C",
          "MINE=1",
          `PATH=${process.env["PATH"]}:${world.home}/state/runs/<id>/bin`
        ]
        const tmux = `TMUX_TMPDIR=${world.home}/run/t-<end>`
        assert.deepStrictEqual(
          [yield* environmentOf(pty), yield* environmentOf(null)],
          [
            [...both, "TERM=xterm-256color", tmux],
            [...both, "TERM=dumb", tmux]
          ]
        )
      })
    )

    live("the directories that a run has of its own are there while it is, private, and gone after it", () =>
      Effect.gen(function* () {
        const world = yield* worldOf()
        const { id } = yield* world.runs.start(
          shell('mkdir "$TMUX_TMPDIR/tmux-0"; stat -c %a "${PATH##*:}" "$TMUX_TMPDIR"; exec sleep 60')
        )
        yield* untilPrinted(world, id, "700\n700")
        yield* world.runs.end(id, { by: "operator", graceMs: null })
        assert.deepStrictEqual(
          {
            runtime: readdirSync(`${world.home}/run`).filter((name) => !name.startsWith("keeper-")),
            state: readdirSync(`${world.home}/state/runs/${id}`)
          },
          { runtime: [], state: ["output.0000000000000000.log", "output.marks"] }
        )
      })
    )

    live(
      "what is written reaches the run, its window has the size it is given, and its input can be ended",
      () =>
        Effect.gen(function* () {
          const world = yield* worldOf()
          const { id } = yield* world.runs.start(
            shell("stty -echo; echo up; read line; echo got $line; stty size; cat", { pty })
          )
          yield* untilPrinted(world, id, "up")
          yield* world.runs.resize(id, { cols: 100, rows: 30 })
          yield* world.runs.write(id, Buffer.from("hello\n"))
          yield* untilPrinted(world, id, "30 100")
          yield* world.runs.closeInput(id)
          const { status } = yield* over(world, id)
          const late = yield* Effect.flip(world.runs.write(id, Buffer.from("late")))
          assert.deepStrictEqual(
            [yield* printed(world.log, id), status?.code, late.message],
            ["up\r\ngot hello\r\n30 100\r\n", 0, `The run ${id} has no process.`]
          )
        })
    )

    live("the end of the layer stops what still runs, and the ledger says so", () =>
      Effect.gen(function* () {
        const world = yield* worldOf()
        const ids = yield* Effect.forEach([shell("exec sleep 60"), shell("exec sleep 60", { pty })], (spec) =>
          Effect.map(world.runs.start(spec), ({ id }) => id)
        )
        yield* Effect.forEach(ids, (id) =>
          world.runs.watch(id).pipe(
            Stream.takeUntil(({ leader }) => leader !== null),
            Stream.runDrain
          )
        )
        yield* world.close
        const stopped = { reason: "stopped", extinction: { proven: true, survivors: [] } }
        assert.deepStrictEqual(yield* world.endsOf(ids), [stopped, stopped])
      })
    )

    live("a run that is restarted has the same log and mark, and another leader", () =>
      Effect.gen(function* () {
        const world = yield* worldOf()
        const { id } = yield* world.runs.start(
          shell("echo $$; exit 1", {
            restart: "transient",
            restartLimits: { intensity: 2, periodMs: 60_000 }
          })
        )
        const seen = yield* Stream.runCollect(world.runs.watch(id))
        // Whoever watches may miss one that is gone at once; the log has them all.
        const seenLeaders = new Set(seen.flatMap(({ leader }) => leader?.pid ?? []))
        const text = yield* printed(world.log, id)
        assert.deepStrictEqual(
          {
            attempt: seen.at(-1)!.attempt,
            leaders: new Set(text.trim().split("\n")).size,
            strange: [...seenLeaders].filter((pid) => !text.includes(`${pid}\n`))
          },
          { attempt: 3, leaders: 3, strange: [] }
        )
      })
    )
  })
