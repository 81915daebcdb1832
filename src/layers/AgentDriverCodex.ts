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
  HookIncident,
  HooksUnverified,
  maxShownOutput,
  RunFailed,
  type RunRequest,
  TurnTimeout
} from "../services/AgentDriver.ts"
import { AppServerLease } from "../services/AppServerLease.ts"
import { type AppServerConnection, type Incoming } from "../services/AppServerProcess.ts"
import {
  AccountResult,
  BackgroundTerminals,
  ErrorNotification,
  HookCompleted,
  HookListing,
  ItemEvent,
  ThreadResult,
  TurnCompleted,
  TurnResult
} from "../services/AppServerProtocol.ts"
import {
  approvalAnswer,
  approvalOf,
  approvalPolicy,
  checkOverrides,
  hookProblems,
  threadConfig
} from "../services/CodexGovernance.ts"
import type { HookEventName } from "../services/HookEvent.ts"
import { type Relay, RelayRegistry } from "../services/RelayRegistry.ts"
import { redact } from "../services/Redaction.ts"
import { Settings } from "../services/Settings.ts"
import { ThreadStore } from "../services/ThreadStore.ts"
import { governedHooks, parseOverrides } from "./internal/codexThread.ts"

export * from "../services/AgentDriver.ts"

/** The one event that must be decided before a tool runs; others would only cost a process per call. */
const governedEvents: ReadonlyArray<HookEventName> = ["pre_tool_use"]
/** Events between the run and its reader; the run waits for a reader that falls behind. */
const eventBuffer = 1024
/** Items in progress that are remembered for their approvals; more at once is not a turn any more. */
const maxItems = 1024
/** Each small question beside a turn gets this long; Codex answers them in about 10 ms. */
const cleanupTimeoutMs = 5000

const decodeItem = Schema.decodeUnknownOption(ItemEvent)
const decodeHook = Schema.decodeUnknownOption(HookCompleted)
const decodeTurn = Schema.decodeUnknownOption(TurnCompleted)
const decodeError = Schema.decodeUnknownOption(ErrorNotification)

const failedAt =
  (stage: RunFailed["stage"]) =>
  (error: { readonly _tag: string; readonly message: string }): RunFailed =>
    new RunFailed({
      stage,
      detail: error.message,
      retryable:
        error._tag === "AppServerLost" || error._tag === "LeaseTimeout" || error._tag === "BorrowerShed"
    })

const eventOfItem = ({ threadId, item }: ItemEvent): AgentEvent | null => {
  switch (item.type) {
    case "agentMessage":
      return { _tag: "message", threadId, text: item.text ?? "" }
    case "commandExecution":
      return {
        _tag: "command",
        threadId,
        itemId: item.id,
        command: item.command ?? "",
        status: item.status ?? "unknown",
        exitCode: item.exitCode ?? null,
        output: redact((item.aggregatedOutput ?? "").slice(0, maxShownOutput))
      }
    case "fileChange":
      return {
        _tag: "patch",
        threadId,
        itemId: item.id,
        paths: (item.changes ?? []).map((change) => change.path),
        status: item.status ?? "unknown"
      }
    default:
      return null
  }
}

/** Whatever the turn left running in the background of its thread. */
const endTerminals = (server: AppServerConnection, threadId: string) =>
  Effect.gen(function* () {
    const { data } = yield* server.request(
      "thread/backgroundTerminals/list",
      { threadId },
      BackgroundTerminals,
      cleanupTimeoutMs
    )
    for (const { processId } of data)
      yield* server.request(
        "thread/backgroundTerminals/terminate",
        { threadId, processId },
        Schema.Unknown,
        cleanupTimeoutMs
      )
  })

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const registry = yield* RelayRegistry
  const lease = yield* AppServerLease
  const threads = yield* ThreadStore

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
    const params = {
      cwd: request.cwd,
      approvalPolicy,
      approvalsReviewer: "user",
      sandbox: checked.sandbox,
      config: threadConfig({ cwd: request.cwd, overrides: checked.config, hooks }),
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

  const turn = Effect.fnUntraced(function* (options: {
    readonly server: AppServerConnection
    readonly relay: Relay
    readonly threadId: string
    readonly prompt: string
    readonly emit: (event: AgentEvent) => Effect.Effect<unknown>
  }) {
    const { server, relay, threadId, emit } = options
    const incoming = yield* server.thread(threadId)
    const items = new Map<string, ItemEvent>()
    let running: string | null = null

    const remember = (entry: ItemEvent): void => {
      if (items.size >= maxItems) items.delete(items.keys().next().value!)
      items.set(entry.item.id, entry)
    }

    const answer = (message: Extract<Incoming, { readonly _tag: "request" }>) =>
      Effect.gen(function* () {
        const approval = approvalOf(message.method, message.params, items, threadId)
        if (approval === null) {
          yield* emit({ _tag: "notice", text: `refused ${message.method}: nobody here may answer it` })
          return yield* message.refuse
        }
        const { decision, fromHook } = yield* relay.approve(approval.call)
        yield* message.respond(approvalAnswer(approval.kind, decision, fromHook))
      }).pipe(Effect.catchTag("AuditUnavailable", () => message.refuse))

    /** The end of our turn, or an incident; everything else becomes an event. */
    const onNotification = Effect.fnUntraced(function* (method: string, params: unknown) {
      if (method === "item/started" || method === "item/completed") {
        const entry = Option.getOrNull(decodeItem(params))
        if (entry === null) return null
        if (method === "item/started") {
          remember(entry)
          return null
        }
        items.delete(entry.item.id)
        const event = eventOfItem(entry)
        if (event) yield* emit(event)
        return null
      }
      if (method === "hook/completed") {
        const { run } = Option.getOrUndefined(decodeHook(params)) ?? {}
        if (run === undefined || run.source !== "sessionFlags") return null
        const callId = run.id.slice(run.id.lastIndexOf(":") + 1)
        const { eventName: event, status } = run
        yield* emit({ _tag: "hook", event, callId, status, durationMs: run.durationMs ?? 0 })
        if (status !== "failed") return null
        const detail = redact(run.entries?.map((entry) => entry.text).join("; ") ?? "").slice(0, 300)
        yield* relay.incident(callId, detail)
        return yield* new HookIncident({ callId, detail })
      }
      if (method === "error") {
        const error = Option.getOrNull(decodeError(params))
        if (error) yield* emit({ _tag: "notice", text: redact(error.error.message) })
        return null
      }
      if (method !== "turn/completed") return null
      const completed = Option.getOrNull(decodeTurn(params))
      return completed?.threadId === threadId && completed.turn.id === running ? completed.turn : null
    })

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() =>
        running === null
          ? Effect.void
          : Effect.ignore(
              server.request(
                "turn/interrupt",
                { threadId, turnId: running },
                Schema.Unknown,
                cleanupTimeoutMs
              )
            )
      ).pipe(Effect.andThen(Effect.ignore(endTerminals(server, threadId))))
    )
    const started = yield* Effect.uninterruptible(
      Effect.tap(
        server.request(
          "turn/start",
          { threadId, input: [{ type: "text", text: options.prompt, text_elements: [] }] },
          TurnResult
        ),
        ({ turn }) =>
          Effect.sync(() => {
            running = turn.id
          })
      )
    )
    yield* Effect.annotateCurrentSpan("turn", started.turn.id)
    while (true) {
      const message = yield* Queue.take(incoming)
      if (message._tag === "request") yield* Effect.forkScoped(Effect.ignore(answer(message)))
      else {
        const ended = yield* onNotification(message.method, message.params)
        if (ended) {
          running = null
          return ended
        }
      }
    }
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
        turn({ server, relay, threadId, prompt: request.prompt, emit }).pipe(
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
