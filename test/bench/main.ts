/**
 * bench: measures every performance budget of the design, each beside a floor taken in the same run, and says which hold.
 *
 * It exits 0 when it could measure, whatever the numbers are, and 1 when it could not. Nothing of it is left behind.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as os from "node:os"
import { parseArgs } from "node:util"
import * as daemon from "./daemon.ts"
import * as decisions from "./decisions.ts"
import { BenchFailed } from "./helper.ts"
import * as hooks from "./hooks.ts"
import * as adoptions from "./adoptions.ts"
import * as endings from "./endings.ts"
import * as keepers from "./keepers.ts"
import * as leases from "./leases.ts"
import * as nodes from "./nodes.ts"
import * as ptys from "./ptys.ts"
import * as records from "./records.ts"
import { type LeftOut, type Measured, type Row, text } from "./report.ts"
import { preference } from "../../src/services/HookClients.ts"
import * as shells from "./shells.ts"
import * as stops from "./stops.ts"
import * as turns from "./turns.ts"

/** Of one suite; the slowest takes a third of it on two busy cores. */
const suiteTimeoutMs = 90_000

interface Suite {
  /** The rows it can have; those of another client or without one are left out. */
  readonly ids: ReadonlyArray<string>
  readonly measure: (quick: boolean) => Effect.Effect<Measured, unknown, Scope.Scope>
}

const perClient = (id: string): ReadonlyArray<string> => preference.map((kind) => `${id}-${kind}`)

const suites: ReadonlyArray<Suite> = [
  { ids: [...perClient("hook"), "hook-true"], measure: hooks.oneHook },
  { ids: perClient("memory"), measure: hooks.memory },
  { ids: ["hooks-32", "hooks-32-loop"], measure: hooks.atOnce },
  { ids: ["hooks-200", "hooks-200-loop"], measure: hooks.manyAtOnce },
  { ids: ["down-refused", "down-absent"], measure: hooks.gatewayDown },
  { ids: ["gateway-ready"], measure: daemon.ready },
  { ids: ["gateway-rss", "gateway-cpu"], measure: daemon.idle },
  { ids: ["decision-p50", "decision-p99"], measure: decisions.latency },
  { ids: ["decision-cpu", "decision-cpu-row"], measure: decisions.serverCpu },
  {
    ids: ["prune-10", "prune-1k", "prune-10k", "prune-10k-disk"].flatMap((id) => [
      id,
      `${id}-stall`,
      `${id}-stall-own`
    ]),
    measure: records.prune
  },
  { ids: ["register-10k"], measure: records.register },
  { ids: ["shell-false-asks", "shell-labels", "shell-p50", "shell-p99"], measure: shells.judging },
  { ids: ["turn-call", "turn-call-hook"], measure: turns.perCall },
  { ids: ["borrow-warm"], measure: leases.borrowWarm },
  { ids: ["borrow-first"], measure: leases.borrowFirst },
  { ids: ["poison-told", "poison-next"], measure: leases.poison },
  { ids: ["route-rate"], measure: leases.routeRate },
  { ids: ["route-fair", "route-fair-16k"].flatMap((id) => [id, `${id}-own`]), measure: leases.routeFair },
  { ids: ["memory-thread", "memory-run", "shared-50"], measure: () => leases.memory },
  { ids: ["stop-1k", "stop-1k-own", "stop-1k-time"], measure: stops.thousand },
  { ids: ["pty-100", "pty-keeper", "pty-tmux"], measure: ptys.hundred },
  { ids: ["pty-log"], measure: ptys.output },
  { ids: ["attach"], measure: ptys.attach },
  { ids: ["keeper-ready", "keeper-next"], measure: keepers.ready },
  { ids: ["keeper-rss", "keeper-run", "keeper-run-cold", "gateway-run"], measure: () => keepers.memory },
  { ids: ["stop-20", "stop-20-time"], measure: endings.stop },
  { ids: ["kill-gateway", "kill-gateway-jobs"], measure: endings.killGateway },
  { ids: ["adopt-100", "adopt-100-lost"], measure: adoptions.adopt },
  { ids: ["reconcile-500"], measure: adoptions.reconcile },
  { ids: ["tls-full", "tls-resumed"], measure: nodes.handshakes },
  {
    ids: ["nodes-200", "nodes-200-cpu", "nodes-200-rss", "nodes-200-idle"],
    measure: nodes.twoHundred
  }
]

const usage = "usage: npm run bench -- [--quick] [--only ID[,ID...]] [--json FILE]"

const readArguments = () => {
  try {
    const { values } = parseArgs({
      options: { json: { type: "string" }, only: { type: "string" }, quick: { type: "boolean" } }
    })
    return { json: values.json ?? null, only: values.only?.split(",") ?? null, quick: values.quick ?? false }
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${usage}\n`)
    return process.exit(2)
  }
}

const { json, only, quick } = readArguments()

/** A row by its own id, or by that of its family: `prune` is all of `prune-*`. */
const isWanted = (id: string): boolean =>
  only === null || only.some((wanted) => id === wanted || id.startsWith(`${wanted}-`))

const load = (): string => os.loadavg()[0]!.toFixed(1)

const bench = Effect.gen(function* () {
  const rows: Array<Row> = []
  const leftOut: Array<LeftOut> = []
  const broken: Array<string> = []
  const before = load()
  for (const { ids, measure } of suites.filter(({ ids }) => ids.some(isWanted))) {
    const id = ids.filter(isWanted).join(" ")
    process.stderr.write(`${id} ...`)
    const from = performance.now()
    const exit = yield* Effect.exit(
      Effect.scoped(measure(quick)).pipe(
        Effect.timeoutOrElse({
          duration: suiteTimeoutMs,
          orElse: () => Effect.fail(new BenchFailed({ problem: `not done within ${suiteTimeoutMs} ms` }))
        })
      )
    )
    process.stderr.write(` ${((performance.now() - from) / 1000).toFixed(1)} s\n`)
    if (Exit.isSuccess(exit)) {
      rows.push(...exit.value.rows.filter((row) => isWanted(row.id)))
      leftOut.push(...(exit.value.leftOut ?? []).filter((row) => isWanted(row.id)))
    } else if (Cause.hasInterruptsOnly(exit.cause)) return yield* exit
    else broken.push(`${id}: ${Cause.pretty(exit.cause)}`)
  }
  if (rows.length === 0 && leftOut.length === 0 && broken.length === 0)
    return yield* new BenchFailed({ problem: `nothing is called ${only?.join(", ")}; ${usage}` })
  const missed = rows.filter(({ met }) => met === false)
  const lines = [
    text(rows),
    "",
    `Medians, value and floor in turns, n of each. ${os.availableParallelism()} cores, load ${before} before and ${load()} after, Node ${process.version}, ${os.platform()} ${os.arch()}.`,
    ...leftOut.map(({ id, why }) => `Left out: ${id}, because ${why}.`),
    missed.length === 0
      ? "No budget is missed."
      : `Budgets missed: ${missed.map(({ id }) => id).join(", ")}.`,
    ...broken.map((problem) => `BROKEN: ${problem}`)
  ]
  process.stdout.write(`${lines.join("\n")}\n`)
  if (json !== null) fs.writeFileSync(json, `${JSON.stringify({ rows, leftOut, broken }, null, 2)}\n`)
  if (broken.length > 0) return yield* new BenchFailed({ problem: `${broken.length} could not be measured` })
})

NodeRuntime.runMain(bench)
