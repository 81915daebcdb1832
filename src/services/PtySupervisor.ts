/**
 * PtySupervisor: background runs that cannot be orphaned, on a terminal or on pipes.
 *
 * A run is an actor under the supervisor `runs`. It is in the ledger before its process exists, its output is in the log
 * before anybody reads it, and it is over only when nothing of its tree is left. `spawn` ties a run to a scope; `start`
 * gives it to the supervisor, for whoever asks over a socket.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import {
  ExitReason,
  ExitStatus,
  Extinction,
  Leader,
  LossReason,
  RunSpec,
  type RunState,
  type WindowSize
} from "./Run.ts"
import type { Reconciled, RunEnd, RunRecord } from "./RunLedger.ts"

/** Live and ended runs that are listed; the oldest ended one is forgotten first, with its log. */
export const maxRuns = 2_000

/** What an operator sees of a run. */
export const RunInfo = Schema.Struct({
  /** `r-` and 26 characters of a ULID: sorted by age, and unambiguous from a few characters on. */
  id: Schema.String,
  /** The machine it is on, where that is not this one. */
  node: Schema.optionalKey(Schema.String),
  /** Without the values of its environment. */
  spec: RunSpec,
  state: Schema.Literals(["Requested", "Spawning", "Running", "Stopping", "Exited", "Lost"]),
  leader: Schema.NullOr(Leader),
  attempt: Schema.Int,
  /** Epoch milliseconds. */
  createdAt: Schema.Finite,
  /** Null while it is live; of one that is lost, while something of it may be. */
  endedAt: Schema.NullOr(Schema.Finite),
  reason: Schema.NullOr(ExitReason),
  /** Null too for one of an earlier gateway that was left alone at the start, since nobody can tell what it is. */
  lost: Schema.NullOr(LossReason),
  status: Schema.NullOr(ExitStatus),
  extinction: Schema.NullOr(Extinction),
  /** Silent for half of what would end it. */
  warned: Schema.Boolean
})
export type RunInfo = typeof RunInfo.Type

/** What never changes of a run, or not by its state. */
export type RunKnown = Pick<RunInfo, "id" | "spec" | "createdAt" | "leader" | "endedAt">

export const infoOfState = (known: RunKnown, state: RunState): RunInfo => {
  const nothing = { reason: null, lost: null, status: null, extinction: null, warned: false, attempt: 0 }
  // Whoever is told late of a state is not to learn of the end before its reason.
  const endedAt = state._tag === "Exited" || state._tag === "Lost" ? known.endedAt : null
  const info = { ...known, ...nothing, endedAt, state: state._tag }
  switch (state._tag) {
    case "Requested":
      return info
    case "Spawning":
      return { ...info, leader: null, attempt: state.attempt, warned: state.warned }
    case "Running":
      return { ...info, leader: state.leader, attempt: state.attempt, warned: state.warned }
    case "Stopping": {
      const { leader, attempt, reason, status } = state
      return { ...info, leader, attempt, reason, status }
    }
    case "Exited": {
      const { attempts, reason, status, extinction } = state
      return { ...info, attempt: attempts, reason, status, extinction }
    }
    case "Lost":
      return { ...info, lost: state.reason }
  }
}

/** Of a run that this gateway does not supervise. */
export const infoOfRecord = ({ runId, spec, leader, attempt, createdAt, end }: RunRecord): RunInfo => ({
  id: runId,
  spec,
  state: end === null || end.lost !== null ? "Lost" : "Exited",
  leader,
  attempt,
  createdAt,
  endedAt: end?.endedAt ?? null,
  reason: end?.reason ?? null,
  lost: end?.lost ?? null,
  status: end?.status ?? null,
  extinction: end?.extinction ?? null,
  warned: false
})

export const endOfInfo = ({ reason, lost, status, extinction }: RunInfo, endedAt: number): RunEnd => ({
  endedAt,
  reason,
  lost,
  status,
  extinction
})

/** Nothing that anybody who watches wants to hear of: every output is a new state, and mostly nothing else. */
export const looksTheSame = (a: RunInfo, b: RunInfo): boolean =>
  a.state === b.state &&
  a.attempt === b.attempt &&
  a.warned === b.warned &&
  a.leader?.pid === b.leader?.pid &&
  a.status === b.status

export const newestFirst = (runs: ReadonlyArray<RunInfo>): ReadonlyArray<RunInfo> =>
  runs.toSorted((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? 1 : -1))

/** So many of the runs that a reference may mean are named. */
const namedMost = 5

/** The run that somebody means: its id, a name (of a live run first, else of the newest), or the beginning of one id. */
export const findRun = (
  runs: ReadonlyArray<RunInfo>,
  ref: string
): Result.Result<RunInfo, RunNotFound | RunAmbiguous> => {
  const exact = runs.find(({ id }) => id === ref)
  if (exact !== undefined) return Result.succeed(exact)
  const named = newestFirst(runs.filter(({ spec }) => spec.name === ref))
  const one = named.find(({ endedAt, state }) => endedAt === null && state !== "Lost") ?? named[0]
  if (one !== undefined) return Result.succeed(one)
  const begun = ref === "" ? [] : runs.filter(({ id }) => id.toLowerCase().startsWith(ref.toLowerCase()))
  if (begun.length > 1)
    return Result.fail(
      new RunAmbiguous({
        ref,
        matches: newestFirst(begun)
          .slice(0, namedMost)
          .map(({ id }) => id)
      })
    )
  return begun[0] === undefined ? Result.fail(new RunNotFound({ ref })) : Result.succeed(begun[0])
}

/** What `wait` and a foreground `run` exit with: the run's own status, 128 + signal, 124 for a deadline. */
export const exitCodeOf = ({ reason, status }: Pick<RunInfo, "reason" | "status">): number => {
  if (reason !== null && reason._tag.endsWith("timeout")) return 124
  if (reason?._tag === "spawn-error")
    return reason.problem === "command-not-found" ? 127 : reason.problem === "not-executable" ? 126 : 1
  if (status?.code !== undefined && status.code !== null) return status.code
  const number = status?.signal === undefined || status.signal === null ? 0 : signalNumber(status.signal)
  return number > 0 ? 128 + number : 1
}

/** signal(7) of Linux and macOS, where they agree, by name; real-time ones as node-pty names them. */
const signalNumbers: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15
}

const signalNumber = (name: string): number =>
  signalNumbers[name] ?? Number(/^SIG(\d+)$/.exec(name)?.[1] ?? 0)

export class RunNotFound extends Schema.TaggedError<RunNotFound>()("RunNotFound", { ref: Schema.String }) {
  override get message(): string {
    return `There is no run ${JSON.stringify(this.ref.slice(0, 80))}. Look at \`holdfast ps -a\`.`
  }
}

export class RunAmbiguous extends Schema.TaggedError<RunAmbiguous>()("RunAmbiguous", {
  ref: Schema.String,
  matches: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `${JSON.stringify(this.ref.slice(0, 80))} may be any of ${this.matches.join(", ")}. Give more of the id, or the name.`
  }
}

export class RunNameInUse extends Schema.TaggedError<RunNameInUse>()("RunNameInUse", {
  name: Schema.String,
  runId: Schema.String
}) {
  override get message(): string {
    return `The name ${this.name} belongs to the live run ${this.runId}. Choose another, or stop that run.`
  }
}

export class ScopeInUse extends Schema.TaggedError<ScopeInUse>()("ScopeInUse", {
  scope: Schema.String,
  runId: Schema.String
}) {
  override get message(): string {
    return `The scope ${JSON.stringify(this.scope.slice(0, 80))} has the live run ${this.runId}. Stop it, or start this one with --replace.`
  }
}

export class RunStillLive extends Schema.TaggedError<RunStillLive>()("RunStillLive", {
  runId: Schema.String
}) {
  override get message(): string {
    return `The run ${this.runId} is still live. Stop it first.`
  }
}

export class TooManyRuns extends Schema.TaggedError<TooManyRuns>()("TooManyRuns", {}) {
  override get message(): string {
    return `${maxRuns} runs are live already. Stop what is not needed; \`holdfast ps\` shows them.`
  }
}

/** The ledger could not be written, so nothing was started: a process that no record can find must not exist. */
export class RunLedgerError extends Schema.TaggedError<RunLedgerError>()("RunLedgerError", {
  cause: Schema.Defect()
}) {
  override get message(): string {
    return "The ledger of runs cannot be read or written. Check the state directory's owner and free space."
  }
}

export class RunInputRefused extends Schema.TaggedError<RunInputRefused>()("RunInputRefused", {
  runId: Schema.String,
  problem: Schema.Literals(["not-running", "full", "closed"])
}) {
  override get message(): string {
    const problem = {
      "not-running": "has no process",
      full: "does not read its input, and as much as is kept for it waits already",
      closed: "takes no more input"
    }[this.problem]
    return `The run ${this.runId} ${problem}.`
  }
}

/** Of the layer that asks a keeper; the one in process has none to miss. */
export class KeeperUnavailable extends Schema.TaggedError<KeeperUnavailable>()("KeeperUnavailable", {
  problem: Schema.Literals(["not-started", "lost", "unresponsive", "gave-up", "closing"]),
  detail: Schema.String
}) {
  override get message(): string {
    const problem = {
      "not-started": "could not be started",
      lost: "was lost while it was asked; its runs are being ended, and another is started",
      unresponsive: "does not answer",
      "gave-up": "was lost too often of late, so none is started for now",
      closing: "is ending, with its gateway"
    }[this.problem]
    return `The keeper, which holds the runs, ${problem}.${this.detail === "" ? "" : ` ${this.detail}`}`
  }
}

export type StartFailure = RunNameInUse | ScopeInUse | TooManyRuns | RunLedgerError | KeeperUnavailable

/** Why a run is ended from outside. */
export interface EndRequest {
  /** Who wants it; `gateway-lost` is the keeper's own reason. */
  readonly by: string
  /** Null: the run's own. */
  readonly graceMs: number | null
}

/** The `by` of a run that ends because its gateway did; its reason is `gateway-lost` then. */
export const lostGateway = "gateway-lost"

/** Variables over what every run gets and its spec says: given to the process, and kept and shown nowhere. */
export type RunVariables = Readonly<Record<string, string>>

export class PtySupervisor extends Context.Service<
  PtySupervisor,
  {
    /**
     * Known and in the ledger; its process may still be on its way, as the run it replaces may be on its way out. Ends by
     * itself, by `end`, or with the supervisor. One that replaces a run of which something would not end never begins: it
     * is over with a spawn error that names the processes.
     */
    readonly start: (spec: RunSpec, variables?: RunVariables) => Effect.Effect<RunInfo, StartFailure>
    /** The same, and it ends with the scope: asked, killed and swept before the scope is closed. */
    readonly spawn: (
      spec: RunSpec,
      variables?: RunVariables
    ) => Effect.Effect<RunInfo, StartFailure, Scope.Scope>
    /** What the start found of earlier epochs' runs and did about it. */
    readonly reconciled: ReadonlyArray<Reconciled>
    /** Newest first. */
    readonly list: Effect.Effect<ReadonlyArray<RunInfo>, KeeperUnavailable>
    /** By id, by unambiguous beginning of an id, or by name: of a live run first, else of the newest. */
    readonly find: (ref: string) => Effect.Effect<RunInfo, RunNotFound | RunAmbiguous | KeeperUnavailable>
    /** The run as it is and as it changes; ends when it is over. */
    readonly watch: (runId: string) => Stream.Stream<RunInfo, RunNotFound | KeeperUnavailable>
    /** Returns when it is over and nothing is left, or what is left is named; at once when it was over already. */
    readonly end: (runId: string, how: EndRequest) => Effect.Effect<RunInfo, RunNotFound | KeeperUnavailable>
    /** Taken as a whole or not at all; fails when it has no process that reads. */
    readonly write: (
      runId: string,
      bytes: Uint8Array
    ) => Effect.Effect<void, RunNotFound | RunInputRefused | KeeperUnavailable>
    readonly closeInput: (
      runId: string
    ) => Effect.Effect<void, RunNotFound | RunInputRefused | KeeperUnavailable>
    readonly resize: (runId: string, size: WindowSize) => Effect.Effect<void, RunNotFound | KeeperUnavailable>
    /** Forgets an ended run and its log. */
    readonly remove: (
      runId: string
    ) => Effect.Effect<void, RunNotFound | RunStillLive | RunLedgerError | KeeperUnavailable>
  }
>()("holdfast/PtySupervisor") {}
