import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { layer } from "../src/layers/ThreadStore.ts"
import { ThreadStore } from "../src/services/ThreadStore.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"

describe("ThreadStore", () => {
  it.effect("a thread is known by its last registration", () =>
    Effect.gen(function* () {
      const store = yield* ThreadStore
      assert.isTrue(Option.isNone(yield* store.find("t")))
      yield* store.remember({ threadId: "t", relayId: "r", generation: 1, cwd: "/a" })
      yield* store.remember({ threadId: "t", relayId: "r", generation: 2, cwd: "/b" })
      assert.deepStrictEqual(
        yield* store.find("t"),
        Option.some({ threadId: "t", relayId: "r", generation: 2, cwd: "/b" })
      )
    }).pipe(Effect.provide(layer.pipe(Layer.provide(layerMemory))))
  )
})
