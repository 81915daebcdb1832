/** What must not run again after a loss: the fence as a pure rule, and as a relay raises it. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { layer } from "../src/layers/RelayRegistry.ts"
import { layer as treeLayer } from "../src/layers/SupervisionTree.ts"
import type { HookEvent, ToolCall } from "../src/services/HookEvent.ts"
import type { Decision } from "../src/services/Policy.ts"
import {
  type Fenced,
  fencedBecause,
  initialRelay,
  maxRemembered,
  nextRelay,
  type RelayEvent,
  RelayRegistry,
  type RelaySpec,
  type RelayState
} from "../src/services/RelayRegistry.ts"
import { layerNobody } from "../src/testing/Approvals.ts"
import { FakeAuditLog, layer as auditLayer } from "../src/testing/AuditLog.ts"
import { layer as bridgeLayer } from "../src/testing/BridgeStore.ts"
import { layer as epochLayer } from "../src/testing/Epoch.ts"
import { layer as clientsLayer } from "../src/testing/HookClients.ts"
import { judged, layerOf as policyOf } from "../src/testing/Policy.ts"

const bash = (command: string): ToolCall => ({
  tool: "Bash",
  kind: "shell",
  command,
  paths: [],
  input: { command }
})

const event = (id: string, call: ToolCall | null, over: Partial<HookEvent> = {}): HookEvent => ({
  event: "pre_tool_use",
  provider: "codex",
  callId: { _tag: "native", id },
  sessionId: "root",
  agentId: null,
  spawnedBy: null,
  turnId: "t",
  cwd: "/w",
  call,
  raw: {},
  ...over
})

const decided = (id: string, does: ReadonlyArray<string>, begun = 0): RelayEvent => ({
  _tag: "Decided",
  kept: null,
  call: { id, does, begun }
})
const raise = (...finished: ReadonlyArray<string>): RelayEvent => ({
  _tag: "Fence",
  finished: new Set(finished),
  reply: Deferred.makeUnsafe<Fenced>()
})

/** The state after the events, and what each fence came to. */
const after = (...events: ReadonlyArray<RelayEvent>): readonly [RelayState, ReadonlyArray<Fenced>] => {
  const fences: Array<Fenced> = []
  let state = initialRelay(null)
  for (const one of events) {
    const [next, actions] = nextRelay(128)(state, one)
    state = next
    for (const action of actions) if (action._tag === "AnswerFence") fences.push(action.fenced)
  }
  return [state, fences]
}

const denies = (state: RelayState, id: string, does: string, begun = state.fence.raised): boolean =>
  fencedBecause(state.fence, { id, does: [does] }, begun) !== null

describe("the fence of a relay", () => {
  it("denies every id decided before it, and the doings of those whose end was not seen", () => {
    const [state, fences] = after(decided("a", ["A"]), decided("b", ["B"]), decided("c", []), raise("a"))
    assert.deepStrictEqual(fences, [{ decided: 3, inDoubt: 1 }])
    assert.deepStrictEqual(
      ["a", "b", "c", "new"].map((id) => denies(state, id, "other")),
      [true, true, true, false]
    )
    assert.deepStrictEqual(
      ["A", "B"].map((does) => denies(state, "new", does)),
      [false, true]
    )
  })

  it("denies nothing before it is raised", () => {
    const [state] = after(decided("a", ["A"]))
    assert.isFalse(denies(state, "a", "A"))
  })

  it("knows a rewritten call by what was asked and by what it became", () => {
    const [state] = after(decided("a", ["asked", "became"]), raise())
    assert.deepStrictEqual(
      ["asked", "became", "other"].map((does) => denies(state, "new", does)),
      [true, true, false]
    )
  })

  it("counts a call once let through as in doubt, whatever was said of it later", () => {
    const [state, fences] = after(decided("a", ["A"]), decided("a", []), raise())
    assert.deepStrictEqual(fences, [{ decided: 1, inDoubt: 1 }])
    assert.isTrue(denies(state, "new", "A"))
  })

  it("lets calls decided behind it be decided again, and a second one takes them in too", () => {
    const [first] = after(decided("a", ["A"]), raise(), decided("b", ["B"], 1))
    assert.isFalse(denies(first, "b", "B"))
    const [second, fences] = after(decided("a", ["A"]), raise(), decided("b", ["B"], 1), raise())
    assert.deepStrictEqual(fences[1], { decided: 1, inDoubt: 1 })
    assert.deepStrictEqual(
      ["A", "B"].map((does) => denies(second, "new", does)),
      [true, true]
    )
  })

  it("takes in a call that was asked for before it and answered after", () => {
    const [state] = after(raise(), decided("late", ["L"], 0))
    assert.deepStrictEqual([denies(state, "late", "x"), denies(state, "new", "L")], [true, true])
    assert.isTrue(denies(state, "fresh", "F", 0))
  })

  it("denies everything once more was decided than is remembered", () => {
    const many = Array.from({ length: maxRemembered + 2 }, (_, n) => decided(`id-${n}`, [`does-${n}`]))
    const [full, fences] = after(...many, raise())
    assert.deepStrictEqual(fences, [{ decided: maxRemembered + 2, inDoubt: maxRemembered + 2 }])
    assert.isTrue(denies(full, "new", "new"))
    const [unraised] = after(...many)
    assert.isFalse(denies(unraised, "new", "new"))
    const [exact] = after(...many.slice(2), raise())
    assert.isFalse(denies(exact, "new", "new"))
  })

  it("leaves no decision for an approval of the next generation", () => {
    const kept = { callId: "a", tool: "Bash", does: "A", decision: undefined as unknown as Decision }
    const [state] = after({ _tag: "Decided", kept, call: null }, raise())
    assert.deepStrictEqual(state.kept, [])
  })
})

/** Denies `rm`, rewrites whatever begins with `old` to `new`, waits for its gate about `slow`, allows the rest. */
const gate = Deferred.makeUnsafe<void>()
const thinking = Deferred.makeUnsafe<void>()
const policy = policyOf(({ call }) => {
  const command = call?.command ?? ""
  const decision = command.startsWith("rm")
    ? judged("deny")
    : judged(command.startsWith("old") ? { _tag: "rewrite", input: { command: "new" } } : "allow")
  return command === "slow"
    ? Effect.as(Effect.andThen(Deferred.succeed(thinking, undefined), Deferred.await(gate)), decision)
    : Effect.succeed(decision)
})

const Relays = layer.pipe(
  Layer.provideMerge(
    Layer.mergeAll(bridgeLayer, epochLayer, policy, clientsLayer, auditLayer, treeLayer, layerNobody)
  )
)

const spec: RelaySpec = {
  provider: "codex",
  runId: "run",
  sessionId: null,
  allowedEvents: ["pre_tool_use", "post_tool_use"]
}

const opened = (over: Partial<RelaySpec> = {}) =>
  Effect.flatMap(RelayRegistry, (registry) => registry.register({ ...spec, ...over }))

describe("a relay behind a fence", () => {
  it.effect("denies a call decided before under the same id, or with the same tool, text and directory", () =>
    Effect.gen(function* () {
      const relay = yield* opened()
      const verdict = (id: string, call: ToolCall, over: Partial<HookEvent> = {}) =>
        Effect.map(relay.decide(event(id, call, over), "hook"), (decision) => decision.verdict._tag)
      yield* verdict("done", bash("touch done"))
      yield* verdict("doubt", bash("touch doubt"))
      yield* verdict("refused", bash("rm x"))
      yield* verdict("rewritten", bash("old"))
      assert.deepStrictEqual(yield* relay.fence(new Set(["done"])), { decided: 4, inDoubt: 2 })
      assert.deepStrictEqual(
        {
          sameId: yield* verdict("doubt", bash("ls")),
          doneId: yield* verdict("done", bash("ls")),
          sameDoing: yield* verdict("n1", bash("touch doubt")),
          rewritten: [yield* verdict("n2", bash("old")), yield* verdict("n3", bash("new"))],
          elsewhere: yield* verdict("n4", bash("touch doubt"), { cwd: "/other" }),
          finished: yield* verdict("n5", bash("touch done")),
          another: yield* verdict("n6", bash("ls")),
          report: yield* verdict("doubt", bash("touch doubt"), { event: "post_tool_use" })
        },
        {
          sameId: "deny",
          doneId: "deny",
          sameDoing: "deny",
          rewritten: ["deny", "deny"],
          elsewhere: "allow",
          finished: "allow",
          another: "allow",
          report: "allow"
        }
      )
      const fenced = (yield* (yield* FakeAuditLog).rows).find(({ callId }) => callId === "n1")!
      assert.deepInclude(fenced, {
        verdict: "deny",
        policy: "fence",
        reason:
          "Holdfast: this call was decided before the app-server was lost, and it may have run; check its effects instead of repeating it"
      })
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("denies a call that a policy rewrites to what a call in doubt did, or was granted", () =>
    Effect.gen(function* () {
      const relay = yield* opened()
      const verdict = (id: string, command: string) =>
        Effect.map(relay.decide(event(id, bash(command)), "hook"), ({ verdict }) => verdict._tag)
      yield* verdict("doubt", "new")
      assert.strictEqual(yield* verdict("before", "old 1"), "rewrite")
      yield* relay.fence(new Set(["before"]))
      assert.strictEqual(yield* verdict("behind", "old 2"), "deny")
      const again = yield* opened({ relayId: "again" })
      const verdictAgain = (id: string, command: string) =>
        Effect.map(again.decide(event(id, bash(command)), "hook"), ({ verdict }) => verdict._tag)
      yield* verdictAgain("doubt", "old 1")
      yield* again.fence(new Set())
      assert.strictEqual(yield* verdictAgain("behind", "old 2"), "deny")
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("denies an approval of a call that was decided before, and answers none from before", () =>
    Effect.gen(function* () {
      const relay = yield* opened()
      yield* relay.decide(event("a", bash("touch a")), "hook")
      yield* relay.fence(new Set())
      const { callId: _, ...rest } = event("a", bash("touch a"))
      const answer = yield* relay.approve({ ...rest, callId: "a", call: bash("touch a") })
      assert.deepStrictEqual([answer.decision.verdict._tag, answer.fromHook], ["deny", false])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("denies a call whose policies were still thinking when it was raised", () =>
    Effect.gen(function* () {
      const relay = yield* opened()
      const deciding = yield* Effect.forkChild(relay.decide(event("late", bash("slow")), "hook"))
      yield* Deferred.await(thinking)
      yield* relay.fence(new Set())
      yield* Deferred.succeed(gate, undefined)
      const { verdict, reason } = yield* Fiber.join(deciding)
      assert.strictEqual(verdict._tag, "deny")
      assert.match(reason, /was lost while this call was being decided/)
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )
})

describe("a helper's relay", () => {
  it.effect("says whose helper it is to policies, to the audit log and to whoever lists relays", () =>
    Effect.gen(function* () {
      const relay = yield* opened({ relayId: "h", spawnedBy: "run-parent" })
      const own = yield* opened({ relayId: "o" })
      // What a provider says of it counts for nothing.
      yield* own.decide(event("a", bash("ls"), { spawnedBy: "run-made-up" }), "hook")
      yield* relay.decide(event("b", bash("ls")), "hook")
      yield* relay.incident("c", "no")
      assert.deepStrictEqual(
        (yield* (yield* FakeAuditLog).rows).map(({ callId, spawnedBy }) => [callId, spawnedBy]),
        [
          ["a", null],
          ["b", "run-parent"],
          ["c", "run-parent"]
        ]
      )
      const registry = yield* RelayRegistry
      assert.deepStrictEqual(
        (yield* registry.list).map(({ relayId, spawnedBy }) => [relayId, spawnedBy]),
        [
          ["h", "run-parent"],
          ["o", null]
        ]
      )
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )
})
