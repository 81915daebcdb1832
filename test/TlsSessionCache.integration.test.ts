/** TlsSessionCache over real TLS: who is believed, what is sent to whom is not, and resumption that neither hides nor opens. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as PinStore from "../src/layers/PinStore.ts"
import * as TlsSessionCache from "../src/layers/TlsSessionCache.ts"
import { Settings } from "../src/services/Settings.ts"
import { parsePin } from "../src/services/TlsPin.ts"
import type { TlsTarget } from "../src/services/TlsTarget.ts"
import { makeCertificate, newKeys } from "./support/certificates.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"
import { connectProxy, recordingServer } from "./support/tlsServer.ts"

const targetOf = (
  port: number,
  more: Partial<TlsTarget> & { readonly pinned?: ReadonlyArray<string> }
): TlsTarget => {
  const { pinned = [], ...rest } = more
  return {
    url: `wss://127.0.0.1:${port}/nodes`,
    serverName: null,
    pins: pinned.map((pin) => Result.getOrThrow(parsePin(pin))),
    trust: { _tag: "pins" },
    client: null,
    proxy: null,
    ...rest
  }
}

const cacheIn = (state: string) =>
  TlsSessionCache.layer.pipe(
    Layer.provideMerge(PinStore.layer),
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (settings) => ({ ...settings, paths: { ...settings.paths, state } }))
      )
    )
  )

/** A hello and its echo, by a connection of its own. */
const exchange = (target: TlsTarget) =>
  Effect.scoped(
    Effect.gen(function* () {
      const cache = yield* TlsSessionCache.TlsSessionCache
      const session = yield* cache.get(target)
      const connection = yield* session.connect
      yield* connection.write(new TextEncoder().encode("hello"))
      const text = yield* connection.read.pipe(
        Stream.decodeText(),
        Stream.scan(
          () => "",
          (all, more) => all + more
        ),
        Stream.takeUntil((all) => all.includes("hello")),
        Stream.runLast
      )
      return { text, resumed: connection.resumed, tickets: yield* session.tickets }
    })
  )

const failureOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flip(effect) as Effect.Effect<E, never, R>

describe("TlsSessionCache, over TLS", () => {
  const live = <A, E>(
    promise: string,
    test: Effect.Effect<
      A,
      E,
      TlsSessionCache.TlsSessionCache | PinStore.PinStore | import("effect/Scope").Scope
    >
  ) =>
    it.live(promise, () =>
      Effect.gen(function* () {
        const state = yield* temporaryDirectory
        return yield* Effect.provide(test, cacheIn(state))
      })
    )

  live(
    "whoever has one of the pins is talked to, whichever of them it is",
    Effect.gen(function* () {
      const certificate = yield* Effect.promise(() => makeCertificate())
      const other = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(certificate)
      for (const pinned of [
        [certificate.leafPin],
        [certificate.spkiPin],
        [other.leafPin, other.spkiPin, certificate.leafPin]
      ])
        yield* exchange(targetOf(server.port, { pinned }))
      assert.strictEqual(server.bytes(), 3 * 5)
    })
  )

  live(
    "another certificate gets no byte of the application, direct and through a proxy, and both fingerprints are told",
    Effect.gen(function* () {
      const certificate = yield* Effect.promise(() => makeCertificate())
      const other = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(other)
      const proxy = yield* connectProxy()
      for (const via of [null, `http://user:pass%20word@127.0.0.1:${proxy.port}`]) {
        const failure = yield* failureOf(
          exchange(targetOf(server.port, { pinned: [certificate.leafPin], proxy: via }))
        )
        assert.instanceOf(failure, TlsSessionCache.TlsPinMismatch)
        assert.deepStrictEqual(
          [failure.expected, failure.seen],
          [[certificate.leafPin], [other.leafPin, other.spkiPin]]
        )
        assert.include(failure.message, `--pin ${other.spkiPin}`)
      }
      assert.deepStrictEqual(proxy.asked(), [
        { to: `127.0.0.1:${server.port}`, authorization: `Basic ${btoa("user:pass word")}` }
      ])
      assert.deepStrictEqual([server.accepted(), server.bytes()], [2, 0])
    })
  )

  live(
    "who accepts a connection and says nothing is given up on in time",
    Effect.gen(function* () {
      const port = yield* Effect.acquireRelease(
        Effect.sync(() => net.createServer(() => undefined).listen(0, "127.0.0.1")),
        (server) => Effect.sync(() => server.close())
      ).pipe(
        Effect.flatMap((server) =>
          Effect.callback<number>((resume) => {
            server.once("listening", () => resume(Effect.succeed((server.address() as net.AddressInfo).port)))
          })
        )
      )
      const certificate = yield* Effect.promise(() => makeCertificate())
      for (const proxy of [null, `http://127.0.0.1:${port}`]) {
        const from = Date.now()
        yield* Effect.timeoutOption(exchange(targetOf(port, { pinned: [certificate.leafPin], proxy })), 200)
        assert.isBelow(Date.now() - from, 5_000)
      }
    })
  )

  live(
    "resumption really happens, is used once a ticket, and never crosses from one key to another",
    Effect.gen(function* () {
      const certificate = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(certificate)
      const one = targetOf(server.port, { pinned: [certificate.leafPin] })
      const two = targetOf(server.port, { pinned: [certificate.spkiPin] })
      const first = yield* exchange(one)
      const second = yield* exchange(one)
      const elsewhere = yield* exchange(two)
      assert.deepStrictEqual(
        [first, second, elsewhere].map(({ resumed }) => resumed),
        [false, true, false]
      )
      assert.deepStrictEqual(server.handshakes(), ["full", "resumed", "full"])
      assert.isAtMost(second.tickets, TlsSessionCache.maxTickets)
    })
  )

  live(
    "a resumed handshake is no way around a pin, nor a false mismatch",
    Effect.gen(function* () {
      const keys = yield* Effect.promise(() => newKeys())
      const old = yield* Effect.promise(() => makeCertificate({ keys }))
      const renewed = yield* Effect.promise(() => makeCertificate({ keys }))
      const stranger = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(old)
      const byKey = targetOf(server.port, { pinned: [old.spkiPin] })
      const byLeaf = targetOf(server.port, { pinned: [old.leafPin] })
      yield* exchange(byKey)
      yield* exchange(byLeaf)
      server.show(renewed)
      // Whatever the server makes of its old tickets.
      assert.strictEqual((yield* exchange(byKey)).tickets > 0, true)
      server.show(stranger)
      const bytes = server.bytes()
      for (const target of [byKey, byLeaf]) {
        let failure: unknown = null
        // Until its tickets are used up: each was issued by whom it was pinned to.
        for (let i = 0; i <= TlsSessionCache.maxTickets && failure === null; i++) {
          const result = yield* Effect.result(exchange(target))
          if (Result.isFailure(result)) failure = result.failure
          else assert.isTrue(result.success.resumed, "a full handshake with a stranger was believed")
        }
        assert.instanceOf(failure, TlsSessionCache.TlsPinMismatch)
      }
      assert.isAtLeast(server.bytes(), bytes)
    })
  )

  live(
    "ordinary trust takes what an authority vouches for under that name, and nothing else",
    Effect.gen(function* () {
      const authority = yield* Effect.promise(() => newKeys())
      const root = yield* Effect.promise(() =>
        makeCertificate({ keys: authority, names: ["Test Root"], authority: true })
      )
      const by = { keys: authority, name: "Test Root" }
      const good = yield* Effect.promise(() => makeCertificate({ by }))
      const misnamed = yield* Effect.promise(() => makeCertificate({ by, names: ["elsewhere.example"] }))
      const self = yield* Effect.promise(() => makeCertificate())
      const trust = { _tag: "ca", bundle: root.cert } as const
      const codes: Array<string> = []
      for (const certificate of [good, misnamed, self]) {
        const server = yield* recordingServer(certificate)
        const result = yield* Effect.result(exchange(targetOf(server.port, { trust })))
        const again = yield* Effect.result(exchange(targetOf(server.port, { trust })))
        codes.push(
          Result.match(result, {
            onSuccess: () => (Result.isSuccess(again) && again.success.resumed ? "resumed" : "full"),
            onFailure: (failure) =>
              failure instanceof TlsSessionCache.TlsUntrusted ? failure.code : "another failure"
          })
        )
        assert.strictEqual(server.bytes(), Result.isSuccess(result) ? 10 : 0)
      }
      assert.deepStrictEqual(codes, [
        "resumed",
        "ERR_TLS_CERT_ALTNAME_INVALID",
        "DEPTH_ZERO_SELF_SIGNED_CERT"
      ])
      // An address is looked for among the certificate's addresses, and nothing else will do.
      for (const [names, is] of [
        [["127.0.0.1"], "Success"],
        [["localhost"], "Failure"]
      ] as const) {
        const server = yield* recordingServer(yield* Effect.promise(() => makeCertificate({ by, names })))
        assert.strictEqual((yield* Effect.result(exchange(targetOf(server.port, { trust }))))._tag, is)
      }
      // A pin beside it has to hold as well.
      const server = yield* recordingServer(good)
      assert.instanceOf(
        yield* failureOf(exchange(targetOf(server.port, { trust, pinned: [self.leafPin] }))),
        TlsSessionCache.TlsPinMismatch
      )
    })
  )

  it.live("what was seen first is kept with its time, renewed by its key, and never overwritten", () =>
    Effect.gen(function* () {
      const state = yield* temporaryDirectory
      const keys = yield* Effect.promise(() => newKeys())
      const first = yield* Effect.promise(() => makeCertificate({ keys }))
      const renewed = yield* Effect.promise(() => makeCertificate({ keys }))
      const stranger = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(first)
      const target = targetOf(server.port, { trust: { _tag: "first-use" } })
      const once = Effect.provide(exchange(target), cacheIn(state))
      const before = Date.now()
      yield* once
      const [name] = fs.readdirSync(path.join(state, "pins"))
      const file = path.join(state, "pins", name!)
      const text = fs.readFileSync(file, "utf8")
      const kept = JSON.parse(text) as { name: string; leaf: string; at: number }
      assert.deepStrictEqual(
        [kept.name, `sha256:${kept.leaf}`, kept.at >= before, fs.statSync(file).mode & 0o777],
        [`127.0.0.1:${server.port}`, first.leafPin, true, 0o600]
      )
      server.show(renewed)
      yield* once
      server.show(stranger)
      const failure = yield* failureOf(once)
      assert.instanceOf(failure, TlsSessionCache.TlsPinMismatch)
      assert.strictEqual(failure.keptAt, kept.at)
      assert.strictEqual(fs.readFileSync(file, "utf8"), text)
      fs.writeFileSync(file, text.slice(0, 40))
      assert.instanceOf(yield* failureOf(once), TlsSessionCache.TlsPinsUnusable)
      assert.strictEqual(fs.readFileSync(file, "utf8"), text.slice(0, 40))
    })
  )

  live(
    "what cannot be reached says at which step",
    Effect.gen(function* () {
      const certificate = yield* Effect.promise(() => makeCertificate())
      const server = yield* recordingServer(certificate)
      const refusing = yield* connectProxy(403)
      const old = yield* recordingServer(certificate, { maxVersion: "TLSv1.1", minVersion: "TLSv1" })
      const pinned = [certificate.leafPin]
      const closed = yield* Effect.scoped(Effect.map(recordingServer(certificate), ({ port }) => port))
      const stages = yield* Effect.forEach(
        [
          targetOf(server.port, { pinned, url: "wss://no-such-host.invalid" }),
          targetOf(closed, { pinned }),
          targetOf(server.port, { pinned, proxy: `http://127.0.0.1:${refusing.port}` }),
          targetOf(old.port, { pinned })
        ],
        (target) =>
          Effect.map(failureOf(exchange(target)), (failure) =>
            failure instanceof TlsSessionCache.TlsUnreachable ? failure.stage : failure.message
          )
      )
      assert.deepStrictEqual(stages, ["name", "connect", "proxy", "handshake"])
    })
  )
})
