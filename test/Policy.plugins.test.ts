/** Plugins in OpenClaw's shape, as files beside a config; and what becomes of a call that somebody rewrites. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import type { HookEvent } from "../src/services/HookEvent.ts"
import { type PluginPolicy, Policy, type PolicyConfig, type Vote } from "../src/services/Policy.ts"
import { shellEvent } from "../src/testing/HookEvent.ts"
import { layerOf, loadProblem } from "./support/Policy.ts"

const plugin = (body: string) => `export default { id: "guardian", register(api) { ${body} } }`

const on = (body: string, options = "") =>
  `api.on("before_tool_call", async (event, ctx) => { ${body} }${options});`

const decidedBy = (
  sources: Readonly<Record<string, string>>,
  policies: PolicyConfig["policies"],
  ...events: ReadonlyArray<HookEvent>
) =>
  Effect.provide(
    Effect.gen(function* () {
      const policy = yield* Policy
      return yield* Effect.forEach(events, (event) => policy.decide(event))
    }),
    layerOf({ default: "allow", policies }, sources)
  )

const decided = (source: string, event = shellEvent("ls"), more: Partial<PluginPolicy> = {}) =>
  Effect.map(decidedBy({ "p.mjs": source }, [{ plugin: "p.mjs", ...more }], event), ([only]) => only!)

const problem = (source: string) => loadProblem(decided(source))

describe("Policy plugins", () => {
  it.effect("a handler blocks, with its reason, by the plugin's id", () =>
    Effect.gen(function* () {
      const { verdict, reason, policy } = yield* decided(
        plugin(
          on(
            `if (event.toolName === "Bash" && event.params.command === "ls") return { block: true, blockReason: "no " + event.toolCallId + ctx.sessionId }`
          )
        )
      )
      assert.deepStrictEqual([verdict, reason, policy], [{ _tag: "deny" }, "no call-1thread-1", "guardian"])
    })
  )

  it.effect("it may be exported by name, as the default, or by the default; and know its config", () =>
    Effect.gen(function* () {
      const body = on(`return { block: true, blockReason: JSON.stringify(api.pluginConfig) }`)
      const reasons = yield* Effect.forEach(
        [
          `export const register = (api) => { ${body} }`,
          `export default function (api) { ${body} }`,
          plugin(body)
        ],
        (source) => decided(source, shellEvent("ls"), { config: { strict: true } })
      )
      assert.deepStrictEqual(
        reasons.map(({ reason, policy }) => [reason, policy]),
        [
          ['{"strict":true}', "p.mjs"],
          ['{"strict":true}', "p.mjs"],
          ['{"strict":true}', "guardian"]
        ]
      )
    })
  )

  it.effect("the highest priority runs first, and each sees the parameters as they are by then", () =>
    Effect.gen(function* () {
      const { verdict } = yield* decided(
        plugin(
          on(`return { params: { command: event.params.command + " low" } }`) +
            on(`return { params: { command: event.params.command + " high" } }`, ", { priority: 10 }") +
            on(`return { params: { command: event.params.command + " last" } }`, ", { priority: -1 }")
        )
      )
      assert.deepStrictEqual(verdict, { _tag: "rewrite", input: { command: "ls high low last" } })
    })
  )

  it.effect("a block ends it: nobody after it is asked", () =>
    Effect.gen(function* () {
      const { reason } = yield* decided(
        plugin(
          on(`return { block: true, blockReason: "first" }`, ", { priority: 1 }") +
            on(`throw new Error("was asked")`)
        )
      )
      assert.strictEqual(reason, "first")
    })
  )

  it.effect("an approval is asked for with the parameters as they are, for as long as the plugin wants", () =>
    Effect.gen(function* () {
      const { verdict, reason } = yield* decided(
        plugin(
          on(`return { params: { command: "ls -l" } }`, ", { priority: 1 }") +
            on(
              `return { requireApproval: { title: "List", description: "a directory", severity: "warning", timeoutMs: 5000 } }`
            )
        )
      )
      assert.deepStrictEqual(
        [verdict, reason],
        [{ _tag: "ask", input: { command: "ls -l" }, timeoutMs: 5000 }, "List: a directory (warning)"]
      )
    })
  )

  it.effect(
    "one that has nothing to say abstains; one that throws, hangs or talks nonsense counts as its failure",
    () =>
      Effect.gen(function* () {
        const votes = (body: string, more: Partial<PluginPolicy> = {}) =>
          Effect.map(decided(plugin(on(body)), shellEvent("ls"), more), ({ votes }) => votes)
        const vote = (verdict: Vote["verdict"], failed: Vote["failed"]): ReadonlyArray<Vote> => [
          { policy: "guardian", verdict, failed }
        ]
        assert.deepStrictEqual(yield* votes(""), vote("abstain", null))
        assert.deepStrictEqual(yield* votes("return { somethingElse: 1 }"), vote("abstain", null))
        assert.deepStrictEqual(yield* votes(`throw new Error("x")`), vote("deny", "threw"))
        assert.deepStrictEqual(yield* votes(`return { block: "yes" }`), vote("deny", "nonsense"))
        assert.deepStrictEqual(yield* votes(`throw 1`, { onFailure: "abstain" }), vote("abstain", "threw"))
        const hanging = yield* Effect.gen(function* () {
          const policy = yield* Policy
          const fiber = yield* Effect.forkChild(policy.decide(shellEvent("ls")), { startImmediately: true })
          yield* TestClock.adjust(2_000)
          return (yield* Fiber.join(fiber)).votes
        }).pipe(
          Effect.provide(
            layerOf(
              { default: "allow", policies: [{ plugin: "p.mjs" }] },
              { "p.mjs": plugin(on("await new Promise(() => undefined)")) }
            )
          )
        )
        assert.deepStrictEqual(hanging, vote("deny", "timed-out"))
      })
  )

  it.effect("after a call it sees input, result, error and how long it took", () =>
    Effect.gen(function* () {
      const source = plugin(
        `let seen = null;
         api.on("after_tool_call", (event) => { seen = event });
         ${on("return { block: seen !== null, blockReason: JSON.stringify(seen) }")}`
      )
      const call = shellEvent("make")
      const after: HookEvent = {
        ...call,
        event: "post_tool_use",
        outcome: { result: "built", error: null, durationMs: null }
      }
      const reason = yield* Effect.gen(function* () {
        const policy = yield* Policy
        yield* policy.decide(call)
        yield* TestClock.adjust(250)
        assert.strictEqual((yield* policy.decide(after)).verdict._tag, "allow")
        return (yield* policy.decide(shellEvent("next"))).reason
      }).pipe(
        Effect.provide(layerOf({ default: "allow", policies: [{ plugin: "p.mjs" }] }, { "p.mjs": source }))
      )
      assert.deepStrictEqual(JSON.parse(reason), {
        toolName: "Bash",
        params: { command: "make" },
        runId: "turn-1",
        toolCallId: "call-1",
        result: "built",
        durationMs: 250
      })
    })
  )

  it.effect("what else OpenClaw lets a plugin register is ignored, and its hooks are loaded", () =>
    Effect.gen(function* () {
      const { reason } = yield* decided(
        plugin(
          `api.registerTool({ name: "x" }); api.registerGatewayMethod("y", () => 1); api.logger.info("hello");
           api.on("session_start", () => 1); ${on('return { block: true, blockReason: "loaded" }')}`
        )
      )
      assert.strictEqual(reason, "loaded")
    })
  )

  it.effect("one that is none is refused by name", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        [
          yield* problem("export default {}"),
          yield* problem(plugin("")),
          yield* problem(plugin("throw new Error('broken')")),
          yield* problem(plugin('api.on("before_tool_call", 1)'))
        ],
        [
          "it exports no register(api)",
          "it registers no before_tool_call and no after_tool_call",
          "its register() failed with Error: broken",
          "its register() failed with TypeError: the handler of before_tool_call is no function"
        ]
      )
    })
  )
})

describe("A rewritten call", () => {
  const rewriting = (command: string, verdict = "rewrite") =>
    `export default { id: "rewriter", decide: () => ({ _tag: "${verdict}", reason: "why", input: { command: ${JSON.stringify(command)} } }) }`

  const judged = (command: string, policies: PolicyConfig["policies"], verdict?: string) =>
    Effect.map(
      decidedBy(
        { "r.mjs": rewriting(command, verdict) },
        [{ module: "r.mjs" }, ...policies],
        shellEvent("ls")
      ),
      ([only]) => only!
    )

  const noRm = { id: "no-rm", command: "^rm", verdict: "deny" } as const
  const askRm = { id: "ask-rm", command: "^rm", verdict: "ask", reason: "really?" } as const

  it.effect("is refused where a rule refuses what it became", () =>
    Effect.gen(function* () {
      const { verdict, policy, reason } = yield* judged("rm -rf /", [noRm])
      assert.deepStrictEqual(
        [verdict._tag, policy, reason],
        ["deny", "no-rm", "rule no-rm (as rewriter rewrote it)"]
      )
    })
  )

  it.effect("is asked about where a rule asks about what it became, and made as it became", () =>
    Effect.gen(function* () {
      const { verdict, policy, reason } = yield* judged("rm x", [askRm])
      assert.deepStrictEqual(
        [verdict, policy, reason],
        [{ _tag: "ask", input: { command: "rm x" } }, "ask-rm", "really?"]
      )
    })
  )

  it.effect("is asked about as it became where the call was asked about before", () =>
    Effect.gen(function* () {
      const { verdict } = yield* judged("ls -l", [{ id: "all", verdict: "ask" }])
      assert.deepStrictEqual(verdict, { _tag: "ask", input: { command: "ls -l" } })
      const same = yield* judged("ls -l", [], "ask")
      assert.deepStrictEqual(same.verdict, { _tag: "ask", input: { command: "ls -l" } })
    })
  )

  it.effect(
    "is rewritten by everybody who wants to, each once and in their order, and judged at the end",
    () =>
      Effect.gen(function* () {
        const adding = (id: string, word: string) =>
          `export default { id: "${id}", decide: ({ call }) => ({ _tag: "rewrite", input: { command: call.command + " ${word}" } }) }`
        const sources = { "a.mjs": adding("a", "one"), "b.mjs": adding("b", "two") }
        const both = [{ module: "a.mjs" }, { module: "b.mjs", priority: 1 }]
        const [made] = yield* decidedBy(sources, both, shellEvent("ls"))
        assert.deepStrictEqual(made?.verdict, { _tag: "rewrite", input: { command: "ls two one" } })
        const last = { id: "no", command: "two one$", verdict: "deny" } as const
        const [refused] = yield* decidedBy(sources, [...both, last], shellEvent("ls"))
        assert.deepStrictEqual([refused?.verdict._tag, refused?.policy], ["deny", "no"])
      })
  )

  it.effect("is made when nobody minds, and a deny of the call itself comes first", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* judged("ls -l", [noRm, askRm])).verdict, {
        _tag: "rewrite",
        input: { command: "ls -l" }
      })
      const denied = yield* judged("ls -l", [{ id: "no-ls", command: "^ls", verdict: "deny" }])
      assert.deepStrictEqual([denied.verdict._tag, denied.policy], ["deny", "no-ls"])
    })
  )
})
