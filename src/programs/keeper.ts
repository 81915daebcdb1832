/**
 * keeper: holds the runs, their terminals and their logs. This page is everything it has.
 *
 * Started by a gateway and by nobody else. It ends in the reverse of the graph: the socket closes, every run that is left is
 * asked, killed and swept within its grace, the logs are written out, the bridge records of gateways that are gone are
 * removed, and last whatever still carries its mark is ended and its row closed.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { parseArgs } from "node:util"
import * as BridgeStore from "../layers/BridgeStore.ts"
import * as Database from "../layers/Database.ts"
import * as EpochKeeper from "../layers/EpochKeeper.ts"
import * as InstanceMark from "../layers/InstanceMark.ts"
import * as KeeperServer from "../layers/KeeperServer.ts"
import * as ProcessIdentity from "../layers/ProcessIdentity.ts"
import * as PtySupervisor from "../layers/PtySupervisor.ts"
import * as RunLog from "../layers/RunLog.ts"
import * as SupervisionTree from "../layers/SupervisionTree.ts"
import * as Syscalls from "../layers/Syscalls.ts"
import { AdoptsOrphans } from "../services/Containment.ts"
import { Epoch } from "../services/Epoch.ts"
import { KeeperBirth, KeeperEnd, readBirth } from "../services/Keeper.ts"
import { pathsIn, resolve, Settings } from "../services/Settings.ts"
import { loggingOf, problemOf, surroundings } from "./internal/surroundings.ts"

const fail = (line: string): never => {
  process.stderr.write(`holdfast keeper: ${line}\n`)
  process.exit(1)
}

const option = { type: "string" } as const
const { values } = parseArgs({
  options: {
    keeper: option,
    epoch: option,
    mark: option,
    socket: option,
    state: option,
    runtime: option
  }
})
const birth = readBirth(values) ?? fail("it is started by `holdfast up`, and by nobody else")

// The config file is the gateway's: a keeper must start whatever becomes of it. Of the environment its children get what the
// gateway sends along with each.
const settings = Result.match(resolve(surroundings, null), {
  onSuccess: (all) => ({ ...all, environment: {}, paths: pathsIn({ ...all.paths, ...birth }) }),
  onFailure: ({ message }) => fail(message)
})
const settingsLayer = Layer.succeed(Settings, settings)

const requested = Deferred.makeUnsafe<void>()
const request = (): void => {
  Deferred.doneUnsafe(requested, Effect.void)
}
const end = Layer.succeed(KeeperEnd, {
  request: Effect.sync(request),
  requested: Deferred.await(requested)
})
// The terminal of its first gateway is none of its business.
for (const signal of ["SIGINT", "SIGHUP", "SIGQUIT"] as const) process.on(signal, () => undefined)
process.on("SIGTERM", request)
// Its gateway may be gone before the ready line is written.
process.stdout.on("error", () => undefined)
process.title = "holdfast-keeper"

const tidyAtEnd = Layer.effectDiscard(
  Effect.gen(function* () {
    const epoch = yield* Epoch
    const bridges = yield* BridgeStore.BridgeStore
    if (epoch.unmarked) yield* Effect.logWarning(epoch.unmarked)
    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        yield* Effect.ignore(bridges.prune)
        const { ended, survivors, proven } = yield* epoch.sweepOwn
        yield* Effect.logInfo("the keeper ends").pipe(
          Effect.annotateLogs({ swept: ended.length, survivors: survivors.length, proven })
        )
      })
    )
  })
)

const graph = KeeperServer.layer.pipe(
  Layer.provide(PtySupervisor.layer),
  Layer.provide([RunLog.layer, SupervisionTree.layer, Syscalls.layer]),
  Layer.provide(tidyAtEnd),
  Layer.provide(BridgeStore.layer),
  Layer.provideMerge(EpochKeeper.layer),
  Layer.provide(InstanceMark.layer),
  Layer.provide(ProcessIdentity.layer),
  Layer.provide(Database.layer),
  Layer.provide([
    end,
    Layer.succeed(KeeperBirth, birth),
    Layer.succeed(AdoptsOrphans, true),
    settingsLayer,
    loggingOf(settings)
  ])
)

const main = Effect.gen(function* () {
  const { current } = yield* Epoch
  process.stdout.write(`${JSON.stringify({ ready: true, pid: process.pid, mark: current.mark })}\n`)
  yield* Deferred.await(requested)
}).pipe(Effect.provide(graph))

Effect.runFork(Effect.raceFirst(main, Deferred.await(requested))).addObserver((exit) => {
  if (Exit.isSuccess(exit)) process.exit(0)
  fail(problemOf(exit))
})
