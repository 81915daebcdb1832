/**
 * A child on pipes, in a session of its own: a Ctrl-C meant for this process does not reach it.
 *
 * Node learns of its end in the step that reaps it, so until then its number is its own.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as childProcess from "node:child_process"
import type { Writable } from "node:stream"
import type { ExitStatus } from "../../services/Run.ts"
import { type ChildCommand, failed } from "./childCommand.ts"
import { type ChildOutput, outputOf, type OutputSource } from "./childOutput.ts"
import { errorCode } from "./errorCode.ts"
import { killGroup } from "./killGroup.ts"
import { sight } from "./procfs.ts"
import {
  type ChildFailed,
  type ChildSpec,
  InputClosed,
  InputFull,
  inputLimitBytes,
  reapTimeoutMs,
  type RunChild,
  unseen
} from "./runChild.ts"

type Process = childProcess.ChildProcessWithoutNullStreams

const nothing = Buffer.alloc(0)

export const launchPipes = Effect.fnUntraced(function* (
  spec: ChildSpec,
  command: ChildCommand
): Effect.fn.Return<RunChild, ChildFailed, Scope.Scope> {
  const reaped = yield* Deferred.make<ExitStatus>()
  const exited = yield* Deferred.make<ExitStatus>()
  const { child, startToken, output } = yield* Effect.acquireRelease(
    spawn(spec, command, (child) =>
      child.once("exit", (code, signal) =>
        Deferred.doneUnsafe(
          reaped,
          Effect.succeed(signal === null ? { code, signal } : { code: null, signal })
        )
      )
    ),
    ({ child, output }) =>
      Effect.gen(function* () {
        yield* output.abandon
        if (isUnreaped(child)) killGroup(child.pid!)
        yield* Effect.timeoutOption(Deferred.await(reaped), reapTimeoutMs)
        for (const pipe of child.stdio) pipe?.destroy()
        yield* Deferred.succeed(reaped, unseen)
        yield* Deferred.succeed(exited, yield* Deferred.await(reaped))
      })
  )
  const pid = child.pid!
  const input = makeInput(pid, child.stdin)
  yield* Effect.forkScoped(
    Effect.gen(function* () {
      const status = yield* Deferred.await(reaped)
      yield* output.finish
      for (const pipe of child.stdio) pipe?.destroy()
      yield* Deferred.succeed(exited, status)
    })
  )
  return {
    pid,
    startToken,
    mark: command.mark,
    output: output.output,
    abandonOutput: output.abandon,
    write: input.write,
    closeInput: input.closeInput,
    resize: () => Effect.void,
    reaped: Deferred.await(reaped),
    exited: Deferred.await(exited),
    signalLeader: (name) =>
      Effect.sync(() => {
        if (!isUnreaped(child)) return "gone"
        return child.kill(name) ? "sent" : "refused"
      })
  }
})

const isUnreaped = (child: Process): boolean => child.exitCode === null && child.signalCode === null

interface Spawned {
  readonly child: Process
  readonly startToken: string | null
  readonly output: ChildOutput
}

const spawn = (
  { cwd, env }: ChildSpec,
  { program, args }: ChildCommand,
  attach: (child: Process) => void
): Effect.Effect<Spawned, ChildFailed> =>
  Effect.callback((resume) => {
    const refuse = (error: unknown) =>
      resume(Effect.fail(refused(program, errorCode(error) ?? "unknown error")))
    try {
      const child = childProcess.spawn(program, [...args], { cwd, env, stdio: "pipe", detached: true })
      child.on("error", refuse)
      // Why there is none is said by the event.
      if (child.pid === undefined) return
      attach(child)
      const seen = sight(child.pid)
      const startToken = seen._tag === "Running" ? seen.startToken : null
      resume(Effect.succeed({ child, startToken, output: listen(child) }))
    } catch (error) {
      refuse(error)
    }
  })

const listen = (child: Process): ChildOutput => {
  const sources: ReadonlyArray<OutputSource> = [
    { from: "stdout", stream: child.stdout, rest: [] },
    { from: "stderr", stream: child.stderr, rest: [] }
  ]
  const output = outputOf(sources)
  for (const source of sources) source.stream.once("close", () => output.ended(source))
  return output
}

const refused = (program: string, code: string): ChildFailed => {
  switch (code) {
    case "EMFILE":
    case "ENFILE":
    case "EAGAIN":
    case "ENOMEM":
      return failed("no-resources", `The system has no descriptors, processes or memory left (${code}).`)
    case "ENOENT":
      return failed("command-not-found", `${program} was there a moment ago and is not any more.`)
    case "EACCES":
      return failed("not-executable", `${program} may not be executed (${code}).`)
    default:
      return failed("failed", `${program} cannot be started (${code}).`)
  }
}

/** One write at a time is under way, so that many small ones are one buffer and its bound is true. */
const makeInput = (pid: number, stdin: Writable): Pick<RunChild, "write" | "closeInput"> => {
  let waiting: Buffer = nothing
  let underWay = 0
  let ending = false

  const push = () => {
    if (underWay > 0) return
    if (waiting.length > 0) {
      const bytes = waiting
      waiting = nothing
      underWay = bytes.length
      stdin.write(bytes, () => {
        underWay = 0
        push()
      })
    } else if (ending) stdin.end()
  }
  // The write that fails of it is told by its own callback; a pipe that broke takes no more.
  stdin.on("error", () => undefined)
  return {
    write: (bytes) =>
      Effect.suspend((): Effect.Effect<void, InputFull | InputClosed> => {
        if (ending || !stdin.writable) return Effect.fail(new InputClosed({ pid }))
        const waitingBytes = waiting.length + underWay
        if (waitingBytes + bytes.length > inputLimitBytes)
          return Effect.fail(new InputFull({ pid, waitingBytes, refusedBytes: bytes.length }))
        waiting = Buffer.concat([waiting, bytes])
        push()
        return Effect.void
      }),
    closeInput: Effect.sync(() => {
      ending = true
      push()
    })
  }
}
