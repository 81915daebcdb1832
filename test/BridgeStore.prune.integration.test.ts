/** BridgeStore on real files, other gateways' records: what a prune removes, what it keeps, and what it costs. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { besideName, leftoverKeptMs, pruneIntervalMs, recordName } from "../src/layers/BridgeStore.ts"
import { type Identity, ProcessIdentity, type Verdict } from "../src/services/ProcessIdentity.ts"
import {
  gatewayA,
  identityA,
  identityB,
  inScope,
  listed,
  Place,
  put,
  record,
  spec,
  textOf,
  ttlMs,
  World
} from "./support/bridgeFiles.ts"
import { FakeProcessIdentity, identity } from "../src/testing/ProcessIdentity.ts"

const owned = (identity: Identity, expiresAt = 1000): string =>
  textOf(record({ owner: { epoch: "epoch-x", identity }, expiresAt }))

/** For 10,000 files on a machine that is busy. */
const busyMs = 60_000

const aged = (file: string, modifiedAt: number): void =>
  fs.utimesSync(file, modifiedAt / 1000, modifiedAt / 1000)

/** Whoever is asked about, this says when, and answers. */
const answering = (verdict: (identity: Identity) => Effect.Effect<Verdict>) =>
  Layer.succeed(ProcessIdentity, {
    self: identityA,
    of: () => Effect.succeedNone,
    verdict
  })

const fill = (bridges: string, ownerOf: (index: number) => Identity): void => {
  fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
  for (let index = 0; index < 10_000; index++) {
    const relayId = `other-${index}`
    const name = recordName(index.toString(16).padStart(64, "0").split("").toReversed().join(""))
    fs.writeFileSync(
      `${bridges}/${name}`,
      textOf(
        record({
          relayId,
          owner: { epoch: "epoch-x", identity: ownerOf(index) },
          expiresAt: Date.now() + 10 * ttlMs
        })
      )
    )
  }
}
describe("BridgeStore on files, prune", () => {
  it.effect("removes the dead and the expired, and nobody else", () =>
    Effect.gen(function* () {
      const fake = yield* FakeProcessIdentity
      yield* fake.runs(identityB)
      yield* fake.runs(identity(4000, { startToken: "another life" }))
      const store = yield* gatewayA
      const files = {
        "an owner that lives": owned(identityB),
        "an owner in a namespace that cannot be seen": owned(identity(5000, { pidNamespace: "pid:[2]" })),
        "a newer version": "version=2\n",
        "half a record": "version=1\nrelayId=x",
        "an owner that is dead": owned(identity(3000)),
        "an owner whose pid another process has": owned(identity(4000)),
        "an owner from before the machine started": owned(identity(2000, { bootId: "boot-0" })),
        expired: owned(identityB, 0),
        "expired, and unknown": owned(identity(5000, { pidNamespace: "pid:[2]" }), 0)
      }
      for (const [name, text] of Object.entries(files)) put(store, name, text)
      const { bridges } = yield* Place
      fs.writeFileSync(`${bridges}/README`, "not ours")
      const report = yield* store.prune
      const left = Object.keys(files).filter((name) => fs.existsSync(store.pathOf(name)))
      assert.deepStrictEqual(
        [report, left, (yield* listed).length],
        [{ removed: 5, kept: 4 }, Object.keys(files).slice(0, 4), 5]
      )
    }).pipe(Effect.provide(World))
  )

  it.effect("keeps what is half-written while it is young, and what is newer for ever", () =>
    Effect.gen(function* () {
      const store = yield* gatewayA
      const leftover = (serial: number, end: "new" | "gone"): string => {
        const file = besideName(store.pathOf("relay-1"), "epoch-x", serial, end)
        fs.writeFileSync(file, "version=1\n")
        return file
      }
      const young = [
        put(store, "young", "version=1\n"),
        leftover(1, "new"),
        leftover(2, "gone"),
        put(store, "newer", "version=2\n")
      ]
      const old = [
        put(store, "old", "version=1\n"),
        put(store, "empty", ""),
        leftover(3, "new"),
        leftover(4, "gone")
      ]
      const now = 100 * leftoverKeptMs
      yield* TestClock.setTime(now)
      for (const file of young) aged(file, now - leftoverKeptMs)
      for (const file of old) aged(file, now - leftoverKeptMs - 1)
      aged(store.pathOf("newer"), 0)
      const report = yield* store.prune
      assert.deepStrictEqual(
        [report, yield* listed],
        [{ removed: 4, kept: 4 }, young.map((file) => path.basename(file)).toSorted()]
      )
    }).pipe(Effect.provide(World))
  )

  it.effect("leaves this gateway's own records to their scopes, expired or not", () =>
    Effect.gen(function* () {
      const store = yield* gatewayA
      const { close } = yield* inScope(store.publish(spec()))
      const file = store.pathOf("relay-1")
      const expired = fs.readFileSync(file, "utf8").replace("expiresAt=120000", "expiresAt=0")
      fs.writeFileSync(file, expired)
      const reports = [yield* store.prune]
      yield* close
      fs.writeFileSync(file, expired)
      reports.push(yield* store.prune)
      assert.deepStrictEqual(reports, [
        { removed: 0, kept: 1 },
        { removed: 1, kept: 0 }
      ])
    }).pipe(Effect.provide(World))
  )

  it.effect("asks once per owner", () =>
    Effect.gen(function* () {
      const fake = yield* FakeProcessIdentity
      yield* fake.runs(identityB)
      const store = yield* gatewayA
      for (const relayId of ["1", "2", "3"])
        put(store, relayId, textOf(record({ relayId, owner: { epoch: "epoch-b", identity: identityB } })))
      assert.deepStrictEqual([yield* store.prune, yield* fake.asked], [{ removed: 0, kept: 3 }, [identityB]])
    }).pipe(Effect.provide(World))
  )

  it.effect("spares a record that was renewed or replaced while its owner was asked about", () =>
    Effect.gen(function* () {
      const asked = yield* Deferred.make<void>()
      const answer = yield* Deferred.make<void>()
      const slow = answering(() =>
        Deferred.succeed(asked, undefined).pipe(
          Effect.andThen(Deferred.await(answer)),
          Effect.as("dead" as const)
        )
      )
      const store = yield* gatewayA.pipe(Effect.provide(slow))
      put(store, "relay-1", textOf(record()))
      const pruning = yield* Effect.forkChild(store.prune)
      yield* Deferred.await(asked)
      put(store, "relay-1", textOf(record({ expiresAt: 2_000_000 })))
      yield* Deferred.succeed(answer, undefined)
      assert.deepStrictEqual(yield* Fiber.join(pruning), { removed: 0, kept: 1 })
    }).pipe(Effect.provide(World))
  )

  it.effect("runs behind a publish, but not behind each", () =>
    Effect.gen(function* () {
      let asked = 0
      const wakes = yield* Deferred.make<void>()
      const counting = answering(() =>
        Effect.suspend(() => {
          asked++
          return Effect.as(Deferred.succeed(wakes, undefined), "unknown" as const)
        })
      )
      const store = yield* gatewayA.pipe(Effect.provide(counting))
      put(store, "other", textOf(record({ relayId: "other" })))
      yield* store.publish(spec())
      yield* Deferred.await(wakes)
      yield* TestClock.adjust(pruneIntervalMs - 1)
      yield* store.publish(spec({ relayId: "relay-2" }))
      yield* TestClock.adjust(1)
      assert.strictEqual(asked, 1)
      yield* store.publish(spec({ relayId: "relay-3" }))
      yield* TestClock.adjust(1)
      assert.strictEqual(asked, 2)
    }).pipe(Effect.provide(World))
  )

  describe("with 10,000 records of others", () => {
    it.live(
      "a prune handles a few at a time and lets the event loop go on in between",
      () =>
        Effect.gen(function* () {
          let handled = 0
          const counting = answering(() => Effect.sync(() => (handled++, "dead" as const)))
          const store = yield* gatewayA.pipe(Effect.provide(counting))
          fill((yield* Place).bridges, (index) => identity(10_000 + index))
          const perTurn: Array<number> = []
          let before = 0
          let beating = true
          const beat = (): void => {
            perTurn.push(handled - before)
            before = handled
            if (beating) setImmediate(beat)
          }
          setImmediate(beat)
          const report = yield* store.prune
          beating = false
          assert.deepStrictEqual([report, handled, yield* listed], [{ removed: 10_000, kept: 0 }, 10_000, []])
          // In files, not in milliseconds, which would be those of whatever else the machine does; the bench has those.
          assert.isBelow(Math.max(...perTurn), 100)
        }).pipe(Effect.provide(World)),
      busyMs
    )
  })
})
