/** AppServerProcess with its app-server as a run: gateways that follow each other over one supervisor that outlives them. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { AppServerProcess, layerKept } from "../../src/layers/AppServerProcess.ts"
import { layer as layerSyscalls } from "../../src/layers/Syscalls.ts"
import type { AppServerConnection } from "../../src/services/AppServerProcess.ts"
import { CodexAuth, TokenRefreshFailed } from "../../src/services/CodexAuth.ts"
import { CodexBinary } from "../../src/services/CodexBinary.ts"
import { Handover } from "../../src/services/Keeper.ts"
import { PtySupervisor } from "../../src/services/PtySupervisor.ts"
import { RunLog } from "../../src/services/RunLog.ts"
import { resolvePaths, Settings, type SettingsShape } from "../../src/services/Settings.ts"
import { plainEnv, provider } from "./appServer.ts"
import { codexBinary, makeHome, type TestHome } from "./codex.ts"
import { layerOf as layerEpoch } from "../../src/testing/Epoch.ts"
import { leftOf, supervisorOf, type World } from "./ptySupervisor.ts"

export interface KeptWorld {
  readonly place: TestHome
  readonly keeper: World
  readonly paths: SettingsShape["paths"]
  /** Who is left of all its runs. */
  readonly left: Effect.Effect<ReadonlyArray<number>>
}

/** What outlives every gateway of a test. */
export const keptWorld: Effect.Effect<KeptWorld, never, Scope.Scope> = Effect.gen(function* () {
  const place = yield* makeHome
  fs.writeFileSync(path.join(place.codexHome, "config.toml"), provider)
  const keeper = yield* Effect.orDie(
    supervisorOf({ home: place.home, environment: { PATH: process.env["PATH"] ?? "" } })
  )
  const paths = resolvePaths({
    env: { HOLDFAST_HOME: place.home, HOLDFAST_RUNTIME_DIR: place.runtimeDir },
    uid: 0,
    homeDirectory: place.home,
    tempDirectory: place.tmp
  })
  return {
    place,
    keeper,
    paths,
    left: Effect.map(Effect.orDie(keeper.runs.list), (runs) =>
      leftOf(
        keeper.range,
        runs.map(({ id }) => id)
      )
    )
  }
})

export interface GatewayOptions {
  readonly key?: string
  readonly program?: string
  readonly environment?: SettingsShape["environment"]
  readonly codex?: Partial<SettingsShape["codex"]>
  readonly lease?: Partial<SettingsShape["lease"]>
}

/** A gateway with one connection; `leave` hands the app-server over, `end` ends it. */
export const connectIn = Effect.fnUntraced(function* (world: KeptWorld, options: GatewayOptions = {}) {
  const all = yield* Settings
  const { place, keeper, paths } = world
  const settings: SettingsShape = {
    ...all,
    paths,
    environment: options.environment ?? plainEnv(place),
    codex: { ...all.codex, home: place.codexHome, ...options.codex },
    lease: { ...all.lease, ...options.lease },
    mark: { killGraceMs: 100, sweepTimeoutMs: 5_000 }
  }
  let leaving = false
  const parts = Layer.mergeAll(
    layerEpoch({ mark: null }),
    layerSyscalls,
    Layer.succeed(PtySupervisor, keeper.runs),
    Layer.succeed(RunLog, keeper.log),
    Layer.succeed(CodexAuth, {
      identity: Effect.succeed("0"),
      refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" }))
    }),
    Layer.succeed(CodexBinary, {
      path: Effect.succeed(options.program ?? codexBinary),
      version: Effect.succeed("0.169.0")
    }),
    Layer.succeed(
      Handover,
      Effect.sync(() => leaving)
    ),
    Layer.succeed(Settings, settings),
    Layer.succeed(References.MinimumLogLevel, "Error")
  )
  const scope = yield* Scope.fork(yield* Effect.scope)
  const connection: AppServerConnection = yield* Effect.gen(function* () {
    const context = yield* Layer.build(Layer.fresh(layerKept.pipe(Layer.provide(parts))))
    return yield* Context.get(context, AppServerProcess).start(1, options.key ?? "key")
  }).pipe(
    Scope.provide(scope),
    Effect.provideService(References.MinimumLogLevel, "Error"),
    Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(scope, exit) : Effect.void))
  )
  return {
    connection,
    end: Scope.close(scope, Exit.void),
    leave: Effect.suspend(() => {
      leaving = true
      return Scope.close(scope, Exit.void)
    })
  }
})
