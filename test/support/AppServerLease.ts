/** AppServerLease over the fake app-server and a fake login, and what its tests do all the time. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { layer } from "../../src/layers/AppServerLease.ts"
import { layer as treeLayer } from "../../src/layers/SupervisionTree.ts"
import { AppServerLease, type BorrowRequest } from "../../src/services/AppServerLease.ts"
import { FakeAppServer, layer as layerProcess } from "../../src/testing/AppServerProcess.ts"
import { layer as layerAuth } from "../../src/testing/CodexAuth.ts"
import { settle } from "../../src/testing/VirtualTime.ts"

export const Lease = layer.pipe(
  Layer.provideMerge(layerProcess),
  Layer.provideMerge(layerAuth),
  Layer.provideMerge(treeLayer)
)

export const borrow = (request: Partial<BorrowRequest> = {}) =>
  AppServerLease.use((lease) => lease.borrow({ runId: "run", spawnedBy: null, ...request }))

/** A borrow in a scope of its own, to be closed by the test. */
export const held = Effect.fnUntraced(function* (request: Partial<BorrowRequest> = {}) {
  const scope = yield* Scope.make()
  const connection = yield* Scope.provide(borrow(request), scope)
  return { connection, giveBack: Effect.andThen(Scope.close(scope, Exit.void), settle) }
})

export const infos = AppServerLease.use(({ list }) => list)
export const onlyInfo = Effect.map(infos, ([info]) => info!)
export const states = Effect.map(infos, (all) => all.map(({ state }) => state))

/** Borrowed and lost so many times. */
export const faults = (count: number) =>
  Effect.forEach(
    Array.from({ length: count }),
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { generation } = yield* borrow()
          yield* (yield* FakeAppServer).dies(generation)
          yield* settle
        })
      ),
    { discard: true }
  )
