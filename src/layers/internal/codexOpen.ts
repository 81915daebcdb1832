/**
 * How a Codex thread is opened under governance: what governs it is sent with every start, resume and fork, and no turn
 * starts before Codex has said that exactly that is in force.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { HooksUnverified, type ThreadChoice, ThreadUnverified } from "../../services/AgentDriver.ts"
import type { RequestFailure } from "../../services/AppServerFailure.ts"
import type { AppServerConnection } from "../../services/AppServerProcess.ts"
import { HookListing, ThreadResult } from "../../services/AppServerProtocol.ts"
import {
  approvalPolicy,
  approvalsReviewer,
  hookProblems,
  threadConfig,
  threadProblems
} from "../../services/CodexGovernance.ts"
import type { SandboxMode } from "../../services/ConfigFile.ts"
import type { Relay } from "../../services/RelayRegistry.ts"
import { cleanupTimeoutMs } from "./codexStop.ts"
import { governedHooks, mcpServerNames, workingDirectory } from "./codexThread.ts"

const letGo = (server: AppServerConnection, threadId: string): Effect.Effect<void> =>
  Effect.ignore(server.request("thread/unsubscribe", { threadId }, Schema.Unknown, cleanupTimeoutMs))

/** Codex unloads a thread a moment after its last subscriber has left; with another client's it stays. */
const unloadLooks = 40
const unloadPauseMs = 50
const LoadedList = Schema.Struct({ data: Schema.Array(Schema.String) })

const unloaded = Effect.fnUntraced(function* (server: AppServerConnection, threadId: string) {
  for (let look = 0; look < unloadLooks; look++) {
    const { data } = yield* server.request("thread/loaded/list", {}, LoadedList)
    if (!data.includes(threadId)) return
    yield* Effect.sleep(unloadPauseMs)
  }
})

/**
 * A thread that Codex was asked to open is given back with the scope. Who leaves before the answer waits a little for it,
 * with the thread still claimed: a thread that stays loaded would ignore the terms of whoever resumes it next.
 */
const opened = (
  server: AppServerConnection,
  method: string,
  params: unknown,
  leaving: Effect.Effect<boolean>
): Effect.Effect<ThreadResult, RequestFailure, Scope.Scope> =>
  Effect.gen(function* () {
    const asking = yield* Effect.forkScoped(server.request(method, params, ThreadResult))
    const late = Effect.flatMap(Effect.timeoutOption(Fiber.await(asking), cleanupTimeoutMs), (exit) =>
      exit._tag === "Some" && Exit.isSuccess(exit.value)
        ? letGo(server, exit.value.value.thread.id)
        : Effect.void
    )
    return yield* Effect.uninterruptibleMask((restore) =>
      restore(Fiber.join(asking)).pipe(
        Effect.onInterrupt(() => late),
        Effect.tap(({ thread }) =>
          Effect.addFinalizer(() =>
            Effect.flatMap(leaving, (left) => (left ? Effect.void : letGo(server, thread.id)))
          )
        )
      )
    )
  })

export const openThread = Effect.fnUntraced(function* (options: {
  readonly server: AppServerConnection
  readonly commands: Relay["commands"]
  readonly hookTimeoutMs: number
  readonly codexHome: string
  readonly cwd: string
  readonly thread: ThreadChoice
  readonly checked: { readonly config: Readonly<Record<string, unknown>>; readonly sandbox: SandboxMode }
  /** Asked as the scope closes: whether the next gateway goes on with what runs on the thread. */
  readonly leaving: Effect.Effect<boolean>
}) {
  const { server, thread: choice, checked } = options
  const { hooks, expected } = governedHooks(options.commands, options.hookTimeoutMs)
  const cwd = yield* workingDirectory(options.cwd)
  const mcpServers = yield* mcpServerNames(options.codexHome)
  const textOf = (key: string): string | null => {
    const value = checked.config[key]
    return typeof value === "string" ? value : null
  }
  const [model, modelProvider] = [textOf("model"), textOf("model_provider")]
  const terms = { cwd, sandbox: checked.sandbox, model, modelProvider }
  const params = {
    cwd,
    approvalPolicy,
    approvalsReviewer,
    sandbox: checked.sandbox,
    config: threadConfig({ cwd, overrides: checked.config, hooks, mcpServers }),
    ...(model === null ? {} : { model }),
    ...(modelProvider === null ? {} : { modelProvider }),
    ...(choice._tag === "start" ? { ephemeral: false } : { threadId: choice.threadId, excludeTurns: true })
  }
  const open = opened(server, `thread/${choice._tag}`, params, options.leaving)
  let result = yield* open
  let problems = threadProblems(result, terms)
  if (problems.length > 0) {
    yield* letGo(server, result.thread.id)
    if (choice._tag === "resume") {
      // It was still loaded, for a run that has just ended say.
      yield* unloaded(server, choice.threadId)
      result = yield* open
      problems = threadProblems(result, terms)
    }
  }
  const threadId = result.thread.id
  if (problems.length > 0) return yield* new ThreadUnverified({ threadId, problems })
  const listing = yield* server.request("hooks/list", { threadId }, HookListing)
  const missing = hookProblems(listing, expected)
  if (missing.length > 0) return yield* new HooksUnverified({ threadId, problems: missing })
  return { threadId, model: result.model ?? null, hooks: expected.length }
})
