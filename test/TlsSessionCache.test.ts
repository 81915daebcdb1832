/** TlsSessionCache without a network: identity is a value, and what changed is named. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import * as Cache from "../src/layers/TlsSessionCache.ts"
import { PinStore } from "../src/services/PinStore.ts"
import { parsePin } from "../src/services/TlsPin.ts"
import { changedFields, normalizeTarget, targetKey, type TlsTarget } from "../src/services/TlsTarget.ts"

const pin = (digit: string) => Result.getOrThrow(parsePin(`sha256:${digit.repeat(64)}`))

const target: TlsTarget = {
  url: "wss://gateway.example:7443/nodes",
  serverName: null,
  pins: [pin("a"), pin("b")],
  trust: { _tag: "pins" },
  client: null,
  proxy: null
}

const cache = Cache.layer.pipe(
  Layer.provide(
    Layer.succeed(PinStore, { find: () => Effect.succeed(Option.none()), keep: () => Effect.die("unused") })
  )
)

const test = <A, E>(promise: string, body: Effect.Effect<A, E, Cache.TlsSessionCache | Scope.Scope>) =>
  it.effect(promise, () => Effect.provide(body, cache))

const problem = (changes: Partial<TlsTarget>): string =>
  Result.match(normalizeTarget({ ...target, ...changes }), {
    onSuccess: () => "none",
    onFailure: ({ problem }) => problem
  })

describe("TlsTarget", () => {
  it("what means the same is the same, in whatever order and spelling", () => {
    const key = (changes: Partial<TlsTarget>) =>
      targetKey(Result.getOrThrow(normalizeTarget({ ...target, ...changes })))
    for (const same of [
      { pins: [pin("b"), pin("a"), pin("b")] },
      { serverName: "GATEWAY.example" },
      { url: "WSS://Gateway.Example:7443/nodes#there" }
    ])
      assert.strictEqual(key(same), key({}))
  })

  it("each field makes another session, and is named", () => {
    const normal = Result.getOrThrow(normalizeTarget(target))
    const client = { certificate: "cert", key: "key" }
    const changes: ReadonlyArray<readonly [string, Partial<TlsTarget>]> = [
      ["url", { url: "wss://gateway.example:7443/other" }],
      ["serverName", { serverName: "elsewhere" }],
      ["pins", { pins: [pin("a")] }],
      ["trust", { trust: { _tag: "first-use" } }],
      ["trust,ca", { trust: { _tag: "ca", bundle: "pem" } }],
      ["client", { client }],
      ["proxy", { proxy: "http://proxy:3128" }],
      ["url,serverName,pins", { url: "wss://other", pins: [pin("c")] }]
    ]
    for (const [fields, change] of changes) {
      const other = Result.getOrThrow(normalizeTarget({ ...target, ...change }))
      assert.strictEqual(changedFields(normal, other).join(), fields)
      assert.notStrictEqual(targetKey(normal), targetKey(other))
    }
    const [one, two] = ["key", "another key"].map((key) =>
      targetKey({ ...normal, client: { certificate: "cert", key } })
    )
    assert.strictEqual(one, two)
    assert.notInclude(one, "another key")
  })

  it("refuses what would be sent in the open, to nobody known, or with a secret in its address", () => {
    assert.deepStrictEqual(
      [
        problem({ url: "gateway" }),
        problem({ url: "ws://gateway.example" }),
        problem({ url: "http://localhost" }),
        problem({ url: "wss://user:word@gateway.example" }),
        problem({ pins: [] }),
        problem({ proxy: "socks5://proxy" }),
        problem({ serverName: "" }),
        problem({ pins: [], trust: { _tag: "first-use" } })
      ],
      ["url", "insecure", "insecure", "credentials", "no-pins", "proxy", "server-name", "none"]
    )
  })
})

describe("TlsSessionCache", () => {
  test(
    "a hundred thousand passes with equal inputs are one session, and no change",
    Effect.gen(function* () {
      const { changes, get } = yield* Cache.TlsSessionCache
      const told = yield* Stream.runCollect(changes).pipe(Effect.forkChild({ startImmediately: true }))
      const seen = new Set<unknown>()
      for (let pass = 0; pass < 100_000; pass++) {
        const pins = pass % 2 === 0 ? [pin("a"), pin("b")] : [pin("b"), pin("a")]
        seen.add(yield* Effect.scoped(get({ ...target, pins })))
      }
      assert.strictEqual(seen.size, 1)
      assert.strictEqual(told.pollUnsafe(), undefined)
      yield* Fiber.interrupt(told)
    })
  )

  test(
    "it is kept while somebody holds it and for its idle time after, and not longer",
    Effect.gen(function* () {
      const { get } = yield* Cache.TlsSessionCache
      const scope = yield* Scope.make()
      const held = yield* Scope.provide(get(target), scope)
      yield* TestClock.adjust(Cache.idleMs * 3)
      assert.strictEqual(yield* Effect.scoped(get(target)), held)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust(Cache.idleMs - 1)
      assert.strictEqual(yield* Effect.scoped(get(target)), held)
      yield* TestClock.adjust(Cache.idleMs)
      assert.notStrictEqual(yield* Effect.scoped(get(target)), held)
    })
  )

  test(
    "a changed target is another session, and says which fields; back again is a change as well",
    Effect.gen(function* () {
      const { changes, get } = yield* Cache.TlsSessionCache
      const told = yield* changes.pipe(
        Stream.take(2),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      const first = yield* get(target, "home")
      yield* get({ ...target, url: "wss://other.example" }, "away")
      const second = yield* get({ ...target, pins: [pin("a")] }, "home")
      const third = yield* get(target, "home")
      assert.notStrictEqual(first, second)
      assert.strictEqual(first, third)
      assert.deepStrictEqual(yield* Fiber.join(told), [
        { _tag: "TlsSessionChanged", label: "home", fields: ["pins"] },
        { _tag: "TlsSessionChanged", label: "home", fields: ["pins"] }
      ])
    })
  )

  test(
    "there are only so many, and one whose idle time is over makes room",
    Effect.gen(function* () {
      const { get } = yield* Cache.TlsSessionCache
      const at = (index: number) => get({ ...target, url: `wss://gateway-${index}.example` })
      for (let index = 0; index < Cache.maxSessions; index++) yield* Effect.scoped(at(index))
      assert.instanceOf(yield* Effect.flip(at(-1)), Cache.TooManyTlsSessions)
      yield* TestClock.adjust(Cache.idleMs)
      yield* at(-1)
    })
  )
})
