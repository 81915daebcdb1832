/** HookProvider: the agents whose hooks are understood, each by its codec. Behind it everybody speaks HookEvent's words. */
import type * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type HookEvent, type HookEventName, ProviderName } from "./HookEvent.ts"
import * as Claude from "./HookProviderClaude.ts"
import * as Codex from "./HookProviderCodex.ts"
import type { Decision, Judgement } from "./Policy.ts"

export interface HookProvider {
  readonly decodeEvent: (
    event: HookEventName,
    text: string,
    synthesizedId: () => string
  ) => Result.Result<HookEvent, { readonly message: string }>
  /** What a decision comes to here: what the provider cannot do is a deny that says so. */
  readonly settle: <J extends Judgement>(event: HookEvent, decision: J) => J | Decision
  /** `attended`: a person sits at the agent's terminal. */
  readonly encodeDecision: (event: HookEvent, decision: Decision, attended?: boolean) => string
  /** The event with another input; null where the tool takes none like it. */
  readonly rewritten: (event: HookEvent, input: unknown) => HookEvent | null
  /** Seconds that the provider gives a hook. */
  readonly timeoutSeconds: (event: HookEventName, configuredMs: number) => number
}

export const hookProviders: Readonly<Record<ProviderName, HookProvider>> = { codex: Codex, claude: Claude }

/**
 * What a judgement comes to at its provider, before anybody is asked about it: what cannot be done with the call is not asked
 * about either.
 */
export const settleAt = <J extends Judgement>(
  provider: HookProvider,
  event: HookEvent,
  judged: J
): J | Decision => {
  if (judged.verdict._tag !== "ask" || judged.verdict.input === undefined)
    return provider.settle(event, judged)
  const { input } = judged.verdict
  const made = provider.settle(event, { ...judged, verdict: { _tag: "rewrite" as const, input } })
  return made.verdict._tag === "deny" ? { ...made, verdict: { _tag: "deny" } } : judged
}

/** Of an event's own word; null for one that came from somewhere else. */
export const providerOf = ({ provider }: Pick<HookEvent, "provider">): HookProvider | null =>
  Schema.is(ProviderName)(provider) ? hookProviders[provider] : null
