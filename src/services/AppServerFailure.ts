/**
 * AppServerFailure: every way in which the shared app-server can fail somebody, as one closed union.
 *
 * A failure is either `caller`, which is that borrower's own and nobody else's, or `poison`, which makes the child or its
 * transport useless to everybody. Only poison retires a child. What Codex, its provider and the system say is translated
 * here, once, and a member that is not placed in both tables does not compile.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** Why a child or its transport cannot be used any more. */
export const PoisonReason = Schema.Union([
  Schema.TaggedStruct("exited", { code: Schema.Finite }),
  Schema.TaggedStruct("signalled", { signal: Schema.String }),
  Schema.TaggedStruct("stdio-closed", {}),
  Schema.TaggedStruct("socket-closed", { code: Schema.NullOr(Schema.String) }),
  Schema.TaggedStruct("write-failed", { code: Schema.String }),
  Schema.TaggedStruct("frame-too-large", {}),
  Schema.TaggedStruct("unframeable", { lines: Schema.Int }),
  Schema.TaggedStruct("unknown-responses", { count: Schema.Int }),
  /** State T in /proc: somebody stopped it. */
  Schema.TaggedStruct("stopped", {}),
  Schema.TaggedStruct("probes-missed", { count: Schema.Int, silentMs: Schema.Finite }),
  Schema.TaggedStruct("interrupt-unconfirmed", { threadId: Schema.String, timeoutMs: Schema.Finite }),
  /** A request that makes or loads a thread was sent, and neither it nor a probe was answered. */
  Schema.TaggedStruct("thread-indeterminate", { method: Schema.String, timeoutMs: Schema.Finite })
])
export type PoisonReason = typeof PoisonReason.Type

export const describePoison = (reason: PoisonReason): string => {
  switch (reason._tag) {
    case "exited":
      return `it exited with status ${reason.code}`
    case "signalled":
      return `it died by ${reason.signal}`
    case "stdio-closed":
      return "it closed its output"
    case "socket-closed":
      return `its socket was closed${reason.code === null ? "" : ` (${reason.code})`}`
    case "write-failed":
      return `writing to it failed (${reason.code})`
    case "frame-too-large":
      return "it sent a line over the size limit"
    case "unframeable":
      return `it sent ${reason.lines} lines in a row that are not JSON`
    case "unknown-responses":
      return `it answered ${reason.count} requests that nobody made`
    case "stopped":
      return "it was stopped (SIGSTOP)"
    case "probes-missed":
      return `it left ${reason.count} probes unanswered and was silent for ${Math.round(reason.silentMs / 1000)} s`
    case "interrupt-unconfirmed":
      return `it did not confirm an interrupt within ${reason.timeoutMs / 1000} s`
    case "thread-indeterminate":
      return `it answered neither ${reason.method} within ${reason.timeoutMs / 1000} s nor a probe`
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

/** No child came up. Those who waited for it fail; there was nothing that anybody else could have used. */
export class AppServerUnavailable extends Schema.TaggedError<AppServerUnavailable>()("AppServerUnavailable", {
  stage: Schema.Literals(["locate", "spawn", "connect", "handshake", "version"]),
  problem: Schema.String
}) {
  override get message(): string {
    return `The Codex app-server did not come up: ${this.problem} Look at \`holdfast doctor\`.`
  }
}

/** This waiter's own deadline; the child goes on starting for the others. */
export class LeaseTimeout extends Schema.TaggedError<LeaseTimeout>()("LeaseTimeout", {
  timeoutMs: Schema.Finite
}) {
  override get message(): string {
    return `The app-server was not ready within ${this.timeoutMs} ms. Look at \`holdfast leases\` and try again.`
  }
}

/** The last time that a Date can hold (ECMAScript); beyond it, it throws. */
const lastDate = 8.64e15

/** Too many children were lost or did not come up in a short time, or one would not go. */
export class LeaseCircuitOpen extends Schema.TaggedError<LeaseCircuitOpen>()("LeaseCircuitOpen", {
  faults: Schema.Int,
  /** Epoch milliseconds of the next attempt. */
  until: Schema.Finite,
  /** What the last fault was. */
  problem: Schema.String
}) {
  override get message(): string {
    return `The app-server is not started again before ${new Date(Math.min(this.until, lastDate)).toISOString()}: ${this.problem}. Look at \`holdfast leases\`; when the cause is gone, \`holdfast leases reset\` tries at once.`
  }
}

export class AppServerRejected extends Schema.TaggedError<AppServerRejected>()("AppServerRejected", {
  method: Schema.String,
  code: Schema.Finite,
  detail: Schema.String
}) {
  override get message(): string {
    return `Codex refused ${this.method} and will again until the request is corrected (${this.code}): ${this.detail}`
  }
}

export class AppServerOverloaded extends Schema.TaggedError<AppServerOverloaded>()("AppServerOverloaded", {
  method: Schema.String,
  attempts: Schema.Int
}) {
  override get message(): string {
    return `Codex refused ${this.method} as overloaded ${this.attempts} times. Run the turn again when less is running.`
  }
}

/** It took too long, and the child answered a probe or showed other life meanwhile. */
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
    return `Codex answered ${this.method} in a form we do not know (${this.problem}). Try an older codex if this one is newer than holdfast.`
  }
}

export class ThreadNotFound extends Schema.TaggedError<ThreadNotFound>()("ThreadNotFound", {
  method: Schema.String
}) {
  override get message(): string {
    return `Codex has no such thread (${this.method}). Look at the id, or start a new thread.`
  }
}

export class ThreadWriterConflict extends Schema.TaggedError<ThreadWriterConflict>()("ThreadWriterConflict", {
  method: Schema.String
}) {
  override get message(): string {
    return "Another Codex process has this thread open. Close it there, or go on with a copy (--fork)."
  }
}

/** A borrower that leaves `threadQueueCapacity` messages unread is shed: its queue fails and the others go on. */
export class BorrowerShed extends Schema.TaggedError<BorrowerShed>()("BorrowerShed", {
  threadId: Schema.String,
  unread: Schema.Int
}) {
  override get message(): string {
    return `The run of thread ${this.threadId} fell ${this.unread} messages behind and was dropped. Run the turn again.`
  }
}

export class AuthRejected extends Schema.TaggedError<AuthRejected>()("AuthRejected", {
  /** Null when Codex did not say; 401 and 403 otherwise. */
  httpStatus: Schema.NullOr(Schema.Int)
}) {
  override get message(): string {
    return `The model provider rejected the login${this.httpStatus === null ? "" : ` (HTTP ${this.httpStatus})`}. Log in again, or check the provider's key.`
  }
}

export class ModelNotFound extends Schema.TaggedError<ModelNotFound>()("ModelNotFound", {}) {
  override get message(): string {
    return "The model provider has no such model. Name another with -c model."
  }
}

export class RateLimited extends Schema.TaggedError<RateLimited>()("RateLimited", {
  httpStatus: Schema.NullOr(Schema.Int)
}) {
  override get message(): string {
    return "The model provider's rate or usage limit is reached. Run the turn again later."
  }
}

export class ProviderUnavailable extends Schema.TaggedError<ProviderUnavailable>()("ProviderUnavailable", {
  problem: Schema.Literals(["unreachable", "server-error", "stream-cut", "overloaded", "silent"]),
  httpStatus: Schema.NullOr(Schema.Int)
}) {
  override get message(): string {
    const problem = {
      unreachable: "cannot be reached",
      "server-error": "answered with an error of its own",
      "stream-cut": "broke off its answer",
      overloaded: "is overloaded",
      silent: "did not come back in time"
    }[this.problem]
    return `The model provider ${problem}${this.httpStatus === null ? "" : ` (HTTP ${this.httpStatus})`}. Run the turn again later.`
  }
}

export class TurnFailed extends Schema.TaggedError<TurnFailed>()("TurnFailed", {
  /** Codex's own name for the error, or `unknown`. */
  info: Schema.String,
  /** Codex's own words, redacted and bounded. */
  detail: Schema.String
}) {
  override get message(): string {
    return `The turn failed and will again until its cause is corrected: ${this.detail}`
  }
}

export class TurnCancelled extends Schema.TaggedError<TurnCancelled>()("TurnCancelled", {}) {
  override get message(): string {
    return "The turn was interrupted. Run it again, or go on with its thread."
  }
}

export const AppServerFailure = Schema.Union([
  AppServerLost,
  AppServerUnavailable,
  LeaseTimeout,
  LeaseCircuitOpen,
  AppServerRejected,
  AppServerOverloaded,
  AppServerRequestTimeout,
  AppServerUnexpected,
  ThreadNotFound,
  ThreadWriterConflict,
  BorrowerShed,
  AuthRejected,
  ModelNotFound,
  RateLimited,
  ProviderUnavailable,
  TurnFailed,
  TurnCancelled
])
export type AppServerFailure = typeof AppServerFailure.Type

/** What a request may fail with. */
export type RequestFailure =
  | AppServerLost
  | AppServerRejected
  | AppServerOverloaded
  | AppServerRequestTimeout
  | AppServerUnexpected
  | ThreadNotFound
  | ThreadWriterConflict

export const Severity = Schema.Literals(["caller", "poison"])
export type Severity = typeof Severity.Type

const severities: Readonly<Record<AppServerFailure["_tag"], Severity>> = {
  AppServerLost: "poison",
  AppServerUnavailable: "caller",
  LeaseTimeout: "caller",
  LeaseCircuitOpen: "caller",
  AppServerRejected: "caller",
  AppServerOverloaded: "caller",
  AppServerRequestTimeout: "caller",
  AppServerUnexpected: "caller",
  ThreadNotFound: "caller",
  ThreadWriterConflict: "caller",
  BorrowerShed: "caller",
  AuthRejected: "caller",
  ModelNotFound: "caller",
  RateLimited: "caller",
  ProviderUnavailable: "caller",
  TurnFailed: "caller",
  TurnCancelled: "caller"
}

/** `caller` fails one borrower; `poison` retires the child. */
export const severity = (failure: AppServerFailure): Severity => severities[failure._tag]

/** Whether the same request, sent again unchanged, may work. */
const retryables: Readonly<Record<AppServerFailure["_tag"], boolean>> = {
  AppServerLost: true,
  AppServerUnavailable: false,
  LeaseTimeout: true,
  LeaseCircuitOpen: true,
  AppServerRejected: false,
  AppServerOverloaded: true,
  AppServerRequestTimeout: true,
  AppServerUnexpected: false,
  ThreadNotFound: false,
  ThreadWriterConflict: true,
  BorrowerShed: true,
  AuthRejected: false,
  ModelNotFound: false,
  RateLimited: true,
  ProviderUnavailable: true,
  TurnFailed: false,
  TurnCancelled: false
}

export const isRetryable = (failure: AppServerFailure): boolean => retryables[failure._tag]

/** JSON-RPC code of a server that takes no more requests for now; the request was not accepted. */
export const overloadedCode = -32001

/** What Codex 0.169.0 says of a thread it does not have, and of one that another process writes: both are -32600. */
const saysNotFound = /no rollout found|thread not found|no such thread|unknown thread/i
const saysWriter = /active writer/i

/** What an error answer means; `detail` is redacted and bounded by the caller. */
export const failureOfRejection = (
  method: string,
  code: number,
  detail: string
): AppServerRejected | ThreadNotFound | ThreadWriterConflict =>
  saysWriter.test(detail)
    ? new ThreadWriterConflict({ method })
    : saysNotFound.test(detail)
      ? new ThreadNotFound({ method })
      : new AppServerRejected({ method, code, detail })

/** `codexErrorInfo`: a word, or an object whose only key is the word. */
const ErrorInfo = Schema.Union([
  Schema.String,
  Schema.Record(
    Schema.String,
    Schema.NullOr(Schema.Struct({ httpStatusCode: Schema.optionalKey(Schema.NullOr(Schema.Int)) }))
  )
])
const decodeErrorInfo = Schema.decodeUnknownOption(ErrorInfo)

const infoOf = (codexErrorInfo: unknown): { readonly info: string; readonly httpStatus: number | null } => {
  const decoded = Option.getOrNull(decodeErrorInfo(codexErrorInfo))
  if (decoded === null) return { info: "unknown", httpStatus: null }
  if (typeof decoded === "string") return { info: decoded, httpStatus: null }
  const [info = "unknown", fields] = Object.entries(decoded)[0] ?? []
  return { info, httpStatus: fields?.httpStatusCode ?? null }
}

const connectionInfos: ReadonlySet<string> = new Set([
  "httpConnectionFailed",
  "responseStreamConnectionFailed",
  "responseTooManyFailedAttempts"
])

/**
 * What a failed turn means, by Codex's `codexErrorInfo` (measured on 0.169.0: `{httpConnectionFailed:{httpStatusCode}}`
 * for 401, 403 and 404, `modelNotFound`, `{responseTooManyFailedAttempts:{httpStatusCode}}` for 429,
 * `internalServerError`, and `other` for a stream that broke off).
 */
export const failureOfTurn = (codexErrorInfo: unknown, detail: string): AppServerFailure => {
  const { info, httpStatus } = infoOf(codexErrorInfo)
  if (httpStatus === 401 || httpStatus === 403 || info === "unauthorized")
    return new AuthRejected({ httpStatus })
  if (info === "modelNotFound") return new ModelNotFound({})
  if (httpStatus === 429 || info === "usageLimitExceeded") return new RateLimited({ httpStatus })
  if (info === "serverOverloaded") return new ProviderUnavailable({ problem: "overloaded", httpStatus })
  if (info === "internalServerError" || (httpStatus !== null && httpStatus >= 500))
    return new ProviderUnavailable({ problem: "server-error", httpStatus })
  if (info === "responseStreamDisconnected" || /stream (disconnected|closed)/i.test(detail))
    return new ProviderUnavailable({ problem: "stream-cut", httpStatus })
  // An answer of 4xx came from a provider that was reached, and comes again.
  if (httpStatus === null && connectionInfos.has(info))
    return new ProviderUnavailable({ problem: "unreachable", httpStatus })
  return new TurnFailed({ info, detail })
}
