/** The door that nodes dial in at, over real TLS: who is let in, and what each of the others is told. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Result from "effect/Result"
import * as crypto from "node:crypto"
import * as tls from "node:tls"
import { WebSocket } from "ws"
import * as NodesListener from "../src/layers/NodesListener.ts"
import * as NodeStore from "../src/layers/NodeStore.ts"
import { GatewayCertificate } from "../src/services/GatewayCertificate.ts"
import {
  channelBytes,
  channelLabel,
  type Challenge,
  type Hello,
  maxSkewMs,
  signedText
} from "../src/services/NodeHandshake.ts"
import { codeLifeMs } from "../src/services/NodeStore.ts"
import { Settings } from "../src/services/Settings.ts"
import { normalizeTarget } from "../src/services/TlsTarget.ts"
import * as FakeApprovals from "../src/testing/Approvals.ts"
import * as FakeAuditLog from "../src/testing/AuditLog.ts"
import * as FakeDatabase from "../src/testing/Database.ts"
import * as FakeEpoch from "../src/testing/Epoch.ts"
import * as FakePolicy from "../src/testing/Policy.ts"
import { makeCertificate } from "./support/certificates.ts"

const certificate = Layer.effect(
  GatewayCertificate,
  Effect.map(
    Effect.promise(() => makeCertificate()),
    ({ cert, key, pins }) =>
      GatewayCertificate.of({
        certificate: Effect.succeed({
          cert,
          key,
          fingerprints: {
            leaf: pins[0]._tag === "leaf" ? pins[0].hex : "",
            spki: pins[1]._tag === "spki" ? pins[1].base64 : ""
          },
          notAfter: 0,
          names: []
        })
      })
  )
)

/** A clock that can be put forward, beside real time. */
let skewMs = 0
const clock = Layer.effect(
  Clock.Clock,
  Effect.map(Clock.Clock, (real) => ({
    ...real,
    currentTimeMillisUnsafe: () => real.currentTimeMillisUnsafe() + skewMs,
    currentTimeMillis: Effect.map(real.currentTimeMillis, (ms) => ms + skewMs),
    currentTimeNanosUnsafe: () => real.currentTimeNanosUnsafe(),
    currentTimeNanos: real.currentTimeNanos,
    sleep: (duration: Parameters<typeof real.sleep>[0]) => real.sleep(duration)
  }))
)

const door = NodesListener.layer.pipe(
  Layer.provideMerge(NodeStore.layer),
  Layer.provide([
    certificate,
    FakeApprovals.layer,
    FakeAuditLog.layer,
    FakeEpoch.layer,
    FakePolicy.layer,
    FakeDatabase.layer,
    Layer.effect(
      Settings,
      Effect.map(Settings, (settings) => ({
        ...settings,
        nodes: { ...settings.nodes, listen: { host: "127.0.0.1", port: 0 } }
      }))
    )
  ]),
  Layer.provide([clock, Logger.layer([])])
)

interface Key {
  readonly publicKey: string
  readonly sign: (bytes: Uint8Array) => string
}

const newKey = (): Key => {
  const { privateKey, publicKey } = crypto.generateKeyPairSync("ed25519")
  return {
    publicKey: publicKey.export({ format: "jwk" }).x!,
    sign: (bytes) => crypto.sign(null, bytes, privateKey).toString("base64url")
  }
}

interface Attempt {
  readonly key?: Key
  readonly code?: string | null
  readonly at?: number
  readonly nonce?: string
  readonly channel?: string
  /** Instead of a hello. */
  readonly text?: string
  readonly origin?: string
  readonly path?: string
}

interface Outcome {
  readonly said: string
  readonly hello: Hello | null
}

/** One visit: what the gateway said last before it hung up, or `welcome`. */
const visit = (url: string, attempt: Attempt): Effect.Effect<Outcome> =>
  Effect.callback<Outcome>((resume) => {
    const { port } = new URL(url)
    const socket = tls.connect({ host: "127.0.0.1", port: Number(port), rejectUnauthorized: false }, () => {
      const channel = socket.exportKeyingMaterial(channelBytes, channelLabel, Buffer.alloc(0)).toString("hex")
      const client = new WebSocket(`wss://127.0.0.1:${port}${attempt.path ?? "/nodes"}`, {
        createConnection: (() => socket) as never,
        ...(attempt.origin === undefined ? {} : { origin: attempt.origin })
      })
      let hello: Hello | null = null
      let said = "closed"
      const done = (): void => {
        socket.destroy()
        resume(Effect.succeed({ said, hello }))
      }
      client.on("unexpected-response", (_request, response) => {
        said = `status ${response.statusCode}`
        done()
      })
      client.on("error", () => undefined)
      client.on("close", done)
      client.on("message", (data: Buffer) => {
        const frame = JSON.parse(data.toString()) as
          Challenge | { readonly type: "refused"; readonly reason: string } | { readonly type: "welcome" }
        if (frame.type === "refused") said = frame.reason
        if (frame.type === "welcome") {
          said = "welcome"
          done()
        }
        if (frame.type !== "challenge") return
        const { sign, publicKey } = attempt.key ?? newKey()
        const code = attempt.code ?? null
        const facts = {
          protocol: frame.protocol.max,
          nonce: attempt.nonce ?? frame.nonce,
          at: attempt.at ?? Date.now() + skewMs,
          publicKey,
          name: "box"
        }
        const codeDigest = code === null ? null : crypto.hash("sha256", code, "hex")
        const signature = sign(signedText({ ...facts, channel: attempt.channel ?? channel, codeDigest }))
        hello = { type: "hello", ...facts, signature, code }
        client.send(attempt.text ?? JSON.stringify(hello))
      })
    })
    socket.on("error", () => undefined)
  })

describe("the door of nodes", () => {
  it.live(
    "each that is not let in is told why, and whoever has a code is let in with it once",
    () =>
      Effect.gen(function* () {
        skewMs = 0
        const { listening } = yield* NodesListener.Nodes
        const registry = yield* NodeStore.NodeStore
        const { url } = listening!
        const said = (attempt: Attempt) => Effect.map(visit(url, attempt), (outcome) => outcome.said)
        const { code } = yield* registry.pair
        const key = newKey()
        assert.strictEqual(yield* said({ key, code }), "welcome")
        // Known by its key alone from then on.
        assert.strictEqual(yield* said({ key }), "welcome")
        assert.strictEqual(yield* said({}), "unknown-node")
        assert.strictEqual(yield* said({ code }), "code-used")
        assert.strictEqual(yield* said({ code: "0000-0000" }), "code-unknown")
        assert.strictEqual(yield* said({ key, at: Date.now() - maxSkewMs - 5_000 }), "clock-skew")
        assert.strictEqual(yield* said({ key, at: Date.now() + maxSkewMs + 5_000 }), "clock-skew")
        assert.strictEqual(yield* said({ key, channel: "00".repeat(32) }), "bad-signature")
        assert.strictEqual(yield* said({ key, text: "{}" }), "malformed")
        assert.strictEqual(yield* said({ key, text: "x".repeat(20_000) }), "malformed")
        assert.strictEqual(yield* said({ key, text: "x".repeat(2_000_000) }), "closed")
        assert.strictEqual(yield* said({ key, origin: "https://page.example" }), "status 403")
        assert.strictEqual(yield* said({ key, path: "/other" }), "status 404")
        // What one connection has heard is of no use on another.
        const { hello } = yield* visit(url, { key })
        assert.strictEqual(yield* said({ key, text: JSON.stringify(hello) }), "replayed")
        assert.strictEqual(yield* said({ key, nonce: hello!.nonce }), "replayed")
        const late = yield* registry.pair
        skewMs = codeLifeMs
        assert.strictEqual(yield* said({ code: late.code }), "code-expired")
        skewMs += 60_000
        for (let wrong = 0; wrong < 5; wrong++) yield* said({ code: "1111-1111" })
        assert.strictEqual(yield* said({ code: "1111-1111" }), "rate-limited")
        // A known node is not kept out by somebody's guesses.
        assert.strictEqual(yield* said({ key }), "welcome")
        yield* registry.revoke("box")
        assert.strictEqual(yield* said({ key }), "revoked")
        skewMs = 0
      }).pipe(Effect.provide(door)),
    60_000
  )

  it.live("whoever is turned away is hung up on, however slowly it goes on speaking", () =>
    Effect.gen(function* () {
      const { listening } = yield* NodesListener.Nodes
      const { port } = new URL(listening!.url)
      const answer = yield* Effect.callback<string>((resume) => {
        let said = ""
        const socket = tls.connect(
          { host: "127.0.0.1", port: Number(port), rejectUnauthorized: false },
          () => {
            socket.write(
              "GET /other HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
          }
        )
        // Its own half stays open.
        socket.allowHalfOpen = true
        socket.on("error", () => undefined)
        socket.on("data", (bytes: Buffer) => (said += bytes.toString()))
        const speaking = setInterval(() => said !== "" && socket.write("x"), 20)
        socket.on("close", () => {
          clearInterval(speaking)
          resume(Effect.succeed(said))
        })
      })
      assert.match(answer, /^HTTP\/1\.1 404 /)
    }).pipe(Effect.provide(door))
  )

  it("an address in the open is refused before anything is sent", () => {
    const target = {
      serverName: null,
      pins: [],
      trust: { _tag: "first-use" },
      client: null,
      proxy: null
    } as const
    assert.deepStrictEqual(
      ["ws://gateway.example/nodes", "ws://127.0.0.1/nodes", "http://gateway.example"].map((url) =>
        Result.match(normalizeTarget({ url, ...target }), {
          onSuccess: () => "taken",
          onFailure: ({ problem }) => problem
        })
      ),
      ["insecure", "insecure", "insecure"]
    )
  })
})
