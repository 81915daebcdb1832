/**
 * A BridgeStore without files: records in a map, what was done in a log, and levers for what a directory can do to us.
 *
 * As in the real one, who publishes last holds the path, and a scope that ends removes its own record only. Records are
 * not renewed: none expires here.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import {
  type BridgeOwner,
  type BridgeRecord,
  BridgeStore,
  type BridgeWriteError,
  sameClaim
} from "../services/BridgeStore.ts"
import type { DirectoryRefused } from "../services/PrivateDirectory.ts"

const defaultOwner: BridgeOwner = {
  epoch: "epoch-1",
  identity: { bootId: "boot-1", pidNamespace: "pid:[1]", pid: 1000, startToken: "1000" }
}

const pathOf = (relayId: string): string => `/run/holdfast-test/bridges/${relayId}`

export class FakeBridgeStore extends Context.Service<
  FakeBridgeStore,
  {
    /** `publish <relayId> <generation>` and `remove <relayId> <generation>`, in order. */
    readonly log: Effect.Effect<ReadonlyArray<string>>
    /** The records that exist now, oldest path first. */
    readonly records: Effect.Effect<ReadonlyArray<BridgeRecord>>
    /** Makes every publish fail, until null. */
    readonly refuses: (error: DirectoryRefused | BridgeWriteError | null) => Effect.Effect<void>
    /** Runs in every publish from now on, once its record can be read and before the publisher knows. */
    readonly onceReadable: (check: Effect.Effect<void>) => Effect.Effect<void>
    /** Another gateway publishes over a path. */
    readonly overwrites: (record: BridgeRecord) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeBridgeStore") {}

export const layerOf = (owner: BridgeOwner): Layer.Layer<BridgeStore | FakeBridgeStore> =>
  Layer.effectContext(
    Effect.sync(() => {
      const log: Array<string> = []
      const records = new Map<string, BridgeRecord>()
      let refusal: DirectoryRefused | BridgeWriteError | null = null
      let readable: Effect.Effect<void> = Effect.void
      return Context.make(BridgeStore, {
        pathOf,
        publish: (spec) =>
          Effect.acquireRelease(
            Effect.gen(function* () {
              if (refusal !== null) return yield* refusal
              const publishedAt = yield* Clock.currentTimeMillis
              const record: BridgeRecord = {
                version: 1,
                relayId: spec.relayId,
                generation: spec.generation,
                owner,
                socketPath: spec.socketPath,
                token: spec.token,
                publishedAt,
                expiresAt: Number.MAX_SAFE_INTEGER
              }
              log.push(`publish ${spec.relayId} ${spec.generation}`)
              records.set(pathOf(spec.relayId), record)
              yield* readable
              return record
            }),
            (record) =>
              Effect.sync(() => {
                const path = pathOf(record.relayId)
                const there = records.get(path)
                if (there === undefined || !sameClaim(there, record)) return
                log.push(`remove ${record.relayId} ${record.generation}`)
                records.delete(path)
              })
          ).pipe(Effect.map((record) => pathOf(record.relayId))),
        lookup: (relayId) => Effect.sync(() => Option.fromNullishOr(records.get(pathOf(relayId)))),
        prune: Effect.sync(() => ({ removed: 0, kept: records.size }))
      }).pipe(
        Context.add(FakeBridgeStore, {
          log: Effect.sync(() => [...log]),
          records: Effect.sync(() => [...records.values()]),
          refuses: (error) =>
            Effect.sync(() => {
              refusal = error
            }),
          onceReadable: (check) =>
            Effect.sync(() => {
              readable = check
            }),
          overwrites: (record) => Effect.sync(() => void records.set(pathOf(record.relayId), record))
        })
      )
    })
  )

export const layer = layerOf(defaultOwner)
