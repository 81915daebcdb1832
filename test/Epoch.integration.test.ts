/** Epoch with gateways that are processes, on one database file, killed without warning. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { EpochRecord, EpochSwept } from "../src/services/Epoch.ts"
import { bystander, carriers, lives, started } from "./support/markedProcesses.ts"

const scratch = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-epoch-"))),
  (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
)

interface Life {
  readonly current?: EpochRecord
  readonly swept?: ReadonlyArray<EpochSwept>
  readonly sleeper?: number
  readonly refusedBy?: number
  readonly verdict?: string
}

const gateway = (directory: string) =>
  Effect.map(
    started(process.execPath, new URL("./fixtures/lives-an-epoch.ts", import.meta.url).pathname, directory),
    ({ child, line }) => ({ child, said: JSON.parse(line) as Life })
  )

const killed = (child: { readonly kill: (signal: "SIGKILL") => boolean } & NodeJS.EventEmitter) =>
  Effect.promise(async () => {
    const exited = once(child, "exit")
    child.kill("SIGKILL")
    await exited
  })

const rowsOf = (directory: string, update?: string) => {
  const database = new DatabaseSync(join(directory, "state", "holdfast.db"))
  if (update !== undefined) database.exec(update)
  const rows = database
    .prepare("SELECT epoch, pid, ended_at, swept_at FROM epochs ORDER BY started_at, epoch")
    .all()
  database.close()
  return rows
}

/** Whatever a test leaves in its ranges ends with it. */
const endedAfterwards = (mark: { readonly low: number; readonly high: number }) =>
  Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const pid of carriers(mark.low, mark.high)) process.kill(pid, "SIGKILL")
    })
  )

describe("Epoch on disk", () => {
  it.live("of gateways that start at once exactly one lives, and the others name it", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const all = yield* Effect.forEach([1, 2, 3], () => gateway(directory), { concurrency: 3 })
      const winners = all.filter(({ said }) => said.current !== undefined)
      const winner = winners[0]!
      yield* endedAfterwards(winner.said.current!.mark!)
      assert.deepStrictEqual(
        {
          winners: winners.length,
          losers: all.filter((one) => one !== winner).map(({ said }) => said),
          rows: rowsOf(directory).map(({ pid, ended_at }) => ({ pid, ended_at }))
        },
        {
          winners: 1,
          losers: [1, 2].map(() => ({ refusedBy: winner.child.pid!, verdict: "alive" })),
          rows: [{ pid: winner.child.pid!, ended_at: null }]
        }
      )
    })
  )

  it.live(
    "what a killed gateway left behind is ended by the next start, even when its number runs again",
    () =>
      Effect.gen(function* () {
        const directory = yield* scratch
        const first = yield* gateway(directory)
        const mark = first.said.current!.mark!
        yield* endedAfterwards(mark)
        yield* killed(first.child)
        assert.deepStrictEqual(carriers(mark.low, mark.high), [first.said.sleeper!])
        // As if the number had been given to a program of the user meanwhile: later than the tick of 10 ms it started in.
        const innocent = yield* bystander
        rowsOf(directory, `UPDATE epochs SET pid = ${innocent.pid}`)

        const second = yield* gateway(directory)
        yield* endedAfterwards(second.said.current!.mark!)
        const [closed, open] = rowsOf(directory)
        assert.deepStrictEqual(
          {
            swept: second.said.swept?.map(({ epoch, report }) => ({
              epoch,
              ended: report.ended.map(({ identity, mark, command }) => ({
                pid: identity.pid,
                mark,
                command
              })),
              survivors: report.survivors,
              proven: report.proven
            })),
            left: carriers(mark.low, mark.high),
            innocent: lives(innocent),
            closed: closed?.["ended_at"] !== null && closed?.["swept_at"] !== null,
            open: [open?.["ended_at"], open?.["swept_at"]]
          },
          {
            swept: [
              {
                epoch: first.said.current!.epoch,
                ended: [{ pid: first.said.sleeper!, mark: mark.high, command: "sleep" }],
                survivors: [],
                proven: true
              }
            ],
            left: [],
            innocent: true,
            closed: true,
            open: [null, null]
          }
        )
      })
  )
})
