/**
 * Nodes in a process of their own: each with its own key and its own TLS sessions, dialling as it ships, and what a handshake
 * costs, of the cache beside a bare one in turns.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import * as net from "node:net"
import * as tls from "node:tls"
import { rawPublicKey } from "../../src/layers/internal/ed25519.ts"
import * as NodeLink from "../../src/layers/NodeLink.ts"
import * as PinStore from "../../src/layers/PinStore.ts"
import * as SupervisionTree from "../../src/layers/SupervisionTree.ts"
import * as TlsSessionCache from "../../src/layers/TlsSessionCache.ts"
import { NodeIdentity } from "../../src/services/NodeIdentity.ts"
import { Settings } from "../../src/services/Settings.ts"
import { parsePin, type TlsPin } from "../../src/services/TlsPin.ts"
import { makeCertificate } from "../support/certificates.ts"
import { recordingServer } from "../support/tlsServer.ts"
import { serve } from "./serve.ts"

const quietly = <A, E>(effect: Effect.Effect<A, E>): Promise<A> =>
  Effect.runPromise(Effect.provideService(effect, References.MinimumLogLevel, "Error"))

const ownCache = Layer.fresh(TlsSessionCache.layer).pipe(Layer.provide(Layer.fresh(PinStore.layer)))

const targetOf = (port: number, path: string, pin: TlsPin) => ({
  url: `wss://127.0.0.1:${port}/${path}`,
  serverName: null,
  pins: [pin],
  trust: { _tag: "pins" } as const,
  client: null,
  proxy: null
})

/** Its tickets have come before the answer to what is said after the handshake. */
const byCache = (target: ReturnType<typeof targetOf>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const session = yield* (yield* TlsSessionCache.TlsSessionCache).get(target)
      const connection = yield* session.connect
      yield* connection.write(Buffer.from("?"))
      yield* connection.read.pipe(
        Stream.decodeText(),
        Stream.takeUntil((text) => text.includes("?")),
        Stream.runDrain
      )
      const tickets = yield* session.tickets
      return { ms: connection.handshakeMs, resumed: connection.resumed, tickets }
    })
  )

const bare = (port: number) =>
  Effect.callback<number>((resume) => {
    const under = net.connect({ port, host: "127.0.0.1", noDelay: true }, () => {
      const from = performance.now()
      const socket = tls.connect({ socket: under, rejectUnauthorized: false, minVersion: "TLSv1.2" }, () => {
        const ms = performance.now() - from
        socket.once("data", () => socket.destroy())
        socket.once("close", () => resume(Effect.succeed(ms)))
      })
    })
  })

interface Gateway {
  readonly url: string
  readonly pin: string
}

/** The keys that the gateway knows, by number. */
const keys = new Map<number, crypto.KeyObject>()

const keyOf = (n: number): crypto.KeyObject => {
  const key = keys.get(n) ?? crypto.generateKeyPairSync("ed25519").privateKey
  keys.set(n, key)
  return key
}

const identityOf = (key: crypto.KeyObject) =>
  Layer.succeed(
    NodeIdentity,
    NodeIdentity.of({ publicKey: rawPublicKey(key), sign: (bytes) => crypto.sign(null, bytes, key) })
  )

/** A node that is let in, until the scope closes. */
const connected = Effect.fnUntraced(function* ({ url, pin }: Gateway, n: number, code: string | null) {
  const node = {
    gateway: url,
    pins: [Result.getOrThrow(parsePin(pin))],
    trust: { _tag: "pins" } as const,
    proxy: null,
    name: `node-${n}`,
    code,
    cutOff: "deny" as const
  }
  const context = yield* Layer.build(
    Layer.fresh(NodeLink.layer).pipe(
      Layer.provide([identityOf(keyOf(n)), ownCache, Layer.fresh(SupervisionTree.layer)]),
      Layer.provide(
        Layer.effect(
          Settings,
          Effect.map(Settings, (all) => ({ ...all, node }))
        )
      )
    )
  )
  const first = yield* Context.get(context, NodeLink.NodeLink).events.pipe(Stream.take(1), Stream.runCollect)
  if (first[0]?._tag !== "Connected")
    return yield* Effect.die(new Error(`node ${n} was not let in: ${JSON.stringify(first)}`))
})

let inside: Scope.Closeable | null = null

const handlers = {
  /** Milliseconds of each handshake; those that were not what they had to be are counted. */
  handshakes: ({ rounds, warmup }: { readonly rounds: number; readonly warmup: number }) =>
    quietly(
      Effect.gen(function* () {
        const certificate = yield* Effect.promise(() => makeCertificate())
        const { port } = yield* recordingServer(certificate)
        const [pin] = certificate.pins
        const ms = { full: [] as Array<number>, resumed: [] as Array<number>, bare: [] as Array<number> }
        let [wrong, tickets] = [0, 0]
        const cases = {
          // Of a path of its own it is a session of its own, without a ticket.
          full: (round: number) =>
            Effect.map(byCache(targetOf(port, `new-${round}`, pin)), ({ ms, resumed }) => {
              if (resumed) wrong++
              return ms
            }),
          resumed: () =>
            Effect.gen(function* () {
              const again = byCache(targetOf(port, "again", pin))
              // A resumed handshake brings no ticket for the next one: Node's server gives none then.
              if (tickets === 0) yield* again
              const { ms, resumed, tickets: left } = yield* again
              tickets = left
              if (!resumed) wrong++
              return ms
            }),
          bare: () => bare(port)
        }
        const order = ["full", "resumed", "bare"] as const
        for (let round = 0; round < warmup + rounds; round++)
          for (const name of round % 2 === 0 ? order : order.toReversed()) {
            const took = yield* cases[name](round)
            if (round >= warmup) ms[name].push(took)
          }
        return { ...ms, wrong }
      }).pipe(Effect.provide(ownCache), Effect.scoped)
    ),

  /** Lets the gateway know one more, which goes again. */
  pair: ({ gateway, n, code }: { readonly gateway: Gateway; readonly n: number; readonly code: string }) =>
    quietly(Effect.scoped(connected(gateway, n, code))),

  /** All that were paired, at once; milliseconds until the last one is in. They stay. */
  enter: ({ gateway }: { readonly gateway: Gateway }) =>
    quietly(
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        inside = scope
        const from = performance.now()
        const all = Effect.forEach(keys.keys(), (n) => connected(gateway, n, null), {
          concurrency: "unbounded"
        })
        yield* Effect.provideService(all, Scope.Scope, scope)
        return performance.now() - from
      })
    ),

  leave: () =>
    quietly(
      Effect.suspend(() => {
        const scope = inside
        inside = null
        return scope === null ? Effect.void : Scope.close(scope, Exit.void)
      })
    )
}

export type Dialler = typeof handlers

serve(handlers)
