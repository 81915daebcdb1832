/**
 * AgentDriver: one way to run an agent's turn under governance, and what it emits while it runs.
 *
 * The run owns its relay, its borrow of the app-server and whatever the turn starts; all of it ends with the stream.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import { AppServerFailure, AppServerLost } from "./AppServerFailure.ts"
import { AuditRow } from "./AuditLog.ts"
import { ConfigKeyRefused } from "./CodexGovernance.ts"

/** Which thread the turn belongs to: a new one, one that goes on, or a copy of one. */
export const ThreadChoice = Schema.Union([
  Schema.TaggedStruct("start", {}),
  Schema.TaggedStruct("resume", { threadId: Schema.NonEmptyString }),
  Schema.TaggedStruct("fork", { threadId: Schema.NonEmptyString })
])
export type ThreadChoice = typeof ThreadChoice.Type

export const RunRequest = Schema.Struct({
  prompt: Schema.NonEmptyString,
  cwd: Schema.NonEmptyString,
  /** `KEY=VALUE` overrides of Codex's configuration, for this thread only. */
  overrides: Schema.Array(Schema.String),
  thread: ThreadChoice,
  /** The run that asked for this one, a helper's parent. Shown and seen by policies; the child is shared all the same. */
  spawnedBy: Schema.NullOr(Schema.String),
  /**
   * What follows when the app-server is lost in the turn: fail it, or go on once on the next generation. Going on never
   * repeats a call that was already decided.
   */
  onLost: Schema.Literals(["fail", "resume"]),
  /** How long to wait for the app-server; null = `lease.handshakeTimeoutMs`. */
  startTimeoutMs: Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3_600_000 })))
})
export type RunRequest = typeof RunRequest.Type

export const AgentEvent = Schema.Union([
  /** The thread is governed: every hook of ours is installed, trusted and unchanged. */
  Schema.TaggedStruct("governed", {
    runId: Schema.String,
    spawnedBy: Schema.NullOr(Schema.String),
    threadId: Schema.String,
    relayId: Schema.String,
    generation: Schema.Int,
    model: Schema.NullOr(Schema.String),
    hooks: Schema.Int,
    /** The turn goes on without its gateway, and the next one has it: `attach`. */
    outlives: Schema.Boolean
  }),
  Schema.TaggedStruct("message", { threadId: Schema.String, itemId: Schema.String, text: Schema.String }),
  Schema.TaggedStruct("command", {
    threadId: Schema.String,
    itemId: Schema.String,
    command: Schema.String,
    status: Schema.String,
    exitCode: Schema.NullOr(Schema.Finite),
    output: Schema.String
  }),
  Schema.TaggedStruct("patch", {
    threadId: Schema.String,
    itemId: Schema.String,
    paths: Schema.Array(Schema.String),
    status: Schema.String
  }),
  /** One row of the audit log, as it falls. */
  Schema.TaggedStruct("verdict", { row: AuditRow }),
  /** What Codex measured of one hook, process start included. */
  Schema.TaggedStruct("hook", {
    event: Schema.String,
    callId: Schema.String,
    status: Schema.String,
    durationMs: Schema.Finite
  }),
  Schema.TaggedStruct("notice", { text: Schema.String }),
  /** The app-server was lost and the turn goes on at the next generation. */
  Schema.TaggedStruct("resumed", {
    generation: Schema.Int,
    lost: AppServerLost,
    /** Calls that had been decided and whose end was not seen; none of them is run again. */
    inDoubt: Schema.Int
  }),
  Schema.TaggedStruct("ended", {
    status: Schema.String,
    problem: Schema.NullOr(Schema.String),
    /** Why the turn failed or was cut short; null when it completed. */
    failure: Schema.NullOr(AppServerFailure)
  })
])
export type AgentEvent = typeof AgentEvent.Type

/** Output of a command shown to a reader; the whole is in Codex's own record of the thread. */
export const maxShownOutput = 4000

/** Our hooks are not in force on the thread, so no turn was started. */
export class HooksUnverified extends Schema.TaggedError<HooksUnverified>()("HooksUnverified", {
  threadId: Schema.String,
  problems: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `No turn was started: the hooks of thread ${this.threadId} are not in force (${this.problems.join("; ")}). Does this machine's codex requirements file forbid session hooks?`
  }
}

/** Codex opened the thread on other terms than it was asked to, so no turn was started. */
export class ThreadUnverified extends Schema.TaggedError<ThreadUnverified>()("ThreadUnverified", {
  threadId: Schema.String,
  problems: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `No turn was started: thread ${this.threadId} does not run as it was asked to (${this.problems.join("; ")}). Does another client use it? Wait for that one, or go on with a copy (--fork).`
  }
}

/** Codex let a hook fail, which it treats like a missing one; the turn was interrupted. */
export class HookIncident extends Schema.TaggedError<HookIncident>()("HookIncident", {
  callId: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `The turn was interrupted: the hook of call ${this.callId} failed (${this.detail}). Run \`holdfast doctor\`.`
  }
}

export class TurnTimeout extends Schema.TaggedError<TurnTimeout>()("TurnTimeout", {
  timeoutMs: Schema.Finite
}) {
  override get message(): string {
    return `The turn took longer than ${Math.round(this.timeoutMs / 1000)} s and was interrupted. Raise turn.timeoutSeconds for longer ones.`
  }
}

export class ThreadInUse extends Schema.TaggedError<ThreadInUse>()("ThreadInUse", {
  threadId: Schema.String
}) {
  override get message(): string {
    return `The thread ${this.threadId} belongs to another run now. Wait for that run, or use --fork.`
  }
}

export class WorkingDirectoryUnusable extends Schema.TaggedError<WorkingDirectoryUnusable>()(
  "WorkingDirectoryUnusable",
  { path: Schema.String }
) {
  override get message(): string {
    return `The working directory ${this.path} is not a directory that exists. Run the turn in one that does.`
  }
}

/** A part below the run failed; `detail` is that part's own message, which says what to do. */
export class RunFailed extends Schema.TaggedError<RunFailed>()("RunFailed", {
  stage: Schema.Literals(["relay", "app-server", "thread", "turn", "record"]),
  detail: Schema.String,
  /** The app-server's failure, where it is one. */
  failure: Schema.NullOr(AppServerFailure),
  /** Nothing of the turn's own doing is wrong; the same request may work now. */
  retryable: Schema.Boolean
}) {
  override get message(): string {
    return this.detail
  }
}

/** `--parent` names no run of this gateway. */
export class ParentNotFound extends Schema.TaggedError<ParentNotFound>()("ParentNotFound", {
  runId: Schema.String
}) {
  override get message(): string {
    return `No run ${this.runId} is active on this gateway, so it cannot be a parent. Look at \`holdfast leases\`.`
  }
}

/** Nothing is kept of that run for whoever comes back to it. */
export class TurnNotFound extends Schema.TaggedError<TurnNotFound>()("TurnNotFound", {
  runId: Schema.String
}) {
  override get message(): string {
    return `No turn of the run ${this.runId} is here to come back to: it ended, was interrupted because nobody came in time, or its gateway could not leave it to this one. Its thread can go on with --resume.`
  }
}

export const AgentRunError = Schema.Union([
  ConfigKeyRefused,
  HooksUnverified,
  ThreadUnverified,
  HookIncident,
  TurnTimeout,
  ParentNotFound,
  TurnNotFound,
  RunFailed
])
export type AgentRunError = typeof AgentRunError.Type

/** So long a turn that an earlier gateway left waits for its caller, who tries for 30 s to come back. */
export const attachGraceMs = 35_000
/** Events of such a turn that are kept for him. */
export const maxReplayed = 1024

/** What of an event says whether somebody has seen it already; null for one that is said anew each time. */
export const eventKey = (event: AgentEvent): string | null => {
  switch (event._tag) {
    case "governed":
      return event._tag
    case "verdict":
      return `verdict ${event.row.seq}`
    case "message":
    case "command":
    case "patch":
      return `${event._tag} ${event.threadId} ${event.itemId}`
    default:
      return null
  }
}
/** A turn that is under way, as a list of what runs shows it. */
export const ActiveTurn = Schema.Struct({
  runId: Schema.String,
  spawnedBy: Schema.NullOr(Schema.String),
  cwd: Schema.String,
  /** Its beginning. */
  prompt: Schema.String,
  /** Epoch milliseconds. */
  startedAt: Schema.Finite
})
export type ActiveTurn = typeof ActiveTurn.Type

/** As much of a prompt as a list shows of it at most. */
export const maxListedPrompt = 200

export class AgentDriver extends Context.Service<
  AgentDriver,
  {
    readonly run: (request: RunRequest) => Stream.Stream<AgentEvent, AgentRunError>
    /**
     * A turn that an earlier gateway left, from its beginning as far as that is known, and on to its end: what was seen
     * before comes again, with the same `eventKey`. It ends with its last reader, as a run does.
     */
    readonly attach: (runId: string) => Stream.Stream<AgentEvent, AgentRunError>
    readonly active: Effect.Effect<ReadonlyArray<ActiveTurn>>
  }
>()("holdfast/AgentDriver") {}
