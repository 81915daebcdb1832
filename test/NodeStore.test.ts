/** NodeStore over a real database: a code lets in one node once, and who was let in is known by its key from then on. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as SqlClient from "effect/sql/SqlClient"
import * as TestClock from "effect/testing/TestClock"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { connect, migrate } from "../src/layers/internal/nodeSqlite.ts"
import { layer } from "../src/layers/NodeStore.ts"
import { migrations } from "../src/services/Database.ts"
import {
  codeLifeMs,
  maxClosedCodes,
  maxNodes,
  maxOpenCodes,
  maxWrongCodes,
  type NodeChange,
  NodeStore,
  wrongWindowMs
} from "../src/services/NodeStore.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { settle } from "../src/testing/VirtualTime.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"

const layerReal = Layer.fresh(layer).pipe(Layer.provideMerge(Layer.fresh(layerMemory)))

const real = <A, E>(promise: string, test: () => Effect.Effect<A, E, NodeStore | SqlClient.SqlClient>) =>
  it.effect(promise, () => Effect.provide(test(), layerReal))

const keyOf = (n: number): string => crypto.hash("sha256", `key ${n}`, "base64url")
const idOf = (publicKey: string): string =>
  `n-${crypto.createHash("sha256").update(Buffer.from(publicKey, "base64url")).digest("hex").slice(0, 16)}`

const redeem = (code: string, n: number, name = `node-${n}`) =>
  NodeStore.use((registry) => registry.redeem(code, { publicKey: keyOf(n), name }))

/** A code, redeemed at once. */
const paired = (n: number, name?: string) =>
  Effect.gen(function* () {
    const { code } = yield* (yield* NodeStore).pair
    return yield* redeem(code, n, name)
  })

/** The reason, or the name of the node that was let in. */
const outcome = (code: string, n: number) =>
  Effect.map(Effect.result(redeem(code, n)), (result) =>
    Result.isSuccess(result)
      ? result.success.name
      : result.failure._tag === "PairingRefused"
        ? result.failure.reason
        : result.failure._tag
  )

const wrongCode = "0000-0000"

describe("NodeStore", () => {
  real("a code lets in one node, by its key and under its name", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      yield* TestClock.setTime(5_000)
      const { code, expiresAt } = yield* registry.pair
      assert.match(code, /^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$/)
      assert.strictEqual(expiresAt, 605_000)
      yield* TestClock.setTime(6_000)
      const node = yield* redeem(code, 1, "builder")
      assert.deepStrictEqual(node, {
        nodeId: idOf(keyOf(1)),
        name: "builder",
        publicKey: keyOf(1),
        pairedAt: 6_000,
        lastSeenAt: null,
        revokedAt: null
      })
      assert.deepStrictEqual(yield* registry.find(keyOf(1)), Option.some(node))
      assert.deepStrictEqual(yield* registry.find(keyOf(2)), Option.none())
      assert.deepStrictEqual(yield* registry.list, [node])
      assert.deepStrictEqual([yield* outcome(code, 2), yield* outcome(code, 1)], ["used", "used"])
    })
  )

  real("a code is taken as a person types it", () =>
    Effect.gen(function* () {
      const { code } = yield* (yield* NodeStore).pair
      const typed = code.toLowerCase().replace("-", "").replaceAll("0", "o").replaceAll("1", "l")
      assert.strictEqual(yield* outcome(typed, 1), "node-1")
    })
  )

  real("a code is good until ten minutes have passed, and not at ten minutes", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const [first, second] = [yield* registry.pair, yield* registry.pair]
      yield* TestClock.setTime(codeLifeMs - 1)
      assert.strictEqual(yield* outcome(first.code, 1), "node-1")
      yield* TestClock.setTime(codeLifeMs)
      assert.deepStrictEqual(
        [yield* outcome(second.code, 2), yield* outcome(first.code, 2)],
        ["expired", "used"]
      )
    })
  )

  real("of those who redeem one code at the same time exactly one gets in", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      for (let round = 0; round < 10; round++) {
        yield* TestClock.adjust(wrongWindowMs)
        const { code } = yield* registry.pair
        const told = yield* Effect.all(
          [1, 2, 3, 4].map((n) => outcome(code, round * 10 + n)),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(told.filter((one) => one !== "used").length, 1)
      }
      assert.strictEqual((yield* registry.list).length, 10)
    })
  )

  real("at most sixteen codes are open; the oldest are as if they had never been", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const codes: Array<string> = []
      for (let n = 0; n <= maxOpenCodes; n++) codes.push((yield* registry.pair).code)
      const told: Array<string> = []
      for (const [n, code] of codes.entries()) told.push(yield* outcome(code, n))
      assert.deepStrictEqual(told, [
        "unknown",
        ...Array.from({ length: maxOpenCodes }, (_, n) => `node-${n + 1}`)
      ])
    })
  )

  real("codes whose time is over are kept for a while, and not for ever", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const sql = yield* SqlClient.SqlClient
      for (let n = 0; n < 120; n++) {
        yield* n % 2 === 0 ? registry.pair : paired(n)
        yield* TestClock.adjust(codeLifeMs)
      }
      const [row] = yield* sql<{ readonly n: number }>`SELECT count(*) AS n FROM node_codes`
      assert.isAtMost(row!.n, maxOpenCodes + maxClosedCodes)
    })
  )

  real(
    "after five wrong codes within a minute none is looked at, a right one neither, until the minute is over",
    () =>
      Effect.gen(function* () {
        const registry = yield* NodeStore
        const right = (yield* registry.pair).code
        for (let n = 0; n < maxWrongCodes; n++) {
          assert.strictEqual(yield* outcome(n % 2 === 0 ? wrongCode : "nonsense", 1), "unknown")
          yield* TestClock.adjust(1_000)
        }
        assert.strictEqual(yield* outcome(right, 1), "rate-limited")
        yield* TestClock.setTime(wrongWindowMs - 1)
        assert.strictEqual(yield* outcome(right, 1), "rate-limited")
        // The first of the five is a minute old: there is room for one, wrong or right.
        yield* TestClock.setTime(wrongWindowMs)
        assert.strictEqual(yield* outcome(wrongCode, 1), "unknown")
        assert.strictEqual(yield* outcome(right, 1), "rate-limited")
        yield* TestClock.setTime(wrongWindowMs + 1_000)
        assert.strictEqual(yield* outcome(right, 1), "node-1")
      })
  )

  real("wrong codes that come all at once are counted one by one", () =>
    Effect.gen(function* () {
      const told = yield* Effect.all(
        Array.from({ length: 20 }, (_, n) => outcome(wrongCode, n)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(told.filter((one) => one === "unknown").length, maxWrongCodes)
      assert.strictEqual(told.filter((one) => one === "rate-limited").length, 20 - maxWrongCodes)
    })
  )

  real("a key that is known keeps its id, and is called as it says now", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const first = yield* paired(1, "old")
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual(yield* paired(1, "new"), { ...first, name: "new" })
      // Its own name is not in its way.
      assert.deepStrictEqual(yield* paired(1, "new"), { ...first, name: "new" })
      assert.strictEqual((yield* registry.list).length, 1)
    })
  )

  real("a name that somebody has gets a number, and is free once they are revoked", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const names = [yield* paired(1, "web"), yield* paired(2, "web"), yield* paired(3, "web")]
      assert.deepStrictEqual(
        names.map(({ name }) => name),
        ["web", "web-2", "web-3"]
      )
      yield* registry.revoke("web-2")
      assert.strictEqual((yield* paired(4, "web")).name, "web-2")
      // Whoever comes back finds the name taken.
      assert.strictEqual((yield* paired(2, "web")).name, "web-4")
    })
  )

  real("one that is revoked is known as that, and comes back with a new code alone", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const node = yield* paired(1, "web")
      yield* TestClock.setTime(1_000)
      const gone = yield* registry.revoke(node.nodeId.slice(0, 8))
      assert.deepStrictEqual(gone, { ...node, revokedAt: 1_000 })
      assert.deepStrictEqual(yield* registry.find(keyOf(1)), Option.some(gone))
      assert.strictEqual((yield* Effect.flip(registry.revoke("web")))._tag, "NodeNotFound")
      yield* TestClock.setTime(2_000)
      assert.deepStrictEqual(yield* registry.revoke(node.nodeId), gone)
      const back = yield* paired(1, "web")
      assert.deepStrictEqual(back, { ...node, pairedAt: 2_000 })
    })
  )

  real("a node is renamed by its name or the beginning of its id, and never to what it cannot have", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const web = yield* paired(1, "web")
      const db = yield* paired(2, "db")
      yield* registry.revoke(db.nodeId)
      yield* paired(3, "cache")
      assert.deepStrictEqual(yield* registry.rename("web", "front"), { ...web, name: "front" })
      assert.deepStrictEqual(yield* registry.rename(web.nodeId, "front"), { ...web, name: "front" })
      const refused = (ref: string, name: string) =>
        Effect.map(Effect.flip(registry.rename(ref, name)), (error) => error._tag)
      assert.deepStrictEqual(
        [
          yield* refused("front", "cache"),
          yield* refused("front", "-x"),
          yield* refused("front", ""),
          yield* refused("front", "x".repeat(65)),
          yield* refused("web", "x"),
          yield* refused(db.nodeId, "x")
        ],
        [
          "NodeNameInUse",
          "NodeNameMalformed",
          "NodeNameMalformed",
          "NodeNameMalformed",
          "NodeNotFound",
          "NodeNotFound"
        ]
      )
      // A revoked one has left its name behind.
      assert.strictEqual((yield* registry.rename("front", "db")).name, "db")
    })
  )

  real("a reference that two nodes answer to changes nothing", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const victim = yield* paired(1, "web")
      yield* paired(2, victim.nodeId.slice(0, 10))
      yield* paired(3, victim.nodeId)
      const error = yield* Effect.flip(registry.revoke(victim.nodeId.slice(0, 10)))
      assert.deepStrictEqual({ ...error }, {
        ref: victim.nodeId.slice(0, 10),
        count: 2,
        _tag: "NodeAmbiguous"
      } as never)
      assert.isTrue((yield* registry.list).every(({ revokedAt }) => revokedAt === null))
      assert.strictEqual((yield* registry.revoke(victim.nodeId)).publicKey, victim.publicKey)
    })
  )

  real("who was there is written down", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const node = yield* paired(1)
      yield* TestClock.setTime(7_000)
      yield* registry.seen(node.nodeId)
      yield* registry.seen("n-unknown")
      assert.deepStrictEqual(yield* registry.list, [{ ...node, lastSeenAt: 7_000 }])
    })
  )

  real("every change that a connection has to hear of is told once, after it is in the database", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const heard: Array<NodeChange & { readonly row: string }> = []
      const listening = yield* registry.changes.pipe(
        Stream.mapEffect((change) =>
          Effect.map(registry.list, (nodes) => {
            const node = nodes.find(({ nodeId }) => nodeId === change.nodeId)!
            heard.push({ ...change, row: `${node.name} ${node.revokedAt}` })
          })
        ),
        Stream.runDrain,
        Effect.forkChild
      )
      yield* settle
      const { nodeId } = yield* paired(1, "a")
      yield* paired(1, "a")
      yield* paired(1, "b")
      yield* settle
      yield* registry.rename("b", "c")
      yield* registry.rename("c", "c")
      yield* settle
      yield* registry.revoke("c")
      yield* settle
      yield* Fiber.interrupt(listening)
      assert.deepStrictEqual(heard, [
        { _tag: "Renamed", nodeId, name: "b", row: "b null" },
        { _tag: "Renamed", nodeId, name: "c", row: "c null" },
        { _tag: "Revoked", nodeId, row: "c 0" }
      ])
    })
  )

  real(
    "a full registry forgets the oldest revoked node, and takes no more when there is none; the code stays good",
    () =>
      Effect.gen(function* () {
        const registry = yield* NodeStore
        const sql = yield* SqlClient.SqlClient
        for (let n = 0; n < maxNodes; n++)
          yield* sql`INSERT INTO nodes (node_id, public_key, name, paired_at)
          VALUES (${idOf(keyOf(n))}, ${keyOf(n)}, ${`node-${n}`}, 0)`
        const { code } = yield* registry.pair
        assert.strictEqual(yield* outcome(code, maxNodes), "TooManyNodes")
        // One that is known takes no room.
        yield* paired(7)
        yield* registry.revoke("node-8")
        yield* TestClock.adjust(1)
        yield* registry.revoke("node-9")
        assert.strictEqual(yield* outcome(code, maxNodes), `node-${maxNodes}`)
        assert.isTrue(Option.isNone(yield* registry.find(keyOf(8))))
        assert.isTrue(Option.isSome(yield* registry.find(keyOf(9))))
        assert.strictEqual((yield* registry.list).length, maxNodes)
      })
  )

  it.effect("nodes and codes are there for the next gateway, and of a code nothing but its digest", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryDirectory
      const file = path.join(directory, "holdfast.db")
      const layerFile = Layer.effect(
        SqlClient.SqlClient,
        Effect.tap(connect(file), (sql) => migrate(sql, migrations))
      ).pipe(Layer.provide(Reactivity.layer))
      const gateway = <A, E>(test: Effect.Effect<A, E, NodeStore | SqlClient.SqlClient>) =>
        Effect.provide(test, Layer.fresh(layer).pipe(Layer.provideMerge(Layer.fresh(layerFile))))

      const codes = yield* gateway(
        Effect.gen(function* () {
          const registry = yield* NodeStore
          const [used, open] = [yield* registry.pair, yield* registry.pair]
          yield* redeem(used.code, 1)
          yield* paired(2)
          yield* registry.revoke("node-2")
          const sql = yield* SqlClient.SqlClient
          const kept = yield* sql<{ readonly digest: string }>`SELECT digest FROM node_codes ORDER BY rowid`
          assert.deepStrictEqual(
            kept.slice(0, 2).map(({ digest }) => digest),
            [used, open].map(({ code }) => crypto.createHash("sha256").update(code).digest("hex"))
          )
          const bytes = fs.readdirSync(directory).map((name) => fs.readFileSync(path.join(directory, name)))
          assert.isTrue(bytes.some((one) => one.includes(kept[0]!.digest)))
          for (const { code } of [used, open])
            for (const text of [code, code.replace("-", "")])
              assert.isFalse(bytes.some((one) => one.includes(text)))
          return { used: used.code, open: open.code }
        })
      )
      yield* gateway(
        Effect.gen(function* () {
          const registry = yield* NodeStore
          assert.deepStrictEqual(
            (yield* registry.list).map(({ name, revokedAt }) => [name, revokedAt]),
            [
              ["node-1", null],
              ["node-2", 0]
            ]
          )
          assert.strictEqual(yield* outcome(codes.used, 3), "used")
          assert.strictEqual(yield* outcome(codes.open, 3), "node-3")
        })
      )
    })
  )

  real("a database that cannot be read is said to be that", () =>
    Effect.gen(function* () {
      const registry = yield* NodeStore
      const { code } = yield* registry.pair
      yield* (yield* SqlClient.SqlClient)`DROP TABLE nodes`
      const tags = [
        yield* outcome(code, 1),
        (yield* Effect.flip(registry.find(keyOf(1))))._tag,
        (yield* Effect.flip(registry.list))._tag,
        (yield* Effect.flip(registry.seen("n-1")))._tag,
        (yield* Effect.flip(registry.revoke("n-1")))._tag
      ]
      assert.deepStrictEqual(
        tags,
        tags.map(() => "NodesUnavailable")
      )
    })
  )
})
