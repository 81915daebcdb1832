/** A policy module of the config: imported once, asked within its budget; whatever it does instead of answering is a vote. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as crypto from "node:crypto"
import { readFileSync, statSync } from "node:fs"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { HookEvent } from "../../services/HookEvent.ts"
import {
  defaultModuleTimeoutMs,
  type ModulePolicy,
  PolicyLoadError,
  readVerdict,
  type Verdict,
  type Voice,
  type Vote
} from "../../services/Policy.ts"
import { redact } from "../../services/Redaction.ts"
import { effectiveUid } from "./privateDirectory.ts"

/** A module that has not finished importing by then waits for something; the gateway does not. */
const importTimeoutMs = 10_000

export interface LoadedModule extends Pick<Voice, "policy" | "priority" | "order"> {
  readonly timeoutMs: number
  readonly onFailure: NonNullable<ModulePolicy["onFailure"]>
  /** Of its file; what that imports is not looked at. */
  readonly digest: string
  readonly decide: (event: HookEvent, signal: AbortSignal) => unknown
}

/** Imports a file that nobody else may write; `name` is how the config calls it. */
export const importTrusted = Effect.fnUntraced(function* (name: string, directory: string) {
  const refused = (problem: string) => new PolicyLoadError({ policy: name, problem })
  const path = resolve(directory, name)
  const { problem, digest } = yield* Effect.try({
    try: () => ({
      problem: fileProblem(path),
      digest: crypto.hash("sha256", readFileSync(path), "base64url")
    }),
    catch: () => refused(`${path} cannot be read`)
  })
  if (problem !== null) return yield* refused(problem)
  const exported = yield* Effect.tryPromise({
    try: () => import(pathToFileURL(path).href) as Promise<Readonly<Record<string, unknown>>>,
    catch: (cause) => refused(`importing it failed with ${textOf(cause)}`)
  }).pipe(
    Effect.timeoutOrElse({
      duration: importTimeoutMs,
      orElse: () => Effect.fail(refused(`importing it took more than ${importTimeoutMs} ms`))
    })
  )
  return { exported, digest }
})

/** The default export is `{ id?, decide(event, signal) }`. */
export const loadModule = Effect.fnUntraced(function* (
  policy: ModulePolicy,
  order: number,
  directory: string
) {
  const refused = (problem: string) => new PolicyLoadError({ policy: policy.module, problem })
  const { exported: namespace, digest } = yield* importTrusted(policy.module, directory)
  const exported = namespace["default"]
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

/** The first line of what was thrown, which may be anything, also something that throws when it is looked at. */
export const textOf = (cause: unknown): string => {
  try {
    return redact(cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause)).split(
      "\n",
      1
    )[0]!
  } catch {
    return "something unspeakable"
  }
}

export const askModule = (module: LoadedModule, event: HookEvent): Effect.Effect<Voice> => {
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
