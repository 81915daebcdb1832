/**
 * RunControl: what the command line asks about runs, beside Control and on the same socket.
 *
 * A run that is started here belongs to nobody: its caller may leave. Whoever attaches shares its terminal with others; at
 * most one of them at a time is its writer, whose window the terminal's size follows.
 */
import * as Schema from "effect/Schema"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import { ActiveTurn } from "./AgentDriver.ts"
import { ClaudeRequest, ClaudeStartError } from "./ClaudeDriver.ts"
import { NodeAway } from "./NodeAway.ts"
import {
  KeeperUnavailable,
  RunAmbiguous,
  RunInfo,
  RunInputRefused,
  RunLedgerError,
  RunNameInUse,
  RunNotFound,
  RunStillLive,
  ScopeInUse,
  TooManyRuns
} from "./PtySupervisor.ts"
import { RunSpec, WindowSize } from "./Run.ts"
import {
  LogChunk,
  LogPosition,
  LogReaderSlow,
  ResizeMark,
  RunLogMissing,
  RunLogRefused,
  RunLogUnavailable,
  RunLogUnreadable
} from "./RunLog.ts"
import { ScreenBroken, ScreenSnapshot, UnknownKey } from "./Screen.ts"

/** The largest piece of bytes in one message, either way. */
export const pieceBytes = 64 * 1024

/** Bytes as the lines of the socket carry them. */
const Bytes = Schema.Uint8ArrayFromBase64

export const Output = Schema.TaggedStruct("output", {
  cursor: LogChunk.fields.cursor,
  bytes: Bytes,
  missing: LogChunk.fields.missing
})
export type Output = typeof Output.Type

const { bytes: _bytes, ...screenFields } = ScreenSnapshot.fields

export const AttachEvent = Schema.Union([
  Schema.TaggedStruct("attached", {
    /** Names this caller among all who are attached, for as long as the stream. */
    attachment: Schema.Int,
    writer: Schema.Boolean,
    run: RunInfo
  }),
  /** The screen as it is; what draws it follows in pieces, then the output from its cursor on. */
  Schema.TaggedStruct("screen", screenFields),
  Schema.TaggedStruct("draw", { bytes: Bytes }),
  Output,
  ResizeMark
])
export type AttachEvent = typeof AttachEvent.Type

export const RunList = Schema.Struct({
  /** Newest first. */
  runs: Schema.Array(
    Schema.Struct({
      /** As much of the id as names it alone among all that are kept. */
      short: Schema.String,
      run: RunInfo
    })
  ),
  /** Nodes that were not there to be asked. */
  away: Schema.optionalKey(Schema.Array(Schema.String)),
  /** Governed turns that are under way. */
  turns: Schema.Array(ActiveTurn),
  /** Epoch milliseconds of the gateway's clock. */
  now: Schema.Finite
})
export type RunList = typeof RunList.Type

/** What is typed into a run; keys and pastes are encoded as its terminal wants them at that moment. */
export const Typed = Schema.Union([
  Schema.TaggedStruct("text", { text: Schema.String }),
  Schema.TaggedStruct("paste", { text: Schema.String }),
  Schema.TaggedStruct("keys", { keys: Schema.Array(Schema.String) })
])
export type Typed = typeof Typed.Type

/** It has no screen to show, and no keys. */
export class RunHasNoTerminal extends Schema.TaggedError<RunHasNoTerminal>()("RunHasNoTerminal", {
  runId: Schema.String
}) {
  override get message(): string {
    return `The run ${this.runId} has pipes and no terminal to attach to. Use \`holdfast logs -f\` and \`holdfast send\`.`
  }
}

export class RunIsOver extends Schema.TaggedError<RunIsOver>()("RunIsOver", {
  runId: Schema.String
}) {
  override get message(): string {
    return `The run ${this.runId} is over, so there is nothing to attach to. \`holdfast logs ${this.runId}\` shows what it printed.`
  }
}

/** Somebody else is, or this caller was and is no more. */
export class NotTheWriter extends Schema.TaggedError<NotTheWriter>()("NotTheWriter", {
  runId: Schema.String
}) {
  override get message(): string {
    return `Another terminal is the writer of the run ${this.runId} now.`
  }
}

const LogErrors = [RunLogRefused, RunLogMissing, RunLogUnreadable, LogReaderSlow, RunLogUnavailable] as const
const Missing = [RunNotFound, KeeperUnavailable, NodeAway] as const
const InputErrors = [...Missing, RunInputRefused] as const

/** Past a terminal's own line and a pipe's buffer nobody reads that fast. */
const Piece = Bytes.check(
  Schema.makeFilter((bytes) =>
    bytes.length <= pieceBytes ? undefined : `more than ${pieceBytes} bytes at once`
  )
)

const RunId = { runId: Schema.String }

export const RunControl = RpcGroup.make(
  Rpc.make("StartRun", {
    payload: {
      spec: RunSpec,
      /** The name of the machine to start it on; this one where there is none. */
      node: Schema.optionalKey(Schema.NullOr(Schema.String)),
      /** In the home directory of whoever runs the gateway there, instead of the spec's. */
      home: Schema.optionalKey(Schema.Boolean),
      /** From the caller's shell; given to the process, and kept and shown nowhere. */
      variables: Schema.Record(Schema.String, Schema.String)
    },
    success: RunInfo,
    error: Schema.Union([RunNameInUse, ScopeInUse, TooManyRuns, RunLedgerError, KeeperUnavailable, NodeAway])
  }),
  /** As a governed run; what it prints and how it ends is followed like any other's. */
  Rpc.make("StartClaude", {
    payload: { request: ClaudeRequest, variables: Schema.Record(Schema.String, Schema.String) },
    success: RunInfo,
    error: ClaudeStartError
  }),
  /** Starts one that can reach no model, and ends it: whether its hooks answered. */
  Rpc.make("ProveClaude", {
    payload: { variables: Schema.Record(Schema.String, Schema.String) },
    success: Schema.Struct({ proven: Schema.Boolean }),
    error: ClaudeStartError
  }),
  Rpc.make("ListRuns", {
    payload: { ended: Schema.Boolean },
    success: RunList,
    error: KeeperUnavailable
  }),
  Rpc.make("FindRun", {
    payload: { ref: Schema.String },
    success: RunInfo,
    error: Schema.Union([...Missing, RunAmbiguous])
  }),
  Rpc.make("WatchRun", {
    payload: RunId,
    success: RunInfo,
    error: Schema.Union(Missing),
    stream: true
  }),
  /** Answers when it is over and nothing is left, or what is left is named. */
  Rpc.make("EndRun", {
    payload: { ...RunId, graceMs: Schema.NullOr(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))) },
    success: RunInfo,
    error: Schema.Union(Missing)
  }),
  Rpc.make("RemoveRun", {
    payload: RunId,
    error: Schema.Union([...Missing, RunStillLive, RunLedgerError])
  }),
  /** Taken as a whole or not at all. With an attachment only while that is the writer. */
  Rpc.make("WriteRun", {
    payload: { ...RunId, bytes: Piece, attachment: Schema.NullOr(Schema.Int) },
    error: Schema.Union([...InputErrors, NotTheWriter])
  }),
  Rpc.make("TypeRun", {
    payload: { ...RunId, typed: Schema.Array(Typed) },
    error: Schema.Union([...InputErrors, ...LogErrors, ScreenBroken, UnknownKey, RunHasNoTerminal])
  }),
  Rpc.make("CloseRunInput", { payload: RunId, error: Schema.Union(InputErrors) }),
  Rpc.make("ResizeRun", {
    payload: { ...RunId, size: WindowSize, attachment: Schema.Int },
    error: Schema.Union([...Missing, NotTheWriter])
  }),
  Rpc.make("ReadRun", {
    payload: { ...RunId, from: LogPosition, follow: Schema.Boolean },
    success: Output,
    error: Schema.Union([...Missing, ...LogErrors]),
    stream: true
  }),
  /** Ends with the run's output. From a cursor on, where one is given; else the screen first. */
  Rpc.make("AttachRun", {
    payload: {
      ...RunId,
      readOnly: Schema.Boolean,
      /** The caller's window, which the terminal takes when the caller is the writer. */
      size: Schema.NullOr(WindowSize),
      cursor: Schema.NullOr(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)))
    },
    success: AttachEvent,
    error: Schema.Union([...Missing, ...LogErrors, ScreenBroken, RunHasNoTerminal, RunIsOver]),
    stream: true
  })
)

/** Of an id: `r-`, the ten characters of its time, and two of its sixteen random ones. */
const shortLength = 14

/** The shortest beginning from `shortLength` on that no other of them has, per id. */
export const shortIds = (ids: ReadonlyArray<string>): ReadonlyMap<string, string> => {
  const sorted = ids.toSorted()
  return new Map(
    sorted.map((id, index) => {
      const needed = Math.max(
        ...[sorted[index - 1], sorted[index + 1]].map((other) =>
          other === undefined ? 0 : commonLength(id, other) + 1
        )
      )
      return [id, id.slice(0, Math.max(shortLength, needed))]
    })
  )
}

const commonLength = (a: string, b: string): number => {
  let at = 0
  while (at < a.length && a[at] === b[at]) at++
  return at
}

/** Nothing more comes of it. */
export const isOver = ({ state }: Pick<RunInfo, "state">): boolean => state === "Exited" || state === "Lost"
