/** NodeIdentity, live: an Ed25519 key in `<state>/node/identity.json`, on the disk before anybody hears of it. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import * as path from "node:path"
import { IdentityFile, NodeIdentity, NodeIdentityUnusable } from "../services/NodeIdentity.ts"
import { Settings } from "../services/Settings.ts"
import { createDurable } from "./internal/durableFile.ts"
import { identityFileIn, readIdentity } from "./internal/identityFile.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/NodeIdentity.ts"

const IdentityText = Schema.fromJsonString(IdentityFile)
const encode = Schema.encodeSync(IdentityText)

export const make = Effect.gen(function* () {
  const { state } = (yield* Settings).paths
  const file = identityFileIn(state)
  const unusable = (problem: NodeIdentityUnusable["problem"], at = file) =>
    new NodeIdentityUnusable({ path: at, problem })

  for (const each of [state, path.dirname(file)])
    yield* Effect.mapError(ensurePrivateDirectory(each), () => unusable("refused", each))
  const found = yield* readIdentity(file)
  if (found !== null) return found
  const text = newIdentity(yield* Clock.currentTimeMillis)
  yield* Effect.try({
    // Where another process was faster, theirs is the identity of both.
    try: () => createDurable(file, `${file}.${crypto.randomUUID()}`, text),
    catch: () => unusable("unwritable")
  })
  return (yield* readIdentity(file)) ?? (yield* unusable("unwritable"))
})

export const layer = Layer.effect(NodeIdentity, make)

const newIdentity = (createdAt: number): string => {
  const { privateKey } = crypto.generateKeyPairSync("ed25519", {
    privateKeyEncoding: { type: "pkcs8", format: "der" },
    publicKeyEncoding: { type: "spki", format: "der" }
  })
  return `${encode({ version: 1, privateKey: privateKey.toString("base64url"), createdAt })}\n`
}
