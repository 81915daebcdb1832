/**
 * PtySupervisor over children that are no processes: the live rules, on the ledger in memory. A test makes the children print,
 * leave and refuse to leave, and reads in which order they were started and signalled.
 *
 * `stubborn*` ignores all but SIGKILL; `undead*` ignores that too, and every sweep.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import { SqlClient } from "effect/sql/SqlClient"
import * as Stream from "effect/Stream"
import type { ChildSpec, OutputChunk, RunChild } from "../layers/internal/runChild.ts"
import type { Launch } from "../layers/internal/runLife.ts"
import type { RunMachine } from "../layers/internal/runMachine.ts"
import { makeWith, PtySupervisor } from "../layers/PtySupervisor.ts"
import { layer as layerTree } from "../layers/SupervisionTree.ts"
import { Epoch } from "../services/Epoch.ts"
import { type ExitStatus, runDefaults, type RunSpec } from "../services/Run.ts"
import { done, notDone, Syscalls } from "../services/Syscalls.ts"
import { layer as layerDatabase } from "./Database.ts"
import { record } from "./Epoch.ts"
import { FakeInstanceMark, layer as layerMarks, range } from "./InstanceMark.ts"
import { FakeProcessIdentity, identity, layer as layerIdentity } from "./ProcessIdentity.ts"
import { layer as layerRunLog } from "./RunLog.ts"

/** A run of a command, with nothing unusual about it. */
export const specOf = (command: string, over: Partial<RunSpec> = {}): RunSpec => ({
  ...runDefaults,
  command,
  args: [],
  cwd: "/",
  ...over
})

export class FakeChildren extends Context.Service<
  FakeChildren,
  {
    /** What happened since it was asked last: `a starts`, `a gets SIGTERM`, `a leaves`. */
    readonly log: Effect.Effect<ReadonlyArray<string>>
    /** The commands of those that live, in the order of their starts. */
    readonly alive: Effect.Effect<ReadonlyArray<string>>
    /** So many lived at the same time at most. */
    readonly most: Effect.Effect<number>
    /** The last child of a command prints. */
    readonly prints: (command: string, text?: string) => Effect.Effect<void>
    readonly leaves: (command: string, code: number) => Effect.Effect<void>
    /** What clung to life is gone at last. */
    readonly vanishes: (command: string) => Effect.Effect<void>
    /** Runs in every start from now on: the child is there and may print, and its supervisor does not know. */
    readonly whenStarted: (hook: (command: string) => Effect.Effect<void>) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeChildren") {}

/** Above the largest pid_max, so that no process has them. */
const firstPid = 5_000_000

interface FakeChild {
  readonly pid: number
  readonly command: string
  readonly status: Deferred.Deferred<ExitStatus>
  readonly output: Queue.Queue<OutputChunk>
}

const machine: RunMachine = {
  places: {
    cgroups: Effect.succeed({ _tag: "NotDelegated", problem: "fake" }),
    make: () => Effect.void,
    remove: () => Effect.void
  },
  traces: Effect.succeed({ kinOf: () => Effect.succeed([]), bearers: () => Effect.succeed([]) })
}

const layerEpoch = Layer.sync(Epoch, () => {
  let claims = 0
  return {
    current: record(),
    unmarked: null,
    outer: null,
    claimMark: Effect.sync(() => range(claims++)),
    claimed: Effect.sync(() => Array.from({ length: claims }, (_, index) => range(index))),
    swept: [],
    sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
  }
})

const heeds = ({ command }: FakeChild, signal: string): boolean =>
  signal === "SIGKILL"
    ? !command.startsWith("undead")
    : signal === "SIGTERM" && !/^(stubborn|undead)/.test(command)

const nothingMore = (_command: string): Effect.Effect<void> => Effect.void

const make = Effect.gen(function* () {
  const log: Array<string> = []
  const children: Array<FakeChild> = []
  const marks = yield* FakeInstanceMark
  const processes = yield* FakeProcessIdentity
  const sql = yield* SqlClient
  let most = 0
  let whenStarted = nothingMore

  const living = () => children.filter(({ status }) => !Deferred.isDoneUnsafe(status))

  const leave = (child: FakeChild, status: ExitStatus): void => {
    if (Deferred.doneUnsafe(child.status, Effect.succeed(status))) log.push(`${child.command} leaves`)
  }

  const started = Effect.fnUntraced(function* ({ command, mark, env }: ChildSpec) {
    const rows = yield* Effect.orDie(sql`SELECT pid FROM runs WHERE run_id = ${env["HOLDFAST_RUN"] ?? ""}`)
    log.push(`${command} starts${rows.length === 1 ? "" : ", unknown to the ledger"}`)
    const child: FakeChild = {
      pid: firstPid + children.length,
      command,
      status: Deferred.makeUnsafe(),
      output: yield* Queue.unbounded<OutputChunk>()
    }
    children.push(child)
    most = Math.max(most, living().length)
    yield* whenStarted(command)
    yield* marks.runs({ identity: identity(child.pid), mark: mark!.high, command })
    if (command.startsWith("undead")) {
      yield* marks.clings(child.pid)
      yield* processes.runs(identity(child.pid))
    }
    return child
  })

  const launch: Launch = (spec) =>
    Effect.acquireRelease(started(spec), (child) =>
      Effect.sync(() => leave(child, { code: null, signal: null }))
    ).pipe(
      Effect.map((child): RunChild => {
        const status = Deferred.await(child.status)
        return {
          pid: child.pid,
          startToken: String(child.pid),
          mark: spec.mark,
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
    const child = living().find((one) => one.pid === pid)
    if (child === undefined) return "gone"
    log.push(`${child.command} gets ${name}`)
    if (heeds(child, name)) leave(child, { code: null, signal: name })
    return "sent"
  }

  const calls = Layer.mock(Syscalls, {
    table: Effect.succeed({
      available: {} as never,
      closeOnExec: () => done,
      signal,
      peerCredentials: () => notDone("fake"),
      setSubreaper: () => notDone("fake"),
      reap: () => notDone("fake"),
      processTimes: () => notDone("fake")
    })
  })

  const runs = yield* Layer.build(
    Layer.effect(PtySupervisor, makeWith(launch, machine)).pipe(Layer.provide([calls, layerEpoch]))
  )
  const last = (command: string) => {
    const child = children.findLast((one) => one.command === command)
    return child === undefined
      ? Effect.die(new Error(`no child ${command} was started`))
      : Effect.succeed(child)
  }
  return runs.pipe(
    Context.add(FakeChildren, {
      log: Effect.sync(() => log.splice(0)),
      alive: Effect.sync(() => living().map(({ command }) => command)),
      most: Effect.sync(() => most),
      prints: (command, text = "x") =>
        Effect.map(last(command), ({ output }) => {
          Queue.offerUnsafe(output, { from: "stdout", bytes: Buffer.from(text) })
        }),
      leaves: (command, code) => Effect.map(last(command), (child) => leave(child, { code, signal: null })),
      vanishes: (command) => Effect.flatMap(last(command), ({ pid }) => processes.ends(pid)),
      whenStarted: (hook) =>
        Effect.sync(() => {
          whenStarted = hook
        })
    })
  )
})

export const layer = Layer.effectContext(make).pipe(
  Layer.provideMerge([layerDatabase, layerMarks, layerIdentity, layerTree, layerRunLog])
)
