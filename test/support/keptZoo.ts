/** The zoo over the in-process layer, in a small program that is the gateway of its home. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Ask } from "../fixtures/keeps-runs.ts"
import { type Ended, type Ending, killGraceMs, type Told } from "../suites/endings.ts"
import { Outside, type Place } from "./outside.ts"
import { talker } from "./talker.ts"

interface Started {
  readonly ids: ReadonlyArray<string>
  /** Epoch milliseconds: when the last of them was started. */
  readonly lastAt: number
}

export const openLife = Effect.fnUntraced(function* (place: Place) {
  const { stage } = yield* Outside
  const program = yield* Effect.sync(() => stage.program("keeps-runs"))
  const life = yield* talker<Ask>(() => place.spawn(stage.node, ["--no-warnings", program, place.home]))
  const { pid } = (yield* life.hear) as { readonly pid: number }
  return { ...life, pid }
})

type Life = Effect.Success<ReturnType<typeof openLife>>

const toldOf = (listed: unknown, { ids }: Started): ReadonlyArray<Told> => {
  const all = new Map((listed as ReadonlyArray<Told & { readonly id: string }>).map((one) => [one.id, one]))
  return ids.map((id) => {
    const { reason, lost, extinction } = all.get(id)!
    return { reason, lost, extinction }
  })
}

interface Surroundings {
  readonly place: Place
  readonly life: Life
  readonly started: Started
  /** Another life in the same home, which is then the staff. */
  readonly reopen: Effect.Effect<Life>
}

const ending = (
  how: {
    readonly timeoutMs?: number
    readonly extraMs?: number
    readonly told: string | null
  },
  end: (all: Surroundings) => Effect.Effect<Ended>
): Ending => ({
  extraMs: how.extraMs ?? 0,
  told: how.told,
  open: Effect.fnUntraced(function* (place): Effect.fn.Return<
    Effect.Success<ReturnType<Ending["open"]>>,
    never,
    Scope.Scope | Outside
  > {
    const context = yield* Effect.context<Scope.Scope | Outside>()
    let life = yield* openLife(place)
    let started: Started = { ids: [], lastAt: 0 }
    const reopen = Effect.tap(openLife(place), (next) => Effect.sync(() => (life = next))).pipe(
      Effect.provideContext(context)
    )
    return {
      start: (beasts) =>
        Effect.map(
          life.ask({
            _tag: "start",
            runs: beasts.map(({ command, args, terminal }) => ({
              command,
              args,
              killGraceMs,
              timeoutMs: how.timeoutMs ?? null,
              pty: terminal ? { cols: 80, rows: 24 } : null
            }))
          }),
          (answer) => {
            started = answer as Started
          }
        ),
      due: Effect.suspend(() =>
        how.timeoutMs === undefined
          ? Effect.void
          : Effect.sleep(Math.max(0, started.lastAt + how.timeoutMs - Date.now()))
      ),
      end: Effect.suspend(() => end({ place, life, started, reopen })),
      isStaff: ({ pid }) => pid === life.pid,
      ender: () => life.pid
    }
  })
})

const by = (how: "stop" | "scope" | "layer", told: string | null) =>
  ending({ told }, ({ life, started }) =>
    Effect.gen(function* () {
      const at = performance.now()
      const listed = yield* life.ask({ _tag: "end", by: how })
      return { at, told: told === null ? null : toldOf(listed, started) }
    })
  )

/** All have to stand before the first is over. */
const timeoutMs = 4_000

export const keptEndings: Readonly<Record<string, Ending>> = {
  "a normal stop": by("stop", "stopped, proven"),
  "the close of their scope": by("scope", "stopped, proven"),
  "the close of the layer": by("layer", null),
  "their timeout": ending({ timeoutMs, told: "overall-timeout, proven" }, ({ life, started }) =>
    Effect.map(life.ask({ _tag: "end", by: "itself" }), (listed) => ({
      at: performance.now() - Math.max(0, Date.now() - started.lastAt - timeoutMs),
      told: toldOf(listed, started)
    }))
  ),
  "the SIGKILL of their gateway and the next start": ending(
    { told: "both-lost" },
    ({ place, life, started, reopen }) =>
      Effect.gen(function* () {
        yield* place.signal(life.pid, "SIGKILL")
        const next = yield* reopen
        const at = performance.now()
        return { at, told: toldOf(yield* next.ask({ _tag: "list" }), started) }
      })
  )
}
