/** AppServerLease over the fake app-server and a fake login, and what its tests do all the time. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { layer } from "../../src/layers/AppServerLease.ts"
import { layer as treeLayer } from "../../src/layers/SupervisionTree.ts"
import { AppServerLease, type BorrowRequest } from "../../src/services/AppServerLease.ts"
import { CodexAuth, TokenRefreshFailed } from "../../src/services/CodexAuth.ts"
import { FakeAppServer, layerFake } from "./AppServerProcess.ts"

/** Who is logged in, as a lever. */
export class Login extends Context.Service<Login, { identity: string }>()("test/Login") {}

const layerLogin = Layer.effectContext(
  Effect.sync(() => {
    const login = { identity: "somebody" }
    return Context.make(Login, login).pipe(
      Context.add(CodexAuth, {
        identity: Effect.sync(() => login.identity),
        refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" }))
      })
    )
  })
)

export const Lease = layer.pipe(
  Layer.provideMerge(layerFake),
  Layer.provideMerge(layerLogin),
  Layer.provideMerge(treeLayer)
)

/** Far more hops between fibers than any event needs that waits for no time; the scheduler is the same in every run. */
const hops = 64
export const settle = Effect.repeat(Effect.yieldNow, { times: hops })

/** Time passes, and all that follows from it happens. */
export const pass = (duration: Parameters<typeof TestClock.adjust>[0]) =>
  Effect.andThen(Effect.andThen(settle, TestClock.adjust(duration)), settle)

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
