/** ControlHandlers: what a caller gets to see of the audit log, whose timing the test decides, and of the leases. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import { make, Shutdown } from "../src/layers/ControlHandlers.ts"
import { AgentDriver, type AgentEvent, type RunRequest } from "../src/services/AgentDriver.ts"
import { AppServerLost } from "../src/services/AppServerFailure.ts"
import { AppServerLease } from "../src/services/AppServerLease.ts"
import { type Approval, Approvals } from "../src/services/Approvals.ts"
import { AuditLog, type AuditRow } from "../src/services/AuditLog.ts"
import { HookSpool } from "../src/services/HookSpool.ts"
import { HookClients } from "../src/services/HookClients.ts"
import { Keeper } from "../src/services/Keeper.ts"
import { Policy } from "../src/services/Policy.ts"
import { RelayRegistry } from "../src/services/RelayRegistry.ts"
import { SupervisionTree } from "../src/services/SupervisionTree.ts"
import { approval } from "../src/testing/Approvals.ts"
import { entry } from "../src/testing/AuditLog.ts"
import { layer as layerEpoch } from "../src/testing/Epoch.ts"
import { lease, status } from "./support/Report.ts"

const row = (seq: number): AuditRow => ({ ...entry, seq, at: seq })

const handlersWith = Effect.fnUntraced(function* (services: {
  readonly log?: Partial<AuditLog["Service"]>
  readonly lease?: Partial<AppServerLease["Service"]>
  readonly driver?: Partial<AgentDriver["Service"]>
  readonly approvals?: Partial<Approvals["Service"]>
}) {
  return yield* Effect.provide(make, [
    Layer.mock(AuditLog, services.log ?? {}),
    Layer.mock(AppServerLease, services.lease ?? {}),
    Layer.mock(AgentDriver, services.driver ?? {}),
    Layer.mock(RelayRegistry, { list: Effect.succeed([]) }),
    Layer.mock(Policy, { loaded: [], version: "1" }),
    Layer.mock(Approvals, services.approvals ?? {}),
    Layer.mock(HookSpool, { take: Effect.succeed(0) }),
    Layer.mock(HookClients, { best: { kind: "node", argv: [] } }),
    Layer.mock(SupervisionTree, {}),
    Layer.mock(Shutdown, {}),
    Layer.mock(Keeper, { reconciled: [], info: Effect.succeed(status().keeper) }),
    layerEpoch
  ])
})

/** A log that has `before` at the look back, and by the first of `live` everything up to it. */
const following = Effect.fnUntraced(function* (options: {
  readonly before: number
  readonly limit: number
  readonly live: ReadonlyArray<number>
  readonly follow?: boolean
}) {
  let written = options.before
  const log: Partial<AuditLog["Service"]> = {
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
  }
  const handlers = yield* handlersWith({ log })
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

describe("Leases", () => {
  it.effect("every caller sees the leases as they are, alone and in the status", () =>
    Effect.gen(function* () {
      const all = [lease({ state: "OpenCircuit", circuit: { until: 60_000, problem: "it exited" } })]
      const handlers = yield* handlersWith({ lease: { list: Effect.succeed(all) } })
      assert.deepStrictEqual(
        { alone: yield* handlers.Leases(), status: (yield* handlers.Status()).leases },
        { alone: all, status: all }
      )
    })
  )

  it.effect("a reset says how many circuits it closed", () =>
    Effect.gen(function* () {
      let open = 2
      const reset = Effect.sync(() => {
        const closed = open
        open = 0
        return closed
      })
      const handlers = yield* handlersWith({ lease: { reset } })
      assert.deepStrictEqual(
        [yield* handlers.ResetLeases(), yield* handlers.ResetLeases()],
        [{ closed: 2 }, { closed: 0 }]
      )
    })
  )
})

describe("RunCodex", () => {
  it.effect("a run is asked for as its caller put it, and its events reach the caller as they are", () =>
    Effect.gen(function* () {
      const asked: Array<RunRequest> = []
      const events: ReadonlyArray<AgentEvent> = [
        {
          _tag: "resumed",
          generation: 2,
          lost: new AppServerLost({
            generation: 1,
            reason: { _tag: "signalled", signal: "SIGKILL" },
            stderrTail: ""
          }),
          inDoubt: 1
        },
        { _tag: "ended", status: "completed", problem: null, failure: null }
      ]
      const request: RunRequest = {
        prompt: "p",
        cwd: "/w",
        overrides: [],
        thread: { _tag: "start" },
        spawnedBy: "run-1",
        onLost: "resume",
        startTimeoutMs: 500
      }
      const handlers = yield* handlersWith({
        driver: {
          run: (request) => {
            asked.push(request)
            return Stream.fromIterable(events)
          }
        }
      })
      assert.deepStrictEqual(
        { seen: yield* Stream.runCollect(handlers.RunCodex(request)), asked },
        { seen: events, asked: [request] }
      )
    })
  )

  it.effect(
    "whoever watches approvals hears of those that wait, and then of each that changes meanwhile",
    () =>
      Effect.gen(function* () {
        const changes = yield* PubSub.unbounded<Approval>()
        const changed = approval("a", { state: { _tag: "expired", at: 1 } })
        const handlers = yield* handlersWith({
          approvals: {
            changes: Stream.fromPubSub(changes),
            list: () => Effect.as(PubSub.publish(changes, changed), [approval("b"), approval("a")])
          }
        })
        const heard = yield* Stream.runCollect(Stream.take(handlers.WatchApprovals(), 2))
        assert.deepStrictEqual(heard.map(({ id, state }) => `${id} ${state._tag}`).toSorted(), [
          "a expired",
          "b pending"
        ])
      })
  )
})
