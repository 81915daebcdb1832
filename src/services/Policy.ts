/**
 * Policy: who may say what about a tool call, and how many voices become one decision.
 *
 * Deny beats ask beats rewrite beats allow beats abstain. A policy that throws, hangs or talks nonsense counts with its
 * failure verdict and never silences the others. Rules look at the text of a call, not at what a shell makes of it: they
 * stop accidents and habits; what a determined agent may do is the sandbox's business.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { defaultDirection, type HookEvent, type ToolCall, ToolKind } from "./HookEvent.ts"

export const Verdict = Schema.Union([
  Schema.TaggedStruct("allow", { reason: Schema.optionalKey(Schema.String) }),
  Schema.TaggedStruct("deny", { reason: Schema.String }),
  /** `input` is what the call is made with once somebody has allowed it; absent = as it is. */
  Schema.TaggedStruct("ask", {
    reason: Schema.String,
    input: Schema.optionalKey(Schema.Unknown),
    /** How long it can be answered; absent, or longer than the config's = the config's. */
    timeoutMs: Schema.optionalKey(Schema.Finite.check(Schema.isGreaterThan(0)))
  }),
  /** `input` replaces the tool's whole input. */
  Schema.TaggedStruct("rewrite", { input: Schema.Unknown, reason: Schema.optionalKey(Schema.String) }),
  Schema.TaggedStruct("abstain", {})
])
export type Verdict = typeof Verdict.Type

/** One policy's vote, as the audit row keeps it. `failed` says that the verdict stands in for a fault. */
export const Vote = Schema.Struct({
  policy: Schema.String,
  verdict: Schema.Literals(["allow", "deny", "ask", "rewrite", "abstain"]),
  failed: Schema.NullOr(Schema.Literals(["threw", "timed-out", "nonsense"]))
})
export type Vote = typeof Vote.Type

/** What is done with a call. An `ask` never reaches a provider: somebody has answered it by then, or nobody has. */
export const Decision = Schema.Struct({
  verdict: Schema.Union([
    Schema.TaggedStruct("allow", {}),
    Schema.TaggedStruct("deny", {}),
    Schema.TaggedStruct("rewrite", { input: Schema.Unknown })
  ]),
  /** The policy whose voice won, or `default` when all abstained. */
  policy: Schema.String,
  reason: Schema.String,
  votes: Schema.Array(Vote)
})
export type Decision = typeof Decision.Type

/** What the fold of all votes came to. */
export interface Judgement extends Omit<Decision, "verdict"> {
  readonly verdict: Decision["verdict"] | AskVerdict
}

export type AskVerdict = Pick<Extract<Verdict, { readonly _tag: "ask" }>, "_tag" | "input" | "timeoutMs">

/** A rule of the config file. Every given matcher must match; a rule without one matches every tool call. */
export const Rule = Schema.Struct({
  id: Schema.NonEmptyString,
  /** Tool names, exact, as the provider says them; absent = every tool. */
  tools: Schema.optionalKey(Schema.Array(Schema.String)),
  /** What the tool does, whatever the provider calls it; absent = every kind. */
  kinds: Schema.optionalKey(Schema.Array(ToolKind)),
  /** A regular expression, searched in the command line of a shell call. */
  command: Schema.optionalKey(Schema.String),
  /**
   * A regular expression, searched in each path that a patch names, as it names them; one is enough. A shell call has no
   * paths: what a command line touches cannot be read off it, so a `path` rule never matches one.
   */
  path: Schema.optionalKey(Schema.String),
  /** True = only calls of helpers, false = only calls of runs that nobody spawned; absent = both. */
  spawned: Schema.optionalKey(Schema.Boolean),
  verdict: Schema.Literals(["allow", "deny", "ask"]),
  reason: Schema.optionalKey(Schema.String),
  priority: Schema.optionalKey(Schema.Int)
})
export type Rule = typeof Rule.Type

/**
 * An ES module whose default export is `{ id?, decide(event, signal) }`, the verdict returned or promised; absolute, or
 * relative to the config file. It runs inside the gateway: it is trusted not to block the event loop, and with nothing else.
 */
export const ModulePolicy = Schema.Struct({
  module: Schema.NonEmptyString,
  priority: Schema.optionalKey(Schema.Int),
  /** The verdict of a module that throws, hangs or returns nonsense; absent = deny. */
  onFailure: Schema.optionalKey(Schema.Literals(["deny", "allow", "abstain"])),
  /** Absent = `defaultModuleTimeoutMs`. */
  timeoutMs: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 600_000 })))
})
export type ModulePolicy = typeof ModulePolicy.Type

/** A policy that comes with Holdfast. `shell` follows command lines as a shell would (ShellRules). */
export const BuiltinPolicy = Schema.Struct({
  builtin: Schema.Literals(["shell"]),
  priority: Schema.optionalKey(Schema.Int)
})
export type BuiltinPolicy = typeof BuiltinPolicy.Type

/**
 * A plugin in OpenClaw's shape: an ES module with `register(api)` (Plugin). Like a module it runs inside the gateway, with
 * the same budget and failure verdict for all its handlers together. `config` is its `api.pluginConfig`.
 */
export const PluginPolicy = Schema.Struct({
  plugin: Schema.NonEmptyString,
  config: Schema.optionalKey(Schema.Unknown),
  priority: Schema.optionalKey(Schema.Int),
  onFailure: ModulePolicy.fields.onFailure,
  timeoutMs: ModulePolicy.fields.timeoutMs
})
export type PluginPolicy = typeof PluginPolicy.Type

export const PolicyConfig = Schema.Struct({
  /** The verdict when every policy abstains. */
  default: Schema.Literals(["allow", "deny"]),
  policies: Schema.Array(Schema.Union([Rule, ModulePolicy, BuiltinPolicy, PluginPolicy]))
})
export type PolicyConfig = typeof PolicyConfig.Type

export class PolicyLoadError extends Schema.TaggedError<PolicyLoadError>()("PolicyLoadError", {
  policy: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `Policy ${this.policy} cannot be used: ${this.problem}. Correct it in the config file, or remove it.`
  }
}

/** Two seconds is long for a look at one call and leaves most of a hook's thirty to the others. */
export const defaultModuleTimeoutMs = 2_000

/**
 * Characters of a command or path that a rule searches. Longer text is not searched at all: it counts as matching for
 * `deny` and `ask`, and as not matching for `allow`. That bounds the text, not the time of a careless expression: one that
 * backtracks exponentially holds the gateway with a short text too.
 */
export const maxSearchedLength = 65_536

/** What is said of one event by one policy. `order` is its place in the config, which decides between equals. */
export interface Voice {
  readonly policy: string
  readonly priority: number
  readonly order: number
  readonly verdict: Verdict
  readonly failed: Vote["failed"]
}

/** Highest priority first, then the order of the config. */
export const byPrecedence = (
  a: Pick<Voice, "priority" | "order">,
  b: Pick<Voice, "priority" | "order">
): number => b.priority - a.priority || a.order - b.order

/** A rule ready to be asked: null when it has nothing to say about a call, which a helper makes or a run of its own. */
export interface CompiledRule extends Pick<Voice, "policy" | "priority" | "order"> {
  readonly ask: (call: ToolCall, spawned: boolean) => Voice | null
}

export const compileRule = (rule: Rule, order: number): Result.Result<CompiledRule, PolicyLoadError> =>
  Result.gen(function* () {
    const command = yield* compilePattern(rule, "command")
    const path = yield* compilePattern(rule, "path")
    const key = { policy: rule.id, priority: rule.priority ?? 0, order }
    const voice = (note: string): Voice => ({
      ...key,
      verdict: { _tag: rule.verdict, reason: `${rule.reason ?? `rule ${rule.id}`}${note}` },
      failed: null
    })
    const matched = voice("")
    const unsearched =
      rule.verdict === "allow" ? null : voice(" (not ruled out: the call could not be searched)")
    return {
      ...key,
      ask: (call, spawned) => {
        if (rule.spawned !== undefined && rule.spawned !== spawned) return null
        if (rule.tools !== undefined && !rule.tools.includes(call.tool)) return null
        if (rule.kinds !== undefined && !rule.kinds.includes(call.kind)) return null
        const found = both(
          command === null ? "found" : search(command, call.command === null ? [] : [call.command]),
          path === null ? "found" : search(path, call.paths)
        )
        return found === "found" ? matched : found === "absent" ? null : unsearched
      }
    }
  })

type Finding = "found" | "absent" | "unsearched"

const both = (a: Finding, b: Finding): Finding =>
  a === "absent" || b === "absent" ? "absent" : a === "found" ? b : a

const search = (pattern: RegExp, texts: ReadonlyArray<string>): Finding => {
  let finding: Finding = "absent"
  for (const text of texts) {
    const one = searchOne(pattern, text)
    if (one === "found") return one
    if (one === "unsearched") finding = one
  }
  return finding
}

const searchOne = (pattern: RegExp, text: string): Finding => {
  if (text.length > maxSearchedLength) return "unsearched"
  try {
    return pattern.test(text) ? "found" : "absent"
  } catch {
    // The engine ran out of stack.
    return "unsearched"
  }
}

const compilePattern = (
  rule: Rule,
  field: "command" | "path"
): Result.Result<RegExp | null, PolicyLoadError> => {
  const source = rule[field]
  if (source === undefined) return Result.succeed(null)
  return Result.try({
    try: () => new RegExp(source),
    catch: () =>
      new PolicyLoadError({ policy: rule.id, problem: `its ${field} is not a valid regular expression` })
  })
}

/** What a module returned, if it is a verdict. A rewrite's input is taken as JSON, which is how it will travel. */
export const readVerdict = (answer: unknown): Result.Result<Verdict, "nonsense"> =>
  Result.try({
    try: () => {
      const verdict = decodeVerdict(answer)
      if (!("input" in verdict) || (verdict._tag === "ask" && verdict.input === undefined)) return verdict
      return { ...verdict, input: JSON.parse(JSON.stringify(verdict.input)) as unknown }
    },
    catch: () => "nonsense"
  })

const decodeVerdict = Schema.decodeUnknownSync(Verdict)

/** The verdict when everybody abstains, and why. */
export interface Fallback {
  readonly verdict: "allow" | "deny"
  readonly reason: string
}

/**
 * The config's default is about tool calls. An event that is none passes; an agent about to act on a call that nobody
 * could read does not.
 */
export const fallbackFor = (event: HookEvent, configured: PolicyConfig["default"]): Fallback => {
  if (event.call !== null)
    return { verdict: configured, reason: `no policy has a say in this call; the default is ${configured}` }
  return defaultDirection(event.event) === "closed"
    ? { verdict: "deny", reason: "the call could not be read, so no rule could judge it" }
    : { verdict: "allow", reason: "not a tool call, and no policy objects" }
}

const strength = { abstain: 0, allow: 1, rewrite: 2, ask: 3, deny: 4 } as const

/** All voices in any order to one. Among equals the higher priority speaks, then the earlier in the config. */
export const fold = (voices: ReadonlyArray<Voice>, fallback: Fallback): Judgement => {
  const asked = voices.toSorted(byPrecedence)
  let winner: Voice | null = null
  for (const voice of asked) {
    const { _tag: tag } = voice.verdict
    if (strength[tag] > (winner === null ? 0 : strengthOf(winner))) winner = voice
  }
  const votes = asked.map(({ policy, verdict: { _tag: verdict }, failed }) => ({ policy, verdict, failed }))
  return winner === null
    ? { verdict: { _tag: fallback.verdict }, policy: "default", reason: fallback.reason, votes }
    : { ...spoken(winner), policy: winner.policy, votes }
}

const strengthOf = ({ verdict: { _tag: tag } }: Voice): number => strength[tag]

const spoken = ({ policy, verdict }: Voice): Pick<Judgement, "verdict" | "reason"> => {
  const reason = ("reason" in verdict ? verdict.reason : undefined) ?? `policy ${policy}`
  switch (verdict._tag) {
    case "rewrite":
      return { verdict: { _tag: "rewrite", input: verdict.input }, reason }
    case "ask": {
      const { reason: _reason, ...ask } = verdict
      return { verdict: ask, reason }
    }
    default:
      return { verdict: { _tag: verdict._tag === "allow" ? "allow" : "deny" }, reason }
  }
}

export class Policy extends Context.Service<
  Policy,
  {
    /** Never fails and always ends: every fault has become a vote. */
    readonly decide: (event: HookEvent) => Effect.Effect<Judgement>
    /** Ids in the order they are asked: highest priority first, then the order of the config. */
    readonly loaded: ReadonlyArray<string>
    /** A digest of all that is loaded; another one means that a call may be judged in another way. */
    readonly version: string
  }
>()("holdfast/Policy") {}
