/**
 * NodeIdentity: the key by which a node is known to its gateway: made once, kept in one private file, and never replaced.
 *
 * What cannot be read, stored or verified is an error and no new key: a gateway that knows the old one would not know us.
 */
import * as Context from "effect/Context"
import * as Schema from "effect/Schema"

/** The raw 32 bytes in base64url. Its last character holds two bits of nothing: in one spelling only, since keys are compared as text. */
export const PublicKey = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/, { expected: "an Ed25519 key" })
)

/** The raw 64 bytes in base64url, likewise. */
export const Signature = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9_-]{85}[AQgw]$/, { expected: "an Ed25519 signature" })
)

/** What `<state>/node/identity.json` holds. */
export const IdentityFile = Schema.Struct({
  version: Schema.Literal(1),
  /** PKCS8 DER in base64url. */
  privateKey: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_-]+$/)),
  /** Epoch milliseconds. */
  createdAt: Schema.Finite
})
export type IdentityFile = typeof IdentityFile.Type

const remedies = {
  unreadable: "it cannot be read; check its owner and the disk",
  malformed:
    "it is damaged, or of a newer holdfast; bring it back from a backup, or move it away and pair this machine again",
  unwritable: "it cannot be written; check the disk and the directory above it",
  "wrong-mode":
    "others may have read it, for its mode is not 0600; move it away and pair this machine again, or run chmod 600 if nobody has",
  refused: "it, or its directory, is a link, no regular file, or another user's; move it away"
} as const

/** What the file holds is in none of its fields. */
export class NodeIdentityUnusable extends Schema.TaggedError<NodeIdentityUnusable>()("NodeIdentityUnusable", {
  path: Schema.String,
  problem: Schema.Literals(["unreadable", "malformed", "unwritable", "wrong-mode", "refused"])
}) {
  override get message(): string {
    return `The identity of this node, ${this.path}, cannot be used: ${remedies[this.problem]}.`
  }
}

export class NodeIdentity extends Context.Service<
  NodeIdentity,
  {
    readonly publicKey: string
    readonly sign: (bytes: Uint8Array) => Uint8Array
  }
>()("holdfast/NodeIdentity") {}
