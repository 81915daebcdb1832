/**
 * Gateways and keepers that are killed at random moments under load, and gateways that are replaced. The seed of a failure is
 * in its message. 300 kills and 50 upgrades by `npm run soak`, everything else 20 and 3.
 */
import { assert, describe, layer as withLayer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { maxRuns } from "../src/services/PtySupervisor.ts"
import { holdfast, listed, up } from "./support/cliZoo.ts"
import { keepersOf, openDriver } from "./support/keptZoo.ts"
import { layer, Outside, proof, untilNobody } from "./support/outside.ts"
import { random } from "./support/random.ts"
import type { Begun, Listed } from "./support/runDriver.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
const kills = soak ? 300 : 20
const upgrades = soak ? 50 : 3
/** Runs at any time; 20 by `npm run soak`. */
const live = soak ? 20 : 4
const counters = soak ? 20 : 6
const seed = Number(process.env["HOLDFAST_SEED"] ?? 20261128)

/** How many processes each of them is while it lives. */
const sizes: Readonly<Record<string, number>> = {
  "plain.sh": 1,
  "double-fork-daemon.pl": 2,
  "fast-ghost.pl": 2,
  "setsid-orphan.pl": 2,
  "stopped-child.pl": 2
}
const names = Object.keys(sizes)

/** From the start of the next runs on; starting twenty takes about as long. */
const latestKillMs = soak ? 600 : 300
/** Between a kill and the next start. */
const latestPauseMs = 200
const settleMs = 30_000

const over = (state: string): boolean => state === "Exited" || state === "Lost"

/** Up to here the ledger, when it is full, has made room; ids are in the order of their times. */
const forgotten = (all: ReadonlyArray<Listed>): string =>
  all.length < maxRuns ? "" : all.reduce((oldest, { id }) => (id < oldest ? id : oldest), all[0]!.id)

/** Those whose end is not what became of them. */
const wrongEnds = (
  victim: "gateway" | "keeper" | "both",
  kept: boolean,
  before: ReadonlyArray<Listed>,
  after: ReadonlyArray<Listed>
): ReadonlyArray<string> =>
  after.flatMap((run) => {
    const was = before.find(({ id }) => id === run.id)
    if (was !== undefined && over(was.state)) return []
    const end = run.reason ?? run.lost ?? run.state
    // Its minute may be over, and its keeper may have noticed that its gateway was before it was killed itself.
    const always = ["exited", "gateway-lost"]
    const lost = victim === "keeper" ? "keeper-lost" : "both-lost"
    const expected = victim === "gateway" || !kept ? [...always, "Running"] : [...always, lost]
    // Whoever was only just being asked for may have come before or after it.
    const late = was === undefined ? ["Running", "never-started", "both-lost"] : []
    const same = run.state !== "Running" || was === undefined || run.pid === was.pid
    return same && [...expected, ...late].includes(end) ? [] : [`${path.basename(run.command)}: ${end}`]
  })

describe("the keeper, by kills and upgrades", () => {
  withLayer(layer, { excludeTestServices: true })((it) => {
    it.effect(
      `${kills} random kills of gateway, keeper or both leave no unknown survivor and lose no record, by ${proof}`,
      () =>
        Effect.gen(function* () {
          const { place: makePlace, stage } = yield* Outside
          const place = yield* makePlace
          const next = random(seed)
          const pick = <A>(from: ReadonlyArray<A>): A => from[Math.floor(next() * from.length)]!
          const acknowledged = new Set<string>()
          let gateway = yield* up(place)
          let first = yield* openDriver(place, "asks-for-runs")
          /** Before the kill of a round; after the one before. */
          let before: ReadonlyArray<Listed> = []
          let reached = ""
          const report = Effect.map(place.look, (all) =>
            [
              reached,
              ...all.map(({ pid, command }) => `${pid} ${command}`),
              gateway.stderr(),
              fs.readFileSync(path.join(place.home, "state/keeper.log"), "utf8").slice(-4_000)
            ].join("\n")
          )
          const within = <A>(ms: number, work: Effect.Effect<A>): Effect.Effect<A> =>
            Effect.timeoutOrElse(work, {
              duration: ms,
              orElse: () => Effect.flatMap(report, (text) => Effect.die(new Error(`hangs: ${text}`)))
            })

          for (let round = 0; round < kills; round++) {
            const victim = pick(["gateway", "keeper", "both"] as const)
            const killMs = Math.floor(next() * latestKillMs)
            const pauseMs = Math.floor(next() * latestPauseMs)
            const message = `seed ${seed}, round ${round}: ${victim} after ${killMs} ms, and ${pauseMs} ms`
            const missing = live - before.filter(({ state }) => !over(state)).length
            const runs = Array.from({ length: Math.max(1, missing) }, () => ({
              command: path.join(stage.tortures, pick(names)),
              args: [],
              killGraceMs: 100,
              onGatewayLoss: pick(["adopt", "kill"] as const),
              pty: next() < 0.5 ? { cols: 80, rows: 24 } : null
            }))
            reached = `${message}, driver`
            // Whoever asks is cut off in the middle of it, or not.
            const starting = yield* Effect.forkScoped(
              Effect.exit(
                Effect.map(first.ask({ _tag: "start", runs }), (answer) => {
                  for (const id of (answer as Begun).ids) acknowledged.add(id)
                })
              )
            )
            yield* Effect.sleep(killMs)
            const keepers = keepersOf(yield* place.look)
            const victims = [
              ...(victim === "gateway" ? [] : keepers),
              ...(victim === "keeper" ? [] : [gateway.pid])
            ]
            yield* Effect.forEach(victims, (pid) => place.signal(pid, "SIGKILL"), { concurrency: 2 })
            if (victim !== "keeper") {
              yield* gateway.gone
              yield* Effect.sleep(pauseMs)
              gateway = yield* up(place)
            }
            reached = `${message}, up`
            yield* within(settleMs, Fiber.await(starting))
            reached = `${message}, starting over`
            first.child.stdin.end()

            const caller = yield* openDriver(place, "asks-for-runs")
            const hangs = performance.now() + settleMs
            for (;;) {
              const after = (yield* within(settleMs, caller.ask({ _tag: "list" }))) as ReadonlyArray<Listed>
              const others = (yield* place.look).filter(
                ({ pid }) => pid !== gateway.pid && pid !== caller.pid && pid !== first.pid
              )
              const found = others.length - keepersOf(others).slice(0, 1).length
              const known = after
                .filter(({ state }) => !over(state))
                .reduce((sum, { command }) => sum + sizes[path.basename(command)]!, 0)
              const settled = after.every(({ state }) => over(state) || state === "Running")
              if (found === known && settled) {
                assert.deepStrictEqual(
                  {
                    wrong: wrongEnds(victim, keepers.length > 0, before, after),
                    lost: [...acknowledged, ...before.map(({ id }) => id)].filter(
                      (id) => id > forgotten(after) && !after.some((run) => run.id === id)
                    )
                  },
                  { wrong: [], lost: [] },
                  message
                )
                before = after
                break
              }
              if (performance.now() > hangs)
                assert.fail(
                  [
                    `${found} processes and ${known} known`,
                    yield* report,
                    ...after
                      .filter(({ state }) => !over(state))
                      .map(({ id, state, pid, command }) => `${id} ${state} ${pid} ${command}`)
                  ].join("\n")
                )
              yield* Effect.sleep(20)
            }
            first = caller
          }
          first.child.stdin.end()
          reached = `seed ${seed}: down`
          yield* holdfast(place, "down")
          const { left } = yield* untilNobody(place, (all) => all, settleMs)
          assert.deepStrictEqual(left, [], left.length > 0 ? yield* report : "")
        }),
      soak ? 3_600_000 : 180_000
    )

    it.effect(
      `${upgrades} upgrades lose no byte of ${counters} runs and no exit status`,
      () =>
        Effect.gen(function* () {
          const { place: makePlace, stage } = yield* Outside
          const place = yield* makePlace
          const told = path.join(place.home, "told")
          const fixture = stage.file("counts-until-told.pl")
          const next = random(seed)
          let gateway = yield* up(place)
          const { ids } = yield* Effect.scoped(
            Effect.gen(function* () {
              const caller = yield* openDriver(place, "asks-for-runs")
              const runs = Array.from({ length: counters }, (_, index) => ({
                command: "sh",
                args: ["-c", `echo up; exec perl ${fixture} ${told} ${index} 600`],
                pty: index % 2 === 0 ? { cols: 80, rows: 24 } : null
              }))
              return (yield* caller.ask({ _tag: "start", runs })) as Begun
            })
          )
          const leaders = (yield* listed(place)).map(({ id, pid }) => `${id} ${pid}`)
          for (let upgrade = 0; upgrade < upgrades; upgrade++) {
            yield* Effect.sleep(Math.floor(next() * 300))
            yield* place.signal(gateway.pid, "SIGTERM")
            yield* gateway.gone
            yield* Effect.sleep(Math.floor(next() * 200))
            // Some leave while there is no gateway at all.
            if (upgrade === upgrades - 1) fs.writeFileSync(told, "")
            gateway = yield* up(place)
          }
          const ended = yield* Effect.forEach(ids, (id, index) =>
            Effect.gen(function* () {
              const { code } = yield* place.run("sh", [path.join(stage.dist, "holdfast.sh"), "wait", id])
              const counted = (yield* holdfast(place, "logs", id)).replaceAll("\r", "").split("\n")
              const whole = [
                "up",
                ...Array.from({ length: counted.length - 2 }, (_, number) => String(number)),
                ""
              ]
              const strays = counted.findIndex((line, at) => line !== whole[at])
              return {
                code,
                index,
                whole: strays === -1 ? counted.length > 8 : counted.slice(strays - 2, strays + 3)
              }
            })
          )
          assert.deepStrictEqual(
            { ended, leaders: (yield* listed(place)).map(({ id, pid }) => `${id} ${pid}`) },
            { ended: ids.map((_, index) => ({ code: index, index, whole: true })), leaders },
            `seed ${seed}`
          )
        }),
      soak ? 600_000 : 90_000
    )
  })
})
