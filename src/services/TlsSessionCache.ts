/**
 * TlsSessionCache: the TLS sessions that are in use, by value.
 *
 * Equal targets give the same session object for as long as somebody holds it, and for its idle time after; a loop that asks
 * again on every pass never builds another. A changed target is another session, and the change is told field by field.
 *
 * A connection is verified before one byte of the application goes out: by its pins, by what was seen first, or by authorities.
 * Tickets for a shorter handshake belong to one session, are used once, and bring along the fingerprints that were verified
 * when they were issued, which are checked again: resumption shows no certificate of its own.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { Fingerprints } from "./TlsPin.ts"
import { TlsField, type TlsTarget, type TlsTargetInvalid } from "./TlsTarget.ts"

/** It was not reached, or not understood. Another try may do better. */
export class TlsUnreachable extends Schema.TaggedError<TlsUnreachable>()("TlsUnreachable", {
  place: Schema.String,
  stage: Schema.Literals(["name", "connect", "proxy", "handshake", "timeout"]),
  code: Schema.String
}) {
  override get message(): string {
    const what = {
      name: "its name is not known here",
      connect: "nothing answers there",
      proxy: "the proxy does not lead there",
      handshake: "there is no TLS that both sides speak",
      timeout: "it did not answer in time"
    }[this.stage]
    return `${this.place} cannot be reached: ${what} (${this.code}). See \`holdfast doctor --node\`.`
  }
}

/** It showed another certificate. Nothing was sent, and no other try is made. */
export class TlsPinMismatch extends Schema.TaggedError<TlsPinMismatch>()("TlsPinMismatch", {
  place: Schema.String,
  expected: Schema.Array(Schema.String),
  /** Both pins of what was shown. */
  seen: Schema.Array(Schema.String),
  /** What was expected was kept at the first use, at this time. */
  keptAt: Schema.NullOr(Schema.Finite)
}) {
  override get message(): string {
    const since = this.keptAt === null ? "" : ` (seen first at ${new Date(this.keptAt).toISOString()})`
    return `${this.place} showed a certificate that is not pinned, and nothing was sent. Expected: ${this.expected.join(", ") || "none"}${since}. Seen: ${this.seen.join(", ")}. If the certificate was renewed, ask whoever runs it for the new pin, compare, and add: --pin ${this.seen.at(-1) ?? ""}`
  }
}

/** No authority vouches for it under that name. */
export class TlsUntrusted extends Schema.TaggedError<TlsUntrusted>()("TlsUntrusted", {
  place: Schema.String,
  code: Schema.String,
  seen: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `${this.place} showed a certificate that no authority vouches for (${this.code}), and nothing was sent. Seen: ${this.seen.join(", ")}. To accept that one alone: --pin ${this.seen.at(-1) ?? ""}`
  }
}

/** What was seen first cannot be looked up or kept, so nobody is believed. */
export class TlsPinsUnusable extends Schema.TaggedError<TlsPinsUnusable>()("TlsPinsUnusable", {
  path: Schema.String,
  problem: Schema.Literals(["unreadable", "malformed", "unwritable"])
}) {
  override get message(): string {
    const what = {
      unreadable: "cannot be read",
      malformed: "is not what was written there",
      unwritable: "cannot be written"
    }[this.problem]
    return `The certificate that was trusted on first use ${what}: ${this.path}. Check its owner and mode, or use --pin.`
  }
}

export const TlsFailure = Schema.Union([TlsUnreachable, TlsPinMismatch, TlsUntrusted, TlsPinsUnusable])
export type TlsFailure = typeof TlsFailure.Type

/** Whether no further try can do better, until somebody changes something. */
export const isTerminalTls = (failure: TlsFailure): boolean => failure._tag !== "TlsUnreachable"

export class TlsConnectionLost extends Schema.TaggedError<TlsConnectionLost>()("TlsConnectionLost", {
  place: Schema.String,
  code: Schema.String
}) {
  override get message(): string {
    return `The connection to ${this.place} was lost (${this.code}).`
  }
}

/** One verified connection, closed with its scope. */
export interface TlsConnection {
  readonly seen: Fingerprints
  /** The handshake was a resumed one. */
  readonly resumed: boolean
  /** `TLSv1.3`. */
  readonly protocol: string
  readonly handshakeMs: number
  /** Keying material of this connection alone, equal on both sides (RFC 8446, 7.5). */
  readonly exporter: (label: string, bytes: number) => Uint8Array
  readonly read: Stream.Stream<Uint8Array, TlsConnectionLost>
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, TlsConnectionLost>
}

export interface TlsSession {
  readonly target: TlsTarget
  readonly connect: Effect.Effect<TlsConnection, TlsFailure, Scope.Scope>
  /** Tickets for a resumed handshake that it has now. */
  readonly tickets: Effect.Effect<number>
}

/** A changed target: `label` is what its owner calls it. */
export const TlsSessionChanged = Schema.TaggedStruct("TlsSessionChanged", {
  label: Schema.String,
  fields: Schema.Array(TlsField)
})
export type TlsSessionChanged = typeof TlsSessionChanged.Type

/** How long a session that nobody holds is kept, with its tickets. */
export const idleMs = 300_000
/** A machine talks to a few others. */
export const maxSessions = 256
/** Of one session: a server issues two at a time, and each is used once. */
export const maxTickets = 4
/** From the first packet to a verified connection, a proxy in between included. */
export const connectDeadlineMs = 15_000

export class TooManyTlsSessions extends Schema.TaggedError<TooManyTlsSessions>()("TooManyTlsSessions", {}) {
  override get message(): string {
    return `${maxSessions} TLS sessions are open or were a short time ago. Close some, or wait ${idleMs / 60_000} minutes.`
  }
}

export class TlsSessionCache extends Context.Service<
  TlsSessionCache,
  {
    /** The session of a target; `label` says whose it is, for telling what changed, and is the URL where none is given. */
    readonly get: (
      target: TlsTarget,
      label?: string
    ) => Effect.Effect<TlsSession, TlsTargetInvalid | TooManyTlsSessions, Scope.Scope>
    /** From now on. */
    readonly changes: Stream.Stream<TlsSessionChanged>
  }
>()("holdfast/TlsSessionCache") {}
