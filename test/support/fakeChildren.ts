/**
 * A PtySupervisor whose children are no processes: a test makes them print, leave and refuse to leave, and reads in which
 * order they were started and signalled. Everything is in memory and on the TestClock.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import { type ChildSpec, type OutputChunk, type RunChild } from "../../src/layers/internal/runChild.ts"
import type { Launch } from "../../src/layers/internal/runLife.ts"
import type { RunMachine } from "../../src/layers/internal/runMachine.ts"
import { makeWith, PtySupervisor } from "../../src/layers/PtySupervisor.ts"
import { layer as layerTree } from "../../src/layers/SupervisionTree.ts"
import { Epoch } from "../../src/services/Epoch.ts"
import { type ExitStatus, runDefaults, type RunSpec } from "../../src/services/Run.ts"
import { RunLog } from "../../src/services/RunLog.ts"
import { done, notDone, Syscalls } from "../../src/services/Syscalls.ts"
import { layerMemory } from "./Database.ts"
import { record } from "./Epoch.ts"
import { FakeInstanceMark, layer as layerMarks, range } from "./InstanceMark.ts"
import { FakeProcessIdentity, identity, layer as layerIdentity } from "./ProcessIdentity.ts"

export const specOf = (command: string, over: Partial<RunSpec> = {}): RunSpec => ({
  ...runDefaults,
  command,
  args: [],
  cwd: "/",
  ...over
})

/** Above the largest pid_max, so that no process has them. */
const firstPid = 5_000_000

interface FakeChild {
  readonly pid: number
  readonly name: string
  readonly status: Deferred.Deferred<ExitStatus>
  readonly output: Queue.Queue<OutputChunk>
}

/** `stubborn-*` ignores all but SIGKILL; `undead-*` ignores that too, and every sweep. */
export const fakeSupervisor = Effect.gen(function* () {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const log: Array<string> = []
  const children: Array<FakeChild> = []
  let alive = 0
  let most = 0

  const services = yield* Layer.build(
    Layer.mergeAll(Layer.fresh(layerMemory), Layer.fresh(layerMarks), layerIdentity(), layerTree)
  ).pipe(Scope.provide(scope))
  const marks = Context.get(services, FakeInstanceMark)
  const processes = Context.get(services, FakeProcessIdentity)
  const sql = Context.get(services, SqlClient)

  const leave = (child: FakeChild, status: ExitStatus): void => {
    if (!Deferred.doneUnsafe(child.status, Effect.succeed(status))) return
    alive -= 1
    log.push(`${child.name} leaves`)
  }

  const launch: Launch = ({ command, mark, env }: ChildSpec) =>
    Effect.acquireRelease(
      Effect.gen(function* () {
        const rows = yield* Effect.orDie(
          sql`SELECT pid FROM runs WHERE run_id = ${env["HOLDFAST_RUN"] ?? ""}`
        )
        log.push(`${command} starts, ${rows.length === 1 ? "in the ledger" : "unknown to the ledger"}`)
        const pid = firstPid + children.length
        const child: FakeChild = {
          pid,
          name: command,
          status: Deferred.makeUnsafe(),
          output: yield* Queue.unbounded<OutputChunk>()
        }
        if (command.startsWith("hasty")) {
          Queue.offerUnsafe(child.output, { from: "stdout", bytes: Buffer.from("up") })
          const held = yield* Deferred.make<void>()
          yield* Deferred.succeed(held, undefined).pipe(
            Effect.andThen(Deferred.await(writable)),
            sql.withTransaction,
            Effect.orDie,
            Effect.forkIn(scope)
          )
          yield* Deferred.await(held)
        }
        children.push(child)
        alive += 1
        most = Math.max(most, alive)
        yield* marks.runs({ identity: identity(pid), mark: mark!.high, command })
        if (command.startsWith("undead")) {
          yield* marks.clings(pid)
          yield* processes.runs(identity(pid))
        }
        return { child, mark }
      }),
      ({ child }) => Effect.sync(() => leave(child, { code: null, signal: null }))
    ).pipe(
      Effect.map(({ child, mark }): RunChild => {
        const status = Deferred.await(child.status)
        return {
          pid: child.pid,
          startToken: String(child.pid),
          mark,
          output: Stream.fromQueue(child.output).pipe(Stream.interruptWhen(status)),
          abandonOutput: Effect.void,
          write: () => Effect.void,
          closeInput: Effect.void,
          resize: () => Effect.void,
          reaped: status,
          exited: status,
          signalLeader: () => Effect.succeed("gone")
        }
      })
    )

  const signal = (pid: number, name: string) => {
    const child = children.find((one) => one.pid === pid)
    if (child === undefined || Deferred.isDoneUnsafe(child.status)) return "gone"
    log.push(`${child.name} gets ${name}`)
    const heeds =
      name === "SIGKILL"
        ? !child.name.startsWith("undead")
        : name === "SIGTERM" && !/^(stubborn|undead)/.test(child.name)
    if (heeds) leave(child, { code: null, signal: name })
    return "sent"
  }

  const machine: RunMachine = {
    places: {
      cgroups: Effect.succeed({ _tag: "NotDelegated", problem: "fake" }),
      make: () => Effect.void,
      remove: () => Effect.void
    },
    traces: Effect.succeed({ kinOf: () => Effect.succeed([]), bearers: () => Effect.succeed([]) })
  }
  let early = 0
  let kept = 0
  const writable = Deferred.makeUnsafe<void>()
  let claims = 0
  const here = Layer.mergeAll(
    Layer.succeed(Epoch, {
      current: record(),
      unmarked: null,
      outer: null,
      claimMark: Effect.sync(() => range(claims++)),
      claimed: Effect.sync(() => Array.from({ length: claims }, (_, index) => range(index))),
      swept: [],
      sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
    }),
    Layer.mock(Syscalls, {
      table: Effect.succeed({
        available: {} as never,
        closeOnExec: () => done,
        signal,
        peerCredentials: () => notDone("fake"),
        setSubreaper: () => notDone("fake"),
        reap: () => notDone("fake"),
        processTimes: () => notDone("fake")
      })
    }),
    Layer.mock(RunLog, {
      open: (runId) =>
        Effect.succeed({
          end: Effect.succeed(0),
          append: () => Effect.void,
          offerUnsafe: () => {
            // At this very moment: a look that has to wait for somebody's write would see what that wrote.
            const look = Effect.runSyncExit(
              sql<{ readonly pid: number | null }>`SELECT pid FROM runs WHERE run_id = ${runId}`
            )
            if (Exit.isFailure(look) || look.value[0]?.pid == null) early += 1
            kept += 1
            return true
          },
          resize: () => Effect.void,
          flush: Effect.void
        }),
      remove: (runId) => Effect.sync(() => void log.push(`log of ${runId} removed`))
    })
  )
  const runs = Context.get(
    yield* Layer.build(
      Layer.effect(PtySupervisor, makeWith(launch, machine)).pipe(
        Layer.provide(Layer.merge(here, Layer.succeedContext(services)))
      )
    ).pipe(Scope.provide(scope)),
    PtySupervisor
  )
  const of = (name: string) => children.findLast((child) => child.name === name)!
  return {
    runs,
    sql,
    /** What happened since it was asked last. */
    log: Effect.sync(() => log.splice(0)),
    /** Pieces of output that were kept, and those of them while the ledger did not know the run's leader. */
    output: () => ({ kept, early }),
    /** What a `hasty` one, which prints at once, has kept others from writing is written. */
    letWrite: Deferred.succeed(writable, undefined),
    /** So many lived at the same time at most. */
    most: () => most,
    alive: () => children.filter(({ status }) => !Deferred.isDoneUnsafe(status)).map(({ name }) => name),
    prints: (name: string) =>
      Effect.sync(() => Queue.offerUnsafe(of(name).output, { from: "stdout", bytes: Buffer.from("x") })),
    /** What clung to life is gone at last. */
    vanishes: (name: string) => processes.ends(of(name).pid),
    leaves: (name: string, code: number) => Effect.sync(() => leave(of(name), { code, signal: null })),
    close: Scope.close(scope, Exit.void)
  }
})

export type FakeWorld = Effect.Success<typeof fakeSupervisor>

/** Waits until the run is in a state. */
export const until = ({ runs }: FakeWorld, runId: string, state: string) =>
  runs.watch(runId).pipe(
    Stream.takeUntil((info) => info.state === state),
    Stream.runLast
  )

/** As it is when it is over. */
export const last = ({ runs }: FakeWorld, runId: string) =>
  Effect.map(Stream.runCollect(runs.watch(runId)), (all) => all.at(-1)!)
