/**
 * AgentDriver on the shared Codex app-server: a relay, a borrow, a governed thread, one turn.
 *
 * Finalizers run in the reverse order: the turn is interrupted if it still runs, what it left in the background is
 * terminated, then the thread, the borrow and the relay are given back. A run that asked for it survives the loss of the
 * app-server once: on the next generation, on the same thread and relay, behind a fence around what was already decided.
 *
 * On an app-server that outlives its gateway a turn is in a ledger before it starts. A gateway that leaves stops nothing of
 * it; the next one takes it up before it accepts work, and keeps it for its caller to come back.
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import {
  type ActiveTurn,
  AgentDriver,
  type AgentEvent,
  AgentRunError,
  maxListedPrompt,
  ParentNotFound,
  RunFailed,
  type RunRequest,
  type ThreadChoice,
  ThreadInUse,
  TurnTimeout
} from "../services/AgentDriver.ts"
import type { AppServerLost } from "../services/AppServerFailure.ts"
import { AppServerLease } from "../services/AppServerLease.ts"
import type { AppServerConnection } from "../services/AppServerProcess.ts"
import { AccountResult } from "../services/AppServerProtocol.ts"
import { AuditLog } from "../services/AuditLog.ts"
import { checkOverrides } from "../services/CodexGovernance.ts"
import { Epoch } from "../services/Epoch.ts"
import { Handover } from "../services/Keeper.ts"
import type { HookEventName } from "../services/HookEvent.ts"
import { InstanceMark, type MarkRange } from "../services/InstanceMark.ts"
import { PtySupervisor } from "../services/PtySupervisor.ts"
import { RelayRegistry } from "../services/RelayRegistry.ts"
import { Settings } from "../services/Settings.ts"
import { ThreadStore } from "../services/ThreadStore.ts"
import { TurnStore } from "../services/TurnStore.ts"
import { failedAt, isAgentRunError } from "./internal/agentFailure.ts"
import { openThread } from "./internal/codexOpen.ts"
import { takeUpTurn } from "./internal/codexRecover.ts"
import { cleanThread, cleanupTimeoutMs, interruptTurn } from "./internal/codexStop.ts"
import { parseOverrides } from "./internal/codexThread.ts"
import { nothingSeen, runTurn, type Seen } from "./internal/codexTurn.ts"
import { makeThreadEnder } from "./internal/threadProcesses.ts"
import { type Keeping, noteTurn } from "./internal/turnLedger.ts"
import { makeTurnsLeft } from "./internal/turnsLeft.ts"

export * from "../services/AgentDriver.ts"

/** The one event that must be decided before a tool runs; others would only cost a process per call. */
const governedEvents: ReadonlyArray<HookEventName> = ["pre_tool_use"]
/** Events between the run and its reader; the run waits for a reader that falls behind. */
const eventBuffer = 1024

/** What the agent is told after a loss. It says nothing of the task, which the thread remembers. */
const afterLossPrompt =
  "The Codex app-server was lost in the middle of this turn and has been started again. Tool calls that were under way " +
  "may have been cut off, and may have had effects without you seeing their results. Check what they changed instead of " +
  "repeating them, then go on with the task."

const never = Effect.succeed(false)

const makeWith = Effect.fnUntraced(function* (keeping: Keeping | null) {
  const settings = yield* Settings
  const registry = yield* RelayRegistry
  const lease = yield* AppServerLease
  const threads = yield* ThreadStore
  const marks = yield* InstanceMark
  const { mark } = (yield* Epoch).current
  /** Of app-servers that are runs, one for each borrow: what they start is not under this gateway's mark. */
  const ranges: Array<MarkRange> = []
  const endProcesses = yield* makeThreadEnder(
    {
      members: (own) =>
        Effect.map(
          Effect.forEach(
            [...new Map([own, ...ranges].map((range) => [range.high, range])).values()],
            marks.members
          ),
          (found) => found.flat()
        )
    },
    mark
  )
  /** Threads that belong to a run now. Codex has one subscription and one turn a thread, so a second run would break both. */
  const inUse = new Set<string>()
  /** Runs that may be a parent. Each has a live relay, so there are at most `maxRelays`. */
  const active = new Map<string, ActiveTurn>()

  const activate = (turn: ActiveTurn) =>
    Effect.acquireRelease(
      Effect.sync(() => active.set(turn.runId, turn)),
      () => Effect.sync(() => active.delete(turn.runId))
    )

  const claim = (threadId: string) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (inUse.has(threadId)) return Effect.fail(new ThreadInUse({ threadId }))
        inUse.add(threadId)
        return Effect.void
      }),
      () => Effect.sync(() => inUse.delete(threadId))
    )

  const rangeOf = ({ mark: range }: AppServerConnection) =>
    range === null
      ? Effect.void
      : Effect.acquireRelease(
          Effect.sync(() => void ranges.push(range)),
          () => Effect.sync(() => void ranges.splice(ranges.indexOf(range), 1))
        )

  /** Whether what runs on it is left to the next gateway, asked as something ends. */
  const leavingOn = ({ runId }: AppServerConnection): Effect.Effect<boolean> =>
    keeping === null || runId === null ? never : keeping.leaving
  /** A hook may wait for the next gateway. */
  const relayLeaves =
    keeping === null || settings.appServer.connect !== null ? {} : { leaving: keeping.leaving }

  const openRelay = Effect.fnUntraced(function* (runId: string, request: RunRequest) {
    const known =
      request.thread._tag === "resume" ? yield* threads.find(request.thread.threadId) : Option.none()
    return yield* registry.register({
      provider: "codex",
      runId,
      spawnedBy: request.spawnedBy,
      sessionId: request.thread._tag === "resume" ? request.thread.threadId : null,
      allowedEvents: governedEvents,
      ...relayLeaves,
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

  /** What still runs of the turn where the server outlived our connection to it. */
  const stopOrphans = Effect.fnUntraced(function* (server: AppServerConnection, seen: Seen) {
    for (const [threadId, turnId] of seen.turns) {
      if (turnId !== null) {
        const turn = { threadId, turnId }
        yield* interruptTurn(server, turn, settings.turn.interruptTimeoutMs, Effect.never)
      }
      yield* cleanThread(server, threadId)
    }
  })

  const run = (request: RunRequest, queue: Queue.Enqueue<AgentEvent, AgentRunError | Cause.Done>) =>
    Effect.gen(function* () {
      const emit = (event: AgentEvent) => Queue.offer(queue, event)
      const entries = yield* Effect.fromResult(parseOverrides(request.overrides))
      const checked = yield* Effect.fromResult(checkOverrides(entries, settings.codex.sandbox))
      const { spawnedBy, startTimeoutMs } = request
      if (spawnedBy !== null && !active.has(spawnedBy)) return yield* new ParentNotFound({ runId: spawnedBy })
      const runId = `run-${crypto.randomUUID()}`
      // Held until the run ends, also between two generations, and longer than the relay that the thread comes with.
      const ofRun = yield* Effect.scope
      const claimForRun = (threadId: string) =>
        Effect.mapError(Scope.provide(claim(threadId), ofRun), failedAt("thread"))
      if (request.thread._tag === "resume") yield* claimForRun(request.thread.threadId)
      const relay = yield* Effect.mapError(openRelay(runId, request), failedAt("relay"))
      const startedAt = yield* Clock.currentTimeMillis
      const { cwd } = request
      const prompt = request.prompt.slice(0, maxListedPrompt)
      yield* activate({ runId, spawnedBy, cwd, prompt, startedAt })
      yield* Queue.take(relay.rows).pipe(
        Effect.flatMap((row) => emit({ _tag: "verdict", row })),
        Effect.forever,
        Effect.forkScoped
      )

      const borrow = lease
        .borrow({ runId, spawnedBy, ...(startTimeoutMs === null ? {} : { timeoutMs: startTimeoutMs }) })
        .pipe(Effect.mapError(failedAt("app-server")), Effect.tap(rangeOf))
      const open = (server: AppServerConnection, thread: ThreadChoice) =>
        openThread({
          server,
          commands: relay.commands,
          hookTimeoutMs: settings.hook.decisionTimeoutMs,
          codexHome: settings.codex.home,
          cwd: request.cwd,
          thread,
          checked,
          leaving: leavingOn(server)
        }).pipe(
          Effect.catchIf(
            (error) => error._tag !== "HooksUnverified" && error._tag !== "ThreadUnverified",
            (error) => Effect.fail(failedAt("thread")(error))
          )
        )
      // One deadline for the turn, also where it goes on after a loss.
      const { timeoutMs } = settings.turn
      let deadline: number | null = null
      const turnOn = Effect.fnUntraced(function* (
        server: AppServerConnection,
        threadId: string,
        prompt: string,
        seen: Seen
      ) {
        const now = Number((yield* Clock.currentTimeNanos) / 1_000_000n)
        deadline ??= now + timeoutMs
        const limits = settings.turn
        const leaving = leavingOn(server)
        const record = yield* noteTurn(keeping, server, {
          runId,
          threadId,
          relayId: relay.relayId,
          generation: relay.generation,
          spawnedBy,
          cwd: request.cwd,
          terms: { ...checked, commands: relay.commands, hookTimeoutMs: settings.hook.decisionTimeoutMs },
          leftMs: deadline - now
        })
        const start = { _tag: "prompt", prompt, begun: record } as const
        return yield* Effect.scoped(
          runTurn({ server, relay, threadId, start, leaving, emit, inUse, seen, limits, endProcesses }).pipe(
            Effect.timeoutOrElse({
              duration: Math.max(0, deadline - now),
              orElse: () => Effect.fail(new TurnTimeout({ timeoutMs }))
            })
          )
        )
      })

      const begin = Effect.fnUntraced(function* (seen: Seen) {
        const server = yield* borrow
        const thread = yield* open(server, request.thread)
        const { threadId } = thread
        if (request.thread._tag !== "resume") yield* claimForRun(threadId)
        yield* relay.attachSession(threadId)
        const { relayId, generation } = relay
        yield* Effect.mapError(
          threads.remember({ threadId, relayId, generation, cwd: request.cwd }),
          failedAt("record")
        )
        const outlives = keeping !== null && server.runId !== null
        yield* emit({ _tag: "governed", runId, spawnedBy, relayId, generation, outlives, ...thread })
        if (checked.config["model_provider"] === undefined)
          yield* Effect.ignore(noticeMissingLogin(server, emit))
        seen.turns.set(threadId, null)
        return yield* turnOn(server, threadId, request.prompt, seen)
      }, Effect.scoped)

      const goOn = Effect.fnUntraced(function* (lost: AppServerLost, seen: Seen) {
        const [threadId] = seen.turns.keys()
        if (threadId === undefined) return yield* lost
        const server = yield* borrow
        yield* open(server, { _tag: "resume", threadId }).pipe(
          // Codex writes a thread with its first turn; the one that was lost before that is no more.
          Effect.catchIf(
            (error) =>
              error._tag === "RunFailed" && error.failure?._tag === "ThreadNotFound" && !seen.anything,
            () => Effect.fail(lost)
          )
        )
        if (server.origin === "adopted") yield* stopOrphans(server, seen)
        const { decided, inDoubt } = yield* Effect.mapError(
          relay.fence(seen.finished),
          ({ message }) => new RunFailed({ stage: "relay", detail: message, failure: lost, retryable: true })
        )
        yield* emit({ _tag: "resumed", generation: server.generation, lost, inDoubt })
        const untouched = decided === 0 && !seen.anything
        return yield* turnOn(
          server,
          threadId,
          untouched ? request.prompt : afterLossPrompt,
          nothingSeen(threadId)
        )
      }, Effect.scoped)

      const seen = nothingSeen()
      const ended = yield* begin(seen).pipe(
        Effect.catchTag("AppServerLost", (lost) =>
          request.onLost === "resume" ? goOn(lost, seen) : Effect.fail(lost)
        ),
        Effect.catchIf(
          (error) => !isAgentRunError(error),
          (error) => Effect.fail(failedAt("turn")(error))
        )
      )
      const rest = yield* Queue.clear(relay.rows)
      for (const row of rest) yield* emit({ _tag: "verdict", row })
      yield* emit({ _tag: "ended", ...ended })
      yield* Queue.end(queue)
    })

  const { attach } = yield* makeTurnsLeft(
    keeping?.left ?? [],
    (record, emit, taken) =>
      keeping === null
        ? Effect.void
        : takeUpTurn(
            {
              keeping,
              registry,
              threads,
              settings,
              claim,
              activate,
              inUse,
              endProcesses,
              leavingOn,
              borrow: (borrower) => Effect.tap(lease.borrow(borrower), rangeOf),
              relayTerms: { allowedEvents: governedEvents, ...relayLeaves }
            },
            record,
            emit,
            taken
          ),
    settings.lease.handshakeTimeoutMs
  )

  return AgentDriver.of({
    run: (request) =>
      Stream.callback<AgentEvent, AgentRunError>((queue) => run(request, queue), { bufferSize: eventBuffer }),
    attach,
    active: Effect.sync(() => [...active.values()])
  })
})

/** Turns end with their stream. */
export const make = makeWith(null)

/** Turns on an app-server that is a run outlive their gateway. */
const makeKept = Effect.gen(function* () {
  const store = yield* TurnStore
  const supervisor = yield* PtySupervisor
  const audit = yield* AuditLog
  const leaving = yield* Handover
  return yield* makeWith({
    note: store.note,
    forget: store.forget,
    leaving,
    left: yield* store.all,
    runs: (serverRun) =>
      supervisor.find(serverRun).pipe(
        Effect.map(({ state }) => state === "Running"),
        Effect.catchTags({
          RunNotFound: () => Effect.succeed(false),
          RunAmbiguous: () => Effect.succeed(false),
          KeeperUnavailable: ({ message }) => Effect.as(Effect.logWarning(message), false)
        })
      ),
    audit
  })
})

export const layer = Layer.effect(AgentDriver, make)

export const layerKept = Layer.effect(AgentDriver, makeKept)
