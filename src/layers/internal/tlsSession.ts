/** One TLS session: its verified connections, and its tickets with what was verified when they were issued. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Tls from "node:tls"
import { PinStore } from "../../services/PinStore.ts"
import { type Fingerprints, formatPin, isPinned, pinsOf, type TlsPin } from "../../services/TlsPin.ts"
import {
  maxTickets,
  type TlsConnection,
  TlsConnectionLost,
  type TlsFailure,
  TlsPinMismatch,
  type TlsSession,
  TlsUntrusted
} from "../../services/TlsSessionCache.ts"
import type { TlsTarget } from "../../services/TlsTarget.ts"
import { dial, type Dialed, placeText } from "./tlsDial.ts"
import { errorCode } from "./errorCode.ts"

interface Ticket {
  readonly session: Buffer
  readonly verified: Fingerprints
}

const sockets = new WeakMap<TlsConnection, Tls.TLSSocket>()

/** The socket below a connection, for a protocol that needs one; whoever takes it reads and writes by it alone. */
export const socketOf = (connection: TlsConnection): Tls.TLSSocket => {
  const socket = sockets.get(connection)
  if (socket === undefined) throw new Error("a connection of another cache")
  return socket
}

const textsOf = (seen: Fingerprints): ReadonlyArray<string> => pinsOf(seen).map(formatPin)

const isSame = (a: Fingerprints, b: Fingerprints): boolean => a.leaf === b.leaf && a.spki === b.spki

export const makeTlsSession = Effect.fnUntraced(function* (target: TlsTarget) {
  const pinStore = yield* PinStore
  const place = placeText(target)
  let tickets: ReadonlyArray<Ticket> = []

  const lost = (code: string) => new TlsConnectionLost({ place, code })
  const mismatch = (expected: ReadonlyArray<TlsPin>, seen: Fingerprints, keptAt: number | null = null) =>
    new TlsPinMismatch({ place, expected: expected.map(formatPin), seen: textsOf(seen), keptAt })

  /** Whether this is who we want to talk to; nothing is written before. */
  const verify = Effect.fnUntraced(function* (
    seen: Fingerprints,
    untrusted: string | null
  ): Effect.fn.Return<void, TlsFailure> {
    const { pins, trust } = target
    if (pins.length > 0 && !isPinned(pins, seen)) return yield* mismatch(pins, seen)
    switch (trust._tag) {
      case "pins":
        return
      case "ca":
        return untrusted === null
          ? undefined
          : yield* new TlsUntrusted({ place, code: untrusted, seen: textsOf(seen) })
      case "first-use": {
        if (pins.length > 0) return
        const found = yield* pinStore.find(place)
        const kept = Option.isSome(found) ? found.value : yield* pinStore.keep(place, seen)
        // A renewed certificate of the same key is whom we knew.
        return kept.leaf === seen.leaf || kept.spki === seen.spki
          ? undefined
          : yield* mismatch(pinsOf(kept), seen, kept.at)
      }
    }
  })

  const take = (): Ticket | null => {
    const last = tickets.at(-1) ?? null
    tickets = tickets.slice(0, -1)
    return last
  }

  /** Of a resumed connection what was verified then; if it shows a certificate all the same, that has to be the one. */
  const seenOn = ({ socket, shown }: Dialed, ticket: Ticket | null): Fingerprints | null => {
    if (!socket.isSessionReused()) return shown
    if (ticket === null) return null
    return shown === null || isSame(shown, ticket.verified) ? ticket.verified : shown
  }

  const connectionOf = (dialed: Dialed, seen: Fingerprints): TlsConnection => {
    const { socket, handshakeMs } = dialed
    const connection: TlsConnection = {
      seen,
      resumed: socket.isSessionReused(),
      protocol: socket.getProtocol() ?? "unknown",
      handshakeMs,
      exporter: (label, bytes) => socket.exportKeyingMaterial(bytes, label, Buffer.alloc(0)),
      read: NodeStream.fromReadable<Uint8Array, TlsConnectionLost>({
        evaluate: () => socket,
        onError: (error) => lost(errorCode(error) ?? "unknown"),
        closeOnDone: false
      }),
      write: (bytes) =>
        Effect.callback<void, TlsConnectionLost>((resume) => {
          socket.write(bytes, (error) =>
            resume(
              error === null || error === undefined
                ? Effect.void
                : Effect.fail(lost(errorCode(error) ?? "unknown"))
            )
          )
        })
    }
    sockets.set(connection, socket)
    return connection
  }

  const connect = Effect.gen(function* () {
    const ticket = take()
    const dialed = yield* dial(target, ticket?.session ?? null)
    const seen = seenOn(dialed, ticket)
    if (seen === null) {
      dialed.socket.destroy()
      return yield* new TlsUntrusted({ place, code: "no certificate", seen: [] })
    }
    yield* Effect.tapError(verify(seen, dialed.untrusted), () =>
      Effect.sync(() => {
        tickets = []
        dialed.socket.destroy()
      })
    )
    dialed.socket.on("session", (session: Buffer) => {
      tickets = [...tickets, { session, verified: seen }].slice(-maxTickets)
    })
    return connectionOf(dialed, seen)
  }).pipe(Effect.withSpan("TlsSession.connect", { attributes: { place } }))

  const session: TlsSession = { target, connect, tickets: Effect.sync(() => tickets.length) }
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      tickets = []
    })
  )
  return session
})
