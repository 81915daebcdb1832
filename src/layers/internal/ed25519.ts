/** The keys of nodes: raw ones as the wire has them, and what they say. */
import * as crypto from "node:crypto"
import { PublicKey, Signature } from "../../services/NodeIdentity.ts"
import * as Schema from "effect/Schema"

const isPublicKey = Schema.is(PublicKey)
const isSignature = Schema.is(Signature)

/** The raw 32 bytes in base64url. */
export const rawPublicKey = (key: crypto.KeyObject): string => {
  const { x } = crypto.createPublicKey(key).export({ format: "jwk" })
  if (x === undefined) throw new Error("not an Ed25519 key")
  return x
}

/** How a node is called that has no name of its own; 64 bits, which nobody can meet on purpose. */
export const nodeIdOf = (publicKey: string): string =>
  `n-${crypto.hash("sha256", Buffer.from(publicKey, "base64url"), "hex").slice(0, 16)}`

/** False for whatever is no key or no signature at all, too. `signature`: the raw bytes, or those in base64url. */
export const verify = (publicKey: string, bytes: Uint8Array, signature: Uint8Array | string): boolean => {
  if (!isPublicKey(publicKey)) return false
  if (typeof signature === "string" && !isSignature(signature)) return false
  try {
    const key = crypto.createPublicKey({
      key: { kty: "OKP", crv: "Ed25519", x: publicKey },
      format: "jwk"
    })
    const raw = typeof signature === "string" ? Buffer.from(signature, "base64url") : signature
    return crypto.verify(null, bytes, key, raw)
  } catch {
    return false
  }
}
