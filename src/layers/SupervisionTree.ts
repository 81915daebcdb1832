/** SupervisionTree, live: the supervisors by name, each for as long as its scope. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SupervisionTree, type TreeNode } from "../services/SupervisionTree.ts"
import * as Supervisor from "../services/Supervisor.ts"

export * from "../services/SupervisionTree.ts"

export const make = Effect.sync(() => {
  const supervisors = new Set<Supervisor.Supervisor>()
  return SupervisionTree.of({
    supervisor: (name, limits) =>
      Effect.acquireRelease(
        Effect.tap(Supervisor.make(name, limits), (supervisor) =>
          Effect.sync(() => supervisors.add(supervisor))
        ),
        (supervisor) => Effect.sync(() => supervisors.delete(supervisor))
      ),
    snapshot: Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      return yield* Effect.forEach([...supervisors], (supervisor) =>
        Effect.map(supervisor.list, (children): TreeNode => ({
          supervisor: supervisor.name,
          children: children.map(({ since, ...child }) => ({ ...child, ageMs: now - since }))
        }))
      )
    })
  })
})

export const layer = Layer.effect(SupervisionTree, make)
