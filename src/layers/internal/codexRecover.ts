/**
 * A turn that an earlier gateway left on an app-server that still runs: what it has done is read from the thread, what waits
 * for an answer is answered, and the rest is followed to its end. Nothing of it is started again.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import {
  type ActiveTurn,
  type AgentEvent,
  type AgentRunError,
  RunFailed,
  type ThreadInUse,
  TurnTimeout
} from "../../services/AgentDriver.ts"
import type { AppServerLost, BorrowerShed } from "../../services/AppServerFailure.ts"
import type { AppServerLease } from "../../services/AppServerLease.ts"
import type { AppServerConnection, Incoming } from "../../services/AppServerProcess.ts"
import { type ItemEvent, ThreadHistory } from "../../services/AppServerProtocol.ts"
import { type AuditLog, maxTailRows } from "../../services/AuditLog.ts"
import type { Relay, RelayRegistry, RelaySpec } from "../../services/RelayRegistry.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import type { ThreadStore } from "../../services/ThreadStore.ts"
import type { TurnRecord } from "../../services/TurnStore.ts"
import { failedAt, isAgentRunError } from "./agentFailure.ts"
import { openThread } from "./codexOpen.ts"
import { cleanThread, interruptTurn } from "./codexStop.ts"
import {
  endOf,
  eventOfItem,
  nothingSeen,
  refuseUndecided,
  runTurn,
  type Seen,
  type TurnStart
} from "./codexTurn.ts"
import { forgetUnlessLeaving, type Keeping } from "./turnLedger.ts"

/** Codex tells a turn's beginning in whole seconds. */
const startSlackMs = 2000
/** What was asked is not in the ledger. */
const unknownPrompt = "(begun under an earlier gateway)"

const lostTurn = (detail: string): RunFailed =>
  new RunFailed({
    stage: "app-server",
    detail: `The turn is lost: ${detail} Go on with its thread (--resume).`,
    failure: null,
    retryable: true
  })

type Turn = ThreadHistory["thread"]["turns"][number]

/** The turn of the record; where its id was not written any more, the last one if it can be no other. */
const turnOf = ({ thread }: ThreadHistory, { turnId, startedAt }: TurnRecord): Turn | undefined => {
  if (turnId !== null) return thread.turns.find(({ id }) => id === turnId)
  const last = thread.turns.at(-1)
  return (last?.startedAt ?? 0) * 1000 >= startedAt - startSlackMs ? last : undefined
}

const isOver = ({ status }: Turn): boolean => status !== "inProgress"

const isDone = (turn: Turn, item: Turn["items"][number]): boolean =>
  item.status !== "inProgress" && (isOver(turn) || item.completedAtMs !== null)

/** Reads what the turn has done, tells it, and says how to go on; the thread is resumed already. */
const joinTurn = Effect.fnUntraced(function* (options: {
  readonly server: AppServerConnection
  readonly incoming: Queue.Dequeue<Incoming, AppServerLost | BorrowerShed>
  readonly record: TurnRecord
  readonly relay: Relay
  readonly audit: Pick<AuditLog["Service"], "tail">
  readonly seen: Seen
  readonly emit: (event: AgentEvent) => Effect.Effect<unknown>
}) {
  const { server, record, relay, seen, emit } = options
  const { threadId, runId } = record
  const history = yield* server.request("thread/read", { threadId, includeTurns: true }, ThreadHistory)
  const turn = turnOf(history, record)
  if (turn === undefined) return yield* lostTurn("its app-server had not begun it when its gateway ended.")
  const entries = turn.items.map((item): ItemEvent => ({ threadId, turnId: turn.id, item }))
  const done = entries.filter((_, index) => isDone(turn, turn.items[index]!))
  for (const { item } of done) seen.finished.add(item.id)
  const rows = (yield* options.audit.tail(maxTailRows)).filter((row) => row.runId === runId)
  // Before anything is answered: an approval is about what a hook decided, perhaps before the restart.
  yield* relay.inherit(rows.filter(({ callId }) => !seen.finished.has(callId)))
  for (const row of rows) yield* emit({ _tag: "verdict", row })
  for (const entry of done) {
    const event = eventOfItem(entry)
    if (event) yield* emit(event)
    yield* refuseUndecided(relay, entry)
  }
  return {
    _tag: "join",
    turnId: turn.id,
    incoming: options.incoming,
    inProgress: entries.filter((entry) => !done.includes(entry)),
    told: new Set(done.map(({ item }) => item.id)),
    over: isOver(turn) ? endOf(turn) : null
  } satisfies TurnStart
})

export interface TakeUpParts {
  readonly keeping: Keeping
  readonly registry: RelayRegistry["Service"]
  readonly threads: ThreadStore["Service"]
  readonly settings: SettingsShape
  readonly claim: (threadId: string) => Effect.Effect<unknown, ThreadInUse, Scope.Scope>
  readonly activate: (turn: ActiveTurn) => Effect.Effect<unknown, never, Scope.Scope>
  readonly inUse: Set<string>
  readonly endProcesses: (threads: ReadonlyArray<string>) => Effect.Effect<void>
  readonly leavingOn: (server: AppServerConnection) => Effect.Effect<boolean>
  readonly borrow: AppServerLease["Service"]["borrow"]
  readonly relayTerms: Pick<RelaySpec, "allowedEvents" | "leaving">
}

/** Its relay first, under its record's path; `taken` completes once it is followed, or is known to be lost. */
export const takeUpTurn = (
  parts: TakeUpParts,
  record: TurnRecord,
  emit: (event: AgentEvent) => Effect.Effect<unknown>,
  taken: Deferred.Deferred<void>
): Effect.Effect<void, AgentRunError> => {
  const { keeping, registry, threads, settings, claim, activate, inUse, endProcesses, leavingOn } = parts
  const { runId, spawnedBy, threadId, turnId, relayId, serverRun, terms, cwd } = record
  const generation = record.generation + 1

  const governing = Effect.gen(function* () {
    yield* Effect.mapError(claim(threadId), failedAt("thread"))
    const relay = yield* Effect.mapError(
      registry.register({
        provider: "codex",
        runId,
        spawnedBy,
        sessionId: threadId,
        relayId,
        generation,
        ...parts.relayTerms
      }),
      failedAt("relay")
    )
    yield* activate({ runId, spawnedBy, cwd, prompt: unknownPrompt, startedAt: record.startedAt })
    yield* Effect.mapError(
      Effect.andThen(
        threads.remember({ threadId, relayId, generation, cwd }),
        keeping.note({ ...record, generation })
      ),
      failedAt("record")
    )
    yield* Queue.take(relay.rows).pipe(
      Effect.flatMap((row) => emit({ _tag: "verdict", row })),
      Effect.forever,
      Effect.forkScoped
    )
    return relay
  })

  /** Nobody follows it: it must not act for nobody either. */
  const stop = Effect.fnUntraced(function* (server: AppServerConnection) {
    const timeoutMs = settings.turn.interruptTimeoutMs
    if (turnId === null) return yield* server.retire({ _tag: "interrupt-unconfirmed", threadId, timeoutMs })
    if (yield* interruptTurn(server, { threadId, turnId }, timeoutMs, Effect.never))
      yield* cleanThread(server, threadId)
  })

  return Effect.gen(function* () {
    yield* Effect.addFinalizer(() => forgetUnlessLeaving(keeping, runId))
    const governed = yield* Effect.exit(governing)
    if (!(yield* keeping.runs(serverRun)))
      return yield* lostTurn("its app-server ended while no gateway was there.")
    const server = yield* parts.borrow({ runId, spawnedBy }).pipe(Effect.mapError(failedAt("app-server")))
    if (server.runId !== serverRun)
      return yield* lostTurn("this gateway has another login or Codex, and so another app-server.")
    const leaving = leavingOn(server)
    let followed = false
    yield* Effect.addFinalizer(() =>
      Effect.flatMap(leaving, (left) => (followed || left ? Effect.void : stop(server)))
    )
    const relay = yield* governed
    const seen = nothingSeen(threadId)
    // What waits for an answer is repeated as the thread is resumed.
    const incoming = yield* server.thread(threadId)
    const thread = yield* openThread({
      server,
      commands: terms.commands,
      hookTimeoutMs: terms.hookTimeoutMs,
      codexHome: settings.codex.home,
      cwd,
      thread: { _tag: "resume", threadId },
      checked: terms,
      leaving
    })
    yield* emit({ _tag: "governed", runId, spawnedBy, relayId, generation, outlives: true, ...thread })
    const joining = joinTurn({ server, incoming, record, relay, audit: keeping.audit, seen, emit })
    const start = yield* Effect.tapErrorTag(joining, "RunFailed", () =>
      Effect.sync(() => {
        // It never began, so that nothing is to be stopped.
        followed = turnId === null
      })
    )
    yield* Deferred.succeed(taken, undefined)
    const leftMs = Math.max(0, record.deadline - (yield* Clock.currentTimeMillis))
    const limits = settings.turn
    followed = true
    const ended = yield* Effect.scoped(
      runTurn({ server, relay, threadId, start, leaving, emit, inUse, seen, limits, endProcesses }).pipe(
        Effect.timeoutOrElse({
          duration: leftMs,
          orElse: () => Effect.fail(new TurnTimeout({ timeoutMs: limits.timeoutMs }))
        })
      )
    )
    const rest = yield* Queue.clear(relay.rows)
    for (const row of rest) yield* emit({ _tag: "verdict", row })
    yield* emit({ _tag: "ended", ...ended })
  }).pipe(
    Effect.scoped,
    Effect.catchIf(
      (error) => !isAgentRunError(error),
      (error) => Effect.fail(failedAt("turn")(error))
    ),
    Effect.tapError((error) =>
      Effect.annotateLogs(Effect.logWarning(error.message), { run: record.runId, thread: record.threadId })
    ),
    Effect.ensuring(Deferred.succeed(taken, undefined))
  )
}
