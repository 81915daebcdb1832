/**
 * TlsPin: the certificates that one side of a TLS connection accepts, as values to write down.
 *
 * `sha256:HEX` is the leaf certificate's own digest, and ends with it. `spki-sha256:BASE64` is that of its key, and holds for
 * every certificate that is made for that key. Several at once are a rotation: any of them is enough.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** Of both forms, in the one spelling that is compared. */
export const TlsPin = Schema.Union([
  Schema.TaggedStruct("leaf", { hex: Schema.String }),
  Schema.TaggedStruct("spki", { base64: Schema.String })
])
export type TlsPin = typeof TlsPin.Type

/** What a certificate that was shown comes to. */
export interface Fingerprints {
  /** Lower-case hex of sha256 over its DER. */
  readonly leaf: string
  /** Base64, padded, of sha256 over its SubjectPublicKeyInfo. */
  readonly spki: string
}

export class TlsPinMalformed extends Schema.TaggedError<TlsPinMalformed>()("TlsPinMalformed", {
  pin: Schema.String
}) {
  override get message(): string {
    return `${JSON.stringify(this.pin)} is no pin. Give sha256: and the 64 hex digits of the certificate's fingerprint, or spki-sha256: and the 44 characters of its key's.`
  }
}

/** What people paste: openssl writes colons and capitals. */
const leafForm = /^sha256:((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})$/i
const spkiForm = /^spki-sha256:([A-Za-z0-9+/]{43}=|[A-Za-z0-9_-]{43}=?)$/

/** Nobody writes a longer one by mistake, and an error shows it. */
const maxPinLength = 128

export const parsePin = (text: string): Result.Result<TlsPin, TlsPinMalformed> => {
  const trimmed = text.trim()
  const leaf = leafForm.exec(trimmed)?.[1]
  if (leaf !== undefined) return Result.succeed({ _tag: "leaf", hex: leaf.replaceAll(":", "").toLowerCase() })
  const spki = spkiForm.exec(trimmed)?.[1]
  if (spki !== undefined)
    return Result.succeed({
      _tag: "spki",
      base64: `${spki.replaceAll("-", "+").replaceAll("_", "/").slice(0, 43)}=`
    })
  return Result.fail(new TlsPinMalformed({ pin: trimmed.slice(0, maxPinLength) }))
}

export const formatPin = (pin: TlsPin): string =>
  pin._tag === "leaf" ? `sha256:${pin.hex}` : `spki-sha256:${pin.base64}`

export const pinsOf = ({ leaf, spki }: Fingerprints): readonly [leaf: TlsPin, spki: TlsPin] => [
  { _tag: "leaf", hex: leaf },
  { _tag: "spki", base64: spki }
]

/** A pin is no secret, so it is compared as it is. */
export const isPinned = (pins: ReadonlyArray<TlsPin>, seen: Fingerprints): boolean =>
  pins.some((pin) => (pin._tag === "leaf" ? pin.hex === seen.leaf : pin.base64 === seen.spki))
