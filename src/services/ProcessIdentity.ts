/**
 * ProcessIdentity: which process, beyond its number. No wall clock anywhere in it.
 *
 * A pid is reused; a pid with its start token, boot and pid namespace is not. Nothing is signalled or deleted on a pid
 * alone, and never on `unknown`.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"

export const Identity = Schema.Struct({
  /** Linux: /proc/sys/kernel/random/boot_id. macOS: kern.bootsessionuuid. */
  bootId: Schema.String,
  /** Linux: the inode text of /proc/self/ns/pid. macOS: `host`. */
  pidNamespace: Schema.String,
  pid: Schema.Int,
  /** Linux: field 22 of /proc/PID/stat, in clock ticks since boot. macOS: `ps -o lstart`. */
  startToken: Schema.String
})
export type Identity = typeof Identity.Type

/** `unknown`: the system would not say, or the identity is from a pid namespace we cannot see. */
export type Verdict = "alive" | "dead" | "unknown"

export class ProcessIdentity extends Context.Service<
  ProcessIdentity,
  {
    readonly self: Identity
    /** The identity of a running process; none when there is no such process, it is a zombie, or it cannot be read. */
    readonly of: (pid: number) => Effect.Effect<Option.Option<Identity>>
    readonly verdict: (identity: Identity) => Effect.Effect<Verdict>
  }
>()("holdfast/ProcessIdentity") {}
