/**
 * The interpreter of one run's actions: its attempts, their output, the one alarm, and the sweep that follows each.
 *
 * Everything lives in the run's scope; long work is forked there and answers by an event.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Self } from "../../services/Actor.ts"
import type { MarkRange } from "../../services/InstanceMark.ts"
import { type Identity, ProcessIdentity } from "../../services/ProcessIdentity.ts"
import type { ExitReason, Leader, RunAction, RunEvent, RunSpec, WindowSize } from "../../services/Run.ts"
import type { RunLog, RunLogWriter } from "../../services/RunLog.ts"
import { sight } from "./procfs.ts"
import { type ChildCalls, type ChildFailed, type ChildSpec, type RunChild } from "./runChild.ts"
import { askTree, rememberKin, type RunTree, sweepTree, type TreeEnd, type TreeHands } from "./runTree.ts"

/** A run that prints all the time tells its actor so often; the last output before an alarm is told with the alarm. */
const outputEveryMs = 100

/** Starts a child in the scope; `launchChild`, or a test's own. */
export type Launch = (spec: ChildSpec, calls: ChildCalls) => Effect.Effect<RunChild, ChildFailed, Scope.Scope>

/** Milliseconds that never go back. */
export const monotonicMs = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))

export interface RunLifeOptions {
  readonly runId: string
  readonly spec: RunSpec
  readonly env: Readonly<Record<string, string>>
  readonly mark: MarkRange | null
  readonly cgroup: string | null
  /** Of the run: the log, its attempts and everything that is forked. */
  readonly scope: Scope.Scope
  readonly launch: Launch
  readonly calls: Effect.Effect<ChildCalls>
  readonly hands: Omit<TreeHands, "signal">
  readonly log: RunLog["Service"]
  readonly identities: Pick<ProcessIdentity["Service"], "of">
  readonly noteLeader: (leader: Leader, attempt: number) => Effect.Effect<void>
  readonly noteSwept: (end: TreeEnd) => void
  readonly finish: (self: Self<RunEvent>) => Effect.Effect<void>
}

interface Attempt {
  readonly scope: Scope.Closeable
  readonly child: RunChild
  readonly tree: RunTree
  /** The leader is in the ledger. */
  readonly noted: Deferred.Deferred<void>
  /** The leader has left. */
  left: boolean
}

export interface RunLife {
  readonly perform: (action: RunAction, self: Self<RunEvent>) => Effect.Effect<void>
  /** Of the attempt whose leader lives. */
  readonly child: () => RunChild | null
  readonly resize: (size: WindowSize) => Effect.Effect<void>
  /** For a run whose actor broke: whatever there is of it. */
  readonly sweepNow: Effect.Effect<TreeEnd>
}

const spawnError = (problem: Extract<ExitReason, { _tag: "spawn-error" }>["problem"], detail: string) => ({
  problem,
  detail
})

/** A database that is busy for longer is another's; the output waits in the terminal meanwhile. */
const noteTimeoutMs = 2_000

const noTree: TreeEnd = { extinction: { proven: true, survivors: [] }, survivors: [] }

export const makeRunLife = (options: RunLifeOptions): RunLife => {
  const { runId, spec, scope } = options
  let attempt: Attempt | null = null
  let writer: RunLogWriter | null = null
  let alarm: Fiber.Fiber<void> | null = null
  let size = spec.pty
  let heardAt = Number.NEGATIVE_INFINITY
  let toldAt = Number.NEGATIVE_INFINITY

  const inBackground = (work: Effect.Effect<unknown>) => Effect.asVoid(Effect.forkIn(work, scope))
  const hands = Effect.map(options.calls, ({ signal }): TreeHands => ({ ...options.hands, signal }))

  const endAttempt = Effect.suspend(() => {
    const last = attempt
    attempt = null
    return last === null ? Effect.void : Scope.close(last.scope, Exit.void)
  })

  const openLog = Effect.gen(function* () {
    writer ??= yield* Scope.provide(options.log.open(runId), scope)
    if (size !== null) yield* writer.resize(size)
    return writer
  })

  const begin = Effect.gen(function* () {
    yield* endAttempt
    const output = yield* openLog
    const calls = yield* options.calls
    const attemptScope = yield* Scope.fork(scope)
    const { command, args, cwd } = spec
    const child = yield* options
      .launch(
        { command, args, cwd, env: options.env, mark: options.mark, cgroup: options.cgroup, pty: size },
        calls
      )
      .pipe(
        Scope.provide(attemptScope),
        Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(attemptScope, exit) : Effect.void))
      )
    const leader = { pid: child.pid, startToken: yield* startTokenOf(child, options.identities) }
    const tree: RunTree = { runId, leader, mark: child.mark, cgroup: options.cgroup, kin: new Map() }
    attempt = { scope: attemptScope, child, tree, noted: Deferred.makeUnsafe<void>(), left: false }
    return { attempt, output }
  })

  const pump = ({ child }: Attempt, output: RunLogWriter, self: Self<RunEvent>) =>
    Stream.runForEach(child.output, ({ bytes }) =>
      Effect.flatMap(monotonicMs, (at) => {
        heardAt = at
        // One that was not taken is told with the alarm.
        if (at - toldAt >= outputEveryMs && self.tellUnsafe({ _tag: "Output", at })) toldAt = at
        return output.offerUnsafe(bytes) ? Effect.void : output.append(bytes)
      })
    ).pipe(
      // A fault of ours must not leave the run waiting for a reader.
      Effect.catchDefect((defect) =>
        Effect.andThen(
          Effect.logError(`keeping the output of the run ${runId} broke`, defect),
          child.abandonOutput
        )
      )
    )

  const start = (self: Self<RunEvent>) =>
    Effect.gen(function* () {
      const { attempt, output } = yield* begin
      const { child, tree } = attempt
      heardAt = toldAt = Number.NEGATIVE_INFINITY
      yield* self.tell({ _tag: "Spawned", leader: tree.leader!, at: yield* monotonicMs })
      // Whoever has seen a run's output has seen one that the ledger knows to have begun.
      const noted = Effect.timeoutOption(Deferred.await(attempt.noted), noteTimeoutMs)
      const pumping = yield* Effect.forkIn(Effect.andThen(noted, pump(attempt, output, self)), attempt.scope)
      yield* Effect.forkIn(
        Effect.gen(function* () {
          yield* child.reaped
          attempt.left = true
          yield* rememberKin(tree, options.hands)
          const status = yield* child.exited
          // Whoever learns of the end finds the whole output in the log.
          yield* Fiber.await(pumping)
          yield* self.tell({ _tag: "LeaderExited", status, at: yield* monotonicMs })
        }).pipe(Effect.ignore),
        attempt.scope
      )
    }).pipe(
      Effect.catchTags({
        ChildFailed: ({ problem, detail }) => Effect.succeed(spawnError(problem, detail)),
        RunLogRefused: ({ message }) => Effect.succeed(spawnError("failed", message)),
        DirectoryRefused: ({ message }) => Effect.succeed(spawnError("failed", message))
      }),
      Effect.catchDefect((defect) =>
        Effect.as(
          Effect.logError(`starting the run ${runId} broke`, defect),
          spawnError("failed", "Starting it broke; the gateway's log says how.")
        )
      ),
      Effect.flatMap((failure) =>
        failure === undefined
          ? Effect.void
          : Effect.flatMap(monotonicMs, (at) => self.tell({ _tag: "SpawnFailed", ...failure, at }))
      ),
      Effect.ignore
    )

  const sweepNow = Effect.suspend(() => {
    const current = attempt
    return current === null
      ? Effect.succeed(noTree)
      : Effect.flatMap(hands, (hands) => sweepTree(current.tree, hands, !current.left))
  }).pipe(
    Effect.catchDefect((defect) =>
      Effect.as(Effect.logError(`sweeping the run ${runId} broke`, defect), {
        extinction: { proven: false, survivors: [] },
        survivors: []
      })
    )
  )

  const ring = (due: number, self: Self<RunEvent>) =>
    Effect.gen(function* () {
      yield* Effect.sleep(Math.max(0, due - (yield* monotonicMs)))
      if (heardAt > toldAt) {
        toldAt = heardAt
        yield* self.tell({ _tag: "Output", at: heardAt })
      }
      yield* self.tell({ _tag: "Alarm", due, at: yield* monotonicMs })
    }).pipe(Effect.ignore)

  const perform = (action: RunAction, self: Self<RunEvent>): Effect.Effect<void> => {
    switch (action._tag) {
      case "Spawn":
        return inBackground(start(self))
      case "NoteLeader":
        return Effect.ensuring(
          options.noteLeader(action.leader, action.attempt),
          Effect.sync(() => attempt !== null && Deferred.doneUnsafe(attempt.noted, Effect.void))
        )
      case "Ask":
        return inBackground(
          Effect.flatMap(hands, (hands) => (attempt === null ? Effect.void : askTree(attempt.tree, hands)))
        )
      case "Sweep":
        return inBackground(
          Effect.gen(function* () {
            const end = yield* sweepNow
            options.noteSwept(end)
            yield* self.tell({ _tag: "Swept", extinction: end.extinction, at: yield* monotonicMs })
          }).pipe(Effect.ignore)
        )
      case "SetAlarm":
        return Effect.gen(function* () {
          if (alarm !== null) yield* Fiber.interrupt(alarm)
          alarm = yield* Effect.forkIn(ring(action.due, self), scope)
        })
      case "Warn":
        return Effect.logWarning("a run is silent").pipe(
          Effect.annotateLogs({ run: runId, silent_ms: action.silentMs })
        )
      case "Finish":
        return options.finish(self)
    }
  }

  return {
    perform,
    child: () => (attempt === null || attempt.left ? null : attempt.child),
    resize: (next) =>
      Effect.suspend(() => {
        if (spec.pty === null) return Effect.void
        size = next
        return Effect.andThen(
          writer === null ? Effect.void : writer.resize(next),
          attempt === null ? Effect.void : attempt.child.resize(next)
        )
      }),
    sweepNow
  }
}

/** Gone before anybody could look: a token that no process has. */
const noToken = ""

const startTokenOf = (
  { pid, startToken }: RunChild,
  identities: Pick<ProcessIdentity["Service"], "of">
): Effect.Effect<string> => {
  if (startToken !== null) return Effect.succeed(startToken)
  // Where there is /proc it had gone, and whoever has the number now is another.
  if (sight(process.pid)._tag !== "Unreadable") return Effect.succeed(noToken)
  return Effect.map(identities.of(pid), (found) =>
    found._tag === "Some" ? (found.value satisfies Identity).startToken : noToken
  )
}
