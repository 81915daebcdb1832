/**
 * One supervised child as a resource, on a terminal or on pipes: what it prints, what it is told, and how it truly ended.
 *
 * Nothing is read ahead of whoever pulls `output`, so a child that prints faster than it is read waits in the kernel.
 * Closing the scope kills the leader and its process group; what else it started is the caller's to sweep.
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type { MarkRange } from "../../services/InstanceMark.ts"
import { type ExitStatus, SpawnProblem, type WindowSize } from "../../services/Run.ts"
import type { SyscallTable } from "../../services/Syscalls.ts"

export interface ChildSpec {
  readonly command: string
  readonly args: ReadonlyArray<string>
  /** Absolute. */
  readonly cwd: string
  /** The whole of it: nothing of this process's own environment is added. */
  readonly env: Readonly<Record<string, string>>
  readonly mark: MarkRange | null
  /** The directory of a cgroup of its own, where there is one. */
  readonly cgroup?: string | null
  /** Null: pipes. */
  readonly pty: WindowSize | null
}

/** What a terminal's child needs of the system beyond Node. */
export type ChildCalls = Pick<SyscallTable, "closeOnExec" | "signal">

export interface OutputChunk {
  /** A terminal has one stream only. Two pipes have no order among each other but that in which they were read. */
  readonly from: "terminal" | "stdout" | "stderr"
  readonly bytes: Uint8Array
}

/** What is accepted for a child that does not read: a large paste, not a file. */
export const inputLimitBytes = 1024 * 1024

/** A child that leaves may leave others behind that hold its terminal or pipes: so long their output is still read. */
export const lingerMs = 200

/** A killed child is reaped at once unless the kernel holds it; nobody waits longer. */
export const reapTimeoutMs = 5_000

export class ChildFailed extends Schema.TaggedError<ChildFailed>()("ChildFailed", {
  problem: SpawnProblem,
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

export class InputFull extends Schema.TaggedError<InputFull>()("InputFull", {
  pid: Schema.Int,
  waitingBytes: Schema.Int,
  refusedBytes: Schema.Int
}) {
  override get message(): string {
    return `Process ${this.pid} does not read its input: ${this.waitingBytes} bytes wait already, and ${this.refusedBytes} more would pass the limit of ${inputLimitBytes}. Send them again when it reads, or in smaller pieces.`
  }
}

export class InputClosed extends Schema.TaggedError<InputClosed>()("InputClosed", { pid: Schema.Int }) {
  override get message(): string {
    return `Process ${this.pid} takes no more input: it has left, closed its input, or was told that the input has ended.`
  }
}

export interface RunChild {
  readonly pid: number
  /** Of the leader's identity, read right after the fork; null when it was gone by then, or where there is no /proc. */
  readonly startToken: string | null
  /** The mark it started under; null where there is no prlimit command to set one. */
  readonly mark: MarkRange | null
  /** For one reader at a time; whoever comes later goes on where the one before stopped. Ends with the last byte. */
  readonly output: Stream.Stream<OutputChunk>
  /** Nobody wants the rest: it is read and dropped, so that the child is not held up. */
  readonly abandonOutput: Effect.Effect<void>
  /** Taken as a whole or not at all. */
  readonly write: (bytes: Uint8Array) => Effect.Effect<void, InputFull | InputClosed>
  /** After what was written: ^D on a terminal (which it may ignore), the end of the stream on a pipe. */
  readonly closeInput: Effect.Effect<void>
  /** Does nothing on pipes and after the exit. */
  readonly resize: (size: WindowSize) => Effect.Effect<void>
  /** The leader's own end, whatever became of the output. */
  readonly reaped: Effect.Effect<ExitStatus>
  /** The same, after the last byte of the output was handed over or the output abandoned: so somebody has to pull. */
  readonly exited: Effect.Effect<ExitStatus>
  /** Only while its number is provably its own; `refused` when the system does not allow it. */
  readonly signalLeader: (signal: NodeJS.Signals) => Effect.Effect<"sent" | "gone" | "refused">
}

/** Nobody saw it end: the kernel would not let go of it in time. */
export const unseen: ExitStatus = { code: null, signal: null }
