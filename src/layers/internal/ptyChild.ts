/**
 * A child on a terminal of its own: node-pty forks it, everything after the fork is done here.
 *
 * Of node-pty only the native fork and resize are used: its own terminal closes the descriptor 200 ms after an exit whatever
 * is unread, spins on a child that does not read, and writes on to the number of a closed descriptor.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import type { ExitStatus, WindowSize } from "../../services/Run.ts"
import { type ChildCommand, failed } from "./childCommand.ts"
import { type ChildOutput, outputOf, type OutputSource } from "./childOutput.ts"
import { errorCode } from "./errorCode.ts"
import { killGroup } from "./killGroup.ts"
import { sight } from "./procfs.ts"
import { makeInput } from "./ptyInput.ts"
import { PtyMaster } from "./ptyMaster.ts"
import { terminalEnded, terminalStarted } from "./startedHere.ts"
import {
  type ChildCalls,
  type ChildFailed,
  type ChildSpec,
  reapTimeoutMs,
  type RunChild,
  unseen
} from "./runChild.ts"

/** What the terminal model of a run understands. */
const terminalName = "xterm-256color"

/** The part of node-pty that its typings leave out, as version 1.2.0-beta.15 has it. */
interface Native {
  readonly fork: (
    file: string,
    args: ReadonlyArray<string>,
    env: ReadonlyArray<string>,
    cwd: string,
    cols: number,
    rows: number,
    uid: number,
    gid: number,
    utf8: boolean,
    helperPath: string,
    onExit: (code: number, signal: number) => void
  ) => { readonly fd: number; readonly pid: number }
  readonly resize: (fd: number, cols: number, rows: number, pixelWidth: number, pixelHeight: number) => void
}

/** The user the process has already. */
const sameUser = -1

interface Forked {
  readonly pid: number
  readonly startToken: string | null
  readonly master: PtyMaster
  readonly output: ChildOutput
  readonly life: { status: ExitStatus | null }
}

export const launchPty = Effect.fnUntraced(function* (
  { cwd, env }: ChildSpec,
  { program, args, mark }: ChildCommand,
  { cols, rows }: WindowSize,
  calls: ChildCalls
): Effect.fn.Return<RunChild, ChildFailed, Scope.Scope> {
  const { fork, resize } = yield* loadNative
  const reaped = yield* Deferred.make<ExitStatus>()
  const exited = yield* Deferred.make<ExitStatus>()
  const variables = Object.entries({ TERM: terminalName, ...env }).map((pair) => pair.join("="))

  const start = (): Forked => {
    const life: Forked["life"] = { status: null }
    let forkedPid = 0
    const onExit = (code: number, signal: number) => {
      life.status = statusOf(code, signal)
      terminalEnded(forkedPid)
      Deferred.doneUnsafe(reaped, Effect.succeed(life.status))
    }
    const { fd, pid } = fork(
      program,
      args,
      variables,
      cwd,
      cols,
      rows,
      sameUser,
      sameUser,
      true,
      spawnHelper(),
      onExit
    )
    // Its end is told in a turn of its own, later than this.
    forkedPid = pid
    terminalStarted(pid)
    try {
      calls.closeOnExec(fd)
      const seen = sight(pid)
      const startToken = seen._tag === "Running" && seen.parent === process.pid ? seen.startToken : null
      const master = new PtyMaster(fd)
      const source: OutputSource = { from: "terminal", stream: master, rest: master.rest }
      const output = outputOf([source])
      master.onEnd = () => output.ended(source)
      return { pid, startToken, master, output, life }
    } catch (error) {
      // Its terminal hangs up, which ends what was only just forked.
      fs.closeSync(fd)
      throw error
    }
  }
  const forked = yield* Effect.acquireRelease(Effect.try({ try: start, catch: noTerminal }), (forked) =>
    Effect.gen(function* () {
      yield* forked.output.abandon
      if (isLeader(forked)) killGroup(forked.pid)
      yield* Effect.timeoutOption(Deferred.await(reaped), reapTimeoutMs)
      forked.master.release()
      yield* Deferred.succeed(reaped, unseen)
      yield* Deferred.succeed(exited, forked.life.status ?? unseen)
    })
  )

  const { pid, startToken, master, output, life } = forked
  const input = yield* makeInput(pid, (bytes) => master.feed(bytes))
  yield* Effect.forkScoped(
    Effect.gen(function* () {
      const status = yield* Deferred.await(reaped)
      input.close()
      yield* output.finish
      master.release()
      yield* Deferred.succeed(exited, status)
    })
  )
  return {
    pid,
    startToken,
    mark,
    output: output.output,
    abandonOutput: output.abandon,
    write: input.write,
    closeInput: input.closeInput,
    resize: (size) =>
      Effect.sync(() => {
        if (life.status === null) master.use((fd) => resize(fd, size.cols, size.rows, 0, 0))
      }),
    reaped: Deferred.await(reaped),
    exited: Deferred.await(exited),
    signalLeader: (name) =>
      Effect.sync(() => {
        const outcome = calls.signal(pid, name, () => isLeader(forked))
        return outcome === "changed" ? "gone" : outcome
      })
  }
})

/** A thread of node-pty reaps it before anybody here is told, so its number alone proves nothing. */
const isLeader = ({ pid, startToken, life }: Forked): boolean => {
  if (life.status !== null) return false
  if (startToken === null) return sight(process.pid)._tag === "Unreadable"
  const now = sight(pid)
  return now._tag === "Running" && now.startToken === startToken && now.parent === process.pid
}

/** node-pty gives code 0 beside a signal. */
const statusOf = (code: number, signal: number): ExitStatus => {
  if (signal === 0) return { code, signal: null }
  const name = Object.entries(os.constants.signals).find(([, number]) => number === signal)?.[0]
  // Real-time signals have no name.
  return { code: null, signal: name ?? `SIG${signal}` }
}

/** Only here, so that a machine without the addon still has its pipes. */
const loadNative = Effect.tryPromise({
  try: () => import("node-pty"),
  catch: (error) => failed("no-pty", `node-pty cannot be loaded (${errorCode(error) ?? "unknown error"}).`)
}).pipe(
  Effect.flatMap((module) => {
    const native = "native" in module ? (module.native as Partial<Native> | null) : null
    return typeof native?.fork === "function" && typeof native.resize === "function"
      ? Effect.succeed(native as Native)
      : Effect.die(
          new Error("this version of node-pty has no native.fork or native.resize: use 1.2.0-beta.15")
        )
  })
)

/** macOS forks by way of a program of node-pty's; Linux does not look at it. */
const spawnHelper = (): string => {
  if (process.platform !== "darwin") return ""
  const root = path.dirname(path.dirname(createRequire(import.meta.url).resolve("node-pty")))
  const found = ["build/Release", `prebuilds/${process.platform}-${process.arch}`]
    .map((place) => path.join(root, place, "spawn-helper"))
    .find((file) => fs.existsSync(file))
  if (found === undefined) throw new Error("node-pty's spawn-helper is missing")
  return found
}

/** node-pty does not say why a fork failed; whether a terminal can be had does. */
const noTerminal = (cause: unknown): ChildFailed => {
  try {
    fs.closeSync(fs.openSync("/dev/ptmx", fs.constants.O_RDWR | fs.constants.O_NOCTTY))
  } catch (error) {
    const code = errorCode(error)
    return code === "EMFILE" || code === "ENFILE" || code === "ENOMEM"
      ? failed("no-resources", `No descriptor or memory is left for another terminal (${code}).`)
      : failed("no-pty", `The system gives no more terminals (${code}).`)
  }
  return failed(
    "no-resources",
    `The system refused another process (${cause instanceof Error ? cause.message : "unknown error"}).`
  )
}
