/** BridgeStore on real files, its own records: the clock is a test's, the directory is not. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { TestClock } from "effect/testing"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import {
  besideName,
  type BridgeStore,
  BridgeWriteError,
  maxRecordBytes,
  type PublishSpec
} from "../src/layers/BridgeStore.ts"
import { FakeProcessIdentity } from "../src/testing/ProcessIdentity.ts"
import {
  gatewayA,
  gatewayB,
  identityA,
  identityB,
  inScope,
  listed,
  modeOf,
  Place,
  put,
  record,
  spec,
  textOf,
  ttlMs,
  World
} from "./support/bridgeFiles.ts"

const fieldsOf = (command: string, ...args: ReadonlyArray<string>) =>
  Object.fromEntries(
    execFileSync(command, args, { encoding: "utf8" })
      .trimEnd()
      .split("\n")
      .map((line) => line.split("|"))
  )

const expiry = (store: typeof BridgeStore.Service) =>
  Effect.map(store.lookup("relay-1"), (found) => Option.map(found, ({ expiresAt }) => expiresAt))

describe("BridgeStore on files", () => {
  describe("publishing", () => {
    for (const umask of [0o000, 0o022, 0o077, 0o777]) {
      it.effect(`makes private directories and a private record under umask ${umask.toString(8)}`, () =>
        Effect.gen(function* () {
          const store = yield* gatewayA
          const { bridges, runtime } = yield* Place
          const before = process.umask(umask)
          yield* Effect.addFinalizer(() => Effect.sync(() => process.umask(before)))
          const file = yield* store.publish(spec())
          assert.deepStrictEqual(
            [modeOf(path.dirname(runtime)), modeOf(runtime), modeOf(bridges), modeOf(file), yield* listed],
            [0o700, 0o700, 0o700, 0o600, [path.basename(file)]]
          )
        }).pipe(Effect.provide(World))
      )
    }

    it.effect("gives a record that sh, perl and we read alike", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        yield* TestClock.adjust("5 seconds")
        const file = yield* store.publish(spec({ socketPath: "/run/My Disk/a=b.sock" }))
        const expected = {
          version: "1",
          relayId: "relay-1",
          generation: "1",
          epoch: "epoch-a",
          bootId: identityA.bootId,
          pidNamespace: identityA.pidNamespace,
          pid: "1000",
          startToken: "1000",
          socketPath: "/run/My Disk/a=b.sock",
          token: "token-1",
          publishedAt: "5000",
          expiresAt: "125000"
        }
        const sh = `while IFS='=' read -r key value; do printf '%s|%s\\n' "$key" "$value"; done < "$1"`
        const perl = `while (<>) { /^([A-Za-z]+)=(.*)$/ and print "$1|$2\\n" }`
        assert.deepStrictEqual(fieldsOf("sh", "-c", sh, "sh", file), expected)
        assert.deepStrictEqual(fieldsOf("perl", "-e", perl, file), expected)
        assert.deepStrictEqual(
          yield* store.lookup("relay-1"),
          Option.some(
            record({
              ...spec({ socketPath: "/run/My Disk/a=b.sock" }),
              owner: { epoch: "epoch-a", identity: identityA },
              publishedAt: 5000,
              expiresAt: 125_000
            })
          )
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("leaves the record of a relay that the next gateway takes over, and that one replaces it", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* gatewayA, yield* gatewayB]
        const file = yield* Effect.scoped(a.publish(spec({ leaving: Effect.succeed(true) })))
        assert.include(fs.readFileSync(file, "utf8"), "epoch=epoch-a\n")
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* b.publish(spec({ generation: 2 }))
            assert.include(fs.readFileSync(file, "utf8"), "epoch=epoch-b\n")
          })
        )
        assert.deepStrictEqual(yield* listed, [])
      }).pipe(Effect.provide(World))
    )

    it.effect("keeps one path per relay, whatever gateway publishes it", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* gatewayA, yield* gatewayB]
        const { bridges } = yield* Place
        // The start of sha256("relay-1"): the hook commands of old threads carry it.
        assert.deepStrictEqual(
          [a.pathOf("relay-1"), b.pathOf("relay-1")],
          Array.from({ length: 2 }, () => `${bridges}/4045d2ef356c7f670dc70f1d0f6b88ef`)
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("ends with its scope, however often that is closed", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const { close } = yield* inScope(store.publish(spec()))
        assert.isTrue(Option.isSome(yield* store.lookup("relay-1")))
        yield* close
        yield* close
        assert.deepStrictEqual([yield* listed, yield* store.lookup("relay-1")], [[], Option.none()])
      }).pipe(Effect.provide(World))
    )

    it.effect("leaves nothing when it is interrupted, whenever that is", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        for (let turns = 0; turns < 8; turns++) {
          const fiber = yield* Effect.forkChild(
            Effect.scoped(Effect.andThen(store.publish(spec()), Effect.never))
          )
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(
            (yield* Place).bridges && fs.existsSync((yield* Place).bridges) ? yield* listed : [],
            []
          )
        }
      }).pipe(Effect.provide(World))
    )

    it.effect("leaves nothing when the record cannot be put into place", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const file = store.pathOf("relay-1")
        fs.mkdirSync(`${file}/inside`, { recursive: true, mode: 0o700 })
        const error = yield* Effect.flip(store.publish(spec()))
        assert.deepStrictEqual(
          [error instanceof BridgeWriteError, yield* listed],
          [true, [path.basename(file)]]
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("refuses what no record can carry, and names it", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const keyOf = (over: Partial<PublishSpec>) =>
          Effect.map(Effect.flip(store.publish(spec(over))), (error) => "key" in error && error.key)
        assert.deepStrictEqual(
          [
            yield* keyOf({ socketPath: "/run/it's.sock" }),
            yield* keyOf({ token: "a\nexpiresAt=9" }),
            yield* keyOf({ relayId: "" }),
            yield* listed
          ],
          ["socketPath", "token", "relayId", []]
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("replaces a link in the record's place and leaves what it points to alone", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const { bridges, runtime } = yield* Place
        fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
        fs.writeFileSync(`${runtime}/target`, "untouched")
        fs.symlinkSync(`${runtime}/target`, store.pathOf("relay-1"))
        yield* store.publish(spec())
        assert.isTrue(fs.lstatSync(store.pathOf("relay-1")).isFile())
        assert.strictEqual(fs.readFileSync(`${runtime}/target`, "utf8"), "untouched")
      }).pipe(Effect.provide(World))
    )
  })

  describe("renewal", () => {
    it.effect("moves the expiry at each third of the ttl, in the same file, until the scope ends", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const { close } = yield* inScope(store.publish(spec()))
        const { ino } = fs.statSync(store.pathOf("relay-1"))
        const seen = [yield* expiry(store)]
        for (const step of [ttlMs / 3 - 1, 1, ttlMs / 3, 10 * ttlMs]) {
          yield* TestClock.adjust(step)
          seen.push(yield* expiry(store))
        }
        assert.deepStrictEqual(seen, [120_000, 120_000, 160_000, 200_000, 1_400_000].map(Option.some))
        assert.strictEqual(fs.statSync(store.pathOf("relay-1")).ino, ino)
        yield* close
        yield* TestClock.adjust(ttlMs)
        assert.deepStrictEqual(yield* listed, [])
      }).pipe(Effect.provide(World))
    )

    it.effect("puts back a record that vanished, its directory too, or was damaged", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const file = yield* store.publish(spec())
        const { runtime } = yield* Place
        const damages = [
          () => fs.unlinkSync(file),
          () => fs.rmSync(runtime, { recursive: true }),
          () => fs.truncateSync(file, 20),
          () => fs.writeFileSync(file, "")
        ]
        for (const damage of damages) {
          damage()
          assert.deepStrictEqual(yield* store.lookup("relay-1"), Option.none())
          yield* TestClock.adjust(ttlMs / 3)
          assert.isTrue(Option.isSome(yield* store.lookup("relay-1")))
          assert.deepStrictEqual([modeOf(file), yield* listed], [0o600, [path.basename(file)]])
        }
      }).pipe(Effect.provide(World))
    )

    it.effect("stops for good once a successor has the path", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* gatewayA, yield* gatewayB]
        yield* a.publish(spec())
        const { close: closeB } = yield* inScope(b.publish(spec({ generation: 2, token: "token-2" })))
        yield* TestClock.adjust(2 * ttlMs)
        const found = Option.getOrThrow(yield* a.lookup("relay-1"))
        assert.deepStrictEqual([found.owner.epoch, found.expiresAt], ["epoch-b", 3 * ttlMs])
        yield* closeB
        yield* TestClock.adjust(2 * ttlMs)
        assert.deepStrictEqual(yield* listed, [])
      }).pipe(Effect.provide(World))
    )

    it.effect("stops for a record of a newer version", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const { close } = yield* inScope(store.publish(spec()))
        const file = put(store, "relay-1", "version=2\nwhatever\n")
        yield* TestClock.adjust(2 * ttlMs)
        yield* close
        assert.strictEqual(fs.readFileSync(file, "utf8"), "version=2\nwhatever\n")
      }).pipe(Effect.provide(World))
    )

    it.effect("takes the path back from a predecessor that came into a gap", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        yield* store.publish(spec({ generation: 2 }))
        put(store, "relay-1", textOf(record()))
        yield* TestClock.adjust(ttlMs / 3)
        assert.strictEqual(Option.getOrThrow(yield* store.lookup("relay-1")).owner.epoch, "epoch-a")
      }).pipe(Effect.provide(World))
    )

    it.effect("goes on after a time in which the directory was refused", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        yield* store.publish(spec())
        const { bridges } = yield* Place
        fs.renameSync(bridges, `${bridges}-away`)
        fs.writeFileSync(bridges, "")
        yield* TestClock.adjust(ttlMs)
        fs.unlinkSync(bridges)
        fs.renameSync(`${bridges}-away`, bridges)
        assert.deepStrictEqual(yield* expiry(store), Option.some(ttlMs))
        yield* TestClock.adjust(ttlMs / 3)
        assert.deepStrictEqual(yield* expiry(store), Option.some(2 * ttlMs + ttlMs / 3))
      }).pipe(Effect.provide(World))
    )
  })

  describe("two gateways in one directory", () => {
    it.effect("live side by side: neither removes what is the other's", () =>
      Effect.gen(function* () {
        yield* (yield* FakeProcessIdentity).runs(identityB)
        const [a, b] = [yield* gatewayA, yield* gatewayB]
        const { close: closeA } = yield* inScope(a.publish(spec({ relayId: "of-a" })))
        yield* b.publish(spec({ relayId: "of-b" }))
        assert.deepStrictEqual(
          [yield* a.prune, yield* b.prune],
          [
            { removed: 0, kept: 2 },
            { removed: 0, kept: 2 }
          ]
        )
        yield* closeA
        assert.deepStrictEqual(
          [Option.isSome(yield* a.lookup("of-b")), Option.isSome(yield* b.lookup("of-a"))],
          [true, false]
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("a successor's record outlives its predecessor's scope", () =>
      Effect.gen(function* () {
        const [a, b] = [yield* gatewayA, yield* gatewayB]
        const { close: closeFirst } = yield* inScope(a.publish(spec()))
        const { close: closeSecond } = yield* inScope(a.publish(spec({ generation: 2, token: "token-2" })))
        yield* closeFirst
        assert.strictEqual(Option.getOrThrow(yield* a.lookup("relay-1")).generation, 2)
        const { close: closeThird } = yield* inScope(b.publish(spec({ generation: 3, token: "token-3" })))
        yield* closeSecond
        assert.strictEqual(Option.getOrThrow(yield* a.lookup("relay-1")).generation, 3)
        yield* closeThird
        assert.deepStrictEqual(yield* listed, [])
      }).pipe(Effect.provide(World))
    )
  })

  describe("lookup", () => {
    it.effect("finds nothing where nothing was published, or only half", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const none = [yield* store.lookup("relay-1")]
        assert.isFalse(fs.existsSync((yield* Place).runtime))
        put(store, "relay-2", "")
        // A crash between write and rename.
        fs.writeFileSync(besideName(store.pathOf("relay-1"), "epoch-x", 1, "new"), textOf(record()))
        none.push(yield* store.lookup("relay-1"))
        put(store, "relay-1", textOf(record()).slice(0, -1))
        none.push(yield* store.lookup("relay-1"))
        put(store, "relay-1", "version=2\n")
        none.push(yield* store.lookup("relay-1"))
        // A record of another relay under this name.
        put(store, "relay-1", textOf(record({ relayId: "relay-2" })))
        none.push(yield* store.lookup("relay-1"))
        assert.deepStrictEqual(
          none,
          none.map(() => Option.none())
        )
      }).pipe(Effect.provide(World))
    )

    it.effect("reads afresh every time", () =>
      Effect.gen(function* () {
        const store = yield* gatewayA
        const seen: Array<number> = []
        for (const generation of [1, 2]) {
          put(store, "relay-1", textOf(record({ generation })))
          seen.push(Option.getOrThrow(yield* store.lookup("relay-1")).generation)
        }
        assert.deepStrictEqual(seen, [1, 2])
      }).pipe(Effect.provide(World))
    )

    const misplaced: Record<string, (file: string) => void> = {
      "a link to a record": (file) => {
        fs.writeFileSync(`${file}-elsewhere`, textOf(record()))
        fs.symlinkSync(`${file}-elsewhere`, file)
      },
      "a pipe": (file) => void execFileSync("mkfifo", [file]),
      "a directory": (file) => fs.mkdirSync(file),
      "a file that does not end": (file) =>
        fs.writeFileSync(file, textOf(record()) + "x".repeat(maxRecordBytes))
    }
    for (const [what, place] of Object.entries(misplaced)) {
      it.effect(`takes ${what} for no record, and neither does a prune`, () =>
        Effect.gen(function* () {
          const store = yield* gatewayA
          const file = put(store, "relay-1", "")
          fs.unlinkSync(file)
          place(file)
          const before = yield* listed
          assert.deepStrictEqual(
            [yield* store.lookup("relay-1"), yield* store.prune, yield* listed],
            [Option.none(), { removed: 0, kept: 1 }, before]
          )
        }).pipe(Effect.provide(World))
      )
    }
  })
})
