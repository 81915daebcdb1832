import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { layer } from "../src/layers/RelayRegistry.ts"
import { layer as treeLayer } from "../src/layers/SupervisionTree.ts"
import type { AuditEntry, AuditRow } from "../src/services/AuditLog.ts"
import type { HookEvent, ToolCall } from "../src/services/HookEvent.ts"
import { DirectoryRefused } from "../src/services/PrivateDirectory.ts"
import {
  type ApprovalCall,
  RelayInUse,
  RelayRegistry,
  type RelaySpec,
  maxRelays,
  TooManyRelays
} from "../src/services/RelayRegistry.ts"
import { Settings } from "../src/services/Settings.ts"
import { SupervisionTree } from "../src/services/SupervisionTree.ts"
import { layerNobody } from "../src/testing/Approvals.ts"
import { entry, FakeAuditLog, layer as auditLayer } from "../src/testing/AuditLog.ts"
import { FakeBridgeStore, layer as bridgeLayer } from "../src/testing/BridgeStore.ts"
import { layer as epochLayer, record } from "../src/testing/Epoch.ts"
import { layer as clientsLayer } from "../src/testing/HookClients.ts"
import { judged, layerOf as policyOf } from "../src/testing/Policy.ts"

const bash = (command: string): ToolCall => ({
  tool: "Bash",
  kind: "shell",
  command,
  paths: [],
  input: { command }
})
const mcp = (input: unknown): ToolCall => ({
  tool: "mcp__toy__poke",
  kind: "mcp",
  command: null,
  paths: [],
  input
})
const patch: ToolCall = { tool: "apply_patch", kind: "patch", command: null, paths: ["a"], input: {} }

const event = (id: string | null, call: ToolCall, agentId: string | null = null): HookEvent => ({
  event: "pre_tool_use",
  provider: "codex",
  callId: id === null ? { _tag: "synthesized", id: "made-up" } : { _tag: "native", id },
  sessionId: "root",
  agentId,
  spawnedBy: null,
  turnId: "t",
  cwd: "/w",
  call,
  raw: {}
})
const approval = (callId: string | null, call: ToolCall): ApprovalCall => ({
  callId,
  agentId: null,
  sessionId: "root",
  turnId: "t",
  cwd: "/w",
  call
})

/** Denies `rm`, rewrites `old` to `new`, thinks for ever about `think`, allows the rest. */
const policy = policyOf(({ call }) => {
  if (call?.command === "think") return Effect.never
  if (call?.command?.startsWith("rm")) return Effect.succeed(judged("deny"))
  return Effect.succeed(
    judged(call?.command === "old" ? { _tag: "rewrite", input: { command: "new" } } : "allow")
  )
})

const Relays = layer.pipe(
  Layer.provideMerge(
    Layer.mergeAll(bridgeLayer, epochLayer, policy, clientsLayer, auditLayer, treeLayer, layerNobody)
  )
)

const openForTools = Layer.effect(
  Settings,
  Effect.gen(function* () {
    return { ...(yield* Settings), directions: { pre_tool_use: "open" } } as const
  })
)

const spec = (over: Partial<RelaySpec> = {}): RelaySpec => ({
  provider: "codex",
  runId: "run",
  sessionId: null,
  allowedEvents: ["pre_tool_use"],
  ...over
})

const written = Effect.map(
  FakeAuditLog.use(({ rows }) => rows),
  (rows) => rows.map(({ source, verdict, callId }) => `${source} ${verdict} ${callId}`)
)

/** What the audit log got while `effect` ran. */
const recorded = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R>) {
  const { length } = yield* written
  const result = yield* effect
  return { result, rows: (yield* written).slice(length) }
})

describe("RelayRegistry", () => {
  it.effect(
    "a relay is published with its scope, answers late hooks for the grace, and is then gone with its record",
    () =>
      Effect.gen(function* () {
        const registry = yield* RelayRegistry
        const bridges = yield* FakeBridgeStore
        const scope = yield* Scope.make()
        const relay = yield* Scope.provide(registry.register(spec({ relayId: "r" })), scope)
        assert.include(
          relay.commands.pre_tool_use,
          "'/run/holdfast-test/bridges/r' 'pre_tool_use' 'closed' '24000'"
        )
        const token = Option.getOrThrow(yield* registry.find("r")).token
        assert.notInclude(relay.commands.pre_tool_use, token)

        yield* Scope.close(scope, Exit.void)
        yield* TestClock.adjust("9999 millis")
        const late = Option.getOrThrow(yield* registry.find("r"))
        assert.strictEqual((yield* late.decide(event("late", bash("ls")), "hook")).verdict._tag, "allow")
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(
          (yield* registry.list).map(({ state, decided }) => ({ state, decided })),
          [{ state: "lingering", decided: 1 }]
        )
        yield* TestClock.adjust("1 millis")
        assert.isTrue(Option.isNone(yield* registry.find("r")))
        assert.deepStrictEqual(yield* registry.list, [])
        assert.deepStrictEqual(yield* bridges.log, ["publish r 1", "remove r 1"])
      }).pipe(Effect.provide(Relays))
  )

  for (const [what, over, told] of [
    ["is told what the gateway before it told it, and nothing is written twice", {}, true],
    ["is decided anew where that was another call", { subject: "rm -rf /" }, false],
    ["is decided anew where it was rewritten, since no row says into what", { verdict: "rewrite" }, false],
    ["is decided anew where this gateway's own row has its id", { epoch: record().epoch }, false]
  ] as const) {
    const before: AuditEntry = { ...entry, epoch: "earlier", verdict: "deny", ...over }
    it.effect(`a hook that comes back after a restart ${what}`, () =>
      Effect.gen(function* () {
        yield* (yield* FakeAuditLog).has(before)
        const { result, rows } = yield* recorded(
          Effect.gen(function* () {
            const relay = yield* (yield* RelayRegistry).register(
              spec({ relayId: before.relayId, generation: 2, leaving: Effect.succeed(false) })
            )
            return yield* relay.decide(event("call-1", bash("ls")), "hook")
          })
        )
        assert.deepStrictEqual(
          { verdict: result.verdict._tag, rows },
          told ? { verdict: "deny", rows: [] } : { verdict: "allow", rows: ["hook allow call-1"] }
        )
      }).pipe(Effect.provide(Relays), Effect.scoped)
    )
  }

  it.effect("whoever can read the record finds the relay, credentials and all", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const bridges = yield* FakeBridgeStore
      const found: Array<boolean> = []
      yield* bridges.onceReadable(
        Effect.gen(function* () {
          const entry = yield* registry.find("r")
          const [record] = yield* bridges.records
          found.push(Option.isSome(entry) && entry.value.token === record?.token)
        })
      )
      yield* registry.register(spec({ relayId: "r" }))
      assert.deepStrictEqual(found, [true])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("the configured direction of each event is in its hook command", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(
        spec({ relayId: "r", allowedEvents: ["pre_tool_use", "permission_request"] })
      )
      const start = "'/usr/bin/perl' '/dist/hookRelay.pl' '/run/holdfast-test/bridges/r'"
      assert.strictEqual(relay.commands.pre_tool_use, `${start} 'pre_tool_use' 'open' '24000' || exit 0`)
      assert.include(relay.commands.permission_request, `${start} 'permission_request' 'closed'`)
      assert.match(relay.commands.permission_request!, /exit 2; \}$/)
    }).pipe(Effect.provide(Layer.provide(Relays, openForTools)), Effect.scoped)
  )

  it.effect("a list shows the session the agent turned out to have, and how many hooks were refused", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const relay = yield* registry.register(spec({ relayId: "r" }))
      const shown = Effect.map(registry.list, (relays) =>
        relays.map(({ decided, refused, sessionId }) => ({ decided, refused, sessionId }))
      )
      assert.deepStrictEqual(yield* shown, [{ decided: 0, refused: 0, sessionId: null }])
      yield* relay.attachSession("S")
      const entry = Option.getOrThrow(yield* registry.find("r"))
      yield* entry.refused
      yield* entry.refused
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* shown, [{ decided: 0, refused: 2, sessionId: "S" }])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("two runs of one session have two relays; one id is never open twice", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const a = yield* registry.register(spec({ sessionId: "S" }))
      const b = yield* registry.register(spec({ sessionId: "S" }))
      assert.notStrictEqual(a.relayId, b.relayId)
      assert.deepStrictEqual(
        yield* Effect.flip(registry.register(spec({ relayId: a.relayId }))),
        new RelayInUse({ relayId: a.relayId })
      )
      const race = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, i) => i),
        () => Effect.result(registry.register(spec({ relayId: "raced" }))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(race.filter(({ _tag }) => _tag === "Success").length, 1)
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a run that comes back takes over a lingering relay of its id, with a later generation", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const bridges = yield* FakeBridgeStore
      yield* Effect.scoped(registry.register(spec({ relayId: "r", generation: 1 })))
      const again = yield* registry.register(spec({ relayId: "r", generation: 2 }))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(again.generation, 2)
      assert.deepStrictEqual(
        (yield* registry.list).map(({ generation, state }) => ({ generation, state })),
        [{ generation: 2, state: "live" }]
      )
      assert.deepStrictEqual(yield* bridges.log, ["publish r 1", "remove r 1", "publish r 2"])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a directory that is refused fails the registration and leaves nothing registered", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const tree = yield* SupervisionTree
      const refusal = new DirectoryRefused({ path: "/run", problem: "symlink" })
      yield* (yield* FakeBridgeStore).refuses(refusal)
      assert.deepStrictEqual(yield* Effect.flip(registry.register(spec())), refusal)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* registry.list, [])
      assert.deepStrictEqual(yield* tree.snapshot, [{ supervisor: "relays", children: [] }])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect(
    "an approval is answered from the hook's decision on the same call, once; then it is decided anew",
    () =>
      Effect.gen(function* () {
        const relay = yield* (yield* RelayRegistry).register(spec())
        const { result, rows } = yield* recorded(
          Effect.gen(function* () {
            yield* relay.decide(event("exec-1", bash("touch x")), "hook")
            const first = yield* relay.approve(approval("exec-1", bash("touch x")))
            const second = yield* relay.approve(approval("exec-1", bash("touch x")))
            return [first.fromHook, second.fromHook]
          })
        )
        assert.deepStrictEqual(result, [true, false])
        assert.deepStrictEqual(rows, ["hook allow exec-1", "approval allow exec-1"])
      }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a decision of an ended run answers no approval", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const scope = yield* Scope.make()
      const relay = yield* Scope.provide(registry.register(spec()), scope)
      yield* relay.decide(event("exec-1", bash("touch x")), "hook")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(
        (yield* registry.list).map(({ state }) => state),
        ["lingering"]
      )
      assert.isFalse((yield* relay.approve(approval("exec-1", bash("touch x")))).fromHook)
    }).pipe(Effect.provide(Relays))
  )

  it.effect(
    "an approval of a call no hook decided, or of another command, is decided and recorded then",
    () =>
      Effect.gen(function* () {
        const relay = yield* (yield* RelayRegistry).register(spec())
        const { result, rows } = yield* recorded(
          Effect.gen(function* () {
            const unseen = yield* relay.approve(approval("call-9", bash("rm -rf /")))
            yield* relay.decide(event("call-1", bash("touch x")), "hook")
            const swapped = yield* relay.approve(approval("call-1", bash("rm -rf /")))
            return [unseen, swapped].map(({ decision, fromHook }) => `${decision.verdict._tag} ${fromHook}`)
          })
        )
        assert.deepStrictEqual(result, ["deny false", "deny false"])
        assert.deepStrictEqual(rows, ["approval deny call-9", "hook allow call-1", "approval deny call-1"])
      }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect(
    "without an id the one decision with the same tool and input answers; two of them are ambiguous",
    () =>
      Effect.gen(function* () {
        const relay = yield* (yield* RelayRegistry).register(spec())
        const { result, rows } = yield* recorded(
          Effect.gen(function* () {
            yield* relay.decide(event("a", mcp({ x: 1, y: 2 })), "hook")
            const one = yield* relay.approve(approval(null, mcp({ y: 2, x: 1 })))
            yield* relay.decide(event("b", mcp({ x: 1 })), "hook")
            yield* relay.decide(event("c", mcp({ x: 1 })), "hook")
            const two = yield* relay.approve(approval(null, mcp({ x: 1 })))
            return [one.fromHook, two.fromHook]
          })
        )
        assert.deepStrictEqual(result, [true, false])
        assert.match(rows.at(-1)!, /^approval allow approval-/)
      }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a rewritten call is known by what it was rewritten to; a patch by its id", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec())
      yield* relay.decide(event("a", bash("old")), "hook")
      assert.isTrue((yield* relay.approve(approval("a", bash("new")))).fromHook)
      yield* relay.decide(event("b", bash("old")), "hook")
      assert.isFalse((yield* relay.approve(approval("b", bash("old")))).fromHook)
      yield* relay.decide(event("c", bash("apply_patch <<EOF")), "hook")
      assert.isTrue((yield* relay.approve(approval("c", patch))).fromHook)
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("what is kept for approvals is bounded in number, and a digest each", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec())
      for (let i = 0; i <= 128; i++) yield* relay.decide(event(`call-${i}`, bash(`touch ${i}`)), "hook")
      assert.isFalse((yield* relay.approve(approval("call-0", bash("touch 0")))).fromHook)
      assert.isTrue((yield* relay.approve(approval("call-1", bash("touch 1")))).fromHook)
      // However long: a digest of it is kept.
      const long = "x".repeat(70_000)
      yield* relay.decide(event("long", bash(long)), "hook")
      assert.isFalse((yield* relay.approve(approval("long", bash(`${long}y`)))).fromHook)
      assert.isTrue((yield* relay.approve(approval("long", bash(long)))).fromHook)
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a decision that cannot be recorded is none", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec())
      yield* (yield* FakeAuditLog).breaks(true)
      const failures = [
        yield* Effect.flip(relay.decide(event("a", bash("ls")), "hook")),
        yield* Effect.flip(relay.approve(approval("a", bash("ls"))))
      ]
      assert.deepStrictEqual(
        failures.map(({ _tag }) => _tag),
        ["AuditUnavailable", "AuditUnavailable"]
      )
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("its rows go to its own reader, incidents too", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const [a, b] = [yield* registry.register(spec()), yield* registry.register(spec())]
      yield* a.decide(event("a1", bash("ls")), "hook")
      yield* b.decide(event("b1", bash("ls")), "hook")
      yield* a.incident("a2", "the hook exited with code 1")
      const read = Effect.fnUntraced(function* (relay: typeof a) {
        return (yield* Queue.clear(relay.rows)).map(
          ({ source, callId, verdict }) => `${source} ${verdict} ${callId}`
        )
      })
      assert.deepStrictEqual(yield* read(a), ["hook allow a1", "incident deny a2"])
      assert.deepStrictEqual(yield* read(b), ["hook allow b1"])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a hook that goes away while its policy thinks leaves a row that says how it fell", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const relay = yield* registry.register(spec())
      const { rows } = yield* recorded(
        Effect.gen(function* () {
          const deciding = yield* Effect.forkChild(relay.decide(event("slow", bash("think")), "hook"), {
            startImmediately: true
          })
          yield* Fiber.interrupt(deciding)
        })
      )
      assert.deepStrictEqual(rows, ["hook deny slow"])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("where the next gateway takes the relay over, such a hook leaves none: it is decided there", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec({ leaving: Effect.succeed(true) }))
      assert.match(relay.commands.pre_tool_use!, / 'closed' '24000' 'wait' /)
      const { rows } = yield* recorded(
        Effect.gen(function* () {
          const deciding = yield* Effect.forkChild(relay.decide(event("slow", bash("think")), "hook"), {
            startImmediately: true
          })
          yield* Fiber.interrupt(deciding)
        })
      )
      assert.deepStrictEqual(rows, [])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect(
    "what hooks decided before a restart answers approvals after it, once each, and only if it is told exactly",
    () =>
      Effect.gen(function* () {
        const relay = yield* (yield* RelayRegistry).register(spec())
        const before = (callId: string, subject: string, over: Partial<AuditRow> = {}): AuditRow => ({
          ...entry,
          seq: 1,
          at: 0,
          callId,
          subject,
          ...over
        })
        yield* relay.inherit([
          before("a", "touch a"),
          before("b", "rm b", { verdict: "deny" }),
          before("c", "old", { verdict: "rewrite" }),
          before("d", "touch d", { source: "approval" }),
          before("e", "paths of a patch", { tool: "apply_patch" })
        ])
        const { result, rows } = yield* recorded(
          Effect.forEach(
            [
              approval("a", bash("touch a")),
              approval("b", bash("rm b")),
              approval("e", { ...patch, paths: [] }),
              approval("a", bash("touch a")),
              approval("c", bash("new")),
              approval("d", bash("touch d"))
            ],
            (call) =>
              Effect.map(
                relay.approve(call),
                ({ decision, fromHook }) => `${decision.verdict._tag} ${fromHook}`
              )
          )
        )
        assert.deepStrictEqual(
          [result, rows],
          [
            ["allow true", "deny true", "allow true", "allow false", "allow false", "allow false"],
            ["approval allow a", "approval allow c", "approval allow d"]
          ]
        )
      }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a patch that nobody has seen is denied, whatever the policies would say", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec())
      const { result, rows } = yield* recorded(relay.approve(approval("p", { ...patch, paths: [] })))
      assert.deepStrictEqual([result.decision.verdict._tag, rows], ["deny", ["incident deny p"]])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("a rewrite that the provider cannot apply is recorded as the deny it becomes", () =>
    Effect.gen(function* () {
      const relay = yield* (yield* RelayRegistry).register(spec())
      const { result, rows } = yield* recorded(
        relay.decide(event("m", { ...mcp({}), command: "old" }), "hook")
      )
      assert.deepStrictEqual([result.verdict._tag, rows], ["deny", ["hook deny m"]])
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )

  it.effect("there are only so many relays; one that ends makes room", () =>
    Effect.gen(function* () {
      const registry = yield* RelayRegistry
      const one = yield* Scope.make()
      yield* Scope.provide(registry.register(spec()), one)
      for (let i = 1; i < maxRelays; i++) yield* registry.register(spec())
      assert.instanceOf(yield* Effect.flip(registry.register(spec())), TooManyRelays)
      yield* Scope.close(one, Exit.void)
      yield* TestClock.adjust("10 seconds")
      yield* registry.register(spec())
    }).pipe(Effect.provide(Relays), Effect.scoped)
  )
})
