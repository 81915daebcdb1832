/**
 * BridgeStore: how a hook finds its live gateway.
 *
 * One private directory per user, one record per relay, there exactly as long as the scope that published it. A record is
 * read by sh, perl and curl as well as by us: fixed keys, one `key=value` a line, no quotes in any value.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Identity } from "./ProcessIdentity.ts"

export const BridgeOwner = Schema.Struct({ epoch: Schema.String, identity: Identity })
export type BridgeOwner = typeof BridgeOwner.Type

export const BridgeRecord = Schema.Struct({
  version: Schema.Literal(1),
  relayId: Schema.String,
  generation: Schema.Int,
  owner: BridgeOwner,
  socketPath: Schema.String,
  token: Schema.String,
  /** Milliseconds since the epoch of the Clock. */
  publishedAt: Schema.Int,
  expiresAt: Schema.Int
})
export type BridgeRecord = typeof BridgeRecord.Type

export class BridgeDirectoryRefused extends Schema.TaggedError<BridgeDirectoryRefused>()(
  "BridgeDirectoryRefused",
  {
    path: Schema.String,
    problem: Schema.Literals(["not-a-directory", "symlink", "foreign-owner", "wrong-mode", "unusable"])
  }
) {
  override get message(): string {
    const remedy = {
      "not-a-directory": "it is not a directory; move it away",
      symlink: "it is a symbolic link; remove it",
      "foreign-owner": "it belongs to another user; remove it, or set HOLDFAST_RUNTIME_DIR",
      "wrong-mode":
        "others may enter it and its mode cannot be changed; remove it, or set HOLDFAST_RUNTIME_DIR",
      unusable: "it cannot be created or read; check the disk, or set HOLDFAST_RUNTIME_DIR"
    }
    return `The directory ${this.path} is refused: ${remedy[this.problem]}.`
  }
}

export class BridgeWriteError extends Schema.TaggedError<BridgeWriteError>()("BridgeWriteError", {
  path: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `The bridge record ${this.path} cannot be written. Check that the disk is not full or read-only.`
  }
}

/** What a prune did. `kept` counts every record left in place, whatever the reason. */
export interface PruneReport {
  readonly removed: number
  readonly kept: number
}

export interface PublishSpec {
  readonly relayId: string
  readonly generation: number
  readonly socketPath: string
  readonly token: string
}

export class BridgeStore extends Context.Service<
  BridgeStore,
  {
    /** The record's path, stable for a relay id whatever gateway publishes it. */
    readonly pathOf: (relayId: string) => string
    /**
     * Prunes, writes the record (0600, beside and renamed) and renews it on the Clock until the scope closes; then
     * removes it unless a successor has replaced it. Returns the path.
     */
    readonly publish: (
      spec: PublishSpec
    ) => Effect.Effect<string, BridgeDirectoryRefused | BridgeWriteError, Scope.Scope>
    readonly lookup: (relayId: string) => Effect.Effect<Option.Option<BridgeRecord>, BridgeDirectoryRefused>
    /** Removes records that are expired or whose owner is dead; never on `unknown`, never a live foreign one. */
    readonly prune: Effect.Effect<PruneReport, BridgeDirectoryRefused>
  }
>()("holdfast/BridgeStore") {}
