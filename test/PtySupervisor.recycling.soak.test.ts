/**
 * Numbers that change hands: runs die, innocents get their numbers, and whoever looks after the runs signals none of them,
 * neither at the next start nor in the middle of a stop. 10,000 by `npm run soak`, everything else 200.
 */
import { assert, describe, layer as withLayer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { openDriver, toldOf } from "./support/keptZoo.ts"
import { layer, numberedPlace, recycles } from "./support/outside.ts"
import { rowsOf } from "./support/ptySupervisor.ts"
import type { Begun, Listed } from "./support/runDriver.ts"
import { talker } from "./support/talker.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
/** Runs at once, and how often. */
const [runs, rounds] = soak ? [100, 90] : [80, 2]
/** Children of one run that leave when they are asked, while the run itself does not. */
const [children, stops] = soak ? [100, 10] : [40, 1]

const recycler = path.resolve(import.meta.dirname, "fixtures/recycles-pids.pl")

/** Of lines of words, where each answer starts with its name. */
const innocents = Effect.fnUntraced(function* (place: Effect.Success<typeof numberedPlace>) {
  const { child, hearLine } = yield* talker<never>(() =>
    place.spawn("perl", [recycler, ...(recycles ? [] : ["anywhere"])])
  )
  const ask = (line: string) =>
    Effect.andThen(
      Effect.sync(() => child.stdin.write(`${line}\n`)),
      Effect.map(hearLine, (answer) =>
        answer
          .split(" ")
          .slice(1)
          .filter((word) => word !== "")
      )
    )
  return {
    make: (numbers: ReadonlyArray<number>) =>
      Effect.map(ask(`make ${numbers.join(" ")}`), (made) =>
        made.map((one) => {
          const [pid, start] = one.split(":")
          return { pid: Number(pid), start: String(start) }
        })
      ),
    /** Who has heard or suffered something; nobody is left of them afterwards. */
    leave: Effect.tap(ask("check"), () => ask("leave"))
  }
})

const sleeper = { command: "/bin/sh", args: ["-c", "echo up; exec sleep 60"] }

/** It does not listen; its children do. */
const crowd = {
  command: "perl",
  args: [
    "-e",
    `$| = 1; for (1 .. ${children}) { unless (fork) { sleep 60; exit } }
      $SIG{HUP} = $SIG{TERM} = "IGNORE"; $SIG{CHLD} = "IGNORE"; print "up\\n"; 1 while sleep 60`
  ],
  killGraceMs: 2_000
}

const how = recycles ? "in a pid namespace" : "named by the ledger"

describe("PtySupervisor where numbers change hands", () => {
  withLayer(layer, { excludeTestServices: true })((it) => {
    it.effect(
      `${runs * rounds} innocents with the numbers of dead runs, half of them of the same clock tick, are left alone ${how}`,
      () =>
        Effect.gen(function* () {
          const place = yield* numberedPlace
          const others = yield* innocents(place)
          let life = yield* openDriver(place, "keeps-runs")
          let recycled = 0
          for (let round = 0; round < rounds; round++) {
            const begun = (yield* life.ask({
              _tag: "start",
              runs: Array.from({ length: runs }, () => sleeper)
            })) as Begun
            const before = toldOf(yield* life.ask({ _tag: "list" }), begun)
            const dead = before.map(({ pid }) => pid!)
            yield* place.run("kill", ["-9", String(life.pid), ...dead.map(String)])
            const made = yield* others.make(dead)
            recycled += made.length
            // As if the innocent had begun in the very tick in which the run had: nothing but the mark tells them apart.
            const twins = before.flatMap(({ id }, index) => {
              const other = recycles ? made.find(({ pid }) => pid === dead[index]) : made[index]
              return other === undefined ? [] : [{ id, ...other, same: index % 2 === 0 }]
            })
            rowsOf(
              place.home,
              twins
                .map(
                  ({ id, pid, start, same }) =>
                    `UPDATE runs SET pid = ${pid}${same ? `, start_token = '${start}'` : ""} WHERE run_id = '${id}';`
                )
                .join("\n")
            )
            life = yield* openDriver(place, "keeps-runs")
            const after = new Map(
              ((yield* life.ask({ _tag: "list" })) as ReadonlyArray<Listed>).map((one) => [one.id, one])
            )
            assert.deepStrictEqual(
              {
                harmed: yield* others.leave,
                twins: twins.map(({ id, same }) => {
                  const { state, lost, endedAt } = after.get(id)!
                  return { state, lost, open: endedAt === null, same }
                })
              },
              {
                harmed: [],
                twins: twins.map(({ same }) => ({
                  state: "Lost",
                  // Left alone and shown, because nothing proves whose it is; else it is known that the run's has gone.
                  lost: same ? null : "both-lost",
                  open: same,
                  same
                }))
              },
              `round ${round}`
            )
          }
          // Another process of the namespace may come first now and then.
          assert.isAtLeast(recycled, Math.floor(0.95 * runs * rounds))
        }),
      soak ? 1_200_000 : 60_000
    )

    it.effect(
      `${children * stops} innocents that get the numbers of a run's children in the middle of its stop hear nothing of it`,
      () =>
        Effect.gen(function* () {
          const place = yield* numberedPlace
          const others = yield* innocents(place)
          const life = yield* openDriver(place, "keeps-runs")
          for (let stop = 0; stop < stops; stop++) {
            const begun = (yield* life.ask({ _tag: "start", runs: [crowd] })) as Begun
            const [{ pid }] = toldOf(yield* life.ask({ _tag: "list" }), begun) as [Listed]
            const { stdout } = yield* place.run("cat", [`/proc/${pid}/task/${pid}/children`])
            const theirs = stdout.trim().split(" ").map(Number)
            const [listed, made] = yield* Effect.all(
              [life.ask({ _tag: "end", by: "stop" }), others.make(theirs)],
              { concurrency: 2 }
            )
            const [{ reason, extinction }] = toldOf(listed, begun) as [Listed]
            assert.deepStrictEqual(
              { harmed: yield* others.leave, most: made.length >= 0.9 * children, reason, extinction },
              { harmed: [], most: true, reason: "stopped", extinction: { proven: true, survivors: [] } },
              `stop ${stop}`
            )
          }
        }),
      soak ? 600_000 : 60_000
    )
  })
})
