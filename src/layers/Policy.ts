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

  const told = (event: HookEvent, but: number | null = null): ReadonlyArray<Voice> =>
    speakers.flatMap(({ tell, order }) => (order === but ? [] : (tell?.(event) ?? [])))

  const asked = (event: HookEvent, but: number | null = null) =>
    // As many at once as the config names.
    Effect.forEach(
      slow,
      ({ ask, order }) => (order === but || ask === null ? Effect.succeed(null) : ask(event)),
      {
        concurrency: "unbounded"
      }
    )

  const foldOf = (event: HookEvent, voices: ReadonlyArray<Voice>) =>
    fold(voices, fallbackFor(event, config.default))

  /** What is said of the call as it will be made: who objects, or wants a person to see it, is heard. */
  const again = Effect.fnUntraced(function* (
    event: HookEvent,
    first: Judgement,
    rewriter: Voice & { readonly verdict: { readonly input: unknown } }
  ) {
    const { input } = rewriter.verdict
    const changed = providerOf(event)?.rewritten(event, input) ?? null
    // What no tool takes is refused by the provider's own rules, with its own words.
    if (changed === null) return { ...first, verdict: { _tag: "rewrite" as const, input } }
    const voices = [...told(changed, rewriter.order), ...(yield* asked(changed, rewriter.order))].filter(
      (voice) => voice !== null
    )
    const second = fold(
      voices.filter(({ verdict }) => verdict._tag === "deny" || verdict._tag === "ask"),
      { verdict: "allow", reason: "" }
    )
    if (second.verdict._tag === "deny")
      return { ...second, votes: first.votes, reason: `${second.reason} (as ${rewriter.policy} rewrote it)` }
    if (second.verdict._tag === "ask")
      return { ...second, votes: first.votes, verdict: { ...second.verdict, input } }
    return first.verdict._tag === "ask"
      ? { ...first, verdict: { ...first.verdict, input } }
      : { ...first, verdict: { _tag: "rewrite" as const, input } }
  })

  const decideOf = (event: HookEvent, voices: ReadonlyArray<Voice>): Effect.Effect<Judgement> => {
    const judged = foldOf(event, voices)
    const rewriter = voices.filter(rewrites).toSorted(byPrecedence)[0]
    return judged.verdict._tag === "deny" || rewriter === undefined
      ? Effect.succeed(judged)
      : again(event, judged, rewriter)
  }

  const ofRules = (event: HookEvent) => Effect.sync(() => foldOf(event, told(event)))

  const ofAll = Effect.fn("Policy.decide")(function* (event: HookEvent) {
    const answers = (yield* asked(event)).filter((voice) => voice !== null)
    return yield* decideOf(event, [...told(event), ...answers])
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

const refuseUnclearNames = (ids: ReadonlyArray<string>): Effect.Effect<void, PolicyLoadError> => {
  const twice = ids.find((id, index) => ids.indexOf(id) !== index)
  if (twice !== undefined)
    return Effect.fail(new PolicyLoadError({ policy: twice, problem: "two policies have this id" }))
  return ids.includes("default")
    ? Effect.fail(
        new PolicyLoadError({ policy: "default", problem: "the id stands for the config's default" })
      )
    : Effect.void
}
