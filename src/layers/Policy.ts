/**
 * Policy, live: the config's rules, compiled once, and its modules and plugins, imported once; each answers within its budget.
 *
 * With rules alone a decision is a few microseconds of plain code; modules are asked all at once, so the slowest counts. A
 * call that one of them rewrites is judged again as it will be made, by everybody else.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as crypto from "node:crypto"
import { dirname } from "node:path"
import type { HookEvent } from "../services/HookEvent.ts"
import { providerOf } from "../services/HookProvider.ts"
import {
  type AskVerdict,
  byPrecedence,
  compileRule,
  fallbackFor,
  fold,
  type Judgement,
  Policy,
  PolicyLoadError,
  type PolicyConfig,
  type Voice
} from "../services/Policy.ts"
import { Settings } from "../services/Settings.ts"
import { askModule, loadModule } from "./internal/policyModule.ts"
import { loadPlugin } from "./internal/policyPlugin.ts"

export * from "../services/Policy.ts"

/** Whoever has a say, however it came here. `ask` is null where it answers at once. */
interface Speaker extends Pick<Voice, "policy" | "priority" | "order"> {
  readonly digest: string | null
  readonly tell: ((event: HookEvent) => Voice | null) | null
  readonly ask: ((event: HookEvent) => Effect.Effect<Voice | null>) | null
}

const nobody: ReadonlySet<number> = new Set()

const speakerOf = Effect.fnUntraced(function* (
  policy: PolicyConfig["policies"][number],
  order: number,
  directory: string,
  home: string | null
) {
  if ("plugin" in policy) {
    const plugin = yield* loadPlugin(policy, order, directory)
    return { ...plugin, tell: null } satisfies Speaker
  }
  if ("module" in policy) {
    const module = yield* loadModule(policy, order, directory)
    return { ...module, tell: null, ask: (event) => askModule(module, event) } satisfies Speaker
  }
  if ("builtin" in policy) {
    // Its parser is loaded where it is wanted.
    const { shellVerdict } = yield* Effect.promise(() => import("./internal/policyPack.ts"))
    const key = { policy: policy.builtin, priority: policy.priority ?? 0, order }
    const say = shellVerdict(home)
    const tell = (event: HookEvent): Voice | null => {
      const verdict = say(event)
      return verdict === null ? null : { ...key, verdict, failed: null }
    }
    return { ...key, digest: null, tell, ask: null } satisfies Speaker
  }
  const rule = yield* Effect.fromResult(compileRule(policy, order))
  const { policy: id, priority } = rule
  const tell = ({ call, spawnedBy }: HookEvent) => (call === null ? null : rule.ask(call, spawnedBy !== null))
  return { policy: id, priority, order, digest: null, tell, ask: null } satisfies Speaker
})

export const make = Effect.gen(function* () {
  const { policy: config, paths, environment } = yield* Settings
  const speakers: ReadonlyArray<Speaker> = yield* Effect.forEach(config.policies, (policy, order) =>
    speakerOf(policy, order, dirname(paths.config), environment["HOME"] ?? null)
  )
  const loaded = speakers.toSorted(byPrecedence).map(({ policy }) => policy)
  yield* refuseUnclearNames(loaded)
  const slow = speakers.filter(({ ask }) => ask !== null)

  const told = (event: HookEvent, but: ReadonlySet<number> = nobody): ReadonlyArray<Voice> =>
    speakers.flatMap(({ tell, order }) => (but.has(order) ? [] : (tell?.(event) ?? [])))

  const asked = (event: HookEvent, but: ReadonlySet<number> = nobody) =>
    // As many at once as the config names.
    Effect.forEach(
      slow,
      ({ ask, order }) => (but.has(order) || ask === null ? Effect.succeed(null) : ask(event)),
      {
        concurrency: "unbounded"
      }
    )

  const foldOf = (event: HookEvent, voices: ReadonlyArray<Voice>) =>
    fold(voices, fallbackFor(event, config.default))

  /** Everybody's word on an event, but for those whose rewrite was made already. */
  const allVoices = Effect.fnUntraced(function* (event: HookEvent, but: ReadonlySet<number>) {
    const answers = (yield* asked(event, but)).filter((voice) => voice !== null)
    return [...told(event, but), ...answers]
  })

  /**
   * A call that is rewritten is judged again as it will be made, by everybody whose rewrite was not made yet: each is made
   * once, in their order. Who objects to what it became, or wants a person to see it, is heard.
   */
  const decideOf = Effect.fnUntraced(function* (event: HookEvent, voices: ReadonlyArray<Voice>) {
    const made = new Set<number>()
    const first = foldOf(event, voices)
    let [judged, current, said]: [Judgement, HookEvent, ReadonlyArray<Voice>] = [first, event, voices]
    let ask = first.verdict._tag === "ask" ? first : null
    for (;;) {
      const rewriter = said.filter(rewrites).toSorted(byPrecedence)[0]
      if (judged.verdict._tag === "deny" || rewriter === undefined) break
      made.add(rewriter.order)
      const { input } = rewriter.verdict
      const changed = providerOf(event)?.rewritten(current, input) ?? null
      const rewrite: Judgement = { ...judged, policy: rewriter.policy, verdict: { _tag: "rewrite", input } }
      // What no tool takes is refused by the provider's own rules, in its own words.
      if (changed === null) return { ...rewrite, votes: first.votes }
      current = changed
      said = yield* allVoices(changed, made)
      const second = fold(
        said.filter(({ verdict }) => verdict._tag === "deny" || verdict._tag === "ask"),
        { verdict: "allow", reason: "" }
      )
      if (second.verdict._tag === "ask") ask ??= second
      judged =
        second.verdict._tag === "deny"
          ? { ...second, reason: `${second.reason} (as ${rewriter.policy} rewrote it)` }
          : ask === null
            ? rewrite
            : { ...ask, verdict: { ...(ask.verdict as AskVerdict), input } }
    }
    return { ...judged, votes: first.votes }
  })

  const ofRules = (event: HookEvent) => Effect.sync(() => foldOf(event, told(event)))

  const ofAll = Effect.fn("Policy.decide")(function* (event: HookEvent) {
    return yield* decideOf(event, yield* allVoices(event, nobody))
  })

  const version = crypto.hash(
    "sha256",
    JSON.stringify([config, slow.map(({ policy, digest }) => [policy, digest])]),
    "base64url"
  )
  return Policy.of({ decide: slow.length === 0 ? ofRules : ofAll, loaded, version })
})

export const layer = Layer.effect(Policy, make)

/** A call that is asked about with another input is rewritten as well. */
const rewrites = (voice: Voice): voice is Voice & { readonly verdict: { readonly input: unknown } } =>
  voice.verdict._tag === "rewrite" || (voice.verdict._tag === "ask" && voice.verdict.input !== undefined)

/** What stands in a row where no policy decided. */
const ownNames: ReadonlySet<string> = new Set([
  "default",
  "fence",
  "guard-canary",
  "incident",
  "no gateway",
  "unanswered",
  "unseen"
])

const refuseUnclearNames = (ids: ReadonlyArray<string>): Effect.Effect<void, PolicyLoadError> => {
  const twice = ids.find((id, index) => ids.indexOf(id) !== index)
  if (twice !== undefined)
    return Effect.fail(new PolicyLoadError({ policy: twice, problem: "two policies have this id" }))
  const own = ids.find((id) => ownNames.has(id))
  return own === undefined
    ? Effect.void
    : Effect.fail(
        new PolicyLoadError({
          policy: own,
          problem: "rows of the audit log have this name for something else"
        })
      )
}
