/**
 * The live PtySupervisor on files of its own, with an epoch whose marks the test runner does not carry itself; and who is
 * left of a run, read here from /proc by other code than the one under test.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { layer as layerDatabase } from "../../src/layers/Database.ts"
import { InstanceMark, layer as layerMark } from "../../src/layers/InstanceMark.ts"
import type { CgroupsFound } from "../../src/layers/internal/cgroups.ts"
import { launchChild } from "../../src/layers/internal/launchChild.ts"
import { thisMachine } from "../../src/layers/internal/runMachine.ts"
import { makeClaims } from "../../src/layers/internal/claimMark.ts"
import { layer as layerIdentity, ProcessIdentity } from "../../src/layers/ProcessIdentity.ts"
import { layer as layerKeeperLink } from "../../src/layers/Keeper.ts"
import { layer, layerKeeper, makeWith, PtySupervisor } from "../../src/layers/PtySupervisor.ts"
import { layer as layerRunLog, RunLog } from "../../src/layers/RunLog.ts"
import { layer as layerRunLogKeeper } from "../../src/layers/RunLogKeeper.ts"
import { layer as layerReaper } from "../../src/layers/RunReaper.ts"
import { layer as layerTree } from "../../src/layers/SupervisionTree.ts"
import { layer as layerSyscalls } from "../../src/layers/Syscalls.ts"
import { Epoch } from "../../src/services/Epoch.ts"
import type { MarkRange } from "../../src/services/InstanceMark.ts"
import { runDefaults, type RunSpec } from "../../src/services/Run.ts"
import { resolvePaths, Settings } from "../../src/services/Settings.ts"
import { record } from "../../src/testing/Epoch.ts"
import { dist } from "./gateway.ts"
import { carriers, withInEnvironment } from "./markedProcesses.ts"

export const directory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(`${tmpdir()}/hf-pty-`)),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** An epoch that gives marks of a range that is free on this machine, or none. */
const epochOf = (epoch: string, marked: boolean) =>
  Layer.effect(
    Epoch,
    Effect.gen(function* () {
      const { self } = yield* ProcessIdentity
      const { choose } = yield* InstanceMark
      const mark = marked ? yield* choose : null
      return Epoch.of({
        current: record({ epoch, owner: self, mark }),
        unmarked: null,
        outer: null,
        ...makeClaims(mark),
        swept: [],
        sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
      })
    })
  )

export interface WorldOptions {
  readonly home?: string
  readonly epoch?: string
  /** False where the system has none. */
  readonly marked?: boolean
  readonly environment?: Readonly<Record<string, string>>
  /** By way of a keeper, which needs the built program. */
  readonly kept?: boolean
  /** Instead of those of this machine. */
  readonly cgroups?: CgroupsFound
}

/** A life of a gateway; it ends with the scope, or by `close`. */
export const supervisorOf = Effect.fnUntraced(function* (options: WorldOptions = {}) {
  const home = options.home ?? (yield* directory)
  const paths = resolvePaths({
    env: { HOLDFAST_HOME: home },
    uid: 0,
    homeDirectory: home,
    tempDirectory: home
  })
  const all = yield* Settings
  const settings = Layer.succeed(Settings, {
    ...all,
    paths,
    environment: options.environment ?? { PATH: process.env["PATH"] },
    hook: { ...all.hook, clientDirectory: dist },
    logLevel: "error"
  })
  const epoch = epochOf(options.epoch ?? "01J0000000000000000000000A", options.marked ?? true)
  const { cgroups } = options
  const inProcess =
    cgroups === undefined
      ? layer
      : Layer.effect(
          PtySupervisor,
          makeWith(launchChild, {
            ...thisMachine,
            places: { ...thisMachine.places, cgroups: Effect.succeed(cgroups) }
          })
        )
  const supervisor = options.kept === true ? kept : inProcess.pipe(Layer.provideMerge(layerRunLog))
  const graph = supervisor.pipe(
    Layer.provideMerge(epoch),
    Layer.provideMerge(layerMark),
    Layer.provideMerge([layerIdentity, layerDatabase, layerSyscalls, layerTree]),
    Layer.provide(settings),
    Layer.provide(Layer.succeed(References.MinimumLogLevel, "Error"))
  )
  const scope = yield* Scope.fork(yield* Effect.scope)
  const context = yield* Layer.build(Layer.fresh(graph)).pipe(Scope.provide(scope))
  const range = Context.get(context, Epoch).current.mark
  // Whatever a test leaves ends with it.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const { low, high } of [...(range === null ? [] : [range]), ...keeperRanges(home)])
        for (const pid of carriers(low, high)) process.kill(pid, "SIGKILL")
    })
  )
  return {
    home,
    runs: Context.get(context, PtySupervisor),
    log: Context.get(context, RunLog),
    range,
    /** The keepers themselves: whoever carries the upper bound of a range. */
    staff: () => keeperRanges(home).flatMap(({ high }) => carriers(high, high)),
    /** Who carries a mark of its runs. */
    left: () =>
      (options.kept === true ? keeperRanges(home) : [range!]).flatMap(({ low, high }) =>
        // A keeper has the mark of its range itself.
        carriers(low, options.kept === true ? high - 1 : high)
      ),
    close: Scope.close(scope, Exit.void),
    /** As the ledger has them, on a connection of its own. */
    endsOf: (runIds: ReadonlyArray<string>) =>
      Effect.sync(() => {
        const ends = new Map(rowsOf(home).map(({ run_id, outcome }) => [run_id, JSON.parse(String(outcome))]))
        return runIds.map((runId) => {
          const { reason, extinction } = ends.get(runId)
          return { reason: reason?._tag, extinction }
        })
      })
  }
})

const kept = layerKeeper.pipe(
  Layer.provideMerge(layerRunLogKeeper),
  Layer.provideMerge(layerKeeperLink),
  Layer.provide(layerReaper)
)

/** Of every keeper that a home has had. */
const keeperRanges = (home: string): ReadonlyArray<MarkRange> => {
  const database = new DatabaseSync(`${home}/state/holdfast.db`)
  const rows = database.prepare("SELECT mark_low, mark_high FROM keepers WHERE mark_low IS NOT NULL").all()
  database.close()
  return rows.map((row) => ({ low: Number(row["mark_low"]), high: Number(row["mark_high"]) }))
}

export type World = Effect.Success<ReturnType<typeof supervisorOf>>

/** The ledger of a home, which may be changed first. */
export const rowsOf = (home: string, change?: string) => {
  const database = new DatabaseSync(`${home}/state/holdfast.db`)
  if (change !== undefined) database.exec(change)
  const rows = database.prepare("SELECT * FROM runs ORDER BY created_at, run_id").all()
  database.close()
  return rows
}

/** Waits for its own end. */
export const over = (world: World, runId: string) =>
  Effect.map(Stream.runCollect(world.runs.watch(runId)), (all) => all.at(-1)!)

/** A command with this process's PATH, in the temp directory. */
export const specOf = (command: string, over: Partial<RunSpec> = {}): RunSpec => ({
  ...runDefaults,
  command,
  args: [],
  cwd: tmpdir(),
  ...over
})

export const shell = (script: string, over: Partial<RunSpec> = {}): RunSpec =>
  specOf("sh", { args: ["-c", script], ...over })

const tortures = fileURLToPath(new URL("../fixtures/torture", import.meta.url))

export const torture = (vice: string, over: Partial<RunSpec> = {}): RunSpec =>
  specOf(`${tortures}/${vice}`, over)

/** Everything that a run has printed, when it is over. */
export const printed = (log: RunLog["Service"], runId: string) =>
  log.read(runId, { _tag: "start" }, { follow: false }).pipe(
    Stream.runCollect,
    Effect.map((chunks) => Buffer.concat(chunks.map(({ bytes }) => bytes)).toString())
  )

/** Waits until its process exists and it has printed a text. */
export const untilPrinted = (world: World, runId: string, text: string) =>
  world.runs.watch(runId).pipe(
    Stream.takeUntil(({ leader }) => leader !== null),
    Stream.runDrain,
    Effect.andThen(
      world.log.read(runId, { _tag: "start" }, { follow: true }).pipe(
        Stream.mapAccum(
          () => "",
          (sofar, { bytes }) => {
            const now = sofar + Buffer.from(bytes).toString()
            return [now, [now]] as const
          }
        ),
        Stream.takeUntil((sofar) => sofar.includes(text)),
        Stream.runDrain
      )
    )
  )

/** Numbers of the live processes that have a run's cookie in their environment. */
const cookieBearers = (runId: string): ReadonlyArray<number> => withInEnvironment(`HOLDFAST_RUN=${runId}`)

/** Numbers of the live processes that have a run in their PATH. */
export const namedInPath = (runId: string): ReadonlyArray<number> => withInEnvironment(`/runs/${runId}/bin`)

/** Everybody who is left of some runs, by the epoch's marks and by the cookies. */
export const leftOf = (range: MarkRange | null, runIds: ReadonlyArray<string>): ReadonlyArray<number> => [
  ...new Set([...(range === null ? [] : carriers(range.low, range.high)), ...runIds.flatMap(cookieBearers)])
]
