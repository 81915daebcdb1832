/** PtySupervisor with real processes: how runs begin, what they print, how they end, and what is true about it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { spawn } from "node:child_process"
import { readdirSync } from "node:fs"
import type { ExitReason, ExitStatus, RunSpec } from "../src/services/Run.ts"
import { carriers } from "./support/markedProcesses.ts"
import {
  directory,
  leftOf,
  over,
  printed,
  rowsOf,
  shell,
  specOf,
  supervisorOf,
  untilPrinted
} from "./support/ptySupervisor.ts"
import { fixture } from "./support/runChild.ts"

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

describe("PtySupervisor on this machine", () => {
  for (const [what, [spec, reason, status]] of Object.entries(ends))
    it.live(`a run that ends by ${what} says so, and so does the ledger`, () =>
      Effect.gen(function* () {
        const world = yield* supervisorOf()
        const { id } = yield* world.runs.start(spec)
        const info = yield* over(world, id)
        assert.deepStrictEqual(
          {
            end: { state: info.state, reason: info.reason, status: info.status, extinction: info.extinction },
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
    it.live(`64 KB that are printed on ${kind} right before the exit are whole in the log`, () =>
      Effect.gen(function* () {
        const bytes = 64 * 1024
        const world = yield* supervisorOf()
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
        const whole = Array.from({ length: bytes / 8 }, (_, number) => String(number).padStart(8, "0")).join(
          ""
        )
        assert.deepStrictEqual(
          texts.map((text) => text === whole),
          texts.map(() => true)
        )
      })
    )

  it.live("a command that cannot be started is a spawn error that says why, and leaves nothing", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf()
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
          left: carriers(world.range!.low, world.range!.high)
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

  it.live("fifty runs at once, half of them on terminals, each end with what was theirs", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf()
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
        { ended, left: carriers(world.range!.low, world.range!.high) },
        { ended: numbers.map((number) => [number, `run ${number}`]), left: [] }
      )
    })
  )

  it.live("a child gets the named variables, its own and its cookie, and no secret of the gateway", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({
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

  it.live("the directories that a run has of its own are there while it is, private, and gone after it", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf()
      const { id } = yield* world.runs.start(
        shell('mkdir "$TMUX_TMPDIR/tmux-0"; stat -c %a "${PATH##*:}" "$TMUX_TMPDIR"; exec sleep 60')
      )
      yield* untilPrinted(world, id, "700\n700")
      yield* world.runs.end(id, { by: "operator", graceMs: null })
      assert.deepStrictEqual(
        { runtime: readdirSync(`${world.home}/run`), state: readdirSync(`${world.home}/state/runs/${id}`) },
        { runtime: [], state: ["output.0000000000000000.log", "output.marks"] }
      )
    })
  )

  it.live(
    "what is written reaches the run, its window has the size it is given, and its input can be ended",
    () =>
      Effect.gen(function* () {
        const world = yield* supervisorOf()
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

  it.live("a run that is restarted has the same log and mark, and another leader", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf()
      const { id } = yield* world.runs.start(
        shell("echo $$; exit 1", { restart: "transient", restartLimits: { intensity: 2, periodMs: 60_000 } })
      )
      const seen = yield* Stream.runCollect(world.runs.watch(id))
      const leaders = new Set(seen.flatMap(({ leader }) => leader?.pid ?? []))
      const text = yield* printed(world.log, id)
      assert.deepStrictEqual(
        { attempt: seen.at(-1)!.attempt, leaders: [...leaders].map(String) },
        { attempt: 3, leaders: text.trim().split("\n") }
      )
    })
  )
})

describe("PtySupervisor after a gateway that was killed", () => {
  /** As a killed gateway leaves it: the row is open, and so is the process. */
  const orphan = Effect.fnUntraced(function* (
    change: (id: string, pid: number) => string,
    cookie: "variable" | "path" | "none" = "variable"
  ) {
    const home = yield* directory
    const first = yield* supervisorOf({ home, epoch: "first" })
    const { id } = yield* first.runs.start(shell("exit 0"))
    yield* over(first, id)
    yield* first.close
    const [row] = rowsOf(home)
    const mark = Number(row!["mark_high"])
    const child = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        const child = spawn("prlimit", [`--locks=${mark}:${mark}`, "--", "sleep", "60"], {
          detached: true,
          stdio: "ignore",
          env: {
            PATH: `${process.env["PATH"]}${cookie === "path" ? `:${home}/state/runs/${id}/bin` : ""}`,
            ...(cookie === "variable" ? { HOLDFAST_RUN: id } : {})
          }
        })
        // Until prlimit has become it, it has no mark.
        while (carriers(mark, mark).length === 0) await new Promise((go) => setTimeout(go, 5))
        return child
      }),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    )
    rowsOf(home, change(id, child.pid!))
    const second = yield* supervisorOf({ home, epoch: "second" })
    const [end] = rowsOf(home)
    return {
      reconciled: second.runs.reconciled.map(({ runId, ...rest }) => ({ own: runId === id, ...rest })),
      listed: (yield* second.runs.list).map(({ state, lost }) => ({ state, lost })),
      closed: end!["ended_at"] !== null,
      left: leftOf({ low: mark, high: mark }, []).length
    }
  })

  const open = (id: string, set: string) =>
    `UPDATE runs SET ended_at = NULL, outcome = NULL, ${set} WHERE run_id = '${id}'`

  it.live.each(["variable", "path"] as const)(
    "a process that was forked and never noted is found by its cookie (%s) and mark, and ended",
    (cookie) =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* orphan((id) => open(id, "pid = NULL, start_token = NULL"), cookie), {
          reconciled: [
            {
              own: true,
              dealing: { _tag: "sweep", lost: "both-lost" },
              extinction: { proven: true, survivors: [] }
            }
          ],
          listed: [{ state: "Lost", lost: "both-lost" }],
          closed: true,
          left: 0
        })
      })
  )

  it.live("one whose mark alone is the run's is left and reported", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* orphan((id) => open(id, "pid = NULL, start_token = NULL"), "none"), {
        reconciled: [{ own: true, dealing: { _tag: "leave", because: "not-proven" }, extinction: null }],
        listed: [{ state: "Lost", lost: null }],
        closed: false,
        left: 1
      })
    })
  )

  it.live("500 open rows are dealt with in less than 2 s", () =>
    Effect.gen(function* () {
      const home = yield* directory
      const first = yield* supervisorOf({ home, epoch: "first" })
      const { id } = yield* first.runs.start(shell("exit 0"))
      yield* over(first, id)
      yield* first.close
      rowsOf(
        home,
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO runs SELECT run_id || '-' || i, epoch, spec, boot_id, pid_namespace, mark_low, mark_high,
           created_at, attempt, pid, start_token, NULL, NULL FROM runs, n`
      )
      const began = performance.now()
      const second = yield* supervisorOf({ home, epoch: "second" })
      const tookMs = Math.round(performance.now() - began)
      assert.deepStrictEqual(
        {
          dealt: second.runs.reconciled.length,
          how: [...new Set(second.runs.reconciled.map(({ dealing }) => JSON.stringify(dealing)))],
          open: rowsOf(home).filter(({ ended_at }) => ended_at === null).length,
          inTime: tookMs < 2_000 ? "in time" : `${tookMs} ms`
        },
        { dealt: 500, how: ['{"_tag":"close","lost":"both-lost"}'], open: 0, inTime: "in time" }
      )
    })
  )
})
