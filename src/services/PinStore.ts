/** PinStore: the certificates that were trusted on first use, by where they were seen; kept once and never overwritten. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { Fingerprints } from "./TlsPin.ts"
import type { TlsPinsUnusable } from "./TlsSessionCache.ts"

export const KeptPin = Schema.Struct({
  /** `host:port`. */
  name: Schema.String,
  leaf: Schema.String,
  spki: Schema.String,
  /** Epoch milliseconds. */
  at: Schema.Finite
})
export type KeptPin = typeof KeptPin.Type

export class PinStore extends Context.Service<
  PinStore,
  {
    readonly find: (name: string) => Effect.Effect<Option.Option<KeptPin>, TlsPinsUnusable>
    /** Keeps it, unless there is one already; what is kept then. */
    readonly keep: (name: string, seen: Fingerprints) => Effect.Effect<KeptPin, TlsPinsUnusable>
  }
>()("holdfast/PinStore") {}
