/** NodeHandshake over real TLS: what a node signs on its end holds at the gateway's end of the same connection, and of no other. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as net from "node:net"
import * as tls from "node:tls"
import * as GatewayCertificate from "../src/layers/GatewayCertificate.ts"
import { verify } from "../src/layers/internal/ed25519.ts"
import * as NodeIdentity from "../src/layers/NodeIdentity.ts"
import * as PinStore from "../src/layers/PinStore.ts"
import * as TlsSessionCache from "../src/layers/TlsSessionCache.ts"
import { channelBytes, channelLabel, type SignedFacts, signedText } from "../src/services/NodeHandshake.ts"
import { Settings } from "../src/services/Settings.ts"
import { pinsOf } from "../src/services/TlsPin.ts"
import { temporaryDirectory } from "./support/HookGateway.ts"

const layersIn = (state: string) =>
  Layer.mergeAll(
    GatewayCertificate.layer,
    NodeIdentity.layer,
    TlsSessionCache.layer.pipe(Layer.provideMerge(PinStore.layer))
  ).pipe(
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.map(Settings, (all) => ({ ...all, paths: { ...all.paths, state } }))
      )
    )
  )

/** Tells the channel of each connection as the gateway's end exports it. Echoes: behind an answer the tickets have come. */
const listening = Effect.fnUntraced(function* (options: tls.TlsOptions) {
  const channels = yield* Queue.bounded<string>(8)
  const server = tls.createServer(options, (socket) => {
    socket.on("error", () => undefined)
    const exported = socket.exportKeyingMaterial(channelBytes, channelLabel, Buffer.alloc(0))
    Queue.offerUnsafe(channels, exported.toString("hex"))
    socket.pipe(socket)
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () => Effect.sync(() => server.close())
  )
  return { channels, port: (server.address() as net.AddressInfo).port }
})

const factsOn = (channel: string, publicKey: string): SignedFacts => ({
  protocol: 1,
  nonce: "A".repeat(43),
  channel,
  at: 1,
  publicKey,
  name: "builder",
  codeDigest: null
})

describe("NodeHandshake, over TLS", () => {
  it.live("a greeting holds on the connection it was signed for, a resumed one too, and on no other", () =>
    Effect.gen(function* () {
      const state = yield* temporaryDirectory
      yield* Effect.gen(function* () {
        const { cert, key, fingerprints } = yield* (yield* GatewayCertificate.GatewayCertificate).certificate
        const { publicKey, sign } = yield* NodeIdentity.NodeIdentity
        const { channels, port } = yield* listening({ cert, key })
        const session = yield* (yield* TlsSessionCache.TlsSessionCache).get({
          url: `wss://localhost:${port}/nodes`,
          serverName: null,
          pins: pinsOf(fingerprints),
          trust: { _tag: "pins" },
          client: null,
          proxy: null
        })
        const atGateway: Array<string> = []
        const signatures: Array<Uint8Array> = []
        const resumed: Array<boolean> = []
        for (let n = 0; n < 3; n++) {
          const connection = yield* session.connect
          const channel = Buffer.from(connection.exporter(channelLabel, channelBytes)).toString("hex")
          signatures.push(sign(signedText(factsOn(channel, publicKey))))
          atGateway.push(yield* Queue.take(channels))
          resumed.push(connection.resumed)
          yield* connection.write(Buffer.from("!"))
          yield* Stream.runDrain(Stream.take(connection.read, 1))
        }
        assert.deepStrictEqual(resumed, [false, true, true])
        assert.deepStrictEqual(
          atGateway.map((channel) =>
            signatures.map((signature) =>
              verify(publicKey, signedText(factsOn(channel, publicKey)), signature)
            )
          ),
          [
            [true, false, false],
            [false, true, false],
            [false, false, true]
          ]
        )
      }).pipe(Effect.provide(layersIn(state)))
    })
  )
})
