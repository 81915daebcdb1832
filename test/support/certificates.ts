/** Certificates made for one test: of a key that may be kept for the next one, by itself or by an authority. */
// oxlint-disable-next-line import/no-unassigned-import -- it works by being loaded, and x509 asks for it
import "reflect-metadata"
import * as x509 from "@peculiar/x509"
import * as crypto from "node:crypto"
import { fingerprintsOf } from "../../src/layers/internal/tlsDial.ts"
import { formatPin, pinsOf } from "../../src/services/TlsPin.ts"

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const
const dayMs = 86_400_000

export type Keys = crypto.webcrypto.CryptoKeyPair

export const newKeys = (): Promise<Keys> => crypto.subtle.generateKey(algorithm, true, ["sign", "verify"])

export interface Certificate {
  readonly cert: string
  readonly key: string
  readonly leafPin: string
  readonly spkiPin: string
  readonly pins: ReturnType<typeof pinsOf>
}

const pemOf = async (keys: Keys): Promise<string> => {
  const der = await crypto.subtle.exportKey("pkcs8", keys.privateKey)
  return `-----BEGIN PRIVATE KEY-----\n${Buffer.from(der).toString("base64")}\n-----END PRIVATE KEY-----\n`
}

export const makeCertificate = async (
  options: {
    readonly keys?: Keys
    readonly names?: ReadonlyArray<string>
    readonly by?: { readonly keys: Keys; readonly name: string }
    readonly authority?: boolean
    /** From now, when it begins and when it ends. */
    readonly fromMs?: number
    readonly untilMs?: number
  } = {}
): Promise<Certificate> => {
  const keys = options.keys ?? (await newKeys())
  const names = options.names ?? ["localhost", "127.0.0.1"]
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: crypto.randomBytes(8).toString("hex").replace(/^./, "1"),
    subject: `CN=${names[0]}`,
    issuer: `CN=${options.by?.name ?? names[0]}`,
    notBefore: new Date(Date.now() + (options.fromMs ?? -dayMs)),
    notAfter: new Date(Date.now() + (options.untilMs ?? dayMs)),
    publicKey: keys.publicKey,
    signingKey: (options.by?.keys ?? keys).privateKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(options.authority === true, undefined, true),
      new x509.SubjectAlternativeNameExtension(
        names.map((value) => ({ type: /^[\d.]+$/.test(value) ? ("ip" as const) : ("dns" as const), value }))
      )
    ]
  })
  const pins = pinsOf(fingerprintsOf(Buffer.from(made.rawData)))
  return {
    cert: made.toString("pem"),
    key: await pemOf(keys),
    leafPin: formatPin(pins[0]),
    spkiPin: formatPin(pins[1]),
    pins
  }
}
