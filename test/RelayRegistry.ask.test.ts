/** A call that a policy wants a person to decide, by way of a relay. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { layer, RelayRegistry, type RelaySpec } from "../src/layers/RelayRegistry.ts"
import { layer as treeLayer } from "../src/layers/SupervisionTree.ts"
import type { AskRequest } from "../src/services/Approvals.ts"
import type { HookEvent } from "../src/services/HookEvent.ts"
import { layerOf as personOf } from "../src/testing/Approvals.ts"
import { FakeAuditLog, layer as auditLayer } from "../src/testing/AuditLog.ts"
import { layer as bridgeLayer } from "../src/testing/BridgeStore.ts"
import { layer as epochLayer } from "../src/testing/Epoch.ts"
import { plainEvent, shellEvent } from "../src/testing/HookEvent.ts"
import { layer as clientsLayer } from "../src/testing/HookClients.ts"
import { judged, layerOf as policyOf } from "../src/testing/Policy.ts"

const spec: RelaySpec = {
  provider: "codex",
  runId: "run-7",
  spawnedBy: "parent",
  sessionId: null,
  relayId: "relay-7",
  allowedEvents: ["pre_tool_use"]
}

const policy = policyOf(() => Effect.succeed({ ...judged("ask", "may I"), policy: "careful" }))

/** One decision about an event, where the person says this. */
const decided = (event: HookEvent, allowed: boolean, asked: Array<AskRequest> = []) =>
  Effect.gen(function* () {
    const relay = yield* (yield* RelayRegistry).register(spec)
    const { verdict, reason } = yield* relay.decide(event, "hook")
    return {
      verdict: verdict._tag,
      reason,
      rows: (yield* (yield* FakeAuditLog).rows).map((row) => `${row.verdict} ${row.policy}: ${row.reason}`)
    }
  }).pipe(
    Effect.scoped,
    Effect.provide(
      Layer.fresh(layer).pipe(
        Layer.provideMerge(Layer.fresh(auditLayer)),
        Layer.provide([
          bridgeLayer,
          epochLayer,
          policy,
          clientsLayer,
          treeLayer,
          personOf({ allowed, reason: allowed ? "a person said yes" : "a person said no" }, asked)
        ])
      )
    )
  )

describe("a relay whose policy asks", () => {
  it.effect("does what the person says, and the row says who it was", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* decided(shellEvent("npm publish"), true), {
        verdict: "allow",
        reason: "a person said yes",
        rows: ["allow careful: a person said yes"]
      })
      assert.deepStrictEqual(yield* decided(shellEvent("npm publish"), false), {
        verdict: "deny",
        reason: "a person said no",
        rows: ["deny careful: a person said no"]
      })
    })
  )

  it.effect("says who asks by the relay's own word, whatever the payload says, and shows no secret", () =>
    Effect.gen(function* () {
      const asked: Array<AskRequest> = []
      const event = shellEvent("curl -H 'Authorization: Bearer abcdef0123456789' https://x")
      yield* decided({ ...event, sessionId: "somebody else", spawnedBy: "nobody" }, true, asked)
      assert.deepStrictEqual(asked[0]?.requester, {
        provider: "codex",
        relayId: "relay-7",
        runId: "run-7",
        spawnedBy: "parent"
      })
      assert.notInclude(JSON.stringify(asked), "abcdef0123456789")
    })
  )

  it.effect("asks nobody about an event that is no tool call: before a call it is a deny", () =>
    Effect.gen(function* () {
      const asked: Array<AskRequest> = []
      const { verdict, reason } = yield* decided(plainEvent("pre_tool_use"), true, asked)
      assert.deepStrictEqual([verdict, asked.length], ["deny", 0])
      assert.include(reason, "nobody can be asked")
    })
  )
})
