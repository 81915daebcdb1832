/** A loop that reads its configuration on every pass, and the one connection that it must not build again. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as NodeIdentity from "../src/layers/NodeIdentity.ts"
import * as NodeLink from "../src/layers/NodeLink.ts"
import * as NodeStore from "../src/layers/NodeStore.ts"
import * as PinStore from "../src/layers/PinStore.ts"
import * as SupervisionTree from "../src/layers/SupervisionTree.ts"
import * as TlsSessionCache from "../src/layers/TlsSessionCache.ts"
import { lookMs } from "../src/services/NodeSession.ts"
import { Settings, type SettingsShape } from "../src/services/Settings.ts"
import { parsePin } from "../src/services/TlsPin.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { type Certificate, makeCertificate, newKeys } from "./support/certificates.ts"
import { eventually } from "./support/gateway.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"
import { nodeServer } from "./support/nodeServer.ts"

const settingsIn = (state: string, node: SettingsShape["node"]) =>
  Layer.effect(
    Settings,
    Effect.map(Settings, (all) => ({ ...all, paths: { ...all.paths, state }, node }))
  )

const layersIn = (state: string) =>
  Layer.mergeAll(
    NodeIdentity.layer,
    SupervisionTree.layer,
    TlsSessionCache.layer.pipe(Layer.provide(PinStore.layer)),
    Layer.fresh(NodeStore.layer).pipe(Layer.provide(Layer.fresh(layerMemory)))
  ).pipe(Layer.provide(settingsIn(state, null)))

/** One pass after the other asks for the session of what was configured, and leaves a link alone that is of that one. */
const makeLoop = Effect.fnUntraced(function* (state: string, port: number) {
  const cache = yield* TlsSessionCache.TlsSessionCache
  const { code } = yield* (yield* NodeStore.NodeStore).pair
  const scope = yield* Effect.scope
  const told: Array<string> = []
  const fields: Array<string> = []
  yield* Stream.runForEach(cache.changes, (change) =>
    Effect.sync(() => void fields.push(...change.fields))
  ).pipe(Effect.forkScoped({ startImmediately: true }))
  let held: {
    readonly session: TlsSessionCache.TlsSession
    readonly scope: Scope.Closeable
    readonly link: NodeLink.NodeLinkShape
  } | null = null

  /** Everything is read anew, so that nothing is the same but by its value. */
  const pass = Effect.fnUntraced(function* (pins: ReadonlyArray<string>) {
    const node = {
      gateway: `wss://127.0.0.1:${port}/nodes`,
      pins: pins.map((pin) => Result.getOrThrow(parsePin(pin))),
      trust: { _tag: "pins" },
      proxy: null,
      name: "box",
      code,
      cutOff: "deny"
    } as const
    const { gateway: url, trust, proxy } = node
    const target = { url, serverName: null, pins: node.pins, trust, client: null, proxy }
    const session = yield* Effect.scoped(cache.get(target, "gateway"))
    if (held?.session === session) return held.link
    if (held !== null) yield* Scope.close(held.scope, Exit.void)
    const own = yield* Scope.fork(scope)
    const context = yield* Layer.buildWithScope(
      Layer.fresh(NodeLink.layer).pipe(Layer.provide(settingsIn(state, node))),
      own
    )
    const link = Context.get(context, NodeLink.NodeLink)
    held = { session, scope: own, link }
    yield* Stream.runForEach(link.events, ({ _tag }) => Effect.sync(() => void told.push(_tag))).pipe(
      Effect.forkIn(own, { startImmediately: true })
    )
    return link
  })

  return {
    told,
    fields,
    /** Three passes with the pins in other orders and spellings, which mean the same. */
    passes: (pins: ReadonlyArray<string>) =>
      Effect.gen(function* () {
        yield* pass(pins)
        yield* pass(pins.toReversed())
        const { status } = yield* pass(pins.map((pin) => ` ${pin}\n`))
        return (yield* status)!
      }),
    hasTold: (...tags: ReadonlyArray<string>) =>
      Effect.andThen(
        eventually(`it tells ${tags.join(", ")}, not ${told.join(", ")}`, () => told.length >= tags.length),
        Effect.sync(() => assert.deepStrictEqual(told, tags))
      )
  }
})

const made = (options?: Parameters<typeof makeCertificate>[0]): Effect.Effect<Certificate> =>
  Effect.promise(() => makeCertificate(options))

const world = (certificate: Certificate, state: string) =>
  Effect.gen(function* () {
    const server = yield* nodeServer(certificate)
    return { server, loop: yield* makeLoop(state, server.port) }
  })

describe("three passes of a loop", () => {
  const live = <A, E>(
    promise: string,
    test: (state: string) => Effect.Effect<A, E, Scope.Scope | Layer.Success<ReturnType<typeof layersIn>>>
  ) =>
    it.live(promise, () =>
      Effect.gen(function* () {
        const state = yield* temporaryDirectory
        return yield* test(state).pipe(
          Effect.provide(layersIn(state)),
          Effect.provideService(References.MinimumLogLevel, "None")
        )
      })
    )

  live("one connection, told once, before it stands and after", (state) =>
    Effect.gen(function* () {
      const certificate = yield* made()
      const { server, loop } = yield* world(certificate, state)
      const pins = [certificate.leafPin, certificate.spkiPin]
      yield* loop.passes(pins)
      yield* loop.hasTold("Connected")
      assert.strictEqual((yield* loop.passes(pins)).state._tag, "Connected")
      assert.deepStrictEqual([server.accepted(), loop.told, loop.fields], [1, ["Connected"], []])
    })
  )

  const overRenewed = (
    promise: string,
    certificates: Effect.Effect<readonly [old: Certificate, renewed: Certificate, second: string]>
  ) =>
    live(promise, (state) =>
      Effect.gen(function* () {
        const [old, renewed, second] = yield* certificates
        const { server, loop } = yield* world(old, state)
        const pins = [old.leafPin, second]
        yield* loop.passes(pins)
        yield* loop.hasTold("Connected")
        yield* server.restart(renewed)
        yield* loop.passes(pins)
        yield* loop.hasTold("Connected", "Disconnected", "Connected")
        assert.strictEqual((yield* loop.passes(pins)).state._tag, "Connected")
        assert.deepStrictEqual([server.accepted(), loop.told.length, loop.fields], [2, 3, []])
        assert.lengthOf(yield* (yield* NodeStore.NodeStore).list, 1)
      })
    )

  overRenewed(
    "one more connection over a renewed certificate, when the second pin is that of their key",
    Effect.gen(function* () {
      const keys = yield* Effect.promise(() => newKeys())
      const [old, renewed] = yield* Effect.all([made({ keys }), made({ keys })])
      return [old, renewed, renewed.spkiPin] as const
    })
  )

  overRenewed(
    "the same over one of another key, when the second pin is its own",
    Effect.map(Effect.all([made(), made()]), ([old, renewed]) => [old, renewed, renewed.leafPin] as const)
  )

  live("no byte and no second try where none of the pins is its own, until one is added", (state) =>
    Effect.gen(function* () {
      const [certificate, spare, stranger] = yield* Effect.all([made(), made(), made()])
      const { server, loop } = yield* world(certificate, state)
      const pins = [certificate.leafPin, spare.spkiPin]
      yield* loop.passes(pins)
      yield* loop.hasTold("Connected")
      yield* server.restart(stranger)
      yield* loop.hasTold("Connected", "Disconnected", "GaveUp")
      const { state: now } = yield* loop.passes(pins)
      assert.strictEqual(now._tag, "Terminal")
      assert.include(now._tag === "Terminal" ? now.reason : "", `--pin ${stranger.spkiPin}`)
      assert.deepStrictEqual([server.accepted(), server.bytes(), loop.told.length], [2, 0, 3])
      yield* loop.passes([...pins, stranger.spkiPin])
      yield* loop.hasTold("Connected", "Disconnected", "GaveUp", "Connected")
      assert.isAbove(server.bytes(), 0)
      assert.deepStrictEqual([server.accepted(), loop.fields], [3, ["pins"]])
    })
  )

  live("no byte, no connection and one try, where it is so from the first pass on", (state) =>
    Effect.gen(function* () {
      const [stranger, one, two] = yield* Effect.all([made(), made(), made()])
      const { server, loop } = yield* world(stranger, state)
      const pins = [one.leafPin, two.spkiPin]
      yield* loop.passes(pins)
      yield* loop.hasTold("GaveUp")
      assert.strictEqual((yield* loop.passes(pins)).state._tag, "Terminal")
      assert.deepStrictEqual([server.accepted(), server.bytes(), loop.told.length], [1, 0, 1])
    })
  )

  live("a link has one look to come, however many connections it has had", (state) =>
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      let looks = 0
      const counting: Clock.Clock = Object.assign(Object.create(clock) as Clock.Clock, {
        sleep: (duration: Duration.Duration) =>
          Duration.toMillis(duration) === lookMs
            ? Effect.acquireUseRelease(
                Effect.sync(() => looks++),
                () => clock.sleep(duration),
                () => Effect.sync(() => looks--)
              )
            : clock.sleep(duration)
      })
      const certificate = yield* made()
      const { server, loop } = yield* world(certificate, state)
      yield* Effect.provideService(loop.passes([certificate.leafPin]), Clock.Clock, counting)
      yield* loop.hasTold("Connected")
      for (let n = 1; n <= 2; n++) {
        yield* server.restart(certificate)
        yield* eventually("it is back", () => loop.told.length === 1 + 2 * n)
      }
      // What gives up on the way to a connection after as long a time is over with it.
      yield* eventually(`one look, not ${looks}`, () => looks === 1, 2_000)
    })
  )
})
