/**
 * Policy: who may say what about a tool call, and how many voices become one decision.
 *
 * Deny beats ask beats rewrite beats allow beats abstain. A policy that throws, hangs or talks nonsense counts with its
 * failure verdict and never silences the others.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { HookEvent } from "./HookEvent.ts"

export const Verdict = Schema.Union([
  Schema.TaggedStruct("allow", { reason: Schema.optionalKey(Schema.String) }),
  Schema.TaggedStruct("deny", { reason: Schema.String }),
  Schema.TaggedStruct("ask", { reason: Schema.String }),
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

/** What the fold of all votes came to. An `ask` never reaches a provider: until approvals exist it is a deny that says so. */
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

/** A rule of the config file. Every given matcher must match; `command` and `path` are regular expressions. */
export const Rule = Schema.Struct({
  id: Schema.String,
  /** Tool names, exact; absent = every tool. */
  tools: Schema.optionalKey(Schema.Array(Schema.String)),
  command: Schema.optionalKey(Schema.String),
  path: Schema.optionalKey(Schema.String),
  verdict: Schema.Literals(["allow", "deny", "ask"]),
  reason: Schema.optionalKey(Schema.String),
  priority: Schema.optionalKey(Schema.Int)
})
export type Rule = typeof Rule.Type

/** An ES module whose default export is `{ id?, decide(event) }`. */
export const ModulePolicy = Schema.Struct({
  module: Schema.String,
  priority: Schema.optionalKey(Schema.Int),
  /** The verdict of a module that throws, hangs or returns nonsense. */
  onFailure: Schema.optionalKey(Schema.Literals(["deny", "allow", "abstain"])),
  timeoutMs: Schema.optionalKey(Schema.Int)
})
export type ModulePolicy = typeof ModulePolicy.Type

export const PolicyConfig = Schema.Struct({
  /** The verdict when every policy abstains. */
  default: Schema.Literals(["allow", "deny"]),
  policies: Schema.Array(Schema.Union([Rule, ModulePolicy]))
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

export class Policy extends Context.Service<
  Policy,
  {
    /** Never fails and always ends: every fault has become a vote. */
    readonly decide: (event: HookEvent) => Effect.Effect<Decision>
    /** Ids in the order they are asked: highest priority first, then the order of the config. */
    readonly loaded: ReadonlyArray<string>
  }
>()("holdfast/Policy") {}
