/** The lease with everything below it, as the gateway builds it, in a process that then carries a mark. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as AppServerLease from "../../src/layers/AppServerLease.ts"
import * as AppServerProcess from "../../src/layers/AppServerProcess.ts"
import * as CodexAuth from "../../src/layers/CodexAuth.ts"
import * as CodexBinary from "../../src/layers/CodexBinary.ts"
import * as Database from "../../src/layers/Database.ts"
import * as Epoch from "../../src/layers/Epoch.ts"
import * as InstanceMark from "../../src/layers/InstanceMark.ts"
import * as ProcessIdentity from "../../src/layers/ProcessIdentity.ts"
import * as SupervisionTree from "../../src/layers/SupervisionTree.ts"
import { Settings, type SettingsShape } from "../../src/services/Settings.ts"
import type { Place } from "../support/gateway.ts"
import { settingsOf } from "./helper.ts"

const below = Layer.mergeAll(CodexBinary.layer, CodexAuth.layer, SupervisionTree.layer).pipe(
  Layer.provideMerge(Epoch.layer),
  Layer.provideMerge(InstanceMark.layer),
  Layer.provideMerge(ProcessIdentity.layer),
  Layer.provideMerge(Database.layer)
)

const surroundings = (place: Place, lease: Partial<SettingsShape["lease"]>) => {
  const settings = settingsOf(place)
  return Layer.succeed(Settings, { ...settings, lease: { ...settings.lease, ...lease } })
}

/** One app-server at a time, without a lease. */
export const processOf = (place: Place, program: string) =>
  Layer.fresh(AppServerProcess.layer).pipe(
    Layer.provide(
      Layer.succeed(CodexBinary.CodexBinary, {
        path: Effect.succeed(program),
        version: Effect.succeed(CodexBinary.minimumVersion)
      })
    ),
    Layer.provide(below),
    Layer.provide(surroundings(place, {}))
  )

/** Poisoned as often as a round wants it: no circuit opens. */
export const leaseOf = (place: Place, idleGraceMs: number) =>
  Layer.fresh(AppServerLease.layer).pipe(
    Layer.provide(AppServerProcess.layer),
    Layer.provide(below),
    Layer.provide(
      surroundings(place, { idleGraceMs, intensity: { faults: 1000, periodMs: 60_000, cooldownMs: 60_000 } })
    )
  )
