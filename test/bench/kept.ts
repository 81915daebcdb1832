/**
 * A gateway of the built programs with runs behind its keeper, and who is left of it all by an outside look: everybody has a
 * word of this world's own in the environment or the command line. Whoever is left at the end of the scope is killed.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import { runDefaults, type RunSpec } from "../../src/services/Run.ts"
import { callerOf, makePlace, type Place, startGateway } from "../support/gateway.ts"
import { BenchFailed, ensure } from "./helper.ts"

const lookMs = 2
/** Nothing that is waited for takes a third of this on two busy cores. */
const hangMs = 40_000

const read = (pid: number, file: string): string => {
  try {
    return fs.readFileSync(`/proc/${pid}/${file}`, "latin1")
  } catch {
    return ""
  }
}

/** A zombie has neither an environment nor a command line any more. */
export const bearers = (signs: ReadonlyArray<string>): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map(Number)
    .filter((pid) => {
      const text = `${read(pid, "environ")}\0${read(pid, "cmdline")}`
      return signs.some((sign) => text.includes(sign))
    })

export const isRunning = (pid: number): boolean => /^State:\s+[^ZX]/m.test(read(pid, "status"))

export const nameOf = (pid: number): string => read(pid, "comm").trim()

/** By a look that is repeated; fails when it never holds. */
export const until = Effect.fnUntraced(function* (what: string, holds: () => boolean) {
  const end = performance.now() + hangMs
  while (!holds()) {
    yield* ensure(performance.now() < end, `not within ${hangMs} ms: ${what}`)
    yield* Effect.sleep(lookMs)
  }
})

/** The time until all of them are the program they were started for: past their forks and execs. */
export const untilExecuted = (pids: ReadonlyArray<number>, name: string) => {
  let waiting = pids
  return until(`${pids.length} processes are ${name}`, () => {
    waiting = waiting.filter((pid) => nameOf(pid) !== name)
    return waiting.length === 0
  })
}

/** Kills whoever has such a word, again and again until nobody has. */
const endAll = (signs: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    for (;;) {
      const left = bearers(signs)
      if (left.length === 0) return
      for (const pid of left) yield* Effect.ignore(Effect.try(() => process.kill(pid, "SIGKILL")))
      yield* Effect.sleep(20)
    }
  }).pipe(
    Effect.timeoutOrElse({
      duration: hangMs,
      orElse: () => Effect.die(new Error(`processes of the bench are left: ${bearers(signs).join(", ")}`))
    })
  )

/** A word that nobody else has; whoever has it in its environment ends with the scope. */
export const makeSign: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => `hf-bench-${randomUUID()}`),
  (sign) => endAll([sign])
)

export const signVariable = "HOLDFAST_BENCH"

export const terminal = { cols: 80, rows: 24 } as const

export const specOf = (
  command: string,
  args: ReadonlyArray<string>,
  over: Partial<RunSpec> = {}
): RunSpec => ({
  ...runDefaults,
  command,
  args,
  cwd: "/",
  pty: terminal,
  ...over
})

/** Does nothing for longer than the bench takes. */
export const idler = specOf("sleep", ["300"])

/** Two processes that are deaf to HUP and TERM, one in a session of its own. */
export const stubborn = [
  "perl",
  "-e",
  'use POSIX qw(setsid); $SIG{HUP} = $SIG{TERM} = "IGNORE"; unless (fork) { setsid } sleep 300'
] as const

/** Of a place: all that bears one of its signs, and what starts its gateway and speaks to it. */
export const openKept = Effect.gen(function* () {
  const place = yield* makePlace()
  const sign = yield* makeSign
  const signs = [sign, place.home, place.runtimeDir]
  yield* Effect.addFinalizer(() => endAll(signs))
  const variables = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", [signVariable]: sign }
  return {
    place,
    variables,
    /** Gateway, keeper and whatever the runs started. */
    everybody: () => bearers(signs),
    ofRuns: () => bearers([sign])
  }
})

type Client = Context.Service.Shape<typeof ControlClient>

export const connect = (place: Place): Effect.Effect<Client, BenchFailed, Scope.Scope> =>
  Layer.build(callerOf(place)).pipe(
    Effect.map((context) => Context.get(context, ControlClient)),
    Effect.mapError((error) => new BenchFailed({ problem: String(error) }))
  )

/** As many of them, all running, by their leaders. */
export const startRuns = Effect.fnUntraced(function* (
  client: Client,
  specs: ReadonlyArray<RunSpec>,
  variables: Readonly<Record<string, string>>
) {
  const begun = yield* Effect.forEach(specs, (spec) => client.StartRun({ spec, variables }), {
    concurrency: "unbounded"
  })
  const ids = new Set(begun.map(({ id }) => id))
  const end = performance.now() + hangMs
  for (;;) {
    const { runs } = yield* client.ListRuns({ ended: false })
    const ours = runs.map(({ run }) => run).filter(({ id, leader }) => ids.has(id) && leader !== null)
    if (ours.length === specs.length) return ours.map(({ id, leader }) => ({ id, pid: leader!.pid }))
    yield* ensure(performance.now() < end, `only ${ours.length} of ${specs.length} runs are there`)
    yield* Effect.sleep(lookMs)
  }
})

/** A gateway of its own and a caller. */
export const openGateway = Effect.gen(function* () {
  const kept = yield* openKept
  const gateway = yield* startGateway(kept.place)
  const client = yield* connect(kept.place)
  return { ...kept, gateway, client }
})

export const keeperPid = Effect.fnUntraced(function* (client: Client) {
  const { keeper } = yield* client.Status()
  return keeper.identity?.pid ?? (yield* new BenchFailed({ problem: "there is no keeper" }))
})
