/** A call that a policy wants a person to decide, by way of a relay. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { layer, RelayRegistry, type RelaySpec } from "../src/layers/RelayRegistry.ts"
import { layer as treeLayer } from "../src/layers/SupervisionTree.ts"
import type { AskRequest } from "../src/services/Approvals.ts"
import { type AuditEntry, AuditLog, type AuditRow } from "../src/services/AuditLog.ts"
import { HookClients } from "../src/services/HookClients.ts"
import type { HookEvent } from "../src/services/HookEvent.ts"
import { Policy } from "../src/services/Policy.ts"
import { layerPerson } from "./support/Approvals.ts"
import { layer as bridgeLayer } from "./support/BridgeStore.ts"
import { layer as epochLayer } from "./support/Epoch.ts"
import { plainEvent, shellEvent } from "./support/Policy.ts"

const spec: RelaySpec = {
  provider: "codex",
  runId: "run-7",
  spawnedBy: "parent",
  sessionId: null,
  relayId: "relay-7",
  allowedEvents: ["pre_tool_use"]
}

const policy = Layer.succeed(Policy, {
  loaded: ["careful"],
  version: "v1",
  decide: () =>
    Effect.succeed({ verdict: { _tag: "ask" }, policy: "careful", reason: "may I", votes: [] } as const)
})

/** One decision about an event, where the person says this. */
const decided = (event: HookEvent, allowed: boolean, asked: Array<AskRequest> = []) => {
  const rows: Array<AuditEntry> = []
  const log = Layer.mock(AuditLog, {
    append: (entry: AuditEntry) =>
      Effect.sync((): AuditRow => {
        rows.push(entry)
        return { ...entry, seq: rows.length, at: 0 }
      }),
    live: Stream.empty
  })
  const clients = Layer.mock(HookClients, { best: { kind: "perl", argv: ["perl"] } })
  const person = layerPerson({ allowed, reason: allowed ? "a person said yes" : "a person said no" }, asked)
  return Effect.gen(function* () {
    const relay = yield* (yield* RelayRegistry).register(spec)
    const { verdict, reason } = yield* relay.decide(event, "hook")
    return {
      verdict: verdict._tag,
      reason,
      rows: rows.map((row) => `${row.verdict} ${row.policy}: ${row.reason}`)
    }
  }).pipe(
    Effect.scoped,
    Effect.provide(
      layer.pipe(
        Layer.provide(Layer.mergeAll(bridgeLayer(), epochLayer(), policy, clients, log, treeLayer, person))
      )
    )
  )
}

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
