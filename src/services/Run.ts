/**
 * Run: one supervised command: what is asked for, what becomes of it, and what is proved about what it leaves behind.
 *
 * How it gets from one state to the next is `nextRun` of RunState. Times are milliseconds of the monotonic clock.
 */
import * as Schema from "effect/Schema"

/** How a run is called: what a file name, a shell word and a table column allow. */
export const RunName = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/))

/** Up to a year: what is meant to last longer has no limit at all, which is null. */
const Milliseconds = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 31_536_000_000 }))

export const WindowSize = Schema.Struct({
  cols: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 })),
  rows: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 }))
})
export type WindowSize = typeof WindowSize.Type

export const RestartPolicy = Schema.Literals(["permanent", "transient", "temporary"])

/** execve(2) takes strings that end at the first NUL; one inside would cut the rest off unseen. */
const withoutNul = Schema.makeFilter((text: string) => (text.includes("\0") ? "it holds a NUL" : undefined))
const Word = Schema.String.check(withoutNul)

/** A name with `=` would set another variable than it says. */
const Environment = Schema.Record(Schema.String, Word).check(
  Schema.makeFilter((env) => {
    const bad = Object.keys(env).find((name) => name === "" || name.includes("=") || name.includes("\0"))
    return bad === undefined ? undefined : `no environment variable can be called ${JSON.stringify(bad)}`
  })
)

/** More restarts than this in any period are no supervision any more. */
const maxIntensity = 1_000

/** `r-` and a ULID. */
export const RunId = Schema.String.check(Schema.isPattern(/^r-[0-9A-HJKMNP-TV-Z]{26}$/))

export const RunSpec = Schema.Struct({
  /** The id that it is to have: asked for again, the run that has it is the answer, and no other one is started. */
  id: Schema.optionalKey(RunId),
  command: Word.check(Schema.isNonEmpty()),
  args: Schema.Array(Word),
  cwd: Word.check(Schema.isStartingWith("/")),
  /** Beside what every run gets. */
  env: Environment,
  name: Schema.NullOr(RunName),
  /** At most one live run per key. */
  scope: Schema.NullOr(Schema.NonEmptyString),
  /** Stop the live run of that key first; else a second one is refused. */
  replace: Schema.Boolean,
  /** Null: pipes instead of a terminal. */
  pty: Schema.NullOr(WindowSize),
  /** From the start of an attempt to its end. */
  timeoutMs: Schema.NullOr(Milliseconds),
  /** From the start of an attempt to its first output. Of two limits the one that is reached first counts. */
  startTimeoutMs: Schema.NullOr(Milliseconds),
  /** Without output: a warning at half of it, then the end. */
  idleTimeoutMs: Schema.NullOr(Milliseconds),
  /** Between asking and killing. */
  killGraceMs: Milliseconds,
  onGatewayLoss: Schema.Literals(["adopt", "kill"]),
  /** How long a keeper waits for the next gateway. */
  adoptGraceMs: Milliseconds,
  restart: RestartPolicy,
  /** OTP's: at most so many restarts within any such period; the next one is given up. A restart follows at once. */
  restartLimits: Schema.Struct({
    intensity: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: maxIntensity })),
    periodMs: Milliseconds
  }),
  /** The run that asked for this one; for reports. */
  spawnedBy: Schema.NullOr(Schema.String)
})
export type RunSpec = typeof RunSpec.Type

/** Instead of every value of an environment, wherever a run is written down or shown: some are keys. */
export const maskedValue = "***"

export const withoutValues = (spec: RunSpec): RunSpec => ({
  ...spec,
  env: Object.fromEntries(Object.keys(spec.env).map((name) => [name, maskedValue]))
})

/** What the operator does not say. */
export const runDefaults = {
  env: {},
  name: null,
  scope: null,
  replace: false,
  pty: null,
  timeoutMs: null,
  startTimeoutMs: null,
  idleTimeoutMs: null,
  // An agent that saves its session on SIGTERM takes about a second.
  killGraceMs: 2_000,
  onGatewayLoss: "adopt",
  adoptGraceMs: 30_000,
  restart: "temporary",
  restartLimits: { intensity: 5, periodMs: 60_000 },
  spawnedBy: null
} as const satisfies Omit<RunSpec, "command" | "args" | "cwd">

/** A status as the system gives it; exactly one is not null, except where nobody was there to see it. */
export const ExitStatus = Schema.Struct({
  code: Schema.NullOr(Schema.Int),
  signal: Schema.NullOr(Schema.String)
})
export type ExitStatus = typeof ExitStatus.Type

export const SpawnProblem = Schema.Literals([
  "command-not-found",
  "not-executable",
  "cwd-missing",
  "no-pty",
  "no-resources",
  "failed"
])
export type SpawnProblem = typeof SpawnProblem.Type

export const ExitReason = Schema.Union([
  Schema.TaggedStruct("exited", { code: Schema.Int }),
  Schema.TaggedStruct("signalled", { signal: Schema.String }),
  Schema.TaggedStruct("overall-timeout", { timeoutMs: Schema.Int }),
  Schema.TaggedStruct("startup-timeout", { timeoutMs: Schema.Int }),
  Schema.TaggedStruct("no-output-timeout", { timeoutMs: Schema.Int }),
  Schema.TaggedStruct("stopped", { by: Schema.String }),
  Schema.TaggedStruct("replaced", { by: Schema.String }),
  Schema.TaggedStruct("spawn-error", { problem: SpawnProblem, detail: Schema.String }),
  Schema.TaggedStruct("gateway-lost", {})
])
export type ExitReason = typeof ExitReason.Type

/** Why nobody can say how a run ended. */
export const LossReason = Schema.Literals(["keeper-lost", "both-lost", "never-started", "foreign-boot"])
export type LossReason = typeof LossReason.Type

/** The leader of an attempt. */
export const Leader = Schema.Struct({ pid: Schema.Int, startToken: Schema.String })
export type Leader = typeof Leader.Type

/** What was proved about what a run left behind. */
export const Extinction = Schema.Struct({
  /** Nothing of it is left; false also where nothing was found and somebody may have been missed. */
  proven: Schema.Boolean,
  /** Pids that would not go: another user's, or stuck in the kernel. */
  survivors: Schema.Array(Schema.Int)
})
export type Extinction = typeof Extinction.Type

/** The clock may have stood still: what was awake at `seenAt` has set an alarm for `alarm`. */
interface Watch {
  readonly seenAt: number
  readonly alarm: number | null
}

export interface Attempt extends Watch {
  /** From 1; a restart is the next. */
  readonly attempt: number
  /** When the restarts that still count were made, oldest first. */
  readonly restarts: ReadonlyArray<number>
}

export interface Underway extends Attempt {
  readonly since: number
  readonly lastOutputAt: number | null
  /** Of the silence that lasts. */
  readonly warned: boolean
}

export interface Ending {
  readonly reason: ExitReason
  readonly graceMs: number
  /** Somebody wants it to be over, whatever its policy says. */
  readonly final: boolean
}

/** Where the end of an attempt has got to. */
export type Stage =
  | { readonly _tag: "Asked"; readonly killAt: number }
  | { readonly _tag: "Sweeping" }
  /** Nothing is left, and the leader's status has not come yet: its last output may still be on its way. */
  | { readonly _tag: "AwaitingStatus"; readonly extinction: Extinction; readonly until: number }

/** Why no attempt follows: nobody wants one, its limits are reached, or something of the last one may live. */
export type NoRestart = "not-wanted" | "gave-up" | "uncertain"

export type RunState =
  /** Waits until its scope key is free. */
  | { readonly _tag: "Requested" }
  /** `status`: it exited before it could be named. */
  | ({
      readonly _tag: "Spawning"
      readonly ending: Ending | null
      readonly status: ExitStatus | null
    } & Underway)
  | ({ readonly _tag: "Running"; readonly leader: Leader } & Underway)
  /** Being asked, killed or swept; also after its own end, until nothing of it is left. */
  | ({
      readonly _tag: "Stopping"
      readonly leader: Leader
      readonly reason: ExitReason
      readonly final: boolean
      readonly status: ExitStatus | null
      readonly stage: Stage
    } & Attempt)
  | {
      readonly _tag: "Exited"
      readonly reason: ExitReason
      /** Null: it never existed, or nobody saw it. */
      readonly status: ExitStatus | null
      readonly extinction: Extinction
      readonly attempts: number
      readonly noRestart: NoRestart
    }
  | { readonly _tag: "Lost"; readonly reason: LossReason }

/**
 * `Spawn` is answered by one `Spawned` or `SpawnFailed`, `Sweep` by one `Swept`; an attempt's exit is told once, after its
 * last output, and may come before `Spawned`. `SpawnFailed` says that no process of the attempt exists.
 */
export type RunEvent =
  | { readonly _tag: "Cleared"; readonly at: number }
  | { readonly _tag: "Spawned"; readonly leader: Leader; readonly at: number }
  | {
      readonly _tag: "SpawnFailed"
      readonly problem: SpawnProblem
      readonly detail: string
      readonly at: number
    }
  | { readonly _tag: "Output"; readonly at: number }
  | { readonly _tag: "LeaderExited"; readonly status: ExitStatus; readonly at: number }
  /** Without grace: killed at once. */
  | { readonly _tag: "End"; readonly reason: ExitReason; readonly graceMs: number; readonly at: number }
  /** The alarm that was set for `due`; one that was replaced does no harm. */
  | { readonly _tag: "Alarm"; readonly due: number; readonly at: number }
  | { readonly _tag: "Swept"; readonly extinction: Extinction; readonly at: number }
  | { readonly _tag: "Abandoned"; readonly reason: LossReason }

export type RunAction =
  | { readonly _tag: "Spawn"; readonly attempt: number }
  /** The identity is known: into the ledger. */
  | { readonly _tag: "NoteLeader"; readonly leader: Leader; readonly attempt: number }
  /** HUP, TERM and CONT to whoever belongs to the run. */
  | { readonly _tag: "Ask" }
  /** Freeze, kill and look until nothing is found. */
  | { readonly _tag: "Sweep" }
  /** At most one alarm is set; a new one replaces it. Never in the past, nor further away than `lookEveryMs`. */
  | { readonly _tag: "SetAlarm"; readonly due: number }
  | { readonly _tag: "Warn"; readonly silentMs: number }
  | { readonly _tag: "Finish" }
