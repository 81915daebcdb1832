/** The zoo over the layers, in a small program that embeds them: with the runs in process, and with a keeper. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Ended, Ending } from "../suites/endings.ts"
import { type Left, Outside, type Place } from "./outside.ts"
import type { Ask, Begun, Listed } from "./runDriver.ts"
import { talker } from "./talker.ts"

/** A program of the fixtures that drives runs, past its first line. */
export const openDriver = Effect.fnUntraced(function* (
  place: Pick<Place, "spawn" | "home">,
  program: string,
  ...more: ReadonlyArray<string>
) {
  const { stage } = yield* Outside
  const file = yield* Effect.sync(() => stage.program(program))
  const driver = yield* talker<Ask>(() =>
    place.spawn(stage.node, ["--no-warnings", file, place.home, ...more])
  )
  const { pid } = (yield* driver.hear) as { readonly pid: number }
  return { ...driver, pid }
})

type Driver = Effect.Success<ReturnType<typeof openDriver>>

/** As its title is, cut to what the kernel keeps of one. */
const keeperName = "holdfast-keeper"

export const keepersOf = (left: ReadonlyArray<Left>): ReadonlyArray<number> =>
  left.filter(({ command }) => command === keeperName).map(({ pid }) => pid)

/** Those that were started, in that order. */
export const toldOf = (listed: unknown, { ids }: Begun): ReadonlyArray<Listed> => {
  const all = new Map((listed as ReadonlyArray<Listed>).map((one) => [one.id, one]))
  return ids.map((id) => {
    const one = all.get(id)
    if (one === undefined) throw new Error(`the record of ${id} is lost`)
    return one
  })
}

interface Surroundings {
  readonly place: Place
  readonly life: Driver
  readonly begun: Begun
  /** Another life in the same home, which is then the staff. */
  readonly reopen: Effect.Effect<Driver>
}

interface How {
  readonly timeoutMs?: number
  readonly told: string | null
  /** Whether a keeper holds the runs, which is then of the staff. */
  readonly kept?: boolean
}

const ending = (how: How, end: (all: Surroundings) => Effect.Effect<Ended>): Ending => ({
  extraMs: 0,
  told: how.told,
  open: Effect.fnUntraced(function* (place) {
    const context = yield* Effect.context<Scope.Scope | Outside>()
    const { stage } = yield* Outside
    const open = openDriver(place, "keeps-runs", ...(how.kept === true ? [stage.dist] : []))
    let life = yield* open
    let begun: Begun = { ids: [], lastAt: 0 }
    const reopen = open.pipe(
      Effect.tap((next) => Effect.sync(() => (life = next))),
      Effect.provideContext(context)
    )
    return {
      start: (runs) =>
        Effect.map(
          life.ask({
            _tag: "start",
            runs: runs.map((run) => ({ ...run, timeoutMs: how.timeoutMs ?? null }))
          }),
          (answer) => {
            begun = answer as Begun
          }
        ),
      due: Effect.suspend(() =>
        how.timeoutMs === undefined
          ? Effect.void
          : Effect.sleep(Math.max(0, begun.lastAt + how.timeoutMs - Date.now()))
      ),
      end: Effect.suspend(() => end({ place, life, begun, reopen })),
      withoutStaff: (left) => {
        const spared = how.kept === true && how.told !== null ? keepersOf(left).slice(0, 1) : []
        return left.filter(({ pid }) => pid !== life.pid && !spared.includes(pid))
      },
      ender: () => life.pid
    }
  })
})

const by = (what: "stop" | "scope" | "layer" | "itself", how: How) =>
  ending(how, ({ life, begun }) =>
    Effect.suspend(() => {
      const at = performance.now()
      return Effect.map(life.ask({ _tag: "end", by: what }), (listed) => ({
        at,
        told: how.told === null ? null : toldOf(listed, begun)
      }))
    })
  )

/** All have to stand before the first is over. */
export const timeoutMs = 3_000

export const keptEndings: Readonly<Record<string, Ending>> = {
  "a normal stop": by("stop", { told: "stopped, proven" }),
  "the close of their scope": by("scope", { told: "stopped, proven" }),
  "the close of the layer": by("layer", { told: null }),
  "their timeout": by("itself", { told: "overall-timeout, proven", timeoutMs }),
  "the SIGKILL of their gateway and the next start": ending(
    { told: "both-lost" },
    ({ place, life, begun, reopen }) =>
      Effect.gen(function* () {
        yield* place.signal(life.pid, "SIGKILL")
        const next = yield* reopen
        const at = performance.now()
        return { at, told: toldOf(yield* next.ask({ _tag: "list" }), begun) }
      })
  )
}

/** Of an app whose runs a keeper of its own holds; everything else is as with the gateway, which is such an app. */
export const embeddedEndings: Readonly<Record<string, Ending>> = {
  "the close of their scope in an app": by("scope", { told: "stopped, proven", kept: true }),
  "the close of an app's layer": by("layer", { told: null, kept: true })
}
