/**
 * ClaudeDriver: Claude Code as a governed run: its hooks lead to a relay of its own from its first moment to its last, and a
 * session whose hooks do not answer is ended.
 *
 * Nothing of the user's is written: the hooks come with `--settings` on the command line, which an agent cannot change any
 * more. The run is one like another: it is in `ps`, can be attached to, and outlives its gateway.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { AuditRow } from "./AuditLog.ts"
import { ClaudeArgumentRefused } from "./ClaudeTerms.ts"
import {
  KeeperUnavailable,
  type RunInfo,
  RunLedgerError,
  RunNameInUse,
  ScopeInUse,
  TooManyRuns
} from "./PtySupervisor.ts"
import { RunName, RunSpec, WindowSize } from "./Run.ts"

export const ClaudeRequest = Schema.Struct({
  /** Claude's own, as the person typed them. */
  args: Schema.Array(Schema.String),
  cwd: RunSpec.fields.cwd,
  name: Schema.NullOr(RunName),
  /** Null: pipes instead of a terminal. */
  pty: Schema.NullOr(WindowSize),
  /** Asked for by the caller by name; shown without their values. */
  env: RunSpec.fields.env,
  spawnedBy: Schema.NullOr(Schema.String)
})
export type ClaudeRequest = typeof ClaudeRequest.Type

export class ClaudeNotFound extends Schema.TaggedError<ClaudeNotFound>()("ClaudeNotFound", {
  looked: Schema.String
}) {
  override get message(): string {
    return `Claude Code was not found (${this.looked}). Install it, or set claude.command in the config file, or HOLDFAST_CLAUDE.`
  }
}

/** There was no way to govern it, so it was not started. */
export class ClaudeUngoverned extends Schema.TaggedError<ClaudeUngoverned>()("ClaudeUngoverned", {
  detail: Schema.String
}) {
  override get message(): string {
    return `Claude Code was not started, because its hooks would not be answered: ${this.detail}`
  }
}

export const ClaudeStartError = Schema.Union([
  ClaudeNotFound,
  ClaudeUngoverned,
  ClaudeArgumentRefused,
  RunNameInUse,
  ScopeInUse,
  TooManyRuns,
  RunLedgerError,
  KeeperUnavailable
])
export type ClaudeStartError = typeof ClaudeStartError.Type

/** A session that is live, or was when its gateway ended. */
export const ClaudeRecord = Schema.Struct({
  /** Null from before its run is known until after. */
  runId: Schema.NullOr(Schema.String),
  relayId: Schema.String,
  generation: Schema.Int,
  spawnedBy: Schema.NullOr(Schema.String),
  /** Epoch milliseconds by which its hooks must have answered; null once they have. */
  canaryBy: Schema.NullOr(Schema.Finite)
})
export type ClaudeRecord = typeof ClaudeRecord.Type

/** The events of which one comes before a session does anything: they prove that its hooks are live. */
const canaryEvents: ReadonlySet<string> = new Set(["session_start", "user_prompt_submit"])

/** A hook of one of them, or of a call, that was decided. */
export const isCanary = ({ source, event, policy }: Pick<AuditRow, "source" | "event" | "policy">): boolean =>
  source === "hook" && policy !== "unanswered" && (canaryEvents.has(event) || event === "pre_tool_use")

/** `by` of a run that is ended because of it: this is what `ps -a` and the caller's terminal say. */
export const noCanary = "holdfast: none of its hooks answered, so nobody would have decided its tool calls"

/** `by` of a run that is ended because of it. */
export const ranUndecided = "holdfast: a tool call was made that nobody had decided, or that was refused"

const Absolute = Schema.String.check(Schema.isStartingWith("/"), Schema.isMaxLength(4_096))
const decodeTranscripts = Schema.decodeUnknownOption(
  Schema.Struct({
    transcript_path: Schema.optionalKey(Absolute),
    agent_id: Schema.optionalKey(Schema.String.check(Schema.isPattern(/^[\w-]{1,64}$/))),
    agent_transcript_path: Schema.optionalKey(Absolute)
  })
)

/** Claude names it at a sub-agent's stop; here is where it lies before. */
const agentTranscript = (own: string | undefined, agent: string | undefined): string | undefined =>
  own === undefined || agent === undefined
    ? undefined
    : `${own.replace(/\.jsonl$/, "")}/subagents/agent-${agent}.jsonl`

/** Where a payload says that the session, or a sub-agent of it, is written down. */
export const transcriptsOf = (raw: unknown): ReadonlyArray<string> =>
  Option.match(decodeTranscripts(raw), {
    onNone: () => [],
    onSome: ({ transcript_path: own, agent_id: agent, agent_transcript_path: told }) =>
      [own, agentTranscript(own, agent), told].filter((file) => file !== undefined)
  })

/** What a session is started with that is to prove its hooks and nothing else: no model is at the discard port. */
export const proofEnvironment: Readonly<Record<string, string>> = {
  ANTHROPIC_BASE_URL: "http://127.0.0.1:9",
  ANTHROPIC_API_KEY: "none",
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
  CLAUDE_CODE_MAX_RETRIES: "0"
}

/** Why a session is not started whose like was not seen to call its hooks. */
export const unproven =
  "none of its hooks answered in a session that could reach no model; an administrator's settings may allow only their own (allowManagedHooksOnly, disableAllHooks)"

export const proofArguments = ["-p", "holdfast guard canary"]

export class ClaudeDriver extends Context.Service<
  ClaudeDriver,
  {
    /** In the ledger and governed; `variables` are given to the process, and kept and shown nowhere. */
    readonly start: (
      request: ClaudeRequest,
      variables: Readonly<Record<string, string>>
    ) => Effect.Effect<RunInfo, ClaudeStartError>
    /** Whether the hooks of a session answer that can reach no model; it is ended either way. */
    readonly prove: (variables: Readonly<Record<string, string>>) => Effect.Effect<boolean, ClaudeStartError>
    /** Sessions under way. */
    readonly live: Effect.Effect<ReadonlyArray<ClaudeRecord>>
  }
>()("holdfast/ClaudeDriver") {}
