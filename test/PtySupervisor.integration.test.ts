/** PtySupervisor with real processes: the promises of both layers, and what a start makes of what a killed one left. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { suite } from "./suites/PtySupervisor.ts"
import { carriers } from "./support/markedProcesses.ts"
import {
  directory,
  leftOf,
  over,
  rowsOf,
  shell,
  supervisorOf,
  untilPrinted
} from "./support/ptySupervisor.ts"

suite("PtySupervisor in this process", supervisorOf, it.live)
suite("PtySupervisor by way of a keeper", (options) => supervisorOf({ ...options, kept: true }), it.live)

describe("PtySupervisor whose keeper is killed", () => {
  it.live("answers whoever asks meanwhile, tells its runs as lost, and starts the next ones elsewhere", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({ kept: true })
      const { id } = yield* world.runs.start(shell("exec sleep 60"))
      yield* untilPrinted(world, (yield* world.runs.start(shell("echo up; exec sleep 60"))).id, "up")
      const keepers = world.staff()
      for (const pid of keepers) process.kill(pid, "SIGKILL")
      // All through the moments in which the connection is gone and nobody has noticed.
      const answers = yield* Effect.forEach(
        Array.from({ length: 300 }),
        () =>
          Effect.exit(world.runs.find(id)).pipe(
            Effect.timeoutOption("20 seconds"),
            Effect.tap(() => Effect.sleep(1))
          ),
        { concurrency: 1 }
      )
      const { lost } = yield* over(world, id)
      const next = yield* world.runs.start(shell("exit 3"))
      assert.deepStrictEqual(
        {
          keepers: keepers.length,
          unanswered: answers.filter(({ _tag }) => _tag === "None").length,
          lost,
          next: (yield* over(world, next.id)).reason
        },
        { keepers: 1, unanswered: 0, lost: "keeper-lost", next: { _tag: "exited", code: 3 } }
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
