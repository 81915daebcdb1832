/**
 * One turn on a governed thread: approvals answered, messages turned into events, and at its end, however it comes, nothing
 * left: not the turn, not its sub-agents', not a command in the background of any of their threads.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import { type AgentEvent, HookIncident, maxShownOutput } from "../../services/AgentDriver.ts"
import { type AppServerConnection, type Incoming } from "../../services/AppServerProcess.ts"
import {
  ErrorNotification,
  HookCompleted,
  ItemEvent,
  threadsOf,
  TurnChanged,
  TurnResult
} from "../../services/AppServerProtocol.ts"
import { approvalAnswer, approvalOf } from "../../services/CodexGovernance.ts"
import type { Relay } from "../../services/RelayRegistry.ts"
import { redact } from "../../services/Redaction.ts"

/** Items in progress that are remembered for their approvals; more at once is not a turn any more. */
const maxItems = 1024
/** Sub-agents of one turn that are followed; Codex itself allows far fewer at once. */
const maxAgents = 256
/** Each small question beside a turn gets this long; Codex answers them in about 10 ms. */
export const cleanupTimeoutMs = 5000
/** All of them after a turn, however many agents it had: an app-server that answers nothing holds a shutdown no longer. */
const cleanupBudgetMs = 8000

const decodeItem = Schema.decodeUnknownOption(ItemEvent)
const decodeHook = Schema.decodeUnknownOption(HookCompleted)
const decodeTurn = Schema.decodeUnknownOption(TurnChanged)
const decodeError = Schema.decodeUnknownOption(ErrorNotification)

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

export const runTurn = Effect.fnUntraced(function* (options: {
  readonly server: AppServerConnection
  readonly relay: Relay
  readonly threadId: string
  readonly prompt: string
  readonly emit: (event: AgentEvent) => Effect.Effect<unknown>
  /** Threads that belong to a run; the sub-agents' join while the turn lasts. */
  readonly inUse: Set<string>
}) {
  const { server, relay, threadId, emit, inUse } = options
  const incoming = yield* server.thread(threadId)
  const items = new Map<string, ItemEvent>()
  /** Every thread of this run and the turn that runs on it: the root's, and its sub-agents' as they show. */
  const turns = new Map<string, string | null>([[threadId, null]])

  const track = (method: string, params: unknown): void => {
    const { child } = threadsOf(params)
    if (child !== null && !turns.has(child) && !inUse.has(child) && turns.size < maxAgents) {
      turns.set(child, null)
      inUse.add(child)
    }
    if (method !== "turn/started" && method !== "turn/completed") return
    const changed = Option.getOrNull(decodeTurn(params))
    if (changed === null || !turns.has(changed.threadId)) return
    if (method === "turn/started") turns.set(changed.threadId, changed.turn.id)
    else if (turns.get(changed.threadId) === changed.turn.id) turns.set(changed.threadId, null)
  }

  const ask = (method: string, params: unknown) =>
    Effect.ignore(server.request(method, params, Schema.Unknown, cleanupTimeoutMs))

  /** What runs on a thread, and what it left in the background. */
  const endThread = ([id, turnId]: readonly [string, string | null]) =>
    Effect.andThen(
      turnId === null ? Effect.void : ask("turn/interrupt", { threadId: id, turnId }),
      ask("thread/backgroundTerminals/clean", { threadId: id })
    )

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
  const onNotification = Effect.fnUntraced(function* (method: string, params: unknown, turnId: string) {
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
    return completed?.threadId === threadId && completed.turn.id === turnId ? completed.turn : null
  })

  const letGo = Effect.sync(() => {
    for (const id of turns.keys()) if (id !== threadId) inUse.delete(id)
  })
  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      const unread = yield* Effect.orElseSucceed(Queue.clear(incoming), () => [])
      for (const { method, params } of unread) track(method, params)
      // The root first, so that it starts no further agent.
      yield* Effect.forEach([...turns], endThread, { discard: true })
      for (const id of turns.keys()) if (id !== threadId) yield* ask("thread/unsubscribe", { threadId: id })
    }).pipe(Effect.timeoutOption(cleanupBudgetMs), Effect.ensuring(letGo))
  )
  const started = yield* Effect.uninterruptible(
    Effect.tap(
      server.request(
        "turn/start",
        { threadId, input: [{ type: "text", text: options.prompt.toWellFormed(), text_elements: [] }] },
        TurnResult
      ),
      ({ turn }) => Effect.sync(() => turns.set(threadId, turn.id))
    )
  )
  while (true) {
    const message = yield* Queue.take(incoming)
    track(message.method, message.params)
    if (message._tag === "request") yield* Effect.forkScoped(Effect.ignore(answer(message)))
    else {
      const ended = yield* onNotification(message.method, message.params, started.turn.id)
      if (ended) return ended
    }
  }
})
