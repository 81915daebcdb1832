/** NodeIdentity, live: an Ed25519 key in `<state>/node/identity.json`, on the disk before anybody hears of it. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import * as path from "node:path"
import { IdentityFile, NodeIdentity, NodeIdentityUnusable } from "../services/NodeIdentity.ts"
import { Settings } from "../services/Settings.ts"
import { createDurable, readPrivateFile } from "./internal/durableFile.ts"
import { rawPublicKey } from "./internal/ed25519.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/NodeIdentity.ts"

/** One takes 130 bytes. */
const maxFileBytes = 4096

const IdentityText = Schema.fromJsonString(IdentityFile)
const decode = Schema.decodeUnknownOption(IdentityText)
const encode = Schema.encodeSync(IdentityText)

export const make = Effect.gen(function* () {
  const { state } = (yield* Settings).paths
  const directory = path.join(state, "node")
  const file = path.join(directory, "identity.json")
  const unusable = (problem: NodeIdentityUnusable["problem"], at = file) =>
    new NodeIdentityUnusable({ path: at, problem })

  const read = Effect.suspend(() => {
    const found = readPrivateFile(file, maxFileBytes)
    switch (found._tag) {
      case "absent":
        return Effect.succeed(null)
      case "problem":
        return Effect.fail(unusable(found.problem))
      case "text": {
        const key = keyIn(found.text)
        return key === null ? Effect.fail(unusable("malformed")) : Effect.succeed(key)
      }
    }
  })

  for (const each of [state, directory])
    yield* Effect.mapError(ensurePrivateDirectory(each), () => unusable("refused", each))
  let key = yield* read
  if (key === null) {
    const text = newIdentity(yield* Clock.currentTimeMillis)
    yield* Effect.try({
      // Where another process was faster, theirs is the identity of both.
      try: () => createDurable(file, `${file}.${crypto.randomUUID()}`, text),
      catch: () => unusable("unwritable")
    })
    key = yield* read
  }
  if (key === null) return yield* unusable("unwritable")
  const privateKey = key
  return NodeIdentity.of({
    publicKey: rawPublicKey(privateKey),
    sign: (bytes) => crypto.sign(null, bytes, privateKey)
  })
})

export const layer = Layer.effect(NodeIdentity, make)

const newIdentity = (createdAt: number): string => {
  const { privateKey } = crypto.generateKeyPairSync("ed25519", {
    privateKeyEncoding: { type: "pkcs8", format: "der" },
    publicKeyEncoding: { type: "spki", format: "der" }
  })
  return `${encode({ version: 1, privateKey: privateKey.toString("base64url"), createdAt })}\n`
}

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
