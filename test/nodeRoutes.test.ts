/** Whose a run is: what nodes say of it is believed as far as it can be theirs. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { makeRoutes } from "../src/layers/internal/nodeRoutes.ts"
import { NodeAway } from "../src/services/NodeAway.ts"
import { type LiveNode, Nodes, type RunCalls } from "../src/services/Nodes.ts"
import { type RunInfo, RunNotFound } from "../src/services/PtySupervisor.ts"
import { runInfo } from "./support/runInfo.ts"

const idOf = (last: string): string => `r-01J0000000000000000000000${last}`
const run = (id: string, name: string | null = null): RunInfo => {
  const info = runInfo({ id })
  return { ...info, spec: { ...info.spec, name } }
}

/** A node that has these runs, and answers every search with `found` where that is given. */
const nodeOf = (nodeId: string, runs: ReadonlyArray<RunInfo>, found?: RunInfo): LiveNode => ({
  nodeId,
  name: nodeId.slice(2),
  connectionId: 1,
  calls: {
    FindRun: ({ ref }: { readonly ref: string }) => {
      const one = found ?? runs.find(({ id, spec }) => id.startsWith(ref) || spec.name === ref)
      return one === undefined ? Effect.fail(new RunNotFound({ ref })) : Effect.succeed(one)
    },
    ListRuns: () => Effect.succeed({ runs: runs.map((run) => ({ short: run.id, run })), turns: [], now: 0 })
  } as unknown as RunCalls
})

const here = [run(idOf("A"), "mine")]

const among = <A, E>(
  nodes: ReadonlyArray<LiveNode>,
  use: (routes: Effect.Success<ReturnType<typeof makeRoutes>>) => Effect.Effect<A, E>
) =>
  Effect.flatMap(makeRoutes(Effect.succeed(here)), use).pipe(
    Effect.provideService(Nodes, {
      listening: null,
      statuses: Effect.succeed([]),
      live: Effect.succeed(nodes),
      find: (ref) => {
        const node = nodes.find(({ nodeId }) => nodeId === ref)
        return node === undefined
          ? Effect.fail(new NodeAway({ node: ref, paired: false }))
          : Effect.succeed(node)
      }
    }),
    Effect.provide(Logger.layer([]))
  )

/** Who is asked about a run that this machine may have. */
const askedOf = (routes: Effect.Success<ReturnType<typeof makeRoutes>>, id: string) => {
  const own = here.some((run) => run.id === id)
  return routes.ask(id, own ? Effect.succeed("here") : Effect.fail(new RunNotFound({ ref: id })), (calls) =>
    Effect.map(calls.ListRuns({ ended: true }), ({ runs }) => runs[0]?.short ?? "a node")
  )
}

describe("where a run is", () => {
  it.effect("a node that says it has a run of this machine is asked about nothing of it", () =>
    among([nodeOf("n-bad", [run(idOf("A")), run(idOf("B"))])], (routes) =>
      Effect.gen(function* () {
        const listed = yield* routes.list(true)
        assert.deepStrictEqual(
          listed.runs.map(({ id, node }) => [id, node]),
          [[idOf("B"), "bad"]]
        )
        assert.strictEqual(yield* askedOf(routes, idOf("A")), "here")
      })
    )
  )

  it.effect("an answer about another run than was asked for is none", () =>
    among([nodeOf("n-bad", [], run(idOf("C")))], (routes) =>
      Effect.gen(function* () {
        const missing = new RunNotFound({ ref: "typo" })
        assert.strictEqual(yield* Effect.flip(routes.find("typo", missing)), missing)
      })
    )
  )

  it.effect("of two that claim one run neither is believed, and who had it before keeps it", () =>
    Effect.gen(function* () {
      const good = nodeOf("n-good", [run(idOf("D"), "far")])
      const bad = nodeOf("n-bad", [run(idOf("D"), "far")])
      yield* among([good, bad], (routes) =>
        Effect.map(routes.list(true), ({ runs }) => assert.deepStrictEqual(runs, []))
      )
      const live = [good]
      yield* among(live, (routes) =>
        Effect.gen(function* () {
          assert.lengthOf((yield* routes.list(true)).runs, 1)
          live.push(bad)
          const { runs } = yield* routes.list(true)
          assert.deepStrictEqual(
            runs.map(({ node }) => node),
            ["good"]
          )
        })
      )
    })
  )
})
