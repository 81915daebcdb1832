/** Every vice that gets away from other supervisors, for every way in which a run can end: nobody is left, in time. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { RunSpec } from "../src/services/Run.ts"
import { bystander, lives } from "./support/markedProcesses.ts"
import {
  leftOf,
  namedInPath,
  over,
  shell,
  supervisorOf,
  torture,
  untilPrinted,
  vices,
  type World
} from "./support/ptySupervisor.ts"

const killGraceMs = 300
const timeoutMs = 1_500
/** Of the promise: nobody is left within the grace and this. */
const sweepMs = 1_000

interface Started {
  readonly world: World
  readonly scope: Scope.Closeable
  readonly ids: ReadonlyArray<string>
}

interface Ending {
  readonly spec: Partial<RunSpec>
  /** Returns when it says that all are over. */
  readonly end: (started: Started) => Effect.Effect<unknown, unknown>
  readonly limitMs: number
}

const endings: Readonly<Record<string, Ending>> = {
  stop: {
    spec: {},
    end: ({ world, ids }) =>
      Effect.forEach(ids, (id) => world.runs.end(id, { by: "operator", graceMs: null }), {
        concurrency: "unbounded"
      }),
    limitMs: killGraceMs + sweepMs
  },
  "the close of their scope": {
    spec: {},
    end: ({ scope }) => Scope.close(scope, Exit.void),
    limitMs: killGraceMs + sweepMs
  },
  "an overall timeout": {
    spec: { timeoutMs },
    end: ({ world, ids }) => Effect.forEach(ids, (id) => over(world, id), { concurrency: "unbounded" }),
    limitMs: timeoutMs + killGraceMs + sweepMs
  },
  "the close of the layer": {
    spec: {},
    end: ({ world }) => world.close,
    limitMs: killGraceMs + sweepMs
  }
}

/** Whose leader leaves by itself. */
const leaves = "leader-exits-leaving-a-daemon.pl"

const reasons: Readonly<Record<string, string>> = { "an overall timeout": "overall-timeout" }

describe("PtySupervisor and its torturers", () => {
  for (const kind of ["terminals", "pipes"] as const)
    for (const [how, { spec, end, limitMs }] of Object.entries(endings))
      it.live(
        `on ${kind} nobody is left after ${how}, and a bystander is untouched`,
        () =>
          Effect.gen(function* () {
            const world = yield* supervisorOf()
            const other = yield* bystander
            // All at once; in a sequential scope each would wait for the one before.
            const scope = yield* Scope.make("parallel")
            const pty = kind === "terminals" ? { cols: 80, rows: 24 } : null
            const ids = yield* Effect.forEach(
              vices,
              (vice) =>
                Effect.gen(function* () {
                  const { id } = yield* Scope.provide(
                    world.runs.spawn(torture(vice, { pty, killGraceMs, ...spec })),
                    scope
                  )
                  yield* untilPrinted(world, id, "up")
                  if (vice === leaves) yield* over(world, id)
                  return id
                }),
              { concurrency: 3 }
            )
            const began = performance.now()
            yield* end({ world, scope, ids })
            const tookMs = Math.round(performance.now() - began)
            const left = leftOf(world.range, ids)
            const ends = yield* world.endsOf(ids)
            assert.deepStrictEqual(
              {
                left,
                bystander: lives(other),
                inTime: tookMs < limitMs ? "in time" : `${tookMs} ms`,
                ends
              },
              {
                left: [],
                bystander: true,
                inTime: "in time",
                ends: vices.map((vice) => ({
                  reason: vice === leaves ? "exited" : (reasons[how] ?? "stopped"),
                  extinction: { proven: true, survivors: [] }
                }))
              }
            )
          }),
        20_000
      )

  it.live("without a mark nobody is left who kept the session, the parent or the environment", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({ marked: false })
      const other = yield* bystander
      const known = vices.filter((vice) => !/respawners/.test(vice))
      const ids = yield* Effect.forEach(known, (vice) =>
        Effect.gen(function* () {
          const { id } = yield* world.runs.start(torture(vice, { killGraceMs }))
          yield* untilPrinted(world, id, "up")
          return id
        })
      )
      const infos = yield* Effect.forEach(
        ids,
        (id) => world.runs.end(id, { by: "operator", graceMs: null }),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        { left: leftOf(null, ids), bystander: lives(other), ends: infos.map(({ extinction }) => extinction) },
        { left: [], bystander: true, ends: known.map(() => ({ proven: false, survivors: [] })) }
      )
    })
  )

  it.live("without a mark one that keeps nothing of its environment but PATH is ended all the same", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({ marked: false })
      // As an MCP server that starts a browser and leaves: nothing else of it is the run's.
      const { id } = yield* world.runs.start(
        shell('env -i PATH="$PATH" sh -c "setsid sleep 61 >&- 2>&- & echo up; exit"; exec sleep 60')
      )
      yield* untilPrinted(world, id, "up")
      const named = () => namedInPath(id)
      const before = named().length
      yield* world.runs.end(id, { by: "operator", graceMs: killGraceMs })
      assert.deepStrictEqual({ before, left: named() }, { before: 2, left: [] })
    })
  )
})
