/** The file that holds a node's key, as it is read: whoever reads it makes none. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import * as path from "node:path"
import { IdentityFile, NodeIdentity, NodeIdentityUnusable } from "../../services/NodeIdentity.ts"
import { readPrivateFile } from "./durableFile.ts"
import { rawPublicKey } from "./ed25519.ts"

/** One takes 130 bytes. */
const maxFileBytes = 4096

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(IdentityFile))

export const identityFileIn = (state: string): string => path.join(state, "node", "identity.json")

/** Null where there is none. */
export const readIdentity = (
  file: string
): Effect.Effect<NodeIdentity["Service"] | null, NodeIdentityUnusable> =>
  Effect.suspend(() => {
    const unusable = (problem: NodeIdentityUnusable["problem"]) =>
      Effect.fail(new NodeIdentityUnusable({ path: file, problem }))
    const found = readPrivateFile(file, maxFileBytes)
    switch (found._tag) {
      case "absent":
        return Effect.succeed(null)
      case "problem":
        return unusable(found.problem)
      case "text": {
        const key = keyIn(found.text)
        return key === null ? unusable("malformed") : Effect.succeed(identityOf(key))
      }
    }
  })

const identityOf = (privateKey: crypto.KeyObject): NodeIdentity["Service"] =>
  NodeIdentity.of({
    publicKey: rawPublicKey(privateKey),
    sign: (bytes) => crypto.sign(null, bytes, privateKey)
  })

/** What went wrong is not told: the words of a parser quote what they could not read. */
const keyIn = (text: string): crypto.KeyObject | null => {
  const identity = Option.getOrNull(decode(text))
  if (identity === null) return null
  try {
    const key = crypto.createPrivateKey({
      key: Buffer.from(identity.privateKey, "base64url"),
      format: "der",
      type: "pkcs8"
    })
    return key.asymmetricKeyType === "ed25519" ? key : null
  } catch {
    return null
  }
}
