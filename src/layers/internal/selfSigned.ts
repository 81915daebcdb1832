/** A certificate that a key signs for itself. Loaded only when one has to be made, for it takes a while; bundled by `.ci/library.mjs`. */
// oxlint-disable-next-line import/no-unassigned-import -- it works by being loaded, and x509 asks for it
import "reflect-metadata"
import * as x509 from "@peculiar/x509"
import * as crypto from "node:crypto"
import * as net from "node:net"

const curve = { name: "ECDSA", namedCurve: "P-256" } as const

/** Positive and without a leading zero, as DER wants it; 127 bits are drawn. */
const drawnSerial = (): string => {
  const bytes = crypto.randomBytes(16)
  bytes[0] = (bytes[0]! & 0x7f) | 0x40
  return bytes.toString("hex")
}

/** PEM, for a P-256 key. */
export const selfSigned = async (options: {
  readonly key: crypto.KeyObject
  readonly names: ReadonlyArray<string>
  readonly notBefore: number
  readonly notAfter: number
}): Promise<string> => {
  const publicKey = crypto.createPublicKey(options.key).toCryptoKey(curve, true, ["verify"])
  const made = await x509.X509CertificateGenerator.create({
    serialNumber: drawnSerial(),
    subject: "CN=holdfast",
    issuer: "CN=holdfast",
    notBefore: new Date(options.notBefore),
    notAfter: new Date(options.notAfter),
    publicKey,
    signingKey: options.key.toCryptoKey(curve, false, ["sign"]),
    signingAlgorithm: { ...curve, hash: "SHA-256" },
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        options.names.map((value) => ({ type: net.isIP(value) === 0 ? "dns" : "ip", value }))
      ),
      await x509.SubjectKeyIdentifierExtension.create(publicKey)
    ]
  })
  return `${made.toString("pem")}\n`
}
