import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import { type ModulePolicy, Policy, type Rule } from "../src/services/Policy.ts"
import { plainEvent, shellEvent } from "../src/testing/HookEvent.ts"
import { layerOf, loadProblem } from "./support/Policy.ts"

/** A module whose `decide` has this body. */
const deciding = (body: string) => `export default { decide: async (event, signal) => { ${body} } }`

const allowed = deciding(`return { _tag: "allow", reason: "looked at it" }`)

const decided = (
  sources: Readonly<Record<string, string>>,
  modules: ReadonlyArray<ModulePolicy | Rule>,
  event = shellEvent("ls")
) =>
  Effect.provide(
    Policy.use((policy) => policy.decide(event)),
    layerOf({ default: "allow", policies: modules }, sources)
  )

const problem = (source: string | null) =>
  loadProblem(decided(source === null ? {} : { "a.mjs": source }, [{ module: "a.mjs" }]))

describe("Policy modules", () => {
  it.effect("a module sees whose helper makes a call", () =>
    Effect.gen(function* () {
      const { verdict, reason } = yield* decided(
        { "a.mjs": deciding(`return { _tag: "deny", reason: event.spawnedBy }`) },
        [{ module: "a.mjs" }],
        { ...shellEvent("ls"), spawnedBy: "run-parent" }
      )
      assert.deepStrictEqual([verdict._tag, reason], ["deny", "run-parent"])
    })
  )

  it.effect("a module beside the config file is asked, by its own id or by its path", () =>
    Effect.gen(function* () {
      const decision = yield* decided(
        { "a.mjs": allowed, "b.mjs": `export default { id: "bee", decide: () => ({ _tag: "abstain" }) }` },
        [{ module: "./a.mjs" }, { module: "b.mjs", priority: 1 }]
      )
      assert.deepStrictEqual(decision, {
        verdict: { _tag: "allow" },
        policy: "./a.mjs",
        reason: "looked at it",
        votes: [
          { policy: "bee", verdict: "abstain", failed: null },
          { policy: "./a.mjs", verdict: "allow", failed: null }
        ]
      })
    })
  )

  it.effect("modules are asked about events that are no tool call; rules are not", () =>
    Effect.gen(function* () {
      const decision = yield* decided(
        { "a.mjs": deciding(`return { _tag: "deny", reason: event.event }`) },
        [{ module: "a.mjs" }, { id: "everything", verdict: "deny", priority: 9 }],
        plainEvent("session_start")
      )
      assert.deepStrictEqual(decision, {
        verdict: { _tag: "deny" },
        policy: "a.mjs",
        reason: "session_start",
        votes: [{ policy: "a.mjs", verdict: "deny", failed: null }]
      })
    })
  )

  it.effect(
    "throwing, rejecting and nonsense are votes by the declared failure verdict; the others still speak",
    () =>
      Effect.gen(function* () {
        const decision = yield* decided(
          {
            "throws.mjs": `export default { decide() { throw new Error("no") } }`,
            "rejects.mjs": deciding("throw { toString() { throw 1 } }"),
            "babbles.mjs": deciding(`return "allow"`),
            "allows.mjs": allowed
          },
          [
            { module: "throws.mjs" },
            { module: "rejects.mjs", onFailure: "abstain" },
            { module: "babbles.mjs", onFailure: "allow" },
            { module: "allows.mjs" }
          ]
        )
        assert.deepStrictEqual(decision, {
          verdict: { _tag: "deny" },
          policy: "throws.mjs",
          reason: "policy throws.mjs failed",
          votes: [
            { policy: "throws.mjs", verdict: "deny", failed: "threw" },
            { policy: "rejects.mjs", verdict: "abstain", failed: "threw" },
            { policy: "babbles.mjs", verdict: "allow", failed: "nonsense" },
            { policy: "allows.mjs", verdict: "allow", failed: null }
          ]
        })
      })
  )

  it.effect(
    "hanging modules cost the longest budget, not the sum, and are told that nobody waits any more",
    () =>
      Effect.gen(function* () {
        const hangs = deciding(
          `return new Promise(() => signal.addEventListener("abort", () => { globalThis.holdfastAborted = true }))`
        )
        const decision = yield* Effect.gen(function* () {
          const policy = yield* Policy
          const fiber = yield* Effect.forkChild(policy.decide(shellEvent("ls")), { startImmediately: true })
          yield* TestClock.adjust("1999 millis")
          assert.isUndefined(fiber.pollUnsafe())
          yield* TestClock.adjust("1 millis")
          return yield* Fiber.join(fiber)
        }).pipe(
          Effect.provide(
            layerOf(
              {
                default: "allow",
                policies: [
                  { module: "a.mjs" },
                  { module: "b.mjs", timeoutMs: 500, onFailure: "abstain" },
                  { module: "c.mjs" }
                ]
              },
              { "a.mjs": hangs, "b.mjs": hangs, "c.mjs": allowed }
            )
          )
        )
        assert.deepStrictEqual(decision, {
          verdict: { _tag: "deny" },
          policy: "a.mjs",
          reason: "policy a.mjs did not answer in time",
          votes: [
            { policy: "a.mjs", verdict: "deny", failed: "timed-out" },
            { policy: "b.mjs", verdict: "abstain", failed: "timed-out" },
            { policy: "c.mjs", verdict: "allow", failed: null }
          ]
        })
        assert.isTrue("holdfastAborted" in globalThis)
      })
  )

  it.effect("what a module does to the event is seen by nobody else", () =>
    Effect.gen(function* () {
      const event = shellEvent("rm -rf /")
      const decision = yield* decided(
        {
          "lies.mjs": deciding(`event.call.command = "ls"; event.call = null; return { _tag: "abstain" }`),
          "looks.mjs": deciding(`return { _tag: "deny", reason: event.call.command }`)
        },
        [{ module: "lies.mjs", priority: 1 }, { module: "looks.mjs" }],
        event
      )
      assert.strictEqual(decision.reason, "rm -rf /")
      assert.deepStrictEqual(event, shellEvent("rm -rf /"))
    })
  )

  it.effect("a module that cannot be used stops the start and says why", () =>
    Effect.gen(function* () {
      const shape = "its default export is not { id?, decide(event) }"
      assert.deepStrictEqual(
        [
          yield* problem("export const decide = 1"),
          yield* problem("export default null"),
          yield* problem("export default { decide: 1 }"),
          yield* problem("export default { id: 1, decide() {} }"),
          yield* problem("throw new TypeError('TOKEN=abc is wrong')")
        ],
        [shape, shape, shape, shape, "importing it failed with TypeError: TOKEN=[redacted] is wrong"]
      )
      assert.match(yield* problem(null), /^\/.*\/a\.mjs cannot be read$/)
    })
  )

  it.effect("a module that anybody may change does not decide", () =>
    Effect.gen(function* () {
      const config = { default: "allow", policies: [{ module: "a.mjs" }] } as const
      const error = yield* Effect.flip(Effect.provide(Policy, layerOf(config, { "a.mjs": allowed }, 0o646)))
      assert.strictEqual(
        error.message,
        "Policy a.mjs cannot be used: anybody may write to the file. Correct it in the config file, or remove it."
      )
    })
  )

  it.effect("a module that never finishes importing stops the start", () =>
    Effect.gen(function* () {
      const config = { default: "allow", policies: [{ module: "a.mjs" }] } as const
      const source = `await new Promise(() => {})\n${allowed}`
      const start = yield* Effect.forkChild(
        Effect.flip(Effect.provide(Policy, layerOf(config, { "a.mjs": source }))),
        { startImmediately: true }
      )
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(start)).problem, "importing it took more than 10000 ms")
    })
  )
})
