/**
 * AppServerProcess: one app-server, spawned or adopted, usable for as long as its scope.
 *
 * Starting means reached, past its handshake and of a version we know; a connection in hand always answered `initialize`.
 * A child is asked to leave by end of input, then told, then killed; a poisoned one is not asked. What it leaves running is
 * found by the mark of its generation and ended. One that is a run is told, killed and swept by its supervisor, and left to
 * the next gateway where there is to be one. An adopted server was there before us and stays: only the connection ends.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Queue from "effect/Queue"
import type * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { MarkRange } from "./InstanceMark.ts"
import type {
  AppServerLost,
  AppServerUnavailable,
  BorrowerShed,
  PoisonReason,
  RequestFailure
} from "./AppServerFailure.ts"

/** What a thread's borrower receives. A request wants exactly one `respond` or `refuse`. */
export type Incoming =
  | { readonly _tag: "notification"; readonly method: string; readonly params: unknown }
  | {
      readonly _tag: "request"
      readonly method: string
      readonly params: unknown
      readonly respond: (result: unknown) => Effect.Effect<void, AppServerLost>
      /** A JSON-RPC error; Codex then does not do what it asked for. */
      readonly refuse: Effect.Effect<void, AppServerLost>
    }

/** A borrower that leaves this many messages unread is shed: its queue fails and the others go on. */
export const threadQueueCapacity = 4096

/** How a child ended. `confirmed` is false when it was killed and the kernel has not given it up yet. */
export interface Gone {
  readonly confirmed: boolean
  readonly code: number | null
  readonly signal: string | null
}

export interface AppServerConnection {
  readonly generation: number
  /** An adopted server was not started by us, is never ended by us, and what it runs does not carry our mark. */
  readonly origin: "spawned" | "adopted"
  /** Null for an adopted one. */
  readonly pid: number | null
  /** The run that it is, where a supervisor holds it; null for a child of ours and for an adopted one. */
  readonly runId: string | null
  /** Of everything that such a run starts; null where that is under our own mark, or there is none. */
  readonly mark: MarkRange | null
  readonly version: string
  /** Retried while the server says that it is overloaded, within the same deadline. */
  readonly request: <A>(
    method: string,
    params: unknown,
    result: Schema.Codec<A, unknown>,
    timeoutMs?: number
  ) => Effect.Effect<A, RequestFailure>
  /** Messages about one thread and its sub-agents' threads, until the scope closes. */
  readonly thread: (
    threadId: string
  ) => Effect.Effect<Queue.Dequeue<Incoming, AppServerLost | BorrowerShed>, never, Scope.Scope>
  /** Poison from a borrower that has evidence; the first reason stands. */
  readonly retire: (reason: PoisonReason) => Effect.Effect<void>
  /** Completes once the connection is of no use, however it went. */
  readonly lost: Effect.Effect<AppServerLost>
  /** Completes once the process has ended, or was given up on; for an adopted one, once its socket is closed. */
  readonly gone: Effect.Effect<Gone>
}

export class AppServerProcess extends Context.Service<
  AppServerProcess,
  {
    /** `key`: what two generations have in common; a run that an earlier gateway left under it is taken over. */
    readonly start: (
      generation: number,
      key: string
    ) => Effect.Effect<AppServerConnection, AppServerUnavailable, Scope.Scope>
  }
>()("holdfast/AppServerProcess") {}
