/**
 * AppServerLease: the one shared app-server child per key, borrowed for a while.
 *
 * However many runs there are, one child serves those that share a key. It starts with the first borrow, outlives the last
 * by an idle grace, and a child that is poisoned is replaced, never repaired: its borrowers fail with the reason and borrow
 * again, and the next generation starts once the old one's exit is confirmed. Too many faults in a period open the circuit.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import {
  type AppServerUnavailable,
  type LeaseCircuitOpen,
  type LeaseTimeout,
  PoisonReason
} from "./AppServerFailure.ts"
import type { AppServerConnection } from "./AppServerProcess.ts"

/** OTP's restart intensity over a period, and what follows when it is passed. */
export interface Intensity {
  /** So many faults within the period are borne; one more opens the circuit. */
  readonly faults: number
  readonly periodMs: number
  /** How long the circuit stays open; doubled each time it opens again at once, up to `maxCooldownMs`. */
  readonly cooldownMs: number
}

/** Who borrows, for reports; a helper shares the child of whoever spawned it. */
export const Borrower = Schema.Struct({ runId: Schema.String, spawnedBy: Schema.NullOr(Schema.String) })
export type Borrower = typeof Borrower.Type

/** Why a generation was retired, with the evidence. */
export const Retirement = Schema.Struct({
  generation: Schema.Int,
  reason: PoisonReason,
  /** Redacted and bounded. */
  stderrTail: Schema.String,
  /** How its process ended in the end; null while it is being ended. */
  exit: Schema.NullOr(
    Schema.Struct({ code: Schema.NullOr(Schema.Finite), signal: Schema.NullOr(Schema.String) })
  ),
  /** Epoch milliseconds. */
  at: Schema.Finite
})
export type Retirement = typeof Retirement.Type

/** What an operator sees of a lease. */
export const LeaseInfo = Schema.Struct({
  /** Hash of CODEX_HOME, auth identity and launch shape: what two borrowers must share to share a child. */
  key: Schema.String,
  codexHome: Schema.String,
  state: Schema.Literals(["Absent", "Starting", "Ready", "Draining", "Retired", "OpenCircuit"]),
  generation: Schema.Int,
  origin: Schema.Literals(["spawned", "adopted"]),
  pid: Schema.NullOr(Schema.Int),
  version: Schema.NullOr(Schema.String),
  borrowers: Schema.Array(Borrower),
  waiting: Schema.Int,
  /** Faults within the period. */
  faults: Schema.Int,
  retired: Schema.NullOr(Retirement),
  circuit: Schema.NullOr(Schema.Struct({ until: Schema.Finite, problem: Schema.String }))
})
export type LeaseInfo = typeof LeaseInfo.Type

export interface BorrowRequest extends Borrower {
  /** This waiter's own deadline; absent = `lease.handshakeTimeoutMs`. */
  readonly timeoutMs?: number
}

export class AppServerLease extends Context.Service<
  AppServerLease,
  {
    readonly borrow: (
      request: BorrowRequest
    ) => Effect.Effect<
      AppServerConnection,
      AppServerUnavailable | LeaseTimeout | LeaseCircuitOpen,
      Scope.Scope
    >
    readonly list: Effect.Effect<ReadonlyArray<LeaseInfo>>
    /** Closes every open circuit and forgets the faults; how many were open. */
    readonly reset: Effect.Effect<number>
  }
>()("holdfast/AppServerLease") {}
