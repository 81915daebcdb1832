/** NodeDoctor over real TLS: each thing that can be wrong on the way to a gateway, found and named, and nothing sent to a stranger. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as https from "node:https"
import * as net from "node:net"
import * as path from "node:path"
import { WebSocketServer } from "ws"
import { ControlClient } from "../src/layers/ControlClient.ts"
import * as NodeDoctor from "../src/layers/NodeDoctor.ts"
import * as NodeIdentity from "../src/layers/NodeIdentity.ts"
import * as PinStore from "../src/layers/PinStore.ts"
import type { Check } from "../src/services/Doctor.ts"
import { type NodeQuestion, nodeChecks } from "../src/services/NodeDoctor.ts"
import { Settings } from "../src/services/Settings.ts"
import { parsePin } from "../src/services/TlsPin.ts"
import { type Certificate, makeCertificate } from "./support/certificates.ts"
import { makeCutter } from "./support/cutter.ts"
import { ask, holdfast, makePlace, type Place, startGatewayAs } from "./support/gateway.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"
import { connectProxy, recordingServer } from "./support/tlsServer.ts"

const dayMs = 86_400_000

const pinned = (...pins: ReadonlyArray<string>) => pins.map((pin) => Result.getOrThrow(parsePin(pin)))

const layersIn = (state: string) =>
  NodeDoctor.layer.pipe(
    Layer.provideMerge(PinStore.layer),
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (settings) => ({ ...settings, paths: { ...settings.paths, state } }))
      )
    )
  )

type Asked = Partial<NodeQuestion> & { readonly to: number | string }

const lookFrom = (state: string, { to, ...more }: Asked) =>
  Effect.gen(function* () {
    const facts = yield* (yield* NodeDoctor.NodeDoctor).look({
      url: typeof to === "string" ? to : `wss://127.0.0.1:${to}/nodes`,
      pins: [],
      proxy: null,
      kept: null,
      name: "box",
      link: Effect.succeed({ _tag: "none" }),
      ...more
    })
    return nodeChecks(facts)
  }).pipe(Effect.provide(layersIn(state)))

const look = (asked: Asked) => Effect.flatMap(temporaryDirectory, (state) => lookFrom(state, asked))

const order = [
  "address",
  "DNS",
  "connection",
  "TLS",
  "certificate",
  "pins",
  "WebSocket",
  "clock skew",
  "protocol",
  "authentication"
]

/** A letter for each in their order: ok, warned, failed, or not reached. */
const shape = (checks: ReadonlyArray<Check>): string => {
  assert.deepStrictEqual(
    checks.map(({ what }) => what),
    order
  )
  return checks
    .map(({ status, detail }) =>
      detail.startsWith("not reached") ? "-" : { ok: "o", warn: "w", fail: "F" }[status]
    )
    .join("")
}

const textOf = (checks: ReadonlyArray<Check>, what: string): string => {
  const found = checks.find((check) => check.what === what)!
  return `${found.detail} -> ${found.remedy}`
}

const certificateOf = (options: Parameters<typeof makeCertificate>[0] = {}) =>
  Effect.promise(() => makeCertificate({ untilMs: 100 * dayMs, ...options }))

const modern = { minVersion: "TLSv1.3" } as const

/** An HTTPS server, a holdfast only as far as `greeting` says; the texts that it was told by then. */
const httpsServer = Effect.fnUntraced(function* (certificate: Certificate, greeting: (() => string) | null) {
  const server = https.createServer({ cert: certificate.cert, key: certificate.key, ...modern })
  const told: Array<string> = []
  server.on("request", (_request, response) => response.writeHead(404).end())
  server.on("tlsClientError", () => undefined)
  const sockets = new WebSocketServer({ noServer: true })
  server.on("upgrade", (request, socket, head) => {
    if (greeting === null) return void socket.end("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    sockets.handleUpgrade(request, socket, head, (accepted) => {
      accepted.on("message", (data) => told.push(String(data)))
      accepted.send(greeting())
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
      })
  )
  return { port: (server.address() as net.AddressInfo).port, told }
})

const challenge = (aheadMs: number, version: number) => () =>
  JSON.stringify({
    type: "challenge",
    nonce: "A".repeat(43),
    at: Date.now() + aheadMs,
    protocol: { min: version, max: version },
    gateway: "test"
  })

const freePort = Effect.scoped(Effect.map(makeCutter(1), ({ port }) => port))

describe("NodeDoctor, over TLS", () => {
  it.live("who does not show what is expected is sent nothing, and the pin to use is told", () =>
    Effect.gen(function* () {
      const server = yield* recordingServer(yield* certificateOf(), modern)
      const other = yield* certificateOf()
      const wrong = yield* look({ to: server.port, pins: pinned(other.leafPin, other.spkiPin) })
      assert.strictEqual(shape(wrong), "oooooF----")
      assert.match(textOf(wrong, "pins"), new RegExp(`expected: ${other.leafPin}, .*; seen: sha256:`))
      const none = yield* look({ to: server.port })
      assert.strictEqual(shape(none), "ooooow----")
      assert.match(textOf(none, "pins"), /-> compare .* use --pin spki-sha256:[A-Za-z0-9+/]{43}=$/)
      assert.match(textOf(none, "WebSocket"), /not reached: nothing is sent to who is not verified/)
      assert.strictEqual(server.bytes(), 0)
    })
  )

  it.live("pins come from what was given, from what was kept for that address, or from the first use", () =>
    Effect.gen(function* () {
      const certificate = yield* certificateOf()
      const { port } = yield* httpsServer(certificate, null)
      const state = yield* temporaryDirectory
      const kept = {
        gateway: `wss://127.0.0.1:${port}/nodes`,
        pins: pinned(certificate.spkiPin),
        trust: { _tag: "pins" },
        proxy: null
      } as const
      assert.match(textOf(yield* lookFrom(state, { to: port, kept }), "pins"), /by those of the last/)
      const elsewhere = { ...kept, gateway: `wss://127.0.0.1:${port}/elsewhere` }
      assert.match(textOf(yield* lookFrom(state, { to: port, kept: elsewhere }), "pins"), /^none given/)
      // Nothing that was seen is kept.
      assert.deepStrictEqual(fs.readdirSync(state), [])
      const [leaf, spki] = certificate.pins as never as [{ hex: string }, { base64: string }]
      yield* Effect.gen(function* () {
        yield* (yield* PinStore.PinStore).keep(`127.0.0.1:${port}`, { leaf: leaf.hex, spki: spki.base64 })
      }).pipe(Effect.provide(layersIn(state)))
      assert.match(textOf(yield* lookFrom(state, { to: port }), "pins"), /by what was seen first/)
      const ca = { ...kept, pins: [], trust: { _tag: "ca", bundle: (yield* certificateOf()).cert } } as const
      assert.match(
        textOf(yield* lookFrom(state, { to: port, kept: ca }), "pins"),
        /DEPTH_ZERO_SELF_SIGNED_CERT/
      )
    })
  )

  it.live("a certificate that is over, or not yet begun, or near its end is told with its dates", () =>
    Effect.gen(function* () {
      for (const [fromMs, untilMs, status, words] of [
        [-2 * dayMs, -dayMs, "F", /^expired \(our clock says/],
        [dayMs, 100 * dayMs, "F", /^not valid yet/],
        [-dayMs, 3.5 * dayMs, "w", /^ends in 3 days: localhost, 127.0.0.1; /]
      ] as const) {
        const certificate = yield* certificateOf({ fromMs, untilMs })
        const { port } = yield* httpsServer(certificate, null)
        const checks = yield* look({ to: port, pins: pinned(certificate.leafPin) })
        assert.strictEqual(shape(checks), `oooo${status}oF---`)
        assert.match(textOf(checks, "certificate"), words)
      }
    })
  )

  it.live("what is no address, no name, no server or no TLS ends the way there, and is named", () =>
    Effect.gen(function* () {
      for (const url of ["ws://127.0.0.1:1/nodes", "wss://user:secret@127.0.0.1:1/nodes", "gateway"]) {
        const checks = yield* look({ to: url })
        assert.strictEqual(shape(checks), "F---------")
        assert.notInclude(JSON.stringify(checks), "secret")
      }
      const unknown = yield* look({ to: "wss://no-such-host.invalid:1/nodes" })
      assert.strictEqual(shape(unknown), "oF--------")
      const closed = yield* look({ to: yield* freePort })
      assert.strictEqual(shape(closed), "ooF-------")
      assert.match(textOf(closed, "connection"), /ECONNREFUSED -> nothing listens there/)
      const plain = yield* Effect.acquireRelease(
        Effect.callback<net.Server>((resume) => {
          const server = net.createServer((socket) => socket.on("error", () => 0).end("SSH-2.0-x\r\n"))
          server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      const noTls = yield* look({ to: (plain.address() as net.AddressInfo).port })
      assert.strictEqual(shape(noTls), "oooF------")
    })
  )

  it.live("who accepts and then says nothing is waited for no longer than a step may take", () =>
    Effect.gen(function* () {
      const silent = yield* Effect.acquireRelease(
        Effect.callback<net.Server>((resume) => {
          const server = net.createServer((socket) => socket.on("error", () => 0))
          server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      const from = Date.now()
      const checks = yield* look({ to: (silent.address() as net.AddressInfo).port })
      assert.strictEqual(shape(checks), "oooF------")
      assert.match(textOf(checks, "TLS"), /1.3: no answer within 5 s; 1.2: no answer/)
      assert.isBelow(Date.now() - from, 9_000)
    })
  )

  it.live(
    "an old TLS alone is not enough, and beside the new one is a hint; its certificate is looked at",
    () =>
      Effect.gen(function* () {
        const certificate = yield* certificateOf()
        const old = yield* recordingServer(certificate, { maxVersion: "TLSv1.2" })
        const checks = yield* look({ to: old.port, pins: pinned(certificate.spkiPin) })
        assert.strictEqual(shape(checks), "oooFoo----")
        assert.match(textOf(checks, "TLS"), /^1\.2 only, and 1\.3 is needed/)
        assert.match(textOf(checks, "WebSocket"), /see TLS/)
        const both = yield* recordingServer(certificate)
        assert.strictEqual(shape(yield* look({ to: both.port })), "ooowow----")
      })
  )

  it.live("a proxy is gone through, and one that does not lead there says why", () =>
    Effect.gen(function* () {
      const certificate = yield* certificateOf()
      const { port } = yield* httpsServer(certificate, null)
      const pins = pinned(certificate.leafPin)
      const open = yield* connectProxy()
      const through = yield* look({
        to: port,
        pins,
        proxy: `http://user:secret@127.0.0.1:${open.port}`
      })
      assert.strictEqual(shape(through), "ooooooF---")
      assert.match(textOf(through, "address"), /through the proxy 127.0.0.1:\d+ /)
      assert.notInclude(JSON.stringify(through), "secret")
      const shut = yield* connectProxy(407)
      const refused = yield* look({ to: port, pins, proxy: `http://127.0.0.1:${shut.port}` })
      assert.strictEqual(shape(refused), "ooF-------")
      assert.match(textOf(refused, "connection"), /status 407 -> the proxy wants credentials/)
    })
  )

  it.live("what answers and is no holdfast, or one of another time or protocol, is told apart", () =>
    Effect.gen(function* () {
      const certificate = yield* certificateOf()
      const pins = pinned(certificate.spkiPin)
      for (const [greeting, expected, what, words] of [
        [null, "ooooooF---", "WebSocket", /status 404\. -> check the path/],
        [() => "hello", "oooooooF--", "clock skew", /no challenge came: What was said was not understood/],
        [challenge(60_000, 1), "ooooooowow", "clock skew", /60\.\d s ahead|59\.\d s ahead/],
        [challenge(-200_000, 1), "oooooooFow", "clock skew", /behind ours; more than 120 s is refused/],
        [challenge(0, 9), "ooooooooF-", "protocol", /none in common: ours 1, the gateway's 9/]
      ] as const) {
        const { port, told } = yield* httpsServer(certificate, greeting)
        const checks = yield* look({ to: port, pins })
        assert.strictEqual(shape(checks), expected)
        assert.match(textOf(checks, what), words)
        assert.deepStrictEqual(told, [])
      }
    })
  )
})

const pair = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      return yield* (yield* ControlClient).PairNode()
    })
  )

const connections = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const { nodes } = yield* (yield* ControlClient).ListNodes()
      return nodes.map(({ connection }) => connection?.connectionId ?? null)
    })
  )

/** The command as it ships: its exit code, its shape, and what it says of the last step. */
const doctor = Effect.fnUntraced(function* (place: Place, ...args: ReadonlyArray<string>) {
  const { stdout, code } = yield* holdfast(place, ["doctor", "--json", "--node", ...args])
  const checks = JSON.parse(stdout) as ReadonlyArray<Check>
  return [code, shape(checks), checks.at(-1)!.detail] as const
})

describe("holdfast doctor --node", () => {
  it.live(
    "tells a machine that is not paired, one that is connected and is left so, one that is let in, and one that is not",
    () =>
      Effect.gen(function* () {
        const home = yield* makePlace()
        const there = yield* makePlace()
        const port = yield* freePort
        yield* startGatewayAs(home, "--listen-nodes", `127.0.0.1:${port}`)
        const { pins, code, url } = yield* pair(home)
        const pin = ["--pin", pins[1]!]
        const identity = path.join(there.home, "state/node/identity.json")

        const unpaired = yield* doctor(there, url, ...pin)
        assert.deepStrictEqual(unpaired.slice(0, 2), [0, "ooooooooow"])
        assert.match(unpaired[2], /^not paired yet/)
        assert.isFalse(fs.existsSync(identity))

        const node = yield* startGatewayAs(
          there,
          "--node",
          "--gateway",
          url,
          ...pin,
          "--code",
          code,
          "--name",
          "box"
        )
        const until = Date.now() + 20_000
        while ((yield* connections(home))[0] === null || (yield* connections(home)).length === 0) {
          assert.isBelow(Date.now(), until, "it is connected in time")
          yield* Effect.sleep(50)
        }
        const before = yield* connections(home)
        const connected = yield* doctor(there, url)
        assert.deepStrictEqual(connected.slice(0, 2), [0, "oooooooooo"])
        assert.match(connected[2], /is connected with it now/)
        assert.deepStrictEqual(yield* connections(home), before)

        yield* node.end("SIGINT")
        const letIn = yield* doctor(there, url)
        assert.deepStrictEqual(letIn.slice(0, 2), [0, "oooooooooo"])
        assert.match(letIn[2], /^welcome as box \(n-[0-9a-f]{16}\)/)

        yield* holdfast(home, ["nodes", "revoke", "box"])
        assert.deepStrictEqual(yield* doctor(there, url), [1, "oooooooooF", "refused: revoked"])

        const stranger = yield* makePlace()
        const state = path.join(stranger.home, "state")
        yield* Effect.gen(function* () {
          yield* NodeIdentity.NodeIdentity
        }).pipe(
          Effect.provide(
            NodeIdentity.layer.pipe(
              Layer.provide(
                Layer.effect(
                  Settings,
                  Effect.map(Settings, (all) => ({ ...all, paths: { ...all.paths, state } }))
                )
              )
            )
          )
        )
        assert.deepStrictEqual(yield* doctor(stranger, url, ...pin), [
          1,
          "oooooooooF",
          "refused: unknown-node"
        ])
        const mistaken = yield* holdfast(stranger, ["doctor", "--node", url, "--pin", "sha256:no"])
        assert.strictEqual(mistaken.code, 2)
        assert.match(mistaken.stderr, /--pin: .* spki-sha256:\.\.\. of its key/)
      }),
    120_000
  )
})
