/**
 * One app-server as a child: started under a mark of its own, watched while it lives, ended within a bounded time whatever
 * it does, and what it leaves behind ended after it. It is signalled only while it is provably unreaped, so never a stranger.
 */
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import { AppServerUnavailable, type PoisonReason } from "../../services/AppServerFailure.ts"
import type { Gone } from "../../services/AppServerProcess.ts"
import { type MarkRange, type SweepReport, underMark } from "../../services/InstanceMark.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import type { Transport } from "./appServerConnection.ts"
import { untilStopped } from "./appServerWatch.ts"
import { endSeen } from "./endSeen.ts"
import { errorCode } from "./errorCode.ts"
import { killGroup } from "./killGroup.ts"
import { keptLength, shownWords } from "./lastWords.ts"
import { isStill, kinOf, type Seen, signal, vitals } from "./procfs.ts"

/** How long the exit status may come after a pipe has ended or broken. */
const exitAfterEndMs = 250
/** What was written to stderr before an exit is read within microseconds, unless somebody else keeps it open. */
const lastWordsMs = 100
/** From SIGTERM to SIGKILL, after end of input did not help. */
const terminateGraceMs = 2000
/** A killed child is reaped at once unless the kernel holds it; nobody waits longer. */
const reapTimeoutMs = 5000
/** Without a mark: from asking the descendants to killing them, as a sweep does by default. */
const kinGraceMs = 500

export interface ChildOptions {
  readonly program: string
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  readonly mark: MarkRange | null
  readonly lease: Pick<SettingsShape["lease"], "exitGraceMs" | "poisonGraceMs" | "stateLookMs">
  /** Why it is of no use any more, when its end begins; null for a healthy one. */
  readonly poisonedBy: Effect.Effect<PoisonReason | null>
  readonly sweep: (mark: MarkRange) => Effect.Effect<SweepReport>
}

export interface Child {
  readonly pid: number
  readonly transport: Transport
  /** Redacted. */
  readonly stderrTail: () => string
  readonly cpuTimeMs: () => number | null
  /** Its own end, with its last words read. */
  readonly exited: Effect.Effect<PoisonReason>
  /** Completes when somebody has stopped it; never where there is no /proc. */
  readonly stopped: Effect.Effect<void>
  readonly gone: Effect.Effect<Gone>
}

type Process = childProcess.ChildProcessWithoutNullStreams

export const launch = Effect.fnUntraced(function* (
  options: ChildOptions
): Effect.fn.Return<Child, AppServerUnavailable, Scope.Scope> {
  const gone = yield* Deferred.make<Gone>()
  const spoken = yield* Deferred.make<void>()
  const kin = new Map<number, Seen>()
  let stderr = ""

  const { child } = yield* Effect.acquireRelease(
    spawn(options, (child, mark) => {
      child.once("exit", (code, signal) => {
        // In the step that reaped it, so that its session's number cannot have been given to anybody else yet.
        if (mark === null) remember(kin, child)
        Deferred.doneUnsafe(gone, Effect.succeed({ confirmed: true, code, signal }))
      })
      child.stderr.once("close", () => Deferred.doneUnsafe(spoken, Effect.void))
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        stderr = (stderr + text).slice(-keptLength)
      })
      for (const pipe of child.stdio) pipe?.on("error", () => undefined)
    }),
    ({ child, mark }) =>
      Effect.gen(function* () {
        // Later its number says nothing any more; one that is gone already was looked at when it went.
        if (mark === null && isUnreaped(child)) remember(kin, child)
        yield* end(child, Deferred.await(gone), yield* options.poisonedBy, options.lease)
        yield* Deferred.succeed(gone, { confirmed: false, code: null, signal: null })
        // Whoever inherited the other ends would keep this process waiting for them.
        for (const pipe of child.stdio) pipe?.destroy()
        const survivors =
          mark === null
            ? yield* endKin([...kin.values()])
            : (yield* options.sweep(mark)).survivors.map(({ identity }) => identity.pid)
        if (survivors.length > 0)
          yield* Effect.logWarning("processes of the app-server would not end").pipe(
            Effect.annotateLogs({ app_server: child.pid, survivors: survivors.join(" ") })
          )
      })
  )

  const exited = Deferred.await(gone).pipe(
    Effect.tap(Effect.timeoutOption(Deferred.await(spoken), lastWordsMs)),
    Effect.flatMap(({ confirmed, code, signal }): Effect.Effect<PoisonReason> =>
      !confirmed
        ? Effect.never
        : Effect.succeed(
            signal === null ? { _tag: "exited", code: code ?? 0 } : { _tag: "signalled", signal }
          )
    )
  )
  // A pipe that breaks mostly means that the child is about to be reaped, and its status is the better reason.
  const orItsExit = (reason: PoisonReason): Effect.Effect<never, PoisonReason> =>
    Effect.timeoutOption(exited, exitAfterEndMs).pipe(
      Effect.flatMap((exit) => Effect.fail(Option.getOrElse(exit, () => reason)))
    )
  const closed = Stream.fromEffect(orItsExit({ _tag: "stdio-closed" }))
  const look = () => {
    const now = isUnreaped(child) ? vitals(child.pid!) : null
    return now === null ? null : { ...now, pid: child.pid! }
  }
  return {
    pid: child.pid!,
    transport: {
      input: NodeStream.fromReadable({
        evaluate: () => child.stdout,
        onError: () => "broken" as const,
        // A child that is asked to leave must not find its output closed before it has left.
        closeOnDone: false
      }).pipe(
        Stream.concat(closed),
        Stream.catchIf(
          (error) => error === "broken",
          () => closed
        )
      ),
      write: (text) =>
        Effect.callback<void, PoisonReason>((resume) => {
          child.stdin.write(text, (error) =>
            resume(
              error ? orItsExit({ _tag: "write-failed", code: errorCode(error) ?? "unknown" }) : Effect.void
            )
          )
        })
    },
    stderrTail: () => shownWords(stderr),
    cpuTimeMs: () => look()?.cpuTimeMs ?? null,
    exited,
    stopped: untilStopped(look, options.lease.stateLookMs),
    gone: Deferred.await(gone)
  }
})

/** Under its mark when there is one and the prlimit command to set it; null otherwise. */
const spawn = (
  { program, args, cwd, env, mark }: ChildOptions,
  attach: (child: Process, mark: MarkRange | null) => void
): Effect.Effect<{ readonly child: Process; readonly mark: MarkRange | null }, AppServerUnavailable> => {
  const attempt = (mark: MarkRange | null) =>
    Effect.callback<{ readonly child: Process; readonly mark: MarkRange | null }, string>((resume) => {
      const command = underMark(mark, program, args)
      // Its own session: a Ctrl-C meant for the gateway must not kill the child before its borrowers are told.
      const child = childProcess.spawn(command.program, [...command.args], {
        cwd,
        env,
        stdio: ["pipe", "pipe", "pipe"],
        detached: true
      })
      child.once("spawn", () => {
        attach(child, mark)
        resume(Effect.succeed({ child, mark }))
      })
      child.on("error", (error) => resume(Effect.fail(errorCode(error) ?? "unknown error")))
    })
  return Effect.try({
    try: () => fs.accessSync(program, fs.constants.X_OK),
    // prlimit would start and then say so in words of its own.
    catch: (error) => errorCode(error) ?? "unknown error"
  }).pipe(
    Effect.andThen(attempt(mark)),
    Effect.catchIf(
      (code) => mark !== null && code === "ENOENT",
      () =>
        Effect.andThen(
          Effect.logWarning("no prlimit command on the app-server's PATH: it runs without a mark of its own"),
          attempt(null)
        )
    ),
    Effect.mapError(
      (code) =>
        new AppServerUnavailable({ stage: "spawn", problem: `${program} cannot be started (${code}).` })
    )
  )
}

/** Node learns of an exit in the step that reaps the child, so until then its number is its own. */
const isUnreaped = (child: Process): boolean => child.exitCode === null && child.signalCode === null

const remember = (kin: Map<number, Seen>, child: Process): void => {
  for (const one of kinOf(child.pid!)) kin.set(one.pid, one)
}

/** Asks, tells and kills, each only as long as it has not left; poisoned ones are not asked, stopped ones cannot answer. */
const end = Effect.fnUntraced(function* (
  child: Process,
  gone: Effect.Effect<Gone>,
  poison: PoisonReason | null,
  { exitGraceMs, poisonGraceMs }: Pick<ChildOptions["lease"], "exitGraceMs" | "poisonGraceMs">
) {
  const within = (ms: number) => Effect.timeoutOption(gone, ms)
  child.stdin.end()
  // Nobody reads any more; a full pipe would keep it from leaving.
  child.stdout.resume()
  if (poison?._tag !== "stopped") {
    if (poison === null) yield* within(exitGraceMs)
    if (isUnreaped(child)) child.kill("SIGTERM")
    yield* within(poison === null ? terminateGraceMs : poisonGraceMs)
  }
  if (isUnreaped(child)) killGroup(child.pid!)
  yield* within(reapTimeoutMs)
})

/** The numbers of those that were seen and would not end. */
const endKin = (kin: ReadonlyArray<Seen>): Effect.Effect<ReadonlyArray<number>> =>
  endSeen({
    look: Effect.sync(() => kin.filter(isStill)),
    send: (members, names) =>
      Effect.sync(() => {
        for (const one of members) if (isStill(one)) for (const name of names) signal(one.pid, name)
      }),
    graceMs: kinGraceMs,
    timeoutMs: 2 * kinGraceMs
  }).pipe(Effect.map((left) => left.map(({ pid }) => pid)))
