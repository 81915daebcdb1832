/** AppServerProcess, live: the native codex as a child with a scrubbed environment, its three pipes and its exit. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as childProcess from "node:child_process"
import * as os from "node:os"
import * as path from "node:path"
import {
  type AppServerConnection,
  AppServerProcess,
  AppServerUnavailable,
  describePoison,
  type PoisonReason
} from "../services/AppServerProcess.ts"
import { InitializeResult } from "../services/AppServerProtocol.ts"
import { CodexBinary, CodexTooOld, isOlder, minimumVersion, parseVersion } from "../services/CodexBinary.ts"
import { Settings } from "../services/Settings.ts"
import { open, type Transport } from "./internal/appServerConnection.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/AppServerProcess.ts"

/** What an agent's tools need to work as in a terminal; everything else stays with the gateway. */
const passedVariables = [
  "PATH",
  "HOME",
  "USER",
  "LOGNAME",
  "SHELL",
  "LANG",
  "LC_ALL",
  "LC_CTYPE",
  "TERM",
  "TZ",
  "TMPDIR",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR"
]

/** Codex asks the network for plugins, apps, analytics and updates at start unless told not to. */
const launchArguments = [
  "app-server",
  "--listen",
  "stdio://",
  "-c",
  "features.plugins=false",
  "-c",
  "features.apps=false",
  "-c",
  "analytics.enabled=false",
  "-c",
  "check_for_update_on_startup=false",
  // A thread nobody subscribes to is unloaded at once, with the MCP servers it started: by default they pile up for half
  // an hour.
  "-c",
  "thread_unload_delay_secs=0"
]

/** Characters of stderr kept for a report; the reference system keeps the same. */
const stderrTailLength = 2000
/** How long the exit status may come after a pipe has ended or broken. */
const exitAfterEndMs = 250
/** From SIGTERM to SIGKILL, after end of input did not help. */
const terminateGraceMs = 2000
/** A killed child is reaped at once unless the kernel holds it; nobody waits longer. */
const reapTimeoutMs = 5000

const clientName = "holdfast"

export const make = Effect.gen(function* () {
  const { codex, environment, lease } = yield* Settings
  const binary = yield* CodexBinary
  const env = Object.fromEntries(
    [...passedVariables, ...codex.passEnv].flatMap((name) => {
      const value = environment[name]
      return value === undefined ? [] : [[name, value]]
    })
  )

  // Codex makes no sandbox helpers in a home below the temp dir, so such a home gets a temp dir of its own inside it.
  const ownTemp = `${codex.home}/tmp`
  const isBelowTemp = !path.relative(environment["TMPDIR"] ?? os.tmpdir(), codex.home).startsWith("..")
  const childEnv = { ...env, CODEX_HOME: codex.home, ...(isBelowTemp ? { TMPDIR: ownTemp } : {}) }

  const spawn = (program: string) =>
    Effect.callback<childProcess.ChildProcessWithoutNullStreams, AppServerUnavailable>((resume) => {
      // Its own session: a Ctrl-C meant for the gateway must not kill the child before its borrowers are told.
      const child = childProcess.spawn(program, launchArguments, {
        cwd: codex.home,
        env: childEnv,
        stdio: ["pipe", "pipe", "pipe"],
        detached: true
      })
      child.once("spawn", () => resume(Effect.succeed(child)))
      child.once("error", (error: NodeJS.ErrnoException) =>
        resume(
          Effect.fail(
            new AppServerUnavailable({
              stage: "spawn",
              problem: `${program} cannot be started (${error.code ?? "unknown error"}).`
            })
          )
        )
      )
    })

  const start = Effect.fn("AppServerProcess.start")(function* (generation: number) {
    const program = yield* Effect.mapError(
      binary.path,
      (error) => new AppServerUnavailable({ stage: "locate", problem: error.message })
    )
    yield* Effect.mapError(
      Effect.andThen(
        ensurePrivateDirectory(codex.home),
        isBelowTemp ? ensurePrivateDirectory(ownTemp) : Effect.void
      ),
      (error) => new AppServerUnavailable({ stage: "spawn", problem: error.message })
    )
    const exited = yield* Deferred.make<Extract<PoisonReason, { readonly _tag: "exited" }>>()
    let stderr = ""
    const child = yield* Effect.acquireRelease(
      Effect.tap(spawn(program), (child) =>
        Effect.sync(() => {
          child.once("exit", (code, signal) =>
            Deferred.doneUnsafe(exited, Effect.succeed({ _tag: "exited", code, signal }))
          )
          child.stdin.on("error", () => undefined)
          child.stderr.setEncoding("utf8").on("data", (text: string) => {
            stderr = (stderr + text).slice(-stderrTailLength)
          })
        })
      ),
      (child) => {
        const gone = Deferred.await(exited)
        // `kill` is Node's own: it signals only while this child has not been reaped, so never a recycled pid.
        const after = (duration: number, signal: NodeJS.Signals) =>
          Effect.timeoutOrElse(gone, {
            duration,
            orElse: () => Effect.sync(() => child.kill(signal))
          })
        return Effect.sync(() => child.stdin.end()).pipe(
          Effect.andThen(after(lease.exitGraceMs, "SIGTERM")),
          Effect.andThen(after(terminateGraceMs, "SIGKILL")),
          Effect.andThen(Effect.timeoutOption(gone, reapTimeoutMs)),
          Effect.asVoid
        )
      }
    )

    // A pipe that breaks mostly means that the child is about to be reaped, and its status is the better reason.
    const orItsExit = (reason: PoisonReason): Effect.Effect<never, PoisonReason> =>
      Effect.timeoutOption(Deferred.await(exited), exitAfterEndMs).pipe(
        Effect.flatMap((exit) => Effect.fail(Option.getOrElse(exit, () => reason)))
      )
    const closed = Stream.fromEffect(orItsExit({ _tag: "stdio-closed" }))
    const transport: Transport = {
      input: NodeStream.fromReadable({
        evaluate: () => child.stdout,
        onError: () => "broken" as const
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
              error
                ? orItsExit({
                    _tag: "write-failed",
                    code: (error as NodeJS.ErrnoException).code ?? "unknown"
                  })
                : Effect.void
            )
          )
        })
    }
    const connection = yield* open({
      generation,
      transport,
      requestTimeoutMs: lease.requestTimeoutMs,
      stderrTail: () => stderr
    })
    yield* Effect.forkScoped(Effect.flatMap(Deferred.await(exited), connection.poison))

    const initialized = yield* connection
      .request(
        "initialize",
        {
          clientInfo: { name: clientName, title: null, version: "1" },
          capabilities: { experimentalApi: true, requestAttestation: false }
        },
        InitializeResult,
        lease.handshakeTimeoutMs
      )
      .pipe(
        Effect.mapError(
          (error) =>
            new AppServerUnavailable({
              stage: "handshake",
              problem:
                error._tag === "AppServerLost"
                  ? `${describePoison(error.reason)} before it answered. Its last words: ${error.stderrTail.trim().split("\n").at(-1) || "none"}`
                  : error.message
            })
        )
      )
    const version = parseVersion(initialized.userAgent) ?? "0.0.0"
    if (isOlder(version, minimumVersion))
      return yield* new AppServerUnavailable({
        stage: "version",
        problem: new CodexTooOld({ path: program, version }).message
      })
    yield* Effect.mapError(
      connection.notify("initialized"),
      (error) => new AppServerUnavailable({ stage: "handshake", problem: error.message })
    )
    yield* Effect.logInfo("app-server up").pipe(Effect.annotateLogs({ generation, pid: child.pid, version }))
    const { request, thread, lost } = connection
    return { generation, pid: child.pid!, version, request, thread, lost } satisfies AppServerConnection
  })
  return AppServerProcess.of({ start })
})

export const layer = Layer.effect(AppServerProcess, make)
