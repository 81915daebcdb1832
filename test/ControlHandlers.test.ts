/** ControlHandlers: what a caller who follows the audit log gets to see, with a log whose timing the test decides. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { make, Shutdown } from "../src/layers/ControlHandlers.ts"
import { AgentDriver } from "../src/services/AgentDriver.ts"
import { AppServerLease } from "../src/services/AppServerLease.ts"
import { AuditLog, type AuditRow } from "../src/services/AuditLog.ts"
import { HookClients } from "../src/services/HookClients.ts"
import { Policy } from "../src/services/Policy.ts"
import { RelayRegistry } from "../src/services/RelayRegistry.ts"
import { SupervisionTree } from "../src/services/SupervisionTree.ts"
import { entry } from "./support/AuditLog.ts"
import { layer as layerEpoch } from "./support/Epoch.ts"

const row = (seq: number): AuditRow => ({ ...entry, seq, at: seq })

/** A log that has `before` at the look back, and by the first of `live` everything up to it. */
const following = Effect.fnUntraced(function* (options: {
  readonly before: number
  readonly limit: number
  readonly live: ReadonlyArray<number>
  readonly follow?: boolean
}) {
  let written = options.before
  const log = Layer.mock(AuditLog, {
    tail: (limit) =>
      Effect.sync(() => {
        const rows = Array.from({ length: written }, (_, index) => row(index + 1))
        return limit === 0 ? [] : rows.slice(-limit)
      }),
    live: Stream.fromIterable(options.live).pipe(
      Stream.map((seq) => {
        written = Math.max(written, seq)
        return row(seq)
      })
    )
  })
  const others = Layer.mergeAll(
    Layer.mock(RelayRegistry, {}),
    Layer.mock(AppServerLease, {}),
    Layer.mock(Policy, { loaded: [] }),
    Layer.mock(HookClients, { best: { kind: "node", argv: [] } }),
    Layer.mock(AgentDriver, {}),
    Layer.mock(SupervisionTree, {}),
    Layer.mock(Shutdown, {}),
    layerEpoch()
  )
  const handlers = yield* Effect.provide(make, [log, others])
  const rows = yield* Stream.runCollect(
    handlers.AuditTail({ limit: options.limit, follow: options.follow ?? true })
  )
  return rows.map(({ seq }) => seq)
})

describe("AuditTail", () => {
  it.effect("following misses no row that falls between the look back and the subscription", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* following({ before: 1, limit: 10, live: [4] }), [1, 2, 3, 4])
    })
  )

  it.effect("following an empty log misses no row that falls before the subscription", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* following({ before: 0, limit: 10, live: [3] }), [1, 2, 3])
    })
  )

  it.effect("following without a look back shows what comes from now on, all of it", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* following({ before: 2, limit: 0, live: [5, 6] }), [3, 4, 5, 6])
    })
  )

  it.effect("following shows a row of both the look back and the subscription once", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* following({ before: 3, limit: 2, live: [2, 3, 4] }), [2, 3, 4])
    })
  )

  it.effect("not following ends with the look back", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* following({ before: 3, limit: 2, live: [4], follow: false }), [2, 3])
    })
  )
})
