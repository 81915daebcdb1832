/**
 * GatewayCertificate: by which nodes know the gateway that they dial: its own, made once for a key that stays, or a given one.
 *
 * A node pins it, so a key is never replaced: a certificate that comes to its end is made anew for the same one, and whatever
 * is wrong with a file is an error that leaves it as it is.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Fingerprints } from "./TlsPin.ts"

const dayMs = 86_400_000

/** What browsers and libraries take at most for a server's. */
export const certificateLifeMs = 397 * dayMs
/** A clock that is a little behind the gateway's sees it as valid too. */
export const validBeforeMs = 3_600_000
/** Before its end it is made anew. */
export const renewBeforeMs = 30 * dayMs

export const isDue = (notAfter: number, now: number): boolean => notAfter - now <= renewBeforeMs

/** What a certificate's DNS name may be made of; a machine may be called otherwise, and then its name is left out. */
const dnsName = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*$/

/** For whom a certificate of our own is made. */
export const ownNames = (hostname: string): ReadonlyArray<string> => {
  const host = hostname.toLowerCase()
  return [...new Set(["localhost", "127.0.0.1", "::1", ...(dnsName.test(host) ? [host] : [])])]
}

const shortAddress = (text: string): string => {
  const url = `http://${text.includes(":") ? `[${text}]` : text}/`
  return URL.canParse(url) ? new URL(url).hostname.replace(/^\[|\]$/g, "") : text
}

/** The DNS names and addresses in a `subjectAltName` as Node writes it. */
export const namesIn = (subjectAltName: string | undefined): ReadonlyArray<string> =>
  [...(subjectAltName ?? "").matchAll(/(?:^|, )(DNS|IP Address):("(?:[^"\\]|\\.)*"|[^,]*)/g)].map(
    ([, kind, value]) => (kind === "DNS" ? value! : shortAddress(value!))
  )

export interface ServerCertificate {
  /** PEM, the gateway's own first. */
  readonly cert: string
  /** PEM. */
  readonly key: string
  readonly fingerprints: Fingerprints
  /** Epoch milliseconds. */
  readonly notAfter: number
  readonly names: ReadonlyArray<string>
}

const remedies = {
  missing: "it is not there; check nodes.certificate and nodes.key",
  unreadable: "it cannot be read; check its owner, its size and the disk",
  malformed:
    "it holds nothing that can be used: a certificate is expected as PEM, a key as PEM without a password, and the gateway's own of P-256",
  unwritable: "it cannot be written; check the disk and the directory above it",
  "wrong-mode": "others may read or write it; replace the key, and if nobody has read it chmod 600 is enough",
  refused: "it, or its directory, is a link, no regular file, or another user's; move it away",
  incomplete:
    "a key and a certificate go together, and this one is missing; bring it back, or move the other away and give every node the new pin",
  mismatch: "it does not belong to the key beside it; bring the right one back",
  expired: "its time is over; replace it"
} as const

/** What the files hold is in none of its fields. */
export class GatewayCertificateUnusable extends Schema.TaggedError<GatewayCertificateUnusable>()(
  "GatewayCertificateUnusable",
  {
    path: Schema.String,
    problem: Schema.Literals([
      "missing",
      "unreadable",
      "malformed",
      "unwritable",
      "wrong-mode",
      "refused",
      "incomplete",
      "mismatch",
      "expired"
    ])
  }
) {
  override get message(): string {
    return `The gateway has no certificate to show to nodes. ${this.path}: ${remedies[this.problem]}.`
  }
}

export class GatewayCertificate extends Context.Service<
  GatewayCertificate,
  {
    /** As it is on the disk now; one of our own is made, or made anew, when it has to be. */
    readonly certificate: Effect.Effect<ServerCertificate, GatewayCertificateUnusable>
  }
>()("holdfast/GatewayCertificate") {}
