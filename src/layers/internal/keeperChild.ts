/**
 * A keeper as a process: started under its own range of marks by the exec itself, in a session of its own, with nothing of
 * its gateway but a line of its standard output.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { underMark } from "../../services/InstanceMark.ts"
import { birthArguments, type KeeperBirthShape, keeperVariable } from "../../services/Keeper.ts"
import { KeeperUnavailable } from "../../services/PtySupervisor.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { errorCode } from "./errorCode.ts"
import { passed } from "./passedVariables.ts"
import { findScope, inScope, type ScopeFound } from "./systemdScope.ts"

/** From the fork to the ready line: 0.2 s on a quiet machine. */
const readyTimeoutMs = 20_000
/** The same by way of systemd, which gives a scope within 10 ms or is not waited for. */
const scopedTimeoutMs = 10_000
/** What a keeper's log may have when the next one starts; then it begins again, and the last one is kept beside it. */
const maxLogBytes = 1024 * 1024
/**
 * A keeper makes little garbage, a little at a time, and lives for weeks; V8 would let the young part of its heap grow to 16
 * times this before it looks. With a hundred runs this is 11 MB less, and they start as fast. In MB.
 */
const maxYoungMb = 1
/**
 * node-pty waits for each child in a thread of its own, and glibc would give those up to eight heaps a processor, none of
 * which it ever gives back.
 */
const maxArenas = 1
/** More than any ready line. */
const maxLineBytes = 4_096

const ReadyLine = Schema.fromJsonString(Schema.Struct({ ready: Schema.Literal(true), pid: Schema.Int }))

type Scoped = Extract<ScopeFound, { readonly _tag: "Available" }>

const notStarted = (detail: string) => new KeeperUnavailable({ problem: "not-started", detail })

const openLog = (file: string): number => {
  const size = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0
  if (size > maxLogBytes) fs.renameSync(file, `${file}.old`)
  return fs.openSync(
    file,
    fs.constants.O_WRONLY | fs.constants.O_APPEND | fs.constants.O_CREAT | fs.constants.O_NOFOLLOW,
    0o600
  )
}

const keeperLogOf = ({ state }: SettingsShape["paths"]): string => path.join(state, "keeper.log")

/**
 * Up to its ready line. When that does not come the child is killed, which is ours and unreaped, and it has held nothing; it
 * is not ended with the scope otherwise.
 */
export const startKeeper = Effect.fnUntraced(function* (
  birth: KeeperBirthShape,
  { paths, environment, hook, logLevel }: SettingsShape
): Effect.fn.Return<{ readonly pid: number; readonly marked: boolean }, KeeperUnavailable, Scope.Scope> {
  const log = keeperLogOf(paths)
  const stderr = yield* Effect.acquireRelease(
    Effect.try({
      try: () => openLog(log),
      catch: (error) =>
        notStarted(`Its log ${log} cannot be opened (${errorCode(error) ?? "unknown error"}).`)
    }),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
  const env = {
    // Of its own; what its runs get comes with each of them. Where Node keeps compiled code it starts in four fifths of the time.
    ...passed(environment, ["NODE_COMPILE_CACHE"]),
    HOLDFAST_LOG_LEVEL: logLevel,
    MALLOC_ARENA_MAX: String(maxArenas),
    [keeperVariable]: birth.keeperId
  }
  const program = path.join(hook.clientDirectory, "keeper.mjs")

  const attempt = (mark: KeeperBirthShape["mark"], scope: Scoped | null) =>
    Effect.gen(function* () {
      const args = [
        "--no-warnings",
        `--max-semi-space-size=${maxYoungMb}`,
        program,
        ...birthArguments({ ...birth, mark })
      ]
      const plain = { program: process.execPath, args }
      const inner = scope === null ? plain : inScope(scope, `holdfast-keeper-${birth.keeperId}`, plain)
      const command = underMark(mark, inner.program, inner.args)
      const child = yield* Effect.acquireRelease(
        Effect.callback<childProcess.ChildProcess, string>((resume) => {
          const child = childProcess.spawn(command.program, command.args, {
            cwd: "/",
            env: scope === null ? env : { ...env, XDG_RUNTIME_DIR: scope.runtime },
            detached: true,
            stdio: ["ignore", "pipe", stderr]
          })
          child.once("spawn", () => resume(Effect.succeed(child)))
          child.once("error", (error) => resume(Effect.fail(errorCode(error) ?? "unknown error")))
        }),
        (child) =>
          Effect.sync(() => {
            child.stdout?.destroy()
            child.unref()
          })
      )
      yield* readyLine(child, scope === null ? readyTimeoutMs : scopedTimeoutMs).pipe(
        Effect.onError(() =>
          Effect.sync(() => {
            // Node learns of an exit in the step that reaps it, so until then its number is its own.
            if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL")
          })
        )
      )
      return { pid: child.pid ?? 0, marked: mark !== null }
    })

  const unscoped = attempt(birth.mark, null).pipe(
    Effect.catchIf(
      (problem) => problem === "ENOENT" && birth.mark !== null,
      () =>
        Effect.andThen(
          Effect.logWarning("no prlimit command on PATH: the keeper runs without a mark"),
          attempt(null, null)
        )
    )
  )
  const scope = yield* findScope(environment)
  if (scope._tag === "NotAvailable")
    yield* Effect.logDebug(`the keeper starts in no scope of its own: ${scope.problem}`)
  return yield* (
    scope._tag !== "Available"
      ? unscoped
      : Effect.catch(attempt(birth.mark, scope), (problem) =>
          Effect.andThen(
            Effect.logWarning("systemd gave the keeper no scope of its own: it starts without").pipe(
              Effect.annotateLogs({ problem: typeof problem === "string" ? problem : problem.detail })
            ),
            unscoped
          )
        )
  ).pipe(
    Effect.catchIf(
      (problem) => typeof problem === "string",
      (problem) => Effect.fail(notStarted(`${process.execPath} cannot be started (${problem}).`))
    )
  )

  function readyLine(
    child: childProcess.ChildProcess,
    timeoutMs: number
  ): Effect.Effect<void, KeeperUnavailable> {
    return Effect.callback<string, KeeperUnavailable>((resume) => {
      let seen = ""
      const look = `Look at ${log}.`
      child.stdout?.setEncoding("utf8").on("data", (text: string) => {
        if (seen.length < maxLineBytes) seen += text
        if (seen.includes("\n")) resume(Effect.succeed(seen.slice(0, seen.indexOf("\n"))))
      })
      child.once("exit", (code, signal) =>
        resume(Effect.fail(notStarted(`It ended at once (${signal ?? `exit ${code}`}). ${look}`)))
      )
    }).pipe(
      Effect.flatMap((line) =>
        Effect.mapError(Schema.decodeEffect(ReadyLine)(line), () =>
          notStarted("It said something else than that it is ready.")
        )
      ),
      Effect.timeoutOrElse({
        duration: timeoutMs,
        orElse: () =>
          Effect.fail(notStarted(`It was not ready within ${timeoutMs / 1000} s. Look at ${log}.`))
      }),
      Effect.asVoid
    )
  }
})
