/**
 * One turn on a governed thread: approvals answered, messages turned into events, and at its end, however it comes, nothing
 * left: not the turn, not its sub-agents', not a command in the background of any of their threads. A provider that does
 * not come back ends the turn; it never hangs.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import { type AgentEvent, HookIncident, maxShownOutput } from "../../services/AgentDriver.ts"
import {
  type AppServerFailure,
  failureOfTurn,
  ProviderUnavailable,
  TurnCancelled
} from "../../services/AppServerFailure.ts"
import type { AppServerConnection, Incoming } from "../../services/AppServerProcess.ts"
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
import type { SettingsShape } from "../../services/Settings.ts"
import { cleanThread, cleanupTimeoutMs, interruptTurn } from "./codexStop.ts"

/** Items in progress that are remembered for their approvals; more at once is not a turn any more. */
const maxItems = 1024
/** Sub-agents of one turn that are followed; Codex itself allows far fewer at once. */
const maxAgents = 256
/** The background of all threads after a turn: an app-server that answers nothing holds a shutdown no longer. */
const cleanupBudgetMs = 8000
/** Ends of calls that are remembered for a loss; one past it counts as not seen, which repeats nothing. */
const maxFinished = 4096
/** What Codex says of a failed turn is a sentence; a provider could put a page into it. */
const maxProblemLength = 500

const decodeItem = Schema.decodeUnknownOption(ItemEvent)
const decodeHook = Schema.decodeUnknownOption(HookCompleted)
const decodeTurn = Schema.decodeUnknownOption(TurnChanged)
const decodeError = Schema.decodeUnknownOption(ErrorNotification)

export const eventOfItem = ({ threadId, item }: ItemEvent): AgentEvent | null => {
  switch (item.type) {
    case "agentMessage":
      return { _tag: "message", threadId, itemId: item.id, text: item.text ?? "" }
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

/** Items that are a tool's work. */
const toolItems: ReadonlySet<string> = new Set(["commandExecution", "fileChange", "mcpToolCall"])

const ranUndecided = "a tool call ran of which no hook had asked"

/** Declined ones have not. */
const hasRun = ({ item }: ItemEvent): boolean =>
  toolItems.has(item.type) && (item.status === "completed" || item.status === "failed")

/** A call that was made and that nobody had decided is an incident, and ends the turn. */
export const refuseUndecided = Effect.fnUntraced(function* (relay: Relay, entry: ItemEvent) {
  if (!hasRun(entry) || (yield* relay.isDecided(entry.item.id))) return
  yield* relay.incident(entry.item.id, ranUndecided)
  return yield* new HookIncident({ callId: entry.item.id, detail: ranUndecided })
})

/** What was seen of a turn, for whoever goes on with it after a loss. */
export interface Seen {
  /** Every thread of the run and the turn that runs on it: the root's, and its sub-agents' as they show. */
  readonly turns: Map<string, string | null>
  /** Anything but the person's own message. */
  anything: boolean
  /** Calls whose end was reported. */
  readonly finished: Set<string>
}

export const nothingSeen = (threadId?: string): Seen => ({
  turns: new Map(threadId === undefined ? [] : [[threadId, null]]),
  anything: false,
  finished: new Set()
})

export interface TurnEnd {
  readonly status: string
  readonly problem: string | null
  readonly failure: AppServerFailure | null
}

export const endOf = ({ status, error }: (typeof TurnChanged.Type)["turn"]): TurnEnd => {
  const problem = error ? redact(error.message).slice(0, maxProblemLength) : null
  if (status === "completed") return { status, problem, failure: null }
  return {
    status,
    problem,
    failure:
      status === "interrupted"
        ? new TurnCancelled({})
        : failureOfTurn(error?.codexErrorInfo, problem ?? `it ended as ${status.slice(0, 40)}`)
  }
}

/** Codex says that it goes on trying; these words are of a connection that nobody accepted, measured on 0.169.0. */
const saysUnreachable = /connection failed|waiting for network/i

const retriedProblem = ({ error }: typeof ErrorNotification.Type): ProviderUnavailable["problem"] =>
  saysUnreachable.test(`${error.message} ${error.additionalDetails ?? ""}`) ? "unreachable" : "silent"

const stalledEnd = (failure: ProviderUnavailable): TurnEnd => ({
  status: "failed",
  problem: failure.message,
  failure
})

/** Signs that the model or its tools got on, as opposed to the turn's own administration. */
const isProgress = (method: string): boolean => /^(item|hook|thread\/tokenUsage)\//.test(method)

export type TurnStart =
  | {
      readonly _tag: "prompt"
      readonly prompt: string
      /** Codex has said that it runs. */
      readonly begun: (turnId: string) => Effect.Effect<void>
    }
  /** It was started by a gateway that is no more. */
  | {
      readonly _tag: "join"
      readonly turnId: string
      /** Open since before the thread was resumed: what waits for an answer is repeated then. */
      readonly incoming: Effect.Success<ReturnType<AppServerConnection["thread"]>>
      readonly inProgress: ReadonlyArray<ItemEvent>
      /** Items whose end was told from the thread's history; a message may say it once more. */
      readonly told: Set<string>
      /** It has ended while nobody was there. */
      readonly over: TurnEnd | null
    }

export const runTurn = Effect.fnUntraced(function* (options: {
  readonly server: AppServerConnection
  readonly relay: Relay
  readonly threadId: string
  readonly start: TurnStart
  /** Asked as the scope closes: whether the next gateway goes on with it, so that nothing is to be stopped. */
  readonly leaving: Effect.Effect<boolean>
  readonly emit: (event: AgentEvent) => Effect.Effect<unknown>
  /** Threads that belong to a run; the sub-agents' join while the turn lasts. */
  readonly inUse: Set<string>
  readonly seen: Seen
  readonly limits: Pick<SettingsShape["turn"], "providerTimeoutMs" | "interruptTimeoutMs">
  /** Ends what commands of these threads left running where Codex does not know it. */
  readonly endProcesses: (threads: ReadonlyArray<string>) => Effect.Effect<void>
}) {
  const { server, relay, threadId, start, emit, inUse, seen, limits, endProcesses } = options
  const { turns } = seen
  const incoming = start._tag === "join" ? start.incoming : yield* server.thread(threadId)
  const items = new Map<string, ItemEvent>()
  /** A turn that came to its own end may leave a server running that it was asked to start; an interrupted one nothing. */
  let cameToItsEnd = false
  /** Since when the provider is only tried again, and what ends the turn if it stays so. */
  let stall: { readonly until: number; readonly failure: ProviderUnavailable } | null = null

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

  const now = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos / 1_000_000n))

  const refuseLate = (message: Incoming): Effect.Effect<void> => {
    track(message.method, message.params)
    return message._tag === "request" ? Effect.ignore(message.refuse) : Effect.void
  }

  /** Reads on while a turn is being interrupted; completes with its end, or with the loss of what it ran on. */
  const endSeen = (id: string, turnId: string): Effect.Effect<void> =>
    Effect.gen(function* () {
      while (turns.get(id) === turnId) yield* refuseLate(yield* Queue.take(incoming))
    }).pipe(Effect.catch((error) => (error._tag === "AppServerLost" ? Effect.void : Effect.never)))

  const interruptAll = Effect.gen(function* () {
    // The root first, so that it starts no further agent. After one that was not confirmed nothing answers any more.
    for (const [id, turnId] of turns)
      if (turnId !== null) {
        const turn = { threadId: id, turnId }
        if (!(yield* interruptTurn(server, turn, limits.interruptTimeoutMs, endSeen(id, turnId))))
          return false
      }
    return true
  })

  const cleanAll = Effect.gen(function* () {
    for (const id of turns.keys()) yield* cleanThread(server, id)
    if (!cameToItsEnd && server.origin === "spawned") yield* endProcesses([...turns.keys()])
    for (const id of turns.keys())
      if (id !== threadId)
        yield* Effect.ignore(
          server.request("thread/unsubscribe", { threadId: id }, Schema.Unknown, cleanupTimeoutMs)
        )
  })

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
      if (entry.item.type !== "userMessage") seen.anything = true
      if (method === "item/started") {
        remember(entry)
        return null
      }
      items.delete(entry.item.id)
      if (start._tag === "join" && start.told.delete(entry.item.id)) return null
      if (seen.finished.size < maxFinished) seen.finished.add(entry.item.id)
      const event = eventOfItem(entry)
      if (event) yield* emit(event)
      yield* refuseUndecided(relay, entry)
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
      if (error === null) return null
      yield* emit({ _tag: "notice", text: redact(error.error.message).slice(0, maxProblemLength) })
      if (error.threadId === threadId && error.willRetry && stall === null)
        stall = {
          until: (yield* now) + limits.providerTimeoutMs,
          failure: new ProviderUnavailable({ problem: retriedProblem(error), httpStatus: null })
        }
      return null
    }
    if (method !== "turn/completed") return null
    const completed = Option.getOrNull(decodeTurn(params))
    return completed?.threadId === threadId && completed.turn.id === turnId ? endOf(completed.turn) : null
  })

  /** The next message; null when the provider has been tried for long enough. */
  const next = Effect.suspend(() => {
    if (stall === null) return Queue.take(incoming)
    const { until } = stall
    return Effect.flatMap(now, (at) =>
      Effect.timeoutOrElse(Queue.take(incoming), {
        duration: Math.max(0, until - at),
        orElse: () => Effect.succeed(null)
      })
    )
  })

  const letGo = Effect.sync(() => {
    for (const id of turns.keys()) if (id !== threadId) inUse.delete(id)
  })
  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      if (yield* options.leaving) return
      const unread = yield* Effect.orElseSucceed(Queue.clear(incoming), () => [])
      for (const { method, params } of unread) track(method, params)
      const interrupted = yield* interruptAll
      // Not before the interrupt: Codex would go on to the model with the refusal.
      yield* Effect.forEach(unread, refuseLate, { discard: true })
      if (interrupted) yield* Effect.timeoutOption(cleanAll, cleanupBudgetMs)
    }).pipe(Effect.ensuring(letGo))
  )
  let ourTurn: string
  if (start._tag === "join") {
    ourTurn = start.turnId
    for (const entry of start.inProgress) remember(entry)
    if (start.over !== null) {
      cameToItsEnd = start.over.status === "completed"
      return start.over
    }
    turns.set(threadId, ourTurn)
  } else {
    const text = start.prompt.toWellFormed()
    ourTurn = yield* Effect.uninterruptible(
      server
        .request("turn/start", { threadId, input: [{ type: "text", text, text_elements: [] }] }, TurnResult)
        .pipe(
          Effect.tap(({ turn }) => Effect.sync(() => turns.set(threadId, turn.id))),
          Effect.tap(({ turn }) => start.begun(turn.id)),
          Effect.map(({ turn }) => turn.id)
        )
    )
  }
  while (true) {
    const message = yield* next
    // The turn itself is interrupted as this scope closes.
    if (message === null) return stalledEnd(stall!.failure)
    track(message.method, message.params)
    if (stall !== null && isProgress(message.method) && threadsOf(message.params).threadId === threadId)
      stall = null
    if (message._tag === "request") yield* Effect.forkScoped(Effect.ignore(answer(message)))
    else {
      const ended = yield* onNotification(message.method, message.params, ourTurn)
      if (ended) {
        cameToItsEnd = ended.status === "completed"
        return ended
      }
    }
  }
})
