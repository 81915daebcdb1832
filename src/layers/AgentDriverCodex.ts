/**
 * AgentDriver on the shared Codex app-server: a relay, a borrow, a governed thread, one turn.
 *
 * Finalizers run in the reverse order: the turn is interrupted if it still runs, what it left in the background is
 * terminated, then the thread, the borrow and the relay are given back.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import {
  AgentDriver,
  type AgentEvent,
  type AgentRunError,
  HooksUnverified,
  RunFailed,
  type RunRequest,
  ThreadInUse,
  TurnTimeout
} from "../services/AgentDriver.ts"
import { AppServerLease } from "../services/AppServerLease.ts"
import type { AppServerConnection } from "../services/AppServerProcess.ts"
import { AccountResult, HookListing, ThreadResult } from "../services/AppServerProtocol.ts"
import { approvalPolicy, checkOverrides, hookProblems, threadConfig } from "../services/CodexGovernance.ts"
import type { HookEventName } from "../services/HookEvent.ts"
import { type Relay, RelayRegistry } from "../services/RelayRegistry.ts"
import { redact } from "../services/Redaction.ts"
import { Settings } from "../services/Settings.ts"
import { ThreadStore } from "../services/ThreadStore.ts"
import { governedHooks, mcpServerNames, parseOverrides, workingDirectory } from "./internal/codexThread.ts"
import { cleanupTimeoutMs, runTurn } from "./internal/codexTurn.ts"

export * from "../services/AgentDriver.ts"

/** The one event that must be decided before a tool runs; others would only cost a process per call. */
const governedEvents: ReadonlyArray<HookEventName> = ["pre_tool_use"]
/** Events between the run and its reader; the run waits for a reader that falls behind. */
const eventBuffer = 1024

const failedAt =
  (stage: RunFailed["stage"]) =>
  (error: { readonly _tag: string; readonly message: string }): RunFailed =>
    new RunFailed({
      stage,
      detail: error.message,
      retryable:
        error._tag === "AppServerLost" || error._tag === "LeaseTimeout" || error._tag === "BorrowerShed"
    })

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const registry = yield* RelayRegistry
  const lease = yield* AppServerLease
  const threads = yield* ThreadStore
  /** Threads that belong to a run now. Codex has one subscription and one turn a thread, so a second run would break both. */
  const inUse = new Set<string>()

  const claim = (threadId: string) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (inUse.has(threadId)) return Effect.fail(new ThreadInUse({ threadId }))
        inUse.add(threadId)
        return Effect.void
      }),
      () => Effect.sync(() => inUse.delete(threadId))
    )

  const openRelay = Effect.fnUntraced(function* (runId: string, request: RunRequest) {
    const known =
      request.thread._tag === "resume" ? yield* threads.find(request.thread.threadId) : Option.none()
    return yield* registry.register({
      provider: "codex",
      runId,
      sessionId: request.thread._tag === "resume" ? request.thread.threadId : null,
      allowedEvents: governedEvents,
      ...Option.match(known, {
        onNone: () => ({}),
        onSome: ({ relayId, generation }) => ({ relayId, generation: generation + 1 })
      })
    })
  })

  /** Codex itself would only say "reconnecting" for half a minute. */
  const noticeMissingLogin = Effect.fnUntraced(function* (
    server: AppServerConnection,
    emit: (event: AgentEvent) => Effect.Effect<unknown>
  ) {
    const { account, requiresOpenaiAuth } = yield* server.request(
      "account/read",
      {},
      AccountResult,
      cleanupTimeoutMs
    )
    if (account !== null || !requiresOpenaiAuth) return
    const text = `Codex has no login here; run \`CODEX_HOME=${settings.codex.home} codex login\`, or name a provider with -c model_provider`
    yield* emit({ _tag: "notice", text })
  })

  const openThread = Effect.fnUntraced(function* (
    server: AppServerConnection,
    relay: Relay,
    request: RunRequest,
    checked: { readonly config: Readonly<Record<string, unknown>>; readonly sandbox: string }
  ) {
    const { hooks, expected } = governedHooks(relay.commands, settings.hook.timeoutMs)
    const cwd = yield* workingDirectory(request.cwd)
    const mcpServers = yield* mcpServerNames(settings.codex.home)
    if (request.thread._tag === "resume") yield* claim(request.thread.threadId)
    const params = {
      cwd,
      approvalPolicy,
      approvalsReviewer: "user",
      sandbox: checked.sandbox,
      config: threadConfig({ cwd, overrides: checked.config, hooks, mcpServers }),
      ...(checked.config["model"] === undefined ? {} : { model: checked.config["model"] }),
      ...(checked.config["model_provider"] === undefined
        ? {}
        : { modelProvider: checked.config["model_provider"] })
    }
    const { thread, model } = yield* request.thread._tag === "start"
      ? server.request("thread/start", { ...params, ephemeral: false }, ThreadResult)
      : server.request(
          `thread/${request.thread._tag}`,
          { ...params, threadId: request.thread.threadId, excludeTurns: true },
          ThreadResult
        )
    if (request.thread._tag !== "resume") yield* claim(thread.id)
    yield* Effect.addFinalizer(() =>
      Effect.ignore(
        server.request("thread/unsubscribe", { threadId: thread.id }, Schema.Unknown, cleanupTimeoutMs)
      )
    )
    const listing = yield* server.request("hooks/list", { threadId: thread.id }, HookListing)
    const problems = hookProblems(listing, expected)
    if (problems.length > 0) return yield* new HooksUnverified({ threadId: thread.id, problems })
    return { threadId: thread.id, model: model ?? null, hooks: expected.length }
  })

  const run = (request: RunRequest, queue: Queue.Enqueue<AgentEvent, AgentRunError | Cause.Done>) =>
    Effect.gen(function* () {
      const emit = (event: AgentEvent) => Queue.offer(queue, event)
      const entries = yield* Effect.fromResult(parseOverrides(request.overrides))
      const checked = yield* Effect.fromResult(checkOverrides(entries, settings.codex.sandbox))
      const runId = `run-${crypto.randomUUID()}`
      const relay = yield* Effect.mapError(openRelay(runId, request), failedAt("relay"))
      yield* Queue.take(relay.rows).pipe(
        Effect.flatMap((row) => emit({ _tag: "verdict", row })),
        Effect.forever,
        Effect.forkScoped
      )
      const server = yield* Effect.mapError(lease.borrow, failedAt("app-server"))
      const thread = yield* openThread(server, relay, request, checked).pipe(
        Effect.catchIf(
          (error) => error._tag !== "HooksUnverified",
          (error) => Effect.fail(failedAt("thread")(error))
        )
      )
      const { threadId } = thread
      yield* relay.attachSession(threadId)
      yield* Effect.mapError(
        threads.remember({
          threadId,
          relayId: relay.relayId,
          generation: relay.generation,
          cwd: request.cwd
        }),
        failedAt("record")
      )
      yield* emit({
        _tag: "governed",
        runId,
        relayId: relay.relayId,
        generation: relay.generation,
        ...thread
      })
      if (checked.config["model_provider"] === undefined)
        yield* Effect.ignore(noticeMissingLogin(server, emit))
      const ended = yield* Effect.scoped(
        runTurn({ server, relay, threadId, prompt: request.prompt, emit, inUse }).pipe(
          Effect.timeoutOrElse({
            duration: settings.turn.timeoutMs,
            orElse: () => Effect.fail(new TurnTimeout({ timeoutMs: settings.turn.timeoutMs }))
          })
        )
      ).pipe(
        Effect.catchIf(
          (error) => error._tag !== "HookIncident" && error._tag !== "TurnTimeout",
          (error) => Effect.fail(failedAt("turn")(error))
        )
      )
      const rest = yield* Queue.clear(relay.rows)
      for (const row of rest) yield* emit({ _tag: "verdict", row })
      yield* emit({
        _tag: "ended",
        status: ended.status,
        problem: ended.error ? redact(ended.error.message) : null
      })
      yield* Queue.end(queue)
    })

  return AgentDriver.of({
    run: (request) =>
      Stream.callback<AgentEvent, AgentRunError>((queue) => run(request, queue), { bufferSize: eventBuffer })
  })
})

export const layer = Layer.effect(AgentDriver, make)
