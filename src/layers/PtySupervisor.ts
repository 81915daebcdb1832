/**
 * PtySupervisor, in this process: an actor per run under the supervisor `runs`, a row per run in the state database.
 *
 * Who is admitted is decided one at a time; everything after that is the run's own. The layer ends every run with it.
 */
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { randomBytes } from "node:crypto"
import type * as Actor from "../services/Actor.ts"
import { AdoptsOrphans } from "../services/Containment.ts"
import { Epoch } from "../services/Epoch.ts"
import { InstanceMark } from "../services/InstanceMark.ts"
import { Keeper } from "../services/Keeper.ts"
import { ProcessIdentity } from "../services/ProcessIdentity.ts"
import {
  endOfInfo,
  type EndRequest,
  findRun,
  infoOfState,
  looksTheSame,
  lostGateway,
  maxRuns,
  newestFirst,
  PtySupervisor,
  type RunInfo,
  RunInputRefused,
  type RunKnown,
  RunNameInUse,
  RunStillLive,
  type RunVariables,
  ScopeInUse,
  TooManyRuns
} from "../services/PtySupervisor.ts"
import {
  type ExitReason,
  type RunAction,
  type RunEvent,
  type RunSpec,
  type RunState,
  withoutValues
} from "../services/Run.ts"
import { RunLog } from "../services/RunLog.ts"
import { describeRun, isOver, nextRun, requestedRun, statusWaitMs } from "../services/RunState.ts"
import { Settings } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"
import { Syscalls } from "../services/Syscalls.ts"
import { makeKeptRuns } from "./internal/keptRuns.ts"
import { startJanitor } from "./internal/janitor.ts"
import { launchChild } from "./internal/launchChild.ts"
import { adoptLater } from "./internal/orphans.ts"
import type { Seen } from "./internal/procfs.ts"
import { reapTimeoutMs } from "./internal/runChild.ts"
import { runEnvironment } from "./internal/runEnvironment.ts"
import { makeHistory } from "./internal/runHistory.ts"
import { makeLedger } from "./internal/runLedger.ts"
import { type Launch, makeRunLife, monotonicMs, type RunLife } from "./internal/runLife.ts"
import { type RunMachine, thisMachine } from "./internal/runMachine.ts"
import { placesIn } from "./internal/runPlaces.ts"
import { reconcile } from "./internal/runReconcile.ts"
import type { TreeEnd } from "./internal/runTree.ts"

export * from "../services/PtySupervisor.ts"

/** A run's own events are a few a second, an operator's fewer; whoever tells waits when it is full. */
const mailboxCapacity = 256
/** However long a run's own grace is, the end of the gateway gives it this at most. */
const maxShutdownGraceMs = 10_000
/** The end of a run is written again so often, so far apart, when the database is busy. */
const endRetries = Schedule.spaced(200).pipe(Schedule.upTo({ times: 5 }))

interface Run {
  readonly id: string
  readonly spec: RunSpec
  /** Of everything it has but its mark. */
  readonly scope: Scope.Closeable
  readonly actor: Actor.Actor<RunState, RunEvent>
  readonly life: RunLife
  readonly over: Deferred.Deferred<RunInfo>
  readonly known: () => RunKnown
}

export const makeWith = Effect.fnUntraced(function* (launch: Launch, machine: RunMachine = thisMachine) {
  const { environment, mark: times, paths } = yield* Settings
  const epoch = yield* Epoch
  const marks = yield* InstanceMark
  const identities = yield* ProcessIdentity
  const log = yield* RunLog
  const calls = (yield* Syscalls).table
  const ledger = makeLedger(yield* SqlClient)
  const live = new Map<string, Run>()
  // Before everything that ends runs, so that it ends after them.
  const orphans = yield* adoptLater(yield* AdoptsOrphans, {
    calls,
    sweepTimeoutMs: times.sweepTimeoutMs
  })
  const hands = {
    marks,
    times,
    traces: yield* machine.traces,
    claimed: epoch.claimed,
    orphans: orphans.living
  }
  const places = yield* placesIn(paths, machine.places)

  const reconciled = yield* reconcile(ledger, yield* ledger.openBeside(epoch.current.epoch), {
    identities,
    own: epoch.current.mark,
    isKept: () => false,
    lost: "both-lost",
    swept: [],
    marks,
    hands: Effect.map(calls, ({ signal }) => ({ ...hands, signal }))
  })
  const over = reconciled.flatMap(({ runId, dealing }) => (dealing._tag === "leave" ? [] : [runId]))
  yield* Effect.forkScoped(places.remove(over))

  const { mark: range } = epoch.current
  if (range !== null) yield* startJanitor({ range, claimed: epoch.claimed, ...marks, calls })
  const supervisor = yield* (yield* SupervisionTree).supervisor("runs")
  // Forked before the finalizer below is added, so it closes after it: runs are ended first, and not cut off.
  const scopes = yield* Scope.fork(yield* Effect.scope)
  const past = yield* makeHistory(ledger, epoch.current.epoch)
  /** What would not end, by scope key: while it lives, nobody has the key. */
  const leaks = new Map<string, ReadonlyArray<Seen>>()
  const admitting = yield* Semaphore.make(1)
  let closing = false

  const environmentOf = runEnvironment(places, environment)

  const infoOf = (run: Run): Effect.Effect<RunInfo> =>
    Effect.map(run.actor.state, (state) => past.known(run.id) ?? infoOfState(run.known(), state))

  const list = Effect.gen(function* () {
    const now = yield* Effect.forEach([...live.values()], infoOf)
    // Read last: one that ended meanwhile is in both, and is over.
    const all = new Map([...now, ...(yield* past.all)].map((info) => [info.id, info]))
    return newestFirst([...all.values()])
  })

  const tell = (run: Run, event: RunEvent) => Effect.ignore(run.actor.tell(event))

  const endRun = (run: Run, reason: ExitReason, graceMs: number) =>
    Effect.flatMap(monotonicMs, (at) => tell(run, { _tag: "End", reason, graceMs, at }))

  /** Waits until nobody else has the scope key; with survivors of another run nobody gets it. */
  const clear = (run: Run, earlier: ReadonlyArray<Run>) =>
    Effect.gen(function* () {
      yield* Effect.forEach(earlier, (other) =>
        endRun(other, { _tag: "replaced", by: run.id }, other.spec.killGraceMs)
      )
      yield* Effect.forEach(earlier, ({ over }) => Deferred.await(over))
      const key = run.spec.scope
      const left = yield* Effect.filter(key === null ? [] : (leaks.get(key) ?? []), (one) =>
        Effect.map(identities.verdict({ ...identities.self, ...one }), (verdict) => verdict !== "dead")
      )
      if (left.length > 0) {
        const numbers = left.map(({ pid }) => pid).join(", ")
        const detail = `Processes of the scope's last run would not end, so nothing was started beside them: ${numbers}.`
        return yield* endRun(run, { _tag: "spawn-error", problem: "failed", detail }, 0)
      }
      if (key !== null) leaks.delete(key)
      yield* tell(run, { _tag: "Cleared", at: yield* monotonicMs })
    })

  /** In one step for everybody else: what is decided here still holds when the row and the actor are there. */
  const admit = Effect.fnUntraced(function* (spec: RunSpec, variables: RunVariables) {
    // Whoever may still ask is about to end with everything else.
    if (closing) return yield* Effect.interrupt
    if (spec.id !== undefined) {
      const started = live.get(spec.id)
      if (started !== undefined) return yield* infoOf(started)
      const ended = yield* Effect.option(past.find(spec.id))
      if (Option.isSome(ended)) return ended.value
    }
    const ofScope = [...live.values()].filter((run) => spec.scope !== null && run.spec.scope === spec.scope)
    const last = ofScope.at(-1)
    if (last !== undefined && !spec.replace)
      return yield* new ScopeInUse({ scope: last.spec.scope ?? "", runId: last.id })
    const namesake = [...live.values()].find((run) => spec.name !== null && run.spec.name === spec.name)
    if (namesake !== undefined && !ofScope.includes(namesake))
      return yield* new RunNameInUse({ name: namesake.spec.name ?? "", runId: namesake.id })
    if (live.size >= maxRuns) return yield* new TooManyRuns()

    yield* orphans.begin
    const id = spec.id ?? `r-${yield* ulid}`
    const createdAt = yield* Clock.currentTimeMillis
    const markScope = yield* Scope.fork(scopes)
    const mark = yield* Scope.provide(epoch.claimMark, markScope)
    const { bootId, pidNamespace } = identities.self
    const forgotten = yield* Effect.gen(function* () {
      const gone = yield* ledger.makeRoom(maxRuns)
      yield* ledger.insert({
        runId: id,
        epoch: epoch.current.epoch,
        spec: withoutValues(spec),
        bootId,
        pidNamespace,
        mark,
        createdAt,
        attempt: 0,
        leader: null,
        end: null
      })
      return gone
    }).pipe(
      ledger.together,
      Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(markScope, exit) : Effect.void))
    )
    for (const old of forgotten) past.forget(old)
    yield* Effect.forkIn(Effect.forEach(forgotten, forgetLog, { discard: true }), scopes)

    let known: RunKnown = { id, spec: withoutValues(spec), createdAt, leader: null, endedAt: null }
    let clean = true
    const scope = yield* Scope.fork(scopes)
    const cgroup = yield* Scope.provide(places.make(id), scope)
    const over = yield* Deferred.make<RunInfo>()

    const conclude = (state: RunState): Effect.Effect<void> =>
      Effect.gen(function* () {
        yield* Scope.close(scope, Exit.void)
        const endedAt = yield* Clock.currentTimeMillis
        known = { ...known, endedAt }
        const info = infoOfState(known, state)
        yield* ledger.end(id, endOfInfo(info, endedAt)).pipe(
          Effect.retry(endRetries),
          // The next start closes the row, as one whose end nobody saw.
          Effect.catch((error) => Effect.logError(error.message, error.cause))
        )
        // Whoever is left carries the mark, and must not become another run's.
        if (clean) yield* Scope.close(markScope, Exit.void)
        past.add(info)
        live.delete(id)
        yield* Deferred.succeed(over, info)
      })

    const noteSwept = ({ survivors }: TreeEnd): void => {
      if (survivors.length === 0) return
      clean = false
      if (spec.scope !== null) leaks.set(spec.scope, survivors)
    }
    const life: RunLife = makeRunLife({
      runId: id,
      spec,
      env: environmentOf(id, spec, variables),
      mark,
      cgroup,
      scope,
      launch,
      calls,
      hands,
      log,
      identities,
      noteLeader: (leader, attempt) =>
        Effect.suspend(() => {
          known = { ...known, leader }
          // Its mark and cookie are written already: it can be found without.
          return Effect.catch(ledger.noteLeader(id, leader, attempt), (error) =>
            Effect.logError(error.message, error.cause)
          )
        }),
      noteSwept,
      finish: (self) =>
        Effect.flatMap(actor.state, conclude).pipe(Effect.andThen(self.end), Effect.uninterruptible)
    })
    const actor = yield* Effect.orDie(
      supervisor.start<RunState, RunEvent, RunAction, never>(
        { id, restart: "temporary", shutdownMs: maxShutdownGraceMs },
        {
          name: `the run ${id}`,
          initial: () => requestedRun,
          next: nextRun(spec),
          perform: life.perform,
          mailbox: { capacity: mailboxCapacity, overflow: "wait" },
          describe: describeRun
        }
      )
    )
    // An actor that broke is our fault; its processes are ended all the same.
    yield* Effect.forkIn(
      Effect.gen(function* () {
        yield* actor.stopped
        if (known.endedAt !== null || closing) return
        noteSwept(yield* life.sweepNow)
        yield* conclude({ _tag: "Lost", reason: "both-lost" })
      }),
      scopes
    )
    const run: Run = { id, spec, scope, actor, life, over, known: () => known }
    live.set(id, run)
    yield* Effect.forkIn(clear(run, ofScope), scope)
    return yield* infoOf(run)
  })

  const forgetLog = (runId: string) =>
    Effect.catch(log.remove(runId), (error) => Effect.logWarning(error.message))

  const start = Effect.fn("PtySupervisor.start")(function* (spec: RunSpec, variables: RunVariables = {}) {
    return yield* admitting.withPermits(1)(Effect.uninterruptible(admit(spec, variables)))
  })

  const end = Effect.fn("PtySupervisor.end")(function* (runId: string, { by, graceMs }: EndRequest) {
    const run = live.get(runId)
    if (run === undefined) return yield* past.find(runId)
    const reason: ExitReason = by === lostGateway ? { _tag: "gateway-lost" } : { _tag: "stopped", by }
    yield* endRun(run, reason, graceMs ?? run.spec.killGraceMs)
    return yield* Deferred.await(run.over)
  })

  /** With whoever reads its input. */
  const withChild = <E extends { readonly _tag: "InputFull" | "InputClosed" }>(
    runId: string,
    use: (child: NonNullable<ReturnType<RunLife["child"]>>) => Effect.Effect<void, E>
  ) =>
    Effect.gen(function* () {
      const refused = (problem: RunInputRefused["problem"]) => new RunInputRefused({ runId, problem })
      const run = live.get(runId)
      if (run === undefined) yield* past.find(runId)
      const child = run?.life.child() ?? null
      if (child === null) return yield* refused("not-running")
      yield* Effect.mapError(use(child), ({ _tag }) => refused(_tag === "InputFull" ? "full" : "closed"))
    })

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      closing = true
      return Effect.forEach(
        [...live.values()],
        (run) => {
          const graceMs = Math.min(run.spec.killGraceMs, maxShutdownGraceMs)
          return endRun(run, { _tag: "stopped", by: "shutdown" }, graceMs).pipe(
            Effect.andThen(Deferred.await(run.over)),
            Effect.timeoutOption(graceMs + times.sweepTimeoutMs + statusWaitMs + reapTimeoutMs)
          )
        },
        { concurrency: "unbounded", discard: true }
      )
    })
  )

  return PtySupervisor.of({
    reconciled,
    start,
    spawn: Effect.fn("PtySupervisor.spawn")(function* (spec: RunSpec, variables: RunVariables = {}) {
      return yield* Effect.acquireRelease(start(spec, variables), ({ id }) =>
        Effect.ignore(end(id, { by: "scope", graceMs: null }))
      )
    }),
    list,
    find: Effect.fn("PtySupervisor.find")(function* (ref: string) {
      return yield* Effect.fromResult(findRun(yield* list, ref))
    }),
    watch: (runId) =>
      Stream.unwrap(
        Effect.suspend(() => {
          const run = live.get(runId)
          return run === undefined
            ? Effect.map(past.find(runId), (info) => Stream.make(info))
            : Effect.succeed(
                run.actor.watch.pipe(
                  Stream.filter((state) => !isOver(state)),
                  Stream.map((state) => infoOfState(run.known(), state)),
                  Stream.changesWith(looksTheSame),
                  Stream.concat(Stream.fromEffect(Deferred.await(run.over)))
                )
              )
        })
      ),
    end,
    write: (runId, bytes) => withChild(runId, (child) => child.write(bytes)),
    closeInput: (runId) => withChild(runId, (child) => child.closeInput),
    resize: Effect.fn("PtySupervisor.resize")(function* (runId, size) {
      const run = live.get(runId)
      if (run === undefined) yield* past.find(runId)
      else yield* run.life.resize(size)
    }),
    remove: Effect.fn("PtySupervisor.remove")(function* (runId: string) {
      if (live.has(runId)) return yield* new RunStillLive({ runId })
      const { endedAt } = yield* past.find(runId)
      // Left alone at the start, because something of it may live: its row is what finds it again.
      if (endedAt === null) return yield* new RunStillLive({ runId })
      yield* ledger.remove(runId)
      past.forget(runId)
      yield* forgetLog(runId)
    })
  })
})

export const make = makeWith(launchChild)

export const layer = Layer.effect(PtySupervisor, make)

/** The same runs in a keeper, which outlives this process for the grace of each. */
export const makeKeeper = Effect.gen(function* () {
  return PtySupervisor.of(
    makeKeptRuns({
      keeper: yield* Keeper,
      ledger: makeLedger(yield* SqlClient),
      log: yield* RunLog,
      environment: (yield* Settings).environment
    })
  )
})

export const layerKeeper = Layer.effect(PtySupervisor, makeKeeper)

const { ulid } = SecureRandom.make((size) => new Uint8Array(randomBytes(size)))
