import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { HookEventName } from "../src/services/HookEvent.ts"
import {
  byPrecedence,
  compileRule,
  type Judgement,
  fallbackFor,
  fold,
  maxSearchedLength,
  Policy,
  PolicyLoadError,
  readVerdict,
  type Rule,
  type Verdict,
  type Voice
} from "../src/services/Policy.ts"
import { patchEvent, plainEvent, shellEvent } from "../src/testing/HookEvent.ts"
import { layerOf } from "./support/Policy.ts"

const fallback = { verdict: "allow", reason: "nobody spoke" } as const

const verdicts: Readonly<Record<Verdict["_tag"], Verdict>> = {
  allow: { _tag: "allow" },
  deny: { _tag: "deny", reason: "no" },
  ask: { _tag: "ask", reason: "may I" },
  rewrite: { _tag: "rewrite", input: { command: "true" } },
  abstain: { _tag: "abstain" }
}

const tags = ["abstain", "allow", "rewrite", "ask", "deny"] as const

/** Voices as they come: the place in the list is the order of the config. */
const Voices = Schema.Array(
  Schema.Struct({
    tag: Schema.Literals(tags),
    priority: Schema.Literals([-1, 0, 1]),
    failed: Schema.NullOr(Schema.Literals(["threw", "timed-out", "nonsense"]))
  })
).check(Schema.isMaxLength(8))

const voicesOf = (list: typeof Voices.Type): ReadonlyArray<Voice> =>
  list.map(({ tag, priority, failed }, order) => ({
    policy: `p${order}`,
    priority,
    order,
    verdict: tag === "rewrite" ? { _tag: tag, input: order } : verdicts[tag],
    failed
  }))

const outcome = { abstain: "allow", allow: "allow", rewrite: "rewrite", ask: "ask", deny: "deny" } as const

const runs = { arbitrary: { runs: 1_000, seed: 11 } }

const verdictOf = ({ verdict: { _tag: tag } }: Pick<Judgement, "verdict">) => tag

const rewrite = (policy: string, priority: number, order: number): Voice => ({
  policy,
  priority,
  order,
  verdict: { _tag: "rewrite", input: policy },
  failed: null
})

describe("Policy fold", () => {
  it.effect.prop(
    "the strongest verdict wins; among equals the highest priority, then the first of the config, speaks",
    { list: Voices },
    ({ list }) =>
      Effect.sync(() => {
        const voices = voicesOf(list)
        const strongest = tags.findLast((tag) => list.some((one) => one.tag === tag)) ?? "abstain"
        const [speaker] = voices.filter(({ order }) => list[order]?.tag === strongest).toSorted(byPrecedence)
        const decision = fold(voices, fallback)
        assert.deepStrictEqual(
          [verdictOf(decision), decision.policy],
          [outcome[strongest], strongest === "abstain" ? "default" : speaker?.policy]
        )
      }),
    runs
  )

  it.effect.prop(
    "the order in which voices arrive changes nothing",
    { list: Voices, turn: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 7 })) },
    ({ list, turn }) =>
      Effect.sync(() => {
        const voices = voicesOf(list)
        const rotated = [...voices.slice(turn), ...voices.slice(0, turn)]
        assert.deepStrictEqual(fold(rotated, fallback), fold(voices, fallback))
        assert.deepStrictEqual(fold(rotated.toReversed(), fallback), fold(voices, fallback))
      }),
    runs
  )

  it.effect.prop(
    "a deny wins whatever else is said and whoever fails",
    { list: Voices, at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 8 })) },
    ({ list, at }) =>
      Effect.sync(() => {
        const deny = { tag: "deny", priority: -1, failed: null } as const
        const decision = fold(voicesOf(list.toSpliced(at, 0, deny)), fallback)
        assert.strictEqual(verdictOf(decision), "deny")
      }),
    runs
  )

  it.effect.prop(
    "a failing policy is counted among the votes and silences nobody",
    { list: Voices },
    ({ list }) =>
      Effect.sync(() => {
        const voices = voicesOf(list)
        assert.deepStrictEqual(
          fold(voices, fallback).votes,
          voices
            .toSorted(byPrecedence)
            .map(({ policy, order, failed }) => ({ policy, verdict: list[order]!.tag, failed }))
        )
      }),
    runs
  )

  it("when all abstain the default decides, by name and with its reason", () => {
    assert.deepStrictEqual(fold([], { verdict: "deny", reason: "the default is deny" }), {
      verdict: { _tag: "deny" },
      policy: "default",
      reason: "the default is deny",
      votes: []
    })
  })

  it("of two rewrites the one of higher priority is made", () => {
    assert.deepStrictEqual(fold([rewrite("low", 1, 0), rewrite("high", 2, 1)], fallback), {
      verdict: { _tag: "rewrite", input: "high" },
      policy: "high",
      reason: "policy high",
      votes: [
        { policy: "high", verdict: "rewrite", failed: null },
        { policy: "low", verdict: "rewrite", failed: null }
      ]
    })
  })

  it("an ask stays one: somebody else answers it", () => {
    const ask: Voice = {
      policy: "careful",
      priority: 0,
      order: 0,
      verdict: { _tag: "ask", reason: "may I" },
      failed: null
    }
    assert.deepStrictEqual(fold([ask], fallback), {
      verdict: { _tag: "ask" },
      policy: "careful",
      reason: "may I",
      votes: [{ policy: "careful", verdict: "ask", failed: null }]
    })
  })

  it("the default is about tool calls: other events pass, and an unread call of an acting agent does not", () => {
    const directions = Object.fromEntries(
      HookEventName.literals.map((name) => [name, fallbackFor(plainEvent(name), "deny").verdict])
    )
    assert.deepStrictEqual(directions, {
      pre_tool_use: "deny",
      permission_request: "deny",
      post_tool_use: "allow",
      user_prompt_submit: "allow",
      session_start: "allow",
      session_end: "allow",
      subagent_start: "allow",
      subagent_stop: "allow",
      pre_compact: "allow",
      post_compact: "allow",
      interrupt: "allow",
      stop: "allow"
    })
    assert.deepStrictEqual(
      [fallbackFor(shellEvent("ls"), "deny"), fallbackFor(shellEvent("ls"), "allow")],
      [
        { verdict: "deny", reason: "no policy has a say in this call; the default is deny" },
        { verdict: "allow", reason: "no policy has a say in this call; the default is allow" }
      ]
    )
  })
})

describe("Policy verdicts of a module", () => {
  it.each([
    [{ _tag: "allow" }, { _tag: "allow" }],
    [
      { _tag: "deny", reason: "no", extra: 1 },
      { _tag: "deny", reason: "no" }
    ],
    [
      { _tag: "rewrite", input: { a: [1], b: undefined } },
      { _tag: "rewrite", input: { a: [1] } }
    ],
    [{ _tag: "abstain" }, { _tag: "abstain" }]
  ])("%j is read", (given, expected) => {
    assert.deepStrictEqual(readVerdict(given), Result.succeed(expected as Verdict))
  })

  const circular: { self?: unknown } = {}
  circular.self = circular
  it.each([
    undefined,
    null,
    true,
    "deny",
    {},
    { _tag: "Deny", reason: "no" },
    { _tag: "deny" },
    { _tag: "deny", reason: 1 },
    { _tag: "rewrite" },
    { _tag: "rewrite", input: undefined },
    { _tag: "rewrite", input: 1n },
    { _tag: "rewrite", input: circular },
    {
      get _tag() {
        throw new Error("no")
      }
    }
  ])("nonsense is called nonsense (%#)", (given) => {
    assert.deepStrictEqual(readVerdict(given), Result.fail("nonsense"))
  })
})

const matches = (rule: Partial<Rule>, event = shellEvent("git push")) => {
  const compiled = Result.getOrThrow(compileRule({ id: "r", verdict: "deny", ...rule }, 0))
  return compiled.ask(event.call!, event.spawnedBy !== null)?.verdict ?? null
}

const yes: Verdict = { _tag: "deny", reason: "rule r" }

const problem = (...policies: ReadonlyArray<Rule>) =>
  Effect.map(Effect.flip(Effect.provide(Policy, layerOf({ default: "allow", policies }))), (error) =>
    error instanceof PolicyLoadError ? [error.policy, error.problem] : error
  )

describe("Policy rules", () => {
  it("a rule may be about helpers only, or only about runs that nobody spawned", () => {
    const own = shellEvent("git push")
    const helper = { ...own, spawnedBy: "run-parent" }
    assert.deepStrictEqual(
      [{}, { spawned: true }, { spawned: false }].map((rule) => [matches(rule, own), matches(rule, helper)]),
      [
        [yes, yes],
        [null, yes],
        [yes, null]
      ]
    )
  })

  it.effect("the loaded policy asks them about the run that the relay names", () =>
    Effect.gen(function* () {
      const policy = yield* Policy
      const own = shellEvent("git push")
      assert.deepStrictEqual(
        [
          (yield* policy.decide(own)).verdict._tag,
          (yield* policy.decide({ ...own, spawnedBy: "run-parent" })).verdict._tag
        ],
        ["allow", "deny"]
      )
    }).pipe(
      Effect.provide(
        layerOf({
          default: "allow",
          policies: [{ id: "helpers-do-not-push", command: "^git push", spawned: true, verdict: "deny" }]
        })
      )
    )
  )

  it("every matcher that is given must match; a rule without one matches every call", () => {
    const patch = patchEvent("src/a.ts", "infra/main.tf")
    assert.deepStrictEqual(
      [
        matches({}),
        matches({}, patch),
        matches({ tools: ["Bash"] }),
        matches({ kinds: ["shell"] }),
        matches({ kinds: ["mcp", "patch"] }, patch),
        matches({ command: "^git" }),
        matches({ path: "^infra/" }, patch),
        matches({ tools: ["Bash"], command: "push$" })
      ],
      Array.from({ length: 8 }, () => yes)
    )
    assert.deepStrictEqual(
      [
        matches({ tools: [] }),
        matches({ tools: ["bash"] }),
        matches({ kinds: ["patch"] }),
        matches({ command: "^push" }),
        matches({ command: "" }, patch),
        matches({ path: "" }),
        matches({ path: "^docs/" }, patch),
        matches({ tools: ["apply_patch"], path: "^docs/" }, patch),
        matches({ command: "git", path: "" })
      ],
      Array.from({ length: 9 }, () => null)
    )
  })

  it("text too long to search counts as matching for deny and ask, and as not matching for allow", () => {
    const long = shellEvent("x".repeat(maxSearchedLength + 1))
    const note = "rule r (not ruled out: the call could not be searched)"
    assert.deepStrictEqual(
      [
        matches({ command: "git" }, long),
        matches({ command: "git", verdict: "ask" }, long),
        matches({ command: "x", verdict: "allow" }, long),
        matches({ command: "git", tools: ["other"] }, long),
        matches({ command: "git" }, shellEvent("x".repeat(maxSearchedLength))),
        matches({ path: "a" }, patchEvent("y".repeat(maxSearchedLength + 1))),
        matches({ path: "a", verdict: "allow" }, patchEvent("y".repeat(maxSearchedLength + 1), "a"))
      ],
      [
        { _tag: "deny", reason: note },
        { _tag: "ask", reason: note },
        null,
        null,
        null,
        { _tag: "deny", reason: note },
        { _tag: "allow", reason: "rule r" }
      ]
    )
  })

  it("an expression that does not compile is refused by the rule's name", () => {
    assert.deepStrictEqual(
      [
        compileRule({ id: "mine", verdict: "deny", command: "(" }, 0),
        compileRule({ id: "mine", verdict: "deny", path: "[" }, 0)
      ].map((result) => Result.getOrThrow(Result.flip(result)).message),
      ["command", "path"].map(
        (field) =>
          `Policy mine cannot be used: its ${field} is not a valid regular expression. Correct it in the config file, or remove it.`
      )
    )
  })

  const rules: ReadonlyArray<Rule> = [
    { id: "no-push", verdict: "deny", command: "git push", reason: "pushing is for people" },
    { id: "git-is-fine", verdict: "allow", command: "^git" },
    { id: "infra", verdict: "ask", path: "^infra/", reason: "infrastructure", priority: 5 }
  ]

  it.effect("rules decide at once and say which one spoke", () =>
    Effect.gen(function* () {
      const policy = yield* Policy
      assert.deepStrictEqual(policy.loaded, ["infra", "no-push", "git-is-fine"])
      const fiber = yield* Effect.forkChild(policy.decide(shellEvent("git push")), { startImmediately: true })
      assert.isDefined(fiber.pollUnsafe(), "decided without waiting for anything")
      assert.deepStrictEqual(
        yield* Effect.forEach(
          [
            shellEvent("git push"),
            shellEvent("git log"),
            shellEvent("ls"),
            patchEvent("infra/x"),
            plainEvent("stop")
          ],
          policy.decide
        ),
        [
          {
            verdict: { _tag: "deny" },
            policy: "no-push",
            reason: "pushing is for people",
            votes: [
              { policy: "no-push", verdict: "deny", failed: null },
              { policy: "git-is-fine", verdict: "allow", failed: null }
            ]
          },
          {
            verdict: { _tag: "allow" },
            policy: "git-is-fine",
            reason: "rule git-is-fine",
            votes: [{ policy: "git-is-fine", verdict: "allow", failed: null }]
          },
          {
            verdict: { _tag: "deny" },
            policy: "default",
            reason: "no policy has a say in this call; the default is deny",
            votes: []
          },
          {
            verdict: { _tag: "ask" },
            policy: "infra",
            reason: "infrastructure",
            votes: [{ policy: "infra", verdict: "ask", failed: null }]
          },
          {
            verdict: { _tag: "allow" },
            policy: "default",
            reason: "not a tool call, and no policy objects",
            votes: []
          }
        ]
      )
    }).pipe(Effect.provide(layerOf({ default: "deny", policies: rules })))
  )

  it.effect("a config with a bad expression, one id twice or the default's id does not load", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        [
          yield* problem({ id: "a", verdict: "deny", command: "(" }),
          yield* problem({ id: "a", verdict: "deny" }, { id: "a", verdict: "allow" }),
          yield* problem({ id: "default", verdict: "deny" })
        ],
        [
          ["a", "its command is not a valid regular expression"],
          ["a", "two policies have this id"],
          ["default", "rows of the audit log have this name for something else"]
        ]
      )
    })
  )
})
