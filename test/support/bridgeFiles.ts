/** BridgeStore on real files: a directory of its own and a system without processes, shared by the gateways of one test. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import {
  type BridgeRecord,
  BridgeRecordText,
  BridgeStore,
  layer,
  type PublishSpec
} from "../../src/layers/BridgeStore.ts"
import { type Identity, ProcessIdentity } from "../../src/services/ProcessIdentity.ts"
import { Settings } from "../../src/services/Settings.ts"
import * as FakeEpoch from "../../src/testing/Epoch.ts"
import { identity, layerOf as layerFakeIdentity } from "../../src/testing/ProcessIdentity.ts"

export const ttlMs = 120_000
export const identityA = identity(1000)
export const identityB = identity(2000)

export const spec = (over: Partial<PublishSpec> = {}): PublishSpec => ({
  relayId: "relay-1",
  generation: 1,
  socketPath: "/run/holdfast/hooks-1.sock",
  token: "token-1",
  ...over
})

/** A record of a gateway that is not there. */
export const record = (over: Partial<BridgeRecord> = {}): BridgeRecord => ({
  version: 1,
  ...spec(),
  owner: { epoch: "epoch-x", identity: identity(3000) },
  publishedAt: 0,
  expiresAt: 1_000_000,
  ...over
})

export const textOf = Schema.encodeSync(BridgeRecordText)

export class Place extends Context.Service<Place, { readonly runtime: string; readonly bridges: string }>()(
  "holdfast/test/Place"
) {}

export const World = Layer.mergeAll(
  layerFakeIdentity(identityA),
  Layer.effect(
    Place,
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "holdfast-bridges-"))),
        (root) => Effect.sync(() => fs.rmSync(root, { recursive: true, force: true }))
      ),
      // Two directories deep, so that one is made only on the way to another.
      (root) => ({ runtime: `${root}/above/run`, bridges: `${root}/above/run/bridges` })
    )
  )
)

const gateway = (epoch: string, owner: Identity) =>
  Effect.gen(function* () {
    const place = yield* Place
    const identities = yield* ProcessIdentity
    const settings = yield* Settings
    const context = yield* Layer.build(
      Layer.fresh(layer).pipe(
        Layer.provide([
          FakeEpoch.layerOf({ epoch, owner }),
          Layer.succeed(ProcessIdentity, identities),
          Layer.succeed(Settings, {
            ...settings,
            paths: { ...settings.paths, ...place },
            relay: { ...settings.relay, ttlMs }
          })
        ])
      )
    )
    return Context.get(context, BridgeStore)
  })

export const gatewayA = gateway("epoch-a", identityA)
export const gatewayB = gateway("epoch-b", identityB)

/** Runs a publish and hands out the end of its scope. */
export const inScope = <A, E>(publishing: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const close = Scope.close(scope, Exit.void)
    yield* Effect.addFinalizer(() => close)
    yield* publishing.pipe(Scope.provide(scope))
    return { close }
  })

export const listed = Effect.map(Place, ({ bridges }) =>
  fs.existsSync(bridges) ? fs.readdirSync(bridges).toSorted() : []
)

export const modeOf = (file: string): number => fs.lstatSync(file).mode & 0o7777

/** Writes what some other gateway might have, past the store. */
export const put = (store: typeof BridgeStore.Service, relayId: string, text: string): string => {
  const file = store.pathOf(relayId)
  fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
  fs.writeFileSync(file, text, { mode: 0o600 })
  return file
}
