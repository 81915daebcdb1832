import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { layer } from "../src/layers/TurnStore.ts"
import { TurnStore } from "../src/services/TurnStore.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { turnRecord } from "./support/turns.ts"

describe("TurnStore", () => {
  it.effect("a turn is known from its first note to the last, oldest first, until it is forgotten", () =>
    Effect.gen(function* () {
      const store = yield* TurnStore
      const [a, b] = [turnRecord({ runId: "a", startedAt: 2 }), turnRecord({ runId: "b", startedAt: 1 })]
      yield* store.note({ ...a, turnId: null })
      yield* store.note(b)
      yield* store.note(a)
      assert.deepStrictEqual(yield* store.all, [b, a])
      yield* store.forget("a")
      yield* store.forget("nobody")
      assert.deepStrictEqual(yield* store.all, [b])
    }).pipe(Effect.provide(layer.pipe(Layer.provide(layerMemory))))
  )
})
