/**
 * One TLS connection, from nothing to a certificate that was shown. Whoever asked has to look at it before the first write:
 * Node's own check is off, because it calls nobody back once a chain has failed.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as net from "node:net"
import type * as Tls from "node:tls"
import * as crypto from "node:crypto"
import type { Fingerprints } from "../../services/TlsPin.ts"
import { connectDeadlineMs, TlsUnreachable } from "../../services/TlsSessionCache.ts"
import { bareHost, placeOf, type TlsTarget } from "../../services/TlsTarget.ts"
import { errorCode } from "./errorCode.ts"

/** Loaded at the first use: it takes a ninth of a start. */
const tls = () => process.getBuiltinModule("node:tls")
const http = () => process.getBuiltinModule("node:http")

export const placeText = (target: Pick<TlsTarget, "url">): string => {
  const { host, port } = placeOf(target as TlsTarget)
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`
}

const unreachable = (target: TlsTarget, stage: TlsUnreachable["stage"], code: string) =>
  new TlsUnreachable({ place: placeText(target), stage, code })

/** An acquisition that cannot be interrupted has no deadline; each of these leaves nothing behind when it is. */
const whileWaiting = { interruptible: true } as const

const noName = new Set(["ENOTFOUND", "EAI_AGAIN", "EAI_NONAME", "EAI_FAIL"])

/** A TCP connection, closed with the scope unless something else has taken it over. */
const direct = (target: TlsTarget, host: string, port: number) =>
  Effect.acquireRelease(
    Effect.callback<net.Socket, TlsUnreachable>((resume) => {
      const socket = net.connect({ host, port, noDelay: true })
      const failed = (error: Error): void => {
        const code = errorCode(error) ?? "unknown"
        resume(Effect.fail(unreachable(target, noName.has(code) ? "name" : "connect", code)))
      }
      socket.once("error", failed)
      socket.once("connect", () => {
        socket.removeListener("error", failed)
        // Whatever comes later comes by way of TLS.
        socket.on("error", () => undefined)
        resume(Effect.succeed(socket))
      })
      return Effect.sync(() => socket.destroy())
    }),
    (socket) => Effect.sync(() => socket.destroy()),
    whileWaiting
  )

/** RFC 9110, 9.3.6: the proxy answers 2xx, and what follows is the other side's. */
const throughProxy = (target: TlsTarget, proxy: URL, host: string, port: number) =>
  Effect.acquireRelease(
    Effect.callback<net.Socket, TlsUnreachable>((resume) => {
      const to = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`
      const credentials = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
      const request = http().request({
        method: "CONNECT",
        host: bareHost(proxy.hostname),
        port: proxy.port === "" ? 80 : Number(proxy.port),
        path: to,
        agent: false,
        headers: {
          host: to,
          ...(credentials === ":"
            ? {}
            : { "proxy-authorization": `Basic ${Buffer.from(credentials).toString("base64")}` })
        }
      })
      request.once("connect", (response, socket: net.Socket, head: Buffer) => {
        const status = response.statusCode ?? 0
        if (status < 200 || status > 299 || head.length > 0) {
          socket.destroy()
          return resume(Effect.fail(unreachable(target, "proxy", `status ${status}`)))
        }
        socket.on("error", () => undefined)
        resume(Effect.succeed(socket))
      })
      request.once("response", (response) => {
        response.destroy()
        resume(Effect.fail(unreachable(target, "proxy", `status ${response.statusCode ?? 0}`)))
      })
      request.once("error", (error) =>
        resume(Effect.fail(unreachable(target, "proxy", errorCode(error) ?? "unknown")))
      )
      request.end()
      return Effect.sync(() => request.destroy())
    }),
    (socket) => Effect.sync(() => socket.destroy()),
    whileWaiting
  )

export interface Dialed {
  readonly socket: Tls.TLSSocket
  /** Null: a resumed handshake showed none. */
  readonly certificate: crypto.X509Certificate | null
  readonly shown: Fingerprints | null
  /** Why no authority vouches for it under that name; null when one does. */
  readonly untrusted: string | null
  readonly handshakeMs: number
}

export const fingerprintsOf = (der: Uint8Array): Fingerprints => {
  const key = new crypto.X509Certificate(der).publicKey.export({ type: "spki", format: "der" })
  return { leaf: crypto.hash("sha256", der, "hex"), spki: crypto.hash("sha256", key, "base64") }
}

const untrustedBy = (
  socket: Tls.TLSSocket,
  certificate: crypto.X509Certificate | null,
  name: string
): string | null => {
  if (!socket.authorized) {
    const problem: unknown = socket.authorizationError
    return typeof problem === "string" ? problem : (errorCode(problem) ?? "unknown")
  }
  // Shown by none that was resumed: the name was looked at when its ticket was issued.
  if (certificate === null) return null
  const named = net.isIP(name) === 0 ? certificate.checkHost(name) : certificate.checkIP(name)
  return named === undefined ? "ERR_TLS_CERT_ALTNAME_INVALID" : null
}

/** What is spoken, where nobody asks for one alone. */
const ourVersions: Versions = { minVersion: "TLSv1.2" }

type Versions = Pick<Tls.ConnectionOptions, "minVersion" | "maxVersion">

/** Closed with the scope. */
export const shakeHands = (
  target: TlsTarget,
  under: net.Socket,
  ticket: Buffer | null,
  versions: Versions = ourVersions
) =>
  Effect.acquireRelease(
    Effect.callback<Dialed, TlsUnreachable>((resume) => {
      const name = target.serverName ?? placeOf(target).host
      const from = performance.now()
      const socket = tls().connect({
        socket: under,
        rejectUnauthorized: false,
        // The name is ours to look at: for an address Node would look for localhost.
        checkServerIdentity: () => undefined,
        ...versions,
        ALPNProtocols: ["http/1.1"],
        // RFC 6066: an address is no name.
        ...(net.isIP(name) === 0 ? { servername: name } : {}),
        ...(ticket === null ? {} : { session: ticket }),
        ...(target.trust._tag === "ca" && target.trust.bundle !== null ? { ca: target.trust.bundle } : {}),
        ...(target.client === null ? {} : { cert: target.client.certificate, key: target.client.key })
      })
      const ended = (code: string): void => resume(Effect.fail(unreachable(target, "handshake", code)))
      const failed = (error: Error): void => ended(errorCode(error) ?? "unknown")
      const closed = (): void => ended("closed")
      socket.once("error", failed)
      socket.once("close", closed)
      socket.once("secureConnect", () => {
        socket.removeListener("error", failed)
        socket.removeListener("close", closed)
        socket.on("error", () => undefined)
        const handshakeMs = performance.now() - from
        // Once: Node takes it off the chain, and the next call gets another or none.
        const certificate = socket.getPeerX509Certificate() ?? null
        resume(
          Effect.succeed({
            socket,
            certificate,
            shown: certificate === null ? null : fingerprintsOf(certificate.raw),
            untrusted: untrustedBy(socket, certificate, name),
            handshakeMs
          })
        )
      })
      return Effect.sync(() => socket.destroy())
    }),
    ({ socket }) => Effect.sync(() => socket.destroy()),
    whileWaiting
  )

/** The bytes to it, closed with the scope. */
export const reach = (target: TlsTarget): Effect.Effect<net.Socket, TlsUnreachable, Scope.Scope> =>
  Effect.suspend(() => {
    const { host, port } = placeOf(target)
    return target.proxy === null
      ? direct(target, host, port)
      : throughProxy(target, new URL(target.proxy), host, port)
  })

/** Nothing of the application was written on it. Closed with the scope. */
export const dial = (
  target: TlsTarget,
  ticket: Buffer | null
): Effect.Effect<Dialed, TlsUnreachable, Scope.Scope> =>
  reach(target).pipe(
    Effect.flatMap((under) => shakeHands(target, under, ticket)),
    Effect.timeoutOrElse({
      duration: connectDeadlineMs,
      orElse: () => Effect.fail(unreachable(target, "timeout", `${connectDeadlineMs} ms`))
    })
  )
