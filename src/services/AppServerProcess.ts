/**
 * AppServerProcess: one app-server child, up for as long as its scope.
 *
 * Starting means spawned, past its handshake and of a version we know; a connection in hand always answered `initialize`.
 * The child is asked to leave by end of input, then told, then killed. Failures are `caller` (this request only) or
 * `poison` (the connection is of no use to anybody).
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/** Why a child or its transport cannot be used any more. */
export const PoisonReason = Schema.Union([
  Schema.TaggedStruct("exited", { code: Schema.NullOr(Schema.Finite), signal: Schema.NullOr(Schema.String) }),
  Schema.TaggedStruct("stdio-closed", {}),
  Schema.TaggedStruct("write-failed", { code: Schema.String }),
  Schema.TaggedStruct("frame-too-large", {}),
  Schema.TaggedStruct("unframeable", { lines: Schema.Int })
])
export type PoisonReason = typeof PoisonReason.Type

export const describePoison = (reason: PoisonReason): string => {
  switch (reason._tag) {
    case "exited":
      return reason.signal
        ? `it died by ${reason.signal}`
        : `it exited with status ${reason.code ?? "unknown"}`
    case "stdio-closed":
      return "it closed its output"
    case "write-failed":
      return `writing to it failed (${reason.code})`
    case "frame-too-large":
      return "it sent a line over the size limit"
    case "unframeable":
      return `it sent ${reason.lines} lines in a row that are not JSON`
  }
}

export class AppServerUnavailable extends Schema.TaggedError<AppServerUnavailable>()("AppServerUnavailable", {
  stage: Schema.Literals(["locate", "spawn", "handshake", "version"]),
  problem: Schema.String
}) {
  override get message(): string {
    return `The Codex app-server did not come up: ${this.problem}`
  }
}

/** Poison. Every borrower of the generation gets it; borrowing again gives the next one. */
export class AppServerLost extends Schema.TaggedError<AppServerLost>()("AppServerLost", {
  generation: Schema.Int,
  reason: PoisonReason,
  /** The end of its stderr, redacted and bounded. */
  stderrTail: Schema.String
}) {
  override get message(): string {
    return `The shared app-server (generation ${this.generation}) is lost: ${describePoison(this.reason)}. Run the turn again.`
  }
}

export class AppServerRejected extends Schema.TaggedError<AppServerRejected>()("AppServerRejected", {
  method: Schema.String,
  code: Schema.Finite,
  detail: Schema.String
}) {
  override get message(): string {
    return `Codex refused ${this.method} (${this.code}): ${this.detail}`
  }
}

export class AppServerRequestTimeout extends Schema.TaggedError<AppServerRequestTimeout>()(
  "AppServerRequestTimeout",
  { method: Schema.String, timeoutMs: Schema.Finite }
) {
  override get message(): string {
    return `Codex did not answer ${this.method} within ${this.timeoutMs} ms.`
  }
}

/** An answer that is not what this version of the protocol says; the field path is in `problem`, never the data. */
export class AppServerUnexpected extends Schema.TaggedError<AppServerUnexpected>()("AppServerUnexpected", {
  method: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `Codex answered ${this.method} in a form we do not know (${this.problem}). Is this codex newer than holdfast?`
  }
}

export type AppServerFailure =
  AppServerUnavailable | AppServerLost | AppServerRejected | AppServerRequestTimeout | AppServerUnexpected

/** `caller` fails one borrower; `poison` retires the child. A new member does not compile until it is placed. */
export const severity = (failure: AppServerFailure): "caller" | "poison" => {
  switch (failure._tag) {
    case "AppServerLost":
      return "poison"
    case "AppServerUnavailable":
    case "AppServerRejected":
    case "AppServerRequestTimeout":
    case "AppServerUnexpected":
      return "caller"
  }
}

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

export class BorrowerShed extends Schema.TaggedError<BorrowerShed>()("BorrowerShed", {
  threadId: Schema.String
}) {
  override get message(): string {
    return `The run of thread ${this.threadId} fell ${threadQueueCapacity} messages behind and was dropped. Run the turn again.`
  }
}

export interface AppServerConnection {
  readonly generation: number
  readonly pid: number
  readonly version: string
  readonly request: <A>(
    method: string,
    params: unknown,
    result: Schema.Codec<A, unknown>,
    timeoutMs?: number
  ) => Effect.Effect<A, AppServerLost | AppServerRejected | AppServerRequestTimeout | AppServerUnexpected>
  /** Messages about one thread and its sub-agents' threads, until the scope closes. */
  readonly thread: (
    threadId: string
  ) => Effect.Effect<Queue.Dequeue<Incoming, AppServerLost | BorrowerShed>, never, Scope.Scope>
  /** Completes once the connection is of no use, however it went. */
  readonly lost: Effect.Effect<AppServerLost>
}

export class AppServerProcess extends Context.Service<
  AppServerProcess,
  {
    readonly start: (
      generation: number
    ) => Effect.Effect<AppServerConnection, AppServerUnavailable, Scope.Scope>
  }
>()("holdfast/AppServerProcess") {}
