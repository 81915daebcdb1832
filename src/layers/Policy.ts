/**
 * Policy, live: the config's rules, compiled once, and its modules, imported once; each module answers within its budget.
 *
 * With rules alone a decision is a few microseconds of plain code; modules are asked all at once, so the slowest counts.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as crypto from "node:crypto"
import { readFileSync, statSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { HookEvent } from "../services/HookEvent.ts"
import {
  byPrecedence,
  type CompiledRule,
  compileRule,
  defaultModuleTimeoutMs,
  fallbackFor,
  fold,
  type ModulePolicy,
  Policy,
  PolicyLoadError,
  readVerdict,
  type Verdict,
  type Voice,
  type Vote
} from "../services/Policy.ts"
import { redact } from "../services/Redaction.ts"
import { Settings } from "../services/Settings.ts"
import { effectiveUid } from "./internal/privateDirectory.ts"

export * from "../services/Policy.ts"

export const make = Effect.gen(function* () {
  const { policy: config, paths } = yield* Settings
  const rules: Array<CompiledRule> = []
  const modules: Array<LoadedModule> = []
  for (const [order, policy] of config.policies.entries()) {
    if ("module" in policy) modules.push(yield* load(policy, order, dirname(paths.config)))
    else rules.push(yield* Effect.fromResult(compileRule(policy, order)))
  }
  const loaded = [...rules, ...modules].toSorted(byPrecedence).map(({ policy }) => policy)
  yield* refuseUnclearNames(loaded)

  const ruleVoices = ({ call, spawnedBy }: HookEvent): ReadonlyArray<Voice> =>
    call === null
      ? []
      : rules.map((rule) => rule.ask(call, spawnedBy !== null)).filter((voice) => voice !== null)

  const ofRules = (event: HookEvent) =>
    Effect.sync(() => fold(ruleVoices(event), fallbackFor(event, config.default)))

  const ofAll = Effect.fn("Policy.decide")(function* (event: HookEvent) {
    // As many at once as the config names.
    const answers = yield* Effect.forEach(modules, (module) => ask(module, event), {
      concurrency: "unbounded"
    })
    return fold([...ruleVoices(event), ...answers], fallbackFor(event, config.default))
  })

  const version = crypto.hash(
    "sha256",
    JSON.stringify([config, modules.map(({ policy, digest }) => [policy, digest])]),
    "base64url"
  )
  return Policy.of({ decide: modules.length === 0 ? ofRules : ofAll, loaded, version })
})

export const layer = Layer.effect(Policy, make)

/** A module that has not finished importing by then waits for something; the gateway does not. */
const importTimeoutMs = 10_000

interface LoadedModule extends Pick<Voice, "policy" | "priority" | "order"> {
  readonly timeoutMs: number
  readonly onFailure: NonNullable<ModulePolicy["onFailure"]>
  /** Of its file; what that imports is not looked at. */
  readonly digest: string
  readonly decide: (event: HookEvent, signal: AbortSignal) => unknown
}

const load = Effect.fnUntraced(function* (policy: ModulePolicy, order: number, directory: string) {
  const refused = (problem: string) => new PolicyLoadError({ policy: policy.module, problem })
  const path = resolve(directory, policy.module)
  const { problem, digest } = yield* Effect.try({
    try: () => ({
      problem: fileProblem(path),
      digest: crypto.hash("sha256", readFileSync(path), "base64url")
    }),
    catch: () => refused(`${path} cannot be read`)
  })
  if (problem !== null) return yield* refused(problem)
  const namespace = yield* Effect.tryPromise({
    try: () => import(pathToFileURL(path).href) as Promise<{ readonly default?: unknown }>,
    catch: (cause) => refused(`importing it failed with ${textOf(cause)}`)
  }).pipe(
    Effect.timeoutOrElse({
      duration: importTimeoutMs,
      orElse: () => Effect.fail(refused(`importing it took more than ${importTimeoutMs} ms`))
    })
  )
  const exported = namespace.default
  if (typeof exported !== "object" || exported === null || !("decide" in exported))
    return yield* refused("its default export is not { id?, decide(event) }")
  const { decide } = exported
  const id = "id" in exported ? exported.id : policy.module
  if (typeof decide !== "function" || typeof id !== "string" || id === "")
    return yield* refused("its default export is not { id?, decide(event) }")
  return {
    policy: id,
    digest,
    priority: policy.priority ?? 0,
    order,
    timeoutMs: policy.timeoutMs ?? defaultModuleTimeoutMs,
    onFailure: policy.onFailure ?? "deny",
    decide: (event, signal) => decide.call(exported, event, signal) as unknown
  } satisfies LoadedModule
})

/** Code that others can change would decide with our authority. Group-writable is the default mode of many systems. */
const fileProblem = (path: string): string | null => {
  const stats = statSync(path)
  if (!stats.isFile()) return "it is not a file"
  if (stats.uid !== effectiveUid() && stats.uid !== 0) return "the file belongs to another user"
  return (stats.mode & 0o002) === 0 ? null : "anybody may write to the file"
}

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

/** The first line of what was thrown, which may be anything, also something that throws when it is looked at. */
const textOf = (cause: unknown): string => {
  try {
    return redact(cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause)).split(
      "\n",
      1
    )[0]!
  } catch {
    return "something unspeakable"
  }
}

const ask = (module: LoadedModule, event: HookEvent): Effect.Effect<Voice> => {
  const voice = (verdict: Verdict, failed: Vote["failed"] = null): Voice => ({
    policy: module.policy,
    priority: module.priority,
    order: module.order,
    verdict,
    failed
  })
  const faulty = (failed: NonNullable<Vote["failed"]>, detail: string): Effect.Effect<Voice> =>
    Effect.as(
      Effect.logWarning(`policy ${module.policy} ${detail}; it counts as ${module.onFailure}`),
      voice(
        module.onFailure === "abstain"
          ? { _tag: "abstain" }
          : { _tag: module.onFailure, reason: `policy ${module.policy} ${complaints[failed]}` },
        failed
      )
    )
  return Effect.tryPromise({
    // Its own copy: what one policy does to the event is not seen by the next, or by the audit log.
    try: async (signal) => module.decide(structuredClone(event), signal),
    catch: textOf
  }).pipe(
    Effect.flatMap((answer) =>
      Result.match(readVerdict(answer), {
        onSuccess: (verdict) => Effect.succeed(voice(verdict)),
        onFailure: () => faulty("nonsense", "returned what is no verdict")
      })
    ),
    Effect.catch((thrown) => faulty("threw", `threw ${thrown}`)),
    Effect.timeoutOrElse({
      duration: module.timeoutMs,
      orElse: () => faulty("timed-out", `did not answer within ${module.timeoutMs} ms`)
    })
  )
}

/** Shown to the agent, so without the fault's own text. */
const complaints: Readonly<Record<NonNullable<Vote["failed"]>, string>> = {
  threw: "failed",
  "timed-out": "did not answer in time",
  nonsense: "gave an answer that is no verdict"
}
