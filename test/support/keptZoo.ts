/** The zoo over the in-process layer, in a small program that is the gateway of its home. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Ended, Ending } from "../suites/endings.ts"
import { Outside, type Place } from "./outside.ts"
import type { Ask, Begun, Listed } from "./runDriver.ts"
import { talker } from "./talker.ts"

/** A program of the fixtures that drives runs, past its first line. */
export const openDriver = Effect.fnUntraced(function* (
  place: Pick<Place, "spawn" | "home">,
  program: string
) {
  const { stage } = yield* Outside
  const file = yield* Effect.sync(() => stage.program(program))
  const driver = yield* talker<Ask>(() => place.spawn(stage.node, ["--no-warnings", file, place.home]))
  const { pid } = (yield* driver.hear) as { readonly pid: number }
  return { ...driver, pid }
})

type Driver = Effect.Success<ReturnType<typeof openDriver>>

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

const ending = (
  how: { readonly timeoutMs?: number; readonly told: string | null },
  end: (all: Surroundings) => Effect.Effect<Ended>
): Ending => ({
  extraMs: 0,
  told: how.told,
  open: Effect.fnUntraced(function* (place) {
    const context = yield* Effect.context<Scope.Scope | Outside>()
    let life = yield* openDriver(place, "keeps-runs")
    let begun: Begun = { ids: [], lastAt: 0 }
    const reopen = openDriver(place, "keeps-runs").pipe(
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
      withoutStaff: (left) => left.filter(({ pid }) => pid !== life.pid),
      ender: () => life.pid
    }
  })
})

const by = (how: "stop" | "scope" | "layer" | "itself", told: string | null, timeoutMs?: number) =>
  ending({ told, ...(timeoutMs === undefined ? {} : { timeoutMs }) }, ({ life, begun }) =>
    Effect.suspend(() => {
      const at = performance.now()
      return Effect.map(life.ask({ _tag: "end", by: how }), (listed) => ({
        at,
        told: told === null ? null : toldOf(listed, begun)
      }))
    })
  )

/** All have to stand before the first is over. */
export const timeoutMs = 3_000

export const keptEndings: Readonly<Record<string, Ending>> = {
  "a normal stop": by("stop", "stopped, proven"),
  "the close of their scope": by("scope", "stopped, proven"),
  "the close of the layer": by("layer", null),
  "their timeout": by("itself", "overall-timeout, proven", timeoutMs),
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
