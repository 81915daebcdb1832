/** The zoo over the built programs: a gateway by its launcher, its keeper, and the command line. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as path from "node:path"
import { type Ended, type Ending, killGraceMs } from "../suites/endings.ts"
import { keepersOf, openDriver, timeoutMs, toldOf } from "./keptZoo.ts"
import { Outside, type Place } from "./outside.ts"
import type { Begun, DrivenRun, Listed } from "./runDriver.ts"
import { talker } from "./talker.ts"

/** A generous time for what is over within two seconds. */
const overWithinMs = 20_000

/** Between two questions whether it is. */
const lookMs = 50

export interface Gateway {
  readonly pid: number
  readonly stderr: () => string
  /** Completes with its exit. */
  readonly gone: Effect.Effect<void>
}

/** `holdfast up`, past its ready line. */
export const up = Effect.fnUntraced(function* (
  place: Place
): Effect.fn.Return<Gateway, never, Scope.Scope | Outside> {
  const { stage } = yield* Outside
  const launcher = path.join(stage.dist, "holdfast.sh")
  const { child, hear, stderr } = yield* talker(() => place.spawn("sh", [launcher, "up", "--json"]))
  const { pid } = (yield* hear) as { readonly pid: number }
  return {
    pid,
    stderr,
    gone: Effect.callback((resume) => {
      if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
      child.once("exit", () => resume(Effect.void))
    })
  }
})

/** The command line, which must not fail. */
export const holdfast = Effect.fnUntraced(function* (place: Place, ...args: ReadonlyArray<string>) {
  const { stage } = yield* Outside
  const ran = yield* place.run("sh", [path.join(stage.dist, "holdfast.sh"), ...args])
  if (ran.code !== 0) throw new Error(`holdfast ${args.join(" ")} exits with ${ran.code}: ${ran.stderr}`)
  return ran.stdout
})

/** As `holdfast ps -a --json` has them. */
export const listed = (place: Place) =>
  Effect.map(holdfast(place, "ps", "-a", "--json"), (text) => {
    const { runs } = JSON.parse(text) as {
      readonly runs: ReadonlyArray<{
        readonly run: Omit<Listed, "reason" | "pid" | "command"> & {
          readonly reason: { readonly _tag: string } | null
          readonly leader: { readonly pid: number } | null
          readonly spec: { readonly command: string }
        }
      }>
    }
    return runs.map(
      ({ run: { id, state, lost, extinction, status, endedAt, reason, leader, spec } }): Listed => ({
        id,
        state,
        lost,
        extinction,
        status,
        endedAt,
        reason: reason?._tag ?? null,
        pid: leader?.pid ?? null,
        command: spec.command
      })
    )
  })

/** Of those that were begun, when each is over as the gateway has it. */
const overOf = (place: Place, begun: Begun) =>
  Effect.scoped(
    Effect.gen(function* () {
      const caller = yield* openDriver(place, "asks-for-runs")
      const hangs = performance.now() + overWithinMs
      for (;;) {
        const told = toldOf((yield* caller.ask({ _tag: "list" })) as ReadonlyArray<Listed>, begun)
        const isOver = told.every(({ endedAt }) => endedAt !== null)
        if (isOver || performance.now() > hangs) return told
        yield* Effect.sleep(lookMs)
      }
    })
  )

interface Surroundings {
  readonly place: Place
  readonly gateway: Gateway
  readonly keeper: number
  readonly begun: Begun
  readonly holdfast: (...args: ReadonlyArray<string>) => Effect.Effect<string>
  /** What `ps` says of those that were started. */
  readonly told: Effect.Effect<ReadonlyArray<Listed>>
  /** The next gateway in the same home, which is then the staff. */
  readonly reopen: Effect.Effect<Gateway>
}

interface How {
  readonly spec?: Partial<DrivenRun>
  readonly extraMs?: number
  readonly told: string | null
  /** Whether anybody but the bystander is to live on. */
  readonly staff: "gateway" | "gateway and keeper" | "nobody"
  readonly ender: "gateway" | "keeper"
}

const ending = (how: How, end: (all: Surroundings) => Effect.Effect<Ended>): Ending => ({
  extraMs: how.extraMs ?? 0,
  told: how.told,
  open: Effect.fnUntraced(function* (place) {
    const context = yield* Effect.context<Scope.Scope | Outside>()
    let gateway = yield* up(place)
    let begun: Begun = { ids: [], lastAt: 0 }
    let keeper = 0
    const reopen = Effect.tap(up(place), (next) => Effect.sync(() => (gateway = next))).pipe(
      Effect.provideContext(context)
    )
    return {
      start: Effect.fnUntraced(function* (runs) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const caller = yield* openDriver(place, "asks-for-runs")
            begun = (yield* caller.ask({
              _tag: "start",
              runs: runs.map((run) => ({ ...run, onGatewayLoss: "kill", ...how.spec }))
            })) as Begun
            caller.child.stdin.end()
            yield* Effect.callback<void>((resume) => {
              caller.child.once("exit", () => resume(Effect.void))
            })
          })
        ).pipe(Effect.provideContext(context))
        keeper = keepersOf(yield* place.look)[0] ?? 0
      }),
      due: Effect.suspend(() => {
        const after = how.spec?.timeoutMs ?? null
        return after === null ? Effect.void : Effect.sleep(Math.max(0, begun.lastAt + after - Date.now()))
      }),
      end: Effect.suspend(() =>
        end({
          place,
          gateway,
          keeper,
          begun,
          holdfast: (...args) => Effect.provideContext(holdfast(place, ...args), context),
          told: overOf(place, begun).pipe(Effect.provideContext(context)),
          reopen
        })
      ),
      withoutStaff: (left) => {
        if (how.staff === "nobody") return left
        const spared = how.staff === "gateway" ? [] : keepersOf(left).slice(0, 1)
        return left.filter(({ pid }) => pid !== gateway.pid && !spared.includes(pid))
      },
      ender: () => (how.ender === "gateway" ? gateway.pid : keeper)
    }
  })
})

const now = Effect.sync(() => performance.now())

/** The command line's own start. */
const commandMs = 500

/** What a sweep gives by itself, over the grace of these runs. */
const sweepGraceMs = 500 - killGraceMs

/** Whoever is to adopt the runs does not come. */
const adoptGraceMs = 300

/** The gateway gets a signal, and nobody comes after it. */
const lost = (name: "SIGTERM" | "SIGKILL", spec: Partial<DrivenRun>, extraMs: number) =>
  ending({ spec, extraMs, told: null, staff: "nobody", ender: "keeper" }, ({ place, gateway }) =>
    Effect.gen(function* () {
      const at = yield* now
      yield* place.signal(gateway.pid, name)
      return { at, told: null }
    })
  )

export const cliEndings: Readonly<Record<string, Ending>> = {
  "a normal stop": ending(
    { told: "stopped, proven", staff: "gateway and keeper", ender: "keeper", extraMs: commandMs },
    ({ begun, holdfast, told }) =>
      Effect.gen(function* () {
        const at = yield* now
        yield* holdfast("stop", ...begun.ids)
        return { at, told: yield* told }
      })
  ),
  "their timeout": ending(
    {
      spec: { timeoutMs },
      told: "overall-timeout, proven",
      staff: "gateway and keeper",
      ender: "keeper"
    },
    ({ told }) =>
      Effect.gen(function* () {
        const at = yield* now
        return { at, told: yield* told }
      })
  ),
  "`holdfast down`": ending(
    { told: null, staff: "nobody", ender: "keeper", extraMs: commandMs },
    ({ holdfast }) =>
      Effect.gen(function* () {
        const at = yield* now
        yield* holdfast("down")
        return { at, told: null }
      })
  ),
  "a SIGTERM of the gateway": lost("SIGTERM", {}, 0),
  "a SIGKILL of the gateway": lost("SIGKILL", {}, 0),
  "a SIGKILL of the gateway and the grace for the next": lost(
    "SIGKILL",
    { onGatewayLoss: "adopt", adoptGraceMs },
    adoptGraceMs
  ),
  "a SIGKILL of the keeper": ending(
    { told: "keeper-lost, proven", staff: "gateway and keeper", ender: "gateway", extraMs: sweepGraceMs },
    ({ place, keeper, told }) =>
      Effect.gen(function* () {
        const at = yield* now
        yield* place.signal(keeper, "SIGKILL")
        return { at, told: yield* told }
      })
  ),
  "a SIGKILL of both and the next start": ending(
    { told: "both-lost, proven", staff: "gateway and keeper", ender: "gateway" },
    ({ place, gateway, keeper, reopen, told }) =>
      Effect.gen(function* () {
        yield* Effect.forEach([keeper, gateway.pid], (pid) => place.signal(pid, "SIGKILL"), {
          concurrency: 2
        })
        yield* reopen
        const at = yield* now
        return { at, told: yield* told }
      })
  )
}
