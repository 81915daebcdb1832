/**
 * gateway: the daemon. This page is everything it has.
 *
 * It ends in the reverse of the graph: the control socket stops accepting and the runs behind it end (each turn is
 * interrupted, what it left in the background is terminated), waiting hooks are answered with a refusal, the relays' records
 * are unlinked, the app-server is asked to leave, then told, then killed, the audit queue is written out, and last whatever
 * still carries this epoch's mark is ended and the epoch is closed. A second signal does not wait for any of it; the next
 * start then sweeps by the mark.
 *
 * At a handover nothing that the keeper holds is ended: turns go on unwatched on its app-server, their records stay, hooks
 * that wait are dropped to ask again, and the next gateway takes all of it up before its control socket opens.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as AgentDriverCodex from "../layers/AgentDriverCodex.ts"
import * as AppServerLease from "../layers/AppServerLease.ts"
import * as AppServerProcess from "../layers/AppServerProcess.ts"
import * as Approvals from "../layers/Approvals.ts"
import * as AuditLog from "../layers/AuditLog.ts"
import * as BridgeStore from "../layers/BridgeStore.ts"
import * as ClaudeDriver from "../layers/ClaudeDriver.ts"
import * as CodexAuth from "../layers/CodexAuth.ts"
import * as CodexBinary from "../layers/CodexBinary.ts"
import * as ControlHandlers from "../layers/ControlHandlers.ts"
import * as ControlServer from "../layers/ControlServer.ts"
import * as Database from "../layers/Database.ts"
import * as Epoch from "../layers/Epoch.ts"
import * as Guard from "../layers/Guard.ts"
import * as GatewayCertificate from "../layers/GatewayCertificate.ts"
import * as HookClients from "../layers/HookClients.ts"
import * as HookRelayServer from "../layers/HookRelayServer.ts"
import * as HookSpool from "../layers/HookSpool.ts"
import * as InstanceMark from "../layers/InstanceMark.ts"
import * as Keeper from "../layers/Keeper.ts"
import * as NodeControlHandlers from "../layers/NodeControlHandlers.ts"
import * as NodeIdentity from "../layers/NodeIdentity.ts"
import * as NodeLink from "../layers/NodeLink.ts"
import * as NodeStore from "../layers/NodeStore.ts"
import * as NodesListener from "../layers/NodesListener.ts"
import * as Operator from "../layers/Operator.ts"
import * as PinStore from "../layers/PinStore.ts"
import * as Policy from "../layers/Policy.ts"
import * as ProcessIdentity from "../layers/ProcessIdentity.ts"
import * as PtySupervisor from "../layers/PtySupervisor.ts"
import * as Redaction from "../layers/Redaction.ts"
import * as RelayRegistry from "../layers/RelayRegistry.ts"
import * as RunControlHandlers from "../layers/RunControlHandlers.ts"
import * as RunLogKeeper from "../layers/RunLogKeeper.ts"
import * as RunReaper from "../layers/RunReaper.ts"
import * as Screen from "../layers/Screen.ts"
import * as SupervisionTree from "../layers/SupervisionTree.ts"
import * as Syscalls from "../layers/Syscalls.ts"
import * as TlsSessionCache from "../layers/TlsSessionCache.ts"
import * as ThreadStore from "../layers/ThreadStore.ts"
import * as TurnStore from "../layers/TurnStore.ts"
import { ControlSocket, Shutdown, type ShutdownKind } from "../services/Control.ts"
import { RunControl } from "../services/RunControl.ts"
import { Settings } from "../services/Settings.ts"
import { type GatewayArguments, readArguments, UsageError } from "./internal/gatewayArguments.ts"
import { logging, problemOf, settingsLayer } from "./internal/surroundings.ts"

const sweepAtEnd = Layer.effectDiscard(
  Effect.gen(function* () {
    const epoch = yield* Epoch.Epoch
    for (const { epoch: dead, report } of epoch.swept)
      yield* Effect.logWarning("swept a dead gateway's processes").pipe(
        Effect.annotateLogs({ epoch: dead, ended: report.ended.length, survivors: report.survivors.length })
      )
    if (epoch.unmarked) yield* Effect.logWarning(epoch.unmarked)
    yield* Effect.addFinalizer(() =>
      Effect.flatMap(epoch.sweepOwn, ({ ended, survivors, proven }) =>
        Effect.logInfo("swept own processes").pipe(
          Effect.annotateLogs({ ended: ended.length, survivors: survivors.length, proven })
        )
      )
    )
  })
)

const control = ControlServer.hurryAtEnd.pipe(
  Layer.provideMerge(RpcServer.layer(ControlSocket, { disableFatalDefects: true })),
  Layer.provide([ControlHandlers.layer, RunControlHandlers.layer, NodeControlHandlers.layer, Operator.layer]),
  Layer.provide(Operator.layerProtocol),
  Layer.provide([ControlServer.layer, RpcSerialization.layerNdjson])
)

/** The runs of this machine, for the gateway that it is a node of; on connections that NodeLink has dialled. */
const offered = RpcServer.layer(RunControl, { disableFatalDefects: true }).pipe(
  Layer.provide(RunControlHandlers.layer),
  Layer.provide(RpcServer.layerProtocolSocketServer),
  Layer.provide(RpcSerialization.layerNdjson)
)

/** A machine that is no node needs no key to be known by. */
const identity = Layer.unwrap(
  Effect.map(Settings, ({ node }) =>
    node === null
      ? Layer.succeed(NodeIdentity.NodeIdentity, { publicKey: "", sign: () => new Uint8Array() })
      : NodeIdentity.layer
  )
)

const link = NodeLink.layer.pipe(
  Layer.provide([TlsSessionCache.layer, identity]),
  Layer.provide(PinStore.layer)
)

const stores = Layer.mergeAll(
  BridgeStore.layer,
  AuditLog.layer,
  Approvals.layer,
  NodeStore.layer,
  ThreadStore.layer,
  TurnStore.layer,
  Policy.layer,
  HookClients.layer,
  CodexBinary.layer,
  CodexAuth.layer,
  SupervisionTree.layer
)

/** The next gateway goes on with the keeper, unless this one was told to end everything. */
const handover = Layer.effect(
  Keeper.Handover,
  Effect.map(Shutdown, ({ kind }) => Effect.map(kind, (asked) => asked === "handover"))
)

const runs = Screen.layer.pipe(
  Layer.provideMerge(PtySupervisor.layerKeeper),
  Layer.provideMerge(RunLogKeeper.layer),
  Layer.provideMerge(Keeper.layer),
  Layer.provide(RunReaper.layer),
  Layer.provideMerge([handover, Syscalls.layer])
)

const graph = Layer.mergeAll(control, offered).pipe(
  Layer.provideMerge(NodesListener.layer),
  Layer.provide(GatewayCertificate.layer),
  Layer.provideMerge(HookRelayServer.layer),
  Layer.provide([AgentDriverCodex.layerKept, ClaudeDriver.layer]),
  Layer.provide(AppServerLease.layer),
  Layer.provide(AppServerProcess.layerKept),
  Layer.provideMerge(RelayRegistry.layer),
  Layer.provide(link),
  Layer.provide([Guard.layer, HookSpool.layer]),
  Layer.provide(runs),
  Layer.provide(stores),
  Layer.provide(sweepAtEnd),
  Layer.provideMerge(Epoch.layer),
  Layer.provide(InstanceMark.layer),
  Layer.provide(ProcessIdentity.layer),
  Layer.provide([Database.layer, Redaction.layer])
)

const fail = (code: number, line: string): never => {
  process.stderr.write(`holdfast: ${line}\n`)
  process.exit(code)
}

const read = (): GatewayArguments => {
  try {
    return readArguments(process.argv.slice(2))
  } catch (error) {
    if (error instanceof UsageError) return fail(2, error.message)
    throw error
  }
}

const args = read()
const settings = Layer.effect(
  Settings,
  Effect.flatMap(Settings, (read) =>
    Effect.try({ try: () => args.change(read), catch: (error) => error as UsageError })
  )
).pipe(Layer.provide(settingsLayer))

const requested = Deferred.makeUnsafe<void>()
let kind: ShutdownKind | null = null
const request = (asked: ShutdownKind): void => {
  if (kind !== "down") kind = asked
  Deferred.doneUnsafe(requested, Effect.void)
}
const shutdown = Layer.succeed(Shutdown, {
  request: (asked) => Effect.sync(() => request(asked)),
  requested: Deferred.await(requested),
  kind: Effect.sync(() => kind)
})

let signals = 0
const onSignal = (asked: ShutdownKind) => (): void => {
  if (++signals > 1) process.exit(130)
  request(asked)
}
// A person at the terminal wants it over; a service manager, or a terminal that closes, may start the next one.
process.on("SIGINT", onSignal("down"))
for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal("handover"))

// A plugin's promise that nobody waits for is the plugin's affair; what throws out of a timer of its own ends everything.
process.on("unhandledRejection", (reason) => {
  const problem = Redaction.redact(
    reason instanceof Error ? `${reason.name}: ${reason.message}` : String(reason)
  )
  process.stderr.write(
    `${JSON.stringify({ message: "a promise was rejected and nobody heard it", level: "ERROR", problem })}\n`
  )
})

const main = Effect.gen(function* () {
  const { current } = yield* Epoch.Epoch
  const { paths } = yield* Settings
  const { socketPath } = yield* HookRelayServer.HookRelay
  const { listening } = yield* NodesListener.Nodes
  const ready = {
    ready: true,
    pid: process.pid,
    epoch: current.epoch,
    control: paths.controlSocket,
    hooks: socketPath,
    ...(listening === null ? {} : { nodes: listening })
  }
  process.stdout.write(
    args.json
      ? `${JSON.stringify(ready)}\n`
      : `holdfast: ready, pid ${process.pid}, epoch ${current.epoch}, control ${paths.controlSocket}\n${
          listening === null ? "" : `nodes dial in at ${listening.url}, pins ${listening.pins.join(" ")}\n`
        }`
  )
  yield* Deferred.await(requested)
}).pipe(
  Effect.provide(
    graph.pipe(Layer.provide(shutdown), Layer.provideMerge(logging), Layer.provideMerge(settings))
  )
)

Effect.runFork(
  // A signal during the start ends it just as cleanly: what was built so far is released.
  Effect.raceFirst(main, Effect.andThen(Deferred.await(requested), Effect.void))
).addObserver((exit) => {
  if (Exit.isSuccess(exit) || signals > 0) process.exit(0)
  fail(Cause.squash(exit.cause) instanceof UsageError ? 2 : 1, problemOf(exit))
})
