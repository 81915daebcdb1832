/**
 * ClaudeDriver, live: a relay first, then the run with its hooks on the command line, then an eye on both: the run is ended
 * when no hook answers in time or a call ran that none had asked about, and the relay when the run is over.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import { AuditLog } from "../services/AuditLog.ts"
import {
  ClaudeDriver,
  ClaudeNotFound,
  type ClaudeRecord,
  type ClaudeRequest,
  ClaudeUngoverned,
  isCanary,
  noCanary,
  proofArguments,
  proofEnvironment,
  ranUndecided,
  transcriptOf
} from "../services/ClaudeDriver.ts"
import {
  claudeEvents,
  refusedArgument,
  settingsOf,
  startsSession,
  timeoutSeconds
} from "../services/HookProviderClaude.ts"
import { configuredTimeoutMs } from "../services/HookRelay.ts"
import { Handover } from "../services/Keeper.ts"
import { PtySupervisor, type RunVariables } from "../services/PtySupervisor.ts"
import { type Relay, RelayRegistry, type RelaySpec } from "../services/RelayRegistry.ts"
import { runDefaults } from "../services/Run.ts"
import { isOver } from "../services/RunControl.ts"
import { Settings } from "../services/Settings.ts"
import { makeClaudeLedger } from "./internal/claudeLedger.ts"
import { readTranscript } from "./internal/claudeTranscript.ts"
import { findOnPath, isExecutable } from "./internal/programFile.ts"

export * from "../services/ClaudeDriver.ts"

/** A session, its relay, and what is known of its hooks. */
interface Session {
  readonly record: ClaudeRecord
  readonly relay: Relay
  readonly scope: Scope.Closeable
  /** Whether a hook has answered; false once it is too late. */
  readonly answered: Deferred.Deferred<boolean>
  /** The id of a call that ran undecided. */
  readonly undecided: Deferred.Deferred<string>
}

const ungoverned = (error: { readonly message: string }) => new ClaudeUngoverned({ detail: error.message })

/** Its rows as they fall: the first names the session, and any hook proves the guard. */
const firstHook = (relay: Relay) =>
  Queue.take(relay.rows).pipe(
    Effect.tap(({ sessionId }) => (sessionId === null ? Effect.void : relay.attachSession(sessionId))),
    Effect.repeat({ until: ({ event, source }) => source === "hook" && isCanary(event) })
  )

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const registry = yield* RelayRegistry
  const runs = yield* PtySupervisor
  const ledger = yield* makeClaudeLedger
  const audit = yield* AuditLog
  const leaving = yield* Handover
  const layerScope = yield* Effect.scope
  const live = new Map<string, ClaudeRecord>()

  const program = (variables: RunVariables): Effect.Effect<string, ClaudeNotFound> =>
    Effect.suspend(() => {
      const name = settings.claude.command ?? "claude"
      const searchPath = variables["PATH"] ?? settings.environment["PATH"] ?? ""
      const found = name.includes("/")
        ? isExecutable(name)
          ? name
          : undefined
        : findOnPath(name, searchPath)
      return found === undefined
        ? Effect.fail(new ClaudeNotFound({ looked: name.includes("/") ? name : `${name} on PATH` }))
        : Effect.succeed(found)
    })

  /** Compares what Claude wrote down with what was decided, whenever it comes to rest. */
  const comparing = (
    relayId: string,
    undecided: Deferred.Deferred<string>
  ): NonNullable<RelaySpec["heard"]> => {
    let offset = 0
    const compare = Effect.fnUntraced(function* (file: string) {
      const look = readTranscript(file, offset)
      offset = look.offset
      for (const callId of look.ran) {
        // Without an answer nobody can tell, and nothing is decided then either.
        const decided = yield* Effect.orElseSucceed(audit.isDecided(relayId, callId), () => true)
        if (!decided) yield* Deferred.succeed(undecided, callId)
      }
    })
    return (event) => {
      const file = event.event === "stop" || event.event === "session_end" ? transcriptOf(event.raw) : null
      return file === null ? Effect.void : compare(file)
    }
  }

  const openRelay = Effect.fnUntraced(function* (
    { relayId, generation, spawnedBy }: Omit<ClaudeRecord, "runId" | "canaryBy">,
    runId: string,
    scope: Scope.Closeable
  ) {
    const undecided = Deferred.makeUnsafe<string>()
    const relay = yield* registry
      .register({
        provider: "claude",
        runId,
        spawnedBy,
        sessionId: null,
        relayId,
        generation,
        allowedEvents: claudeEvents,
        leaving,
        heard: comparing(relayId, undecided)
      })
      .pipe(Scope.provide(scope))
    return { relay, undecided }
  })

  const endFor = Effect.fnUntraced(function* ({ record, relay }: Session, callId: string, why: string) {
    yield* Effect.logError(why).pipe(Effect.annotateLogs({ run: record.runId, call: callId }))
    yield* Effect.ignore(relay.incident(callId, why))
    yield* Effect.ignore(runs.end(record.runId, { by: why, graceMs: null }))
  })

  const awaitCanary = Effect.fnUntraced(function* (session: Session) {
    const { record, relay, answered } = session
    if (record.canaryBy === null) return yield* Deferred.succeed(answered, true)
    const leftMs = Math.max(0, record.canaryBy - (yield* Clock.currentTimeMillis))
    const first = yield* Effect.timeoutOption(firstHook(relay), leftMs)
    if (Option.isNone(first)) {
      yield* Deferred.succeed(answered, false)
      return yield* endFor(session, "canary", noCanary)
    }
    const proven = { ...record, canaryBy: null }
    live.set(record.runId, proven)
    yield* Effect.ignore(ledger.note(proven))
    return yield* Deferred.succeed(answered, true)
  })

  /** In the session's own scope, which ends with its run. */
  const watchOver = Effect.fnUntraced(function* (session: Session) {
    const { record, relay, scope, answered, undecided } = session
    live.set(record.runId, record)
    yield* Effect.forkIn(awaitCanary(session), scope)
    // Whatever let one call through lets the next one through as well.
    yield* Deferred.await(undecided).pipe(
      Effect.flatMap((callId) => endFor(session, callId, ranUndecided)),
      Effect.forkIn(scope)
    )
    const over = runs.watch(record.runId).pipe(
      Stream.takeUntil(isOver),
      Stream.runDrain,
      // Of a run that nobody holds any more there is nothing left to govern.
      Effect.ignore
    )
    yield* over.pipe(
      Effect.andThen(
        Effect.gen(function* () {
          const last = live.get(record.runId)
          live.delete(record.runId)
          // It came to its end, and nobody was asked about anything that it did.
          if ((yield* Deferred.succeed(answered, false)) && last?.canaryBy !== null)
            yield* Effect.ignore(relay.incident("canary", noCanary))
          yield* Effect.ignore(ledger.forget(record.runId))
          yield* Scope.close(scope, Exit.void)
        })
      ),
      Effect.forkIn(layerScope)
    )
  })

  const begin = Effect.fnUntraced(function* (request: ClaudeRequest, variables: RunVariables) {
    const refused = refusedArgument(request.args)
    if (refused !== null) return yield* refused
    const command = yield* program({ ...variables, ...request.env })
    const scope = yield* Scope.fork(layerScope)
    const started = Effect.gen(function* () {
      const { cwd, name, pty, env, spawnedBy } = request
      const facts = { relayId: `claude-${crypto.randomUUID()}`, generation: 1, spawnedBy }
      const { relay, undecided } = yield* Effect.mapError(openRelay(facts, facts.relayId, scope), ungoverned)
      const hooks = settingsOf(relay.commands, (event) =>
        timeoutSeconds(event, configuredTimeoutMs(settings.hook, event))
      )
      const args = ["--settings", hooks, ...request.args]
      const run = yield* runs.start(
        { ...runDefaults, command, args, cwd, name, pty, env, spawnedBy },
        variables
      )
      const waitMs = pty === null ? settings.claude.canaryMs : settings.claude.terminalCanaryMs
      const canaryBy = startsSession(request.args) ? (yield* Clock.currentTimeMillis) + waitMs : null
      const record: ClaudeRecord = { ...facts, runId: run.id, canaryBy }
      // Without its row the next gateway does not answer its hooks, which then fall closed.
      yield* Effect.catch(ledger.note(record), (error) =>
        Effect.logWarning("a Claude session is not in the ledger").pipe(
          Effect.annotateLogs({ run: run.id, problem: error.message })
        )
      )
      const session = { record, relay, scope, answered: Deferred.makeUnsafe<boolean>(), undecided }
      yield* watchOver(session)
      return { run, answered: Deferred.await(session.answered) }
    })
    return yield* Effect.onError(started, () => Scope.close(scope, Exit.void))
  }, Effect.uninterruptible)

  const prove = Effect.fn("ClaudeDriver.prove")(function* (cwd: string, variables: RunVariables) {
    const request = {
      args: proofArguments,
      cwd,
      name: null,
      pty: null,
      env: proofEnvironment,
      spawnedBy: null
    }
    const { run, answered } = yield* begin(request, variables)
    return yield* Effect.ensuring(
      answered,
      Effect.ignore(runs.end(run.id, { by: "the proof of its guard", graceMs: 0 }))
    )
  })

  /** What an earlier gateway left: its relay under the same path, before anything else is accepted. */
  const takeUp = Effect.fnUntraced(function* (left: ClaudeRecord) {
    const run = yield* Effect.option(runs.find(left.runId))
    if (Option.isNone(run) || isOver(run.value)) return yield* Effect.ignore(ledger.forget(left.runId))
    const record = { ...left, generation: left.generation + 1 }
    const scope = yield* Scope.fork(layerScope)
    yield* Effect.gen(function* () {
      const { relay, undecided } = yield* openRelay(record, record.relayId, scope)
      yield* Effect.ignore(ledger.note(record))
      yield* watchOver({ record, relay, scope, answered: Deferred.makeUnsafe<boolean>(), undecided })
    }).pipe(
      Effect.catch((error) =>
        Effect.andThen(
          Effect.logError(`the hooks of ${left.runId} cannot be answered: ${error.message}`),
          Scope.close(scope, Exit.void)
        )
      )
    )
  })

  const left = yield* Effect.orElseSucceed(ledger.all, (): ReadonlyArray<ClaudeRecord> => [])
  yield* Effect.forEach(left, takeUp, { discard: true })

  return ClaudeDriver.of({
    start: (request, variables) => Effect.map(begin(request, variables), ({ run }) => run),
    prove,
    live: Effect.sync(() => [...live.values()])
  })
})

export const layer = Layer.effect(ClaudeDriver, make)
