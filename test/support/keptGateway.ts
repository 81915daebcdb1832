/** Whole gateways but for their control socket, one after the other over one supervisor that outlives them, on the real codex. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as path from "node:path"
import { AgentDriver, layerKept } from "../../src/layers/AgentDriverCodex.ts"
import { AppServerLease, layer as layerLease } from "../../src/layers/AppServerLease.ts"
import { AppServerProcess, layerKept as layerProcess } from "../../src/layers/AppServerProcess.ts"
import { layer as layerApprovals } from "../../src/layers/Approvals.ts"
import { AuditLog, layer as layerAudit } from "../../src/layers/AuditLog.ts"
import { layer as layerBridges } from "../../src/layers/BridgeStore.ts"
import { layer as layerDatabase } from "../../src/layers/Database.ts"
import { layer as layerClients } from "../../src/layers/HookClients.ts"
import { layer as layerHooks } from "../../src/layers/HookRelayServer.ts"
import { layer as layerMark } from "../../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../../src/layers/ProcessIdentity.ts"
import { layer as layerRelays } from "../../src/layers/RelayRegistry.ts"
import { layer as layerTree } from "../../src/layers/SupervisionTree.ts"
import { layer as layerSyscalls } from "../../src/layers/Syscalls.ts"
import { layer as layerThreads } from "../../src/layers/ThreadStore.ts"
import { layer as layerTurns, TurnStore } from "../../src/layers/TurnStore.ts"
import type { AgentEvent, AgentRunError } from "../../src/services/AgentDriver.ts"
import type { AppServerLost, BorrowerShed } from "../../src/services/AppServerFailure.ts"
import type { Incoming } from "../../src/services/AppServerProcess.ts"
import { CodexAuth, TokenRefreshFailed } from "../../src/services/CodexAuth.ts"
import { CodexBinary } from "../../src/services/CodexBinary.ts"
import { Epoch } from "../../src/services/Epoch.ts"
import { Handover } from "../../src/services/Keeper.ts"
import { Policy } from "../../src/services/Policy.ts"
import { ProcessIdentity } from "../../src/services/ProcessIdentity.ts"
import { PtySupervisor } from "../../src/services/PtySupervisor.ts"
import { RunLog } from "../../src/services/RunLog.ts"
import { overridesFor, ScriptedProvider } from "../../src/services/ScriptedProvider.ts"
import { Settings, type SettingsShape } from "../../src/services/Settings.ts"
import { plainEnv } from "./appServer.ts"
import { codexBinary } from "./codex.ts"
import { record } from "../../src/testing/Epoch.ts"
import type { KeptWorld } from "./keptServer.ts"

export interface GatewayWishes {
  /** The end of its epoch's name. */
  readonly letter: string
  /** Hooks whose command has this word in it are never decided. */
  readonly undecided?: string
  /** What Codex asks about those commands does not arrive. */
  readonly deafTo?: string
}

const decided = (verdict: "allow" | "deny") => ({
  verdict: { _tag: verdict },
  policy: "test",
  reason: `${verdict} by the test`,
  votes: []
})

/** Calls that name `forbidden` are denied, all others allowed. */
export const gatewayIn = Effect.fnUntraced(function* (world: KeptWorld, wishes: GatewayWishes) {
  const all = yield* Settings
  const { place, keeper, paths } = world
  const asked: Array<string> = []
  const unheard: Array<string> = []
  const hears = (message: Incoming): boolean => {
    const { deafTo } = wishes
    if (message._tag === "notification" || deafTo === undefined) return true
    if (!JSON.stringify(message.params).includes(deafTo)) return true
    unheard.push(message.method)
    return false
  }
  let leaving = false
  const settings: SettingsShape = {
    ...all,
    paths,
    environment: plainEnv(place),
    codex: { ...all.codex, home: place.codexHome, sandbox: "danger-full-access" },
    hook: { ...all.hook, clientDirectory: path.resolve(import.meta.dirname, "../../src/programs") },
    mark: { killGraceMs: 100, sweepTimeoutMs: 5_000 }
  }
  const epoch = Layer.effect(
    Epoch,
    Effect.map(ProcessIdentity, ({ self }) =>
      Epoch.of({
        current: record({ epoch: `01J000000000000000000000K${wishes.letter}`, owner: self, mark: null }),
        unmarked: null,
        outer: null,
        claimed: Effect.succeed([]),
        claimMark: Effect.succeed(null),
        swept: [],
        sweepOwn: Effect.succeed({ ended: [], survivors: [], proven: true })
      })
    )
  )
  const fakes = Layer.mergeAll(
    Layer.succeed(PtySupervisor, keeper.runs),
    Layer.succeed(RunLog, keeper.log),
    Layer.succeed(CodexAuth, {
      identity: Effect.succeed("0"),
      refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" }))
    }),
    Layer.succeed(CodexBinary, { path: Effect.succeed(codexBinary), version: Effect.succeed("0.169.0") }),
    Layer.succeed(Policy, {
      loaded: [],
      version: "1",
      decide: ({ call }) =>
        Effect.suspend(() => {
          const command = call?.command ?? ""
          asked.push(command)
          if (wishes.undecided !== undefined && command.includes(wishes.undecided)) return Effect.never
          return Effect.succeed(decided(command.includes("forbidden") ? "deny" : "allow"))
        })
    })
  )
  const server = Layer.effect(
    AppServerProcess,
    Effect.map(AppServerProcess, ({ start }) =>
      AppServerProcess.of({
        start: (generation, key) =>
          Effect.map(start(generation, key), (connection) => ({
            ...connection,
            thread: (threadId) =>
              Effect.gen(function* () {
                const all = yield* connection.thread(threadId)
                const heard = yield* Queue.unbounded<Incoming, AppServerLost | BorrowerShed>()
                yield* Queue.take(all).pipe(
                  Effect.flatMap((message) => (hears(message) ? Queue.offer(heard, message) : Effect.void)),
                  Effect.forever,
                  Effect.catch((error) => Queue.fail(heard, error)),
                  Effect.forkScoped
                )
                return heard
              })
          }))
      })
    )
  ).pipe(Layer.provide(layerProcess))
  const graph = layerHooks.pipe(
    Layer.provideMerge(layerKept),
    Layer.provideMerge(layerLease),
    Layer.provide(server),
    Layer.provideMerge(layerRelays),
    Layer.provideMerge([
      layerBridges,
      layerApprovals,
      layerAudit,
      layerThreads,
      layerTurns,
      layerClients,
      layerTree,
      layerSyscalls
    ]),
    Layer.provide([epoch, layerMark, fakes, layerDatabase]),
    Layer.provide(layerIdentity),
    Layer.provide([
      Layer.succeed(
        Handover,
        Effect.sync(() => leaving)
      ),
      Layer.succeed(Settings, settings),
      Layer.succeed(References.MinimumLogLevel, "Error")
    ])
  )
  const scope = yield* Scope.fork(yield* Effect.scope)
  const context = yield* Layer.build(Layer.fresh(graph)).pipe(Scope.provide(scope), Effect.orDie)
  const driver = Context.get(context, AgentDriver)

  /** Reads a stream of events in the scope of the gateway, as a caller does. */
  const reading = Effect.fnUntraced(function* (events: Stream.Stream<AgentEvent, AgentRunError>) {
    const seen: Array<AgentEvent> = []
    const fiber = yield* Stream.runForEach(events, (event) => Effect.sync(() => seen.push(event))).pipe(
      Effect.forkIn(scope)
    )
    return { seen, ended: Effect.exit(Fiber.join(fiber)), fiber }
  })

  return {
    /** Commands that its policy was asked about. */
    asked,
    /** What Codex asked and nobody answers. */
    unheard,
    driver,
    leases: Context.get(context, AppServerLease).list,
    rows: Effect.orDie(Context.get(context, AuditLog).tail(1_000)),
    turns: Effect.orDie(Context.get(context, TurnStore).all),
    start: Effect.fnUntraced(function* (prompt: string) {
      const { url } = yield* ScriptedProvider
      return yield* reading(
        driver.run({
          prompt,
          cwd: place.workspace,
          overrides: ['model="gpt-5.5"', ...overridesFor(url)],
          thread: { _tag: "start" },
          spawnedBy: null,
          onLost: "fail",
          startTimeoutMs: null
        })
      )
    }),
    attach: (runId: string) => reading(driver.attach(runId)),
    end: Scope.close(scope, Exit.void),
    leave: Effect.suspend(() => {
      leaving = true
      return Scope.close(scope, Exit.void)
    })
  }
})
