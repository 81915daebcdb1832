/**
 * ClaudeDriver, live: a relay first, then the run with its hooks on the command line, then an eye on both: the run is ended
 * when no hook answers in time or a call ran that none had asked about, and the relay when the run is over.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
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
  unproven
} from "../services/ClaudeDriver.ts"
import { Guard } from "../services/Guard.ts"
import { refusedArgument, startsSession } from "../services/ClaudeTerms.ts"
import { claudeEvents, settingsOf, timeoutSeconds } from "../services/HookProviderClaude.ts"
import { configuredTimeoutMs } from "../services/HookRelay.ts"
import { Handover } from "../services/Keeper.ts"
import { PtySupervisor, type RunInfo, type RunVariables } from "../services/PtySupervisor.ts"
import { type Relay, RelayRegistry } from "../services/RelayRegistry.ts"
import { runDefaults } from "../services/Run.ts"
import { isOver } from "../services/RunControl.ts"
import { Settings } from "../services/Settings.ts"
import { makeClaudeLedger } from "./internal/claudeLedger.ts"
import { type Comparison, compareEveryMs, makeComparison } from "./internal/claudeComparison.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { findOnPath, isExecutable } from "./internal/programFile.ts"

export * from "../services/ClaudeDriver.ts"

/** A session, its relay, and what is known of its hooks. */
interface Session {
  readonly record: ClaudeRecord & { readonly runId: string }
  readonly relay: Relay
  readonly comparison: Comparison
  readonly scope: Scope.Closeable
  /** Whether a hook has answered; false once it is too late. */
  readonly answered: Deferred.Deferred<boolean>
}

/** A keeper that is being replaced is asked again. */
const watchAgainMs = 1_000

const ungoverned = (error: { readonly message: string }) => new ClaudeUngoverned({ detail: error.message })

/** Its rows as they fall: the first names the session, and any hook proves the guard. */
const firstHook = (relay: Relay) =>
  Queue.take(relay.rows).pipe(
    Effect.tap(({ sessionId }) => (sessionId === null ? Effect.void : relay.attachSession(sessionId))),
    Effect.repeat({ until: isCanary })
  )

/** What a process gets that its request names is the request's. */
const withoutNamed = (variables: RunVariables, { env }: ClaudeRequest): RunVariables =>
  Object.fromEntries(Object.entries(variables).filter(([name]) => !(name in env)))

/** It came to an end by itself, and nobody was asked about anything that it did. */
const endedUnseen = (run: RunInfo | null, record: ClaudeRecord | undefined): boolean =>
  record?.canaryBy !== null && run?.reason?._tag === "exited" && run.reason.code === 0

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const registry = yield* RelayRegistry
  const runs = yield* PtySupervisor
  const ledger = yield* makeClaudeLedger
  const audit = yield* AuditLog
  const guard = yield* Guard
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

  const openRelay = Effect.fnUntraced(function* (
    { relayId, generation, spawnedBy }: Omit<ClaudeRecord, "runId" | "canaryBy">,
    attended: boolean,
    scope: Scope.Closeable
  ) {
    const comparison = yield* makeComparison((callId) => relay.isDecided(callId))
    const relay: Relay = yield* registry
      .register({
        provider: "claude",
        runId: relayId,
        spawnedBy,
        sessionId: null,
        relayId,
        generation,
        allowedEvents: claudeEvents,
        attended,
        leaving,
        heard: comparison.heard,
        judged: comparison.judged
      })
      .pipe(Scope.provide(scope))
    return { relay, comparison }
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

  /** Null: nobody knows it any more. Whoever cannot be asked just now is asked again. */
  const untilOver = (runId: string): Effect.Effect<RunInfo | null> => {
    const again = Effect.andThen(
      Effect.sleep(watchAgainMs),
      Effect.suspend(() => untilOver(runId))
    )
    return runs.watch(runId).pipe(
      Stream.takeUntil(isOver),
      Stream.runLast,
      Effect.flatMap((last) =>
        Option.isSome(last) && isOver(last.value) ? Effect.succeed(last.value) : again
      ),
      Effect.catchTags({
        RunNotFound: () => Effect.succeed(null),
        KeeperUnavailable: () => again
      })
    )
  }

  const concluded = Effect.fnUntraced(function* (
    session: Session,
    run: RunInfo | null,
    blamed: Fiber.Fiber<void>
  ) {
    const { record, relay, comparison, answered, scope } = session
    yield* comparison.look
    // What was found only now is written down before its scope closes.
    if (yield* Deferred.isDone(comparison.undecided)) yield* Fiber.await(blamed)
    if ((yield* Deferred.succeed(answered, false)) && endedUnseen(run, live.get(record.runId)))
      yield* Effect.ignore(relay.incident("canary", noCanary))
    live.delete(record.runId)
    yield* Effect.ignore(ledger.forget(record.relayId))
    yield* Scope.close(scope, Exit.void)
  })

  /** In the session's own scope, which ends with its run. */
  const watchOver = Effect.fnUntraced(function* (session: Session) {
    const { record, comparison, scope } = session
    live.set(record.runId, record)
    yield* Effect.forkIn(awaitCanary(session), scope)
    yield* Effect.forkIn(Effect.forever(Effect.andThen(Effect.sleep(compareEveryMs), comparison.look)), scope)
    // Whatever let one call through lets the next one through as well.
    const blamed = yield* Deferred.await(comparison.undecided).pipe(
      Effect.flatMap((callId) => endFor(session, callId, ranUndecided)),
      Effect.forkIn(scope)
    )
    yield* untilOver(record.runId).pipe(
      Effect.flatMap((run) => concluded(session, run, blamed)),
      Effect.forkIn(layerScope)
    )
  })

  const begin = Effect.fnUntraced(function* (request: ClaudeRequest, given: RunVariables) {
    const variables = withoutNamed(given, request)
    const refused = refusedArgument(request.args, { ...variables, ...request.env })
    if (refused !== null) return yield* refused
    const command = yield* program({ ...variables, ...request.env })
    const scope = yield* Scope.fork(layerScope)
    const { cwd, name, pty, env, spawnedBy } = request
    const waitMs = pty === null ? settings.claude.canaryMs : settings.claude.terminalCanaryMs
    const facts = {
      relayId: `claude-${crypto.randomUUID()}`,
      generation: 1,
      spawnedBy,
      canaryBy: startsSession(request.args) ? (yield* Clock.currentTimeMillis) + waitMs : null
    }
    const started = Effect.gen(function* () {
      const { relay, comparison } = yield* Effect.mapError(openRelay(facts, pty !== null, scope), ungoverned)
      // Before its run: one that is found without a row would have nobody to answer its hooks.
      yield* Effect.mapError(ledger.note({ ...facts, runId: null }), ungoverned)
      const hooks = settingsOf(relay.commands, (event) =>
        timeoutSeconds(event, configuredTimeoutMs(settings.hook, event))
      )
      const args = ["--settings", hooks, ...request.args]
      const run = yield* runs.start(
        { ...runDefaults, command, args, cwd, name, pty, env, spawnedBy },
        variables
      )
      const record = { ...facts, runId: run.id }
      yield* Effect.ignore(ledger.note(record))
      const session = { record, relay, comparison, scope, answered: Deferred.makeUnsafe<boolean>() }
      yield* watchOver(session)
      return { run, answered: Deferred.await(session.answered) }
    })
    return yield* Effect.onError(started, () =>
      Effect.andThen(Effect.ignore(ledger.forget(facts.relayId)), Scope.close(scope, Exit.void))
    )
  }, Effect.uninterruptible)

  const proves = Effect.fnUntraced(function* (variables: RunVariables, env: ClaudeRequest["env"]) {
    // Nobody's project: what a repository has its Claude do at a start is not done here.
    const cwd = `${settings.paths.runtime}/canary`
    yield* Effect.mapError(ensurePrivateDirectory(cwd), ungoverned)
    const request = {
      args: proofArguments,
      cwd,
      name: null,
      pty: null,
      env: { ...env, ...proofEnvironment },
      spawnedBy: null
    }
    return yield* Effect.acquireUseRelease(
      begin(request, variables),
      ({ answered }) => answered,
      ({ run }) => Effect.ignore(runs.end(run.id, { by: "the proof of its guard", graceMs: 0 }))
    )
  })

  const prove = Effect.fn("ClaudeDriver.prove")(function* (variables: RunVariables) {
    const proven = yield* proves(variables, {})
    if (proven) yield* guard.mend("claude")
    return proven
  })

  /** A call of the first second is made before a canary is missed, so hooks that nobody has seen are tried before. */
  const start = Effect.fnUntraced(function* (request: ClaudeRequest, given: RunVariables) {
    const refused = refusedArgument(request.args, { ...withoutNamed(given, request), ...request.env })
    if (refused !== null) return yield* refused
    const { claude } = yield* guard.states
    if (claude._tag !== "proven" && startsSession(request.args) && !(yield* proves(given, request.env)))
      return yield* new ClaudeUngoverned({ detail: unproven })
    return (yield* begin(request, given)).run
  })

  /** The run of a session, where its gateway died before it noted which: the one that was given its relay's record. */
  const runOf = Effect.fnUntraced(function* ({ runId }: ClaudeRecord, recordPath: string) {
    if (runId !== null) return runId
    const all = yield* runs.list
    return all.find(({ spec }) => spec.args[1]?.includes(recordPath) === true)?.id ?? null
  })

  /** What an earlier gateway left: its relay under the same path, before anything else is accepted. */
  const takeUp = Effect.fnUntraced(function* (left: ClaudeRecord) {
    const scope = yield* Scope.fork(layerScope)
    const forget = Effect.andThen(Effect.ignore(ledger.forget(left.relayId)), Scope.close(scope, Exit.void))
    const facts = { ...left, generation: left.generation + 1 }
    yield* Effect.gen(function* () {
      const { relay, comparison } = yield* openRelay(facts, false, scope)
      const runId = yield* runOf(left, relay.recordPath)
      const known =
        runId === null
          ? null
          : yield* runs.find(runId).pipe(Effect.catchTag("RunNotFound", () => Effect.succeed(null)))
      if (known === null || isOver(known)) return yield* forget
      // What it did without a gateway counts too.
      yield* comparison.begun(known.createdAt)
      const seen = yield* Effect.orElseSucceed(audit.hasHook(left.relayId), () => false)
      // Its time begins anew: nobody could answer it meanwhile.
      const canaryBy =
        left.canaryBy === null || seen
          ? null
          : (yield* Clock.currentTimeMillis) + settings.claude.terminalCanaryMs
      const record = { ...facts, runId: known.id, canaryBy }
      yield* Effect.ignore(ledger.note(record))
      yield* watchOver({ record, relay, comparison, scope, answered: Deferred.makeUnsafe<boolean>() })
    }).pipe(
      Effect.catch((error) =>
        Effect.andThen(
          Effect.logError(`the hooks of a Claude session cannot be answered: ${error.message}`),
          Scope.close(scope, Exit.void)
        )
      )
    )
  })

  const left = yield* Effect.orElseSucceed(ledger.all, (): ReadonlyArray<ClaudeRecord> => [])
  yield* Effect.forEach(left, takeUp, { discard: true })

  return ClaudeDriver.of({
    start,
    prove,
    live: Effect.sync(() => [...live.values()])
  })
})

export const layer = Layer.effect(ClaudeDriver, make)
