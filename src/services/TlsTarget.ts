/**
 * TlsTarget: where a TLS session leads and whom it believes, as a value.
 *
 * Two targets with equal fields are one session. What makes them differ is named by its field, because whoever runs this asks
 * why it has reconnected.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { formatPin, TlsPin } from "./TlsPin.ts"

/**
 * `pins`: one of them, whoever signed the certificate. `first-use`: whatever is shown first, kept from then on; pins that are
 * given go before. `ca`: the system's authorities, or those of `bundle` (PEM); pins that are given must hold as well.
 */
export const TlsTrust = Schema.Union([
  Schema.TaggedStruct("pins", {}),
  Schema.TaggedStruct("first-use", {}),
  Schema.TaggedStruct("ca", { bundle: Schema.NullOr(Schema.String) })
])
export type TlsTrust = typeof TlsTrust.Type

export interface TlsTarget {
  /** `wss://` or `https://`; the path is the caller's. */
  readonly url: string
  /** For SNI and the certificate's name; null: the URL's host. */
  readonly serverName: string | null
  readonly pins: ReadonlyArray<TlsPin>
  readonly trust: TlsTrust
  /** PEM. The key is compared by its certificate. */
  readonly client: { readonly certificate: string; readonly key: string } | null
  /** `http://[user:password@]host:port` of a proxy that is asked to CONNECT. */
  readonly proxy: string | null
}

export class TlsTargetInvalid extends Schema.TaggedError<TlsTargetInvalid>()("TlsTargetInvalid", {
  problem: Schema.Literals(["url", "insecure", "credentials", "no-pins", "proxy", "server-name"])
}) {
  override get message(): string {
    return {
      url: "The address is no URL of the form wss://HOST:PORT.",
      insecure:
        "The address does not begin with wss://. What is said there would be readable and could be answered by anybody, so nothing is sent.",
      credentials: "The address carries a user or a password; those do not belong in a URL.",
      "no-pins": "Neither a pin nor another way to know the other side was given. Give --pin sha256:...",
      proxy: "The proxy is no URL of the form http://HOST:PORT.",
      "server-name": "The server name is empty or longer than 253 characters."
    }[this.problem]
  }
}

const maxNameLength = 253

const parsedUrl = (text: string): URL | null => (URL.canParse(text) ? new URL(text) : null)

/** An address in brackets is written without them elsewhere. */
export const bareHost = (hostname: string): string => hostname.replace(/^\[|\]$/g, "")

const invalid = (problem: TlsTargetInvalid["problem"]) => Result.fail(new TlsTargetInvalid({ problem }))

/** In the one spelling that is compared: what means the same is the same. */
export const normalizeTarget = (target: TlsTarget): Result.Result<TlsTarget, TlsTargetInvalid> => {
  const url = parsedUrl(target.url)
  if (url === null || url.hostname === "") return invalid("url")
  if (url.protocol !== "wss:" && url.protocol !== "https:") return invalid("insecure")
  if (url.username !== "" || url.password !== "") return invalid("credentials")
  if (target.trust._tag === "pins" && target.pins.length === 0) return invalid("no-pins")
  const proxy = target.proxy === null ? null : parsedUrl(target.proxy)
  if (target.proxy !== null && (proxy === null || proxy.protocol !== "http:" || proxy.hostname === ""))
    return invalid("proxy")
  const serverName = (target.serverName ?? bareHost(url.hostname)).toLowerCase()
  if (serverName === "" || serverName.length > maxNameLength) return invalid("server-name")
  url.hash = ""
  const pins = new Map(target.pins.map((pin) => [formatPin(pin), pin]))
  return Result.succeed({
    ...target,
    url: url.href,
    serverName,
    pins: [...pins.keys()].toSorted().map((text) => pins.get(text)!),
    proxy: proxy === null ? null : proxy.href
  })
}

/** What makes a session that one and no other, by field; of a normalized target. */
const partsOf = ({ url, serverName, pins, trust, client, proxy }: TlsTarget) => ({
  url,
  serverName,
  pins: pins.map(formatPin),
  trust: trust._tag,
  ca: trust._tag === "ca" ? trust.bundle : null,
  client: client?.certificate ?? null,
  proxy
})

export const TlsField = Schema.Literals(["url", "serverName", "pins", "trust", "ca", "client", "proxy"])
export type TlsField = typeof TlsField.Type

/** Equal exactly when every field is. */
export const targetKey = (target: TlsTarget): string => JSON.stringify(Object.values(partsOf(target)))

export const changedFields = (before: TlsTarget, after: TlsTarget): ReadonlyArray<TlsField> => {
  const [old, fresh] = [partsOf(before), partsOf(after)]
  return TlsField.literals.filter((field) => JSON.stringify(old[field]) !== JSON.stringify(fresh[field]))
}

/** Where the certificate is looked for when it is trusted on first use. */
export const placeOf = ({ url }: TlsTarget): { readonly host: string; readonly port: number } => {
  const { hostname, port } = new URL(url)
  return { host: bareHost(hostname), port: port === "" ? 443 : Number(port) }
}
