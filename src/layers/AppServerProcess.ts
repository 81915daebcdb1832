/**
 * AppServerProcess, live: the native codex with a scrubbed environment and a mark of its own, as a child or as a run that a
 * supervisor holds, or one that runs already, reached over its socket; past its handshake and watched for as long as the scope.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import {
  type AppServerLost,
  AppServerUnavailable,
  describePoison,
  type PoisonReason
} from "../services/AppServerFailure.ts"
import { type AppServerConnection, AppServerProcess } from "../services/AppServerProcess.ts"
import { InitializeResult } from "../services/AppServerProtocol.ts"
import { CodexAuth, refreshDeadlineMs, TokenRefreshFailed } from "../services/CodexAuth.ts"
import { CodexBinary, CodexTooOld, isOlder, minimumVersion, parseVersion } from "../services/CodexBinary.ts"
import { Epoch } from "../services/Epoch.ts"
import { Handover } from "../services/Keeper.ts"
import { InstanceMark } from "../services/InstanceMark.ts"
import { PtySupervisor } from "../services/PtySupervisor.ts"
import { RunLog } from "../services/RunLog.ts"
import { Settings } from "../services/Settings.ts"
import { Syscalls } from "../services/Syscalls.ts"
import { type Child, launch } from "./internal/appServerChild.ts"
import { open, type Transport } from "./internal/appServerConnection.ts"
import { drawName, endUnclaimed, launchRun } from "./internal/appServerRun.ts"
import { dial, shownAddress } from "./internal/appServerSocket.ts"
import { lostNow } from "./internal/connectionEnd.ts"
import { lastLine } from "./internal/lastWords.ts"
import { passed } from "./internal/passedVariables.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { checkSocketPath } from "./internal/unixSocket.ts"

export * from "../services/AppServerProcess.ts"

/** Codex asks the network for plugins, apps, analytics and updates at start unless told not to. */
const launchArguments = [
  "app-server",
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

/** By which a child's tree is found where there is no mark; no secret, since its tools inherit it. */
const cookieVariable = "HOLDFAST_CHILD"

const clientName = "holdfast"

/** JSON-RPC: method not found, invalid parameters, and the first of the codes that are a server's own. */
const notOurs = { code: -32601, message: "this gateway does not answer such a request" }
const malformed = { code: -32602, message: "this gateway does not know these parameters" }
const refreshFailedCode = -32000

const decodeRefresh = Schema.decodeUnknownEffect(
  Schema.Struct({ previousAccountId: Schema.optionalKey(Schema.NullOr(Schema.String)) })
)

/** What a connection is opened on, however it was come by. */
interface Reached extends Pick<AppServerConnection, "origin" | "pid" | "runId" | "mark" | "gone"> {
  /** The program or the address, for messages. */
  readonly name: string
  readonly transport: Transport
  readonly stderrTail: () => string
  readonly cpuTimeMs: () => number | null
  /** What ends its use and is seen from outside the connection. */
  readonly poison: Effect.Effect<PoisonReason>
}

/** What is to be spawned, with the program found and its directories there. */
interface Launch {
  readonly program: string
  readonly env: Readonly<Record<string, string>>
  readonly key: string
  readonly poisonedBy: Effect.Effect<PoisonReason | null>
}

type Spawned = Omit<Reached, "origin" | "name" | "poison"> & Pick<Child, "exited" | "stopped">

const makeWith = Effect.fnUntraced(function* (
  spawn: (launch: Launch) => Effect.Effect<Spawned, AppServerUnavailable, Scope.Scope>
) {
  const { appServer, codex, environment, lease } = yield* Settings
  const binary = yield* CodexBinary
  const { current } = yield* Epoch
  const auth = yield* CodexAuth
  const env = passed(environment, ["TERM", ...codex.passEnv])

  // Codex makes no sandbox helpers in a home below the temp dir, so such a home gets a temp dir of its own inside it.
  const ownTemp = `${codex.home}/tmp`
  const isBelowTemp = !path.relative(environment["TMPDIR"] ?? os.tmpdir(), codex.home).startsWith("..")
  const childEnv = { ...env, CODEX_HOME: codex.home, ...(isBelowTemp ? { TMPDIR: ownTemp } : {}) }

  const spawned = Effect.fnUntraced(function* (
    generation: number,
    key: string,
    poisonedBy: Effect.Effect<PoisonReason | null>
  ) {
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
    const env = { ...childEnv, [cookieVariable]: `${current.epoch}.${generation}` }
    const { exited, stopped, ...server } = yield* spawn({ program, env, key, poisonedBy })
    const poison = Effect.raceFirst(exited, Effect.as(stopped, { _tag: "stopped" } satisfies PoisonReason))
    return { ...server, origin: "spawned", name: program, poison } satisfies Reached
  })

  const adopted = Effect.fnUntraced(function* (address: string) {
    const { transport, gone } = yield* dial(address, {
      tokenFile: appServer.tokenFile,
      timeoutMs: lease.handshakeTimeoutMs
    })
    return {
      origin: "adopted",
      name: shownAddress(address),
      pid: null,
      runId: null,
      mark: null,
      transport,
      stderrTail: () => "",
      cpuTimeMs: () => null,
      gone,
      poison: Effect.never
    } satisfies Reached
  })

  const refresh = Effect.fnUntraced(function* (params: unknown) {
    const { previousAccountId } = yield* Effect.mapError(decodeRefresh(params), () => malformed)
    const tokens = yield* auth.refresh(previousAccountId ?? null).pipe(
      Effect.timeoutOrElse({
        duration: refreshDeadlineMs,
        orElse: () => Effect.fail(new TokenRefreshFailed({ problem: "timed-out" }))
      }),
      // Whoever embeds us brings this function; what it dies of may quote a token, so it is not even logged.
      Effect.catchDefect(() => Effect.fail(new TokenRefreshFailed({ problem: "failed" }))),
      Effect.tapError((error) => Effect.logWarning(error.message)),
      Effect.mapError((error) => ({ code: refreshFailedCode, message: error.message }))
    )
    return {
      accessToken: Redacted.value(tokens.accessToken),
      chatgptAccountId: tokens.accountId,
      chatgptPlanType: tokens.planType
    }
  })

  const start = Effect.fn("AppServerProcess.start")(function* (generation: number, key: string) {
    let poisonAtEnd: PoisonReason | null = null
    const server: Reached =
      appServer.connect === null
        ? yield* spawned(
            generation,
            key,
            Effect.sync(() => poisonAtEnd)
          )
        : yield* adopted(appServer.connect)
    const connection = yield* open({
      generation,
      transport: server.transport,
      requestTimeoutMs: lease.requestTimeoutMs,
      stderrTail: server.stderrTail,
      life: {
        probeIntervalMs: lease.probeIntervalMs,
        probeTimeoutMs: lease.probeTimeoutMs,
        silentLimitMs: lease.silentLimitMs,
        cpuTimeMs: server.cpuTimeMs
      },
      onServerRequest: (method, params) =>
        method === "account/chatgptAuthTokens/refresh" ? refresh(params) : Effect.fail(notOurs)
    })
    yield* Effect.forkScoped(Effect.flatMap(server.poison, connection.retire))
    // The first to run when the scope closes: what is lost after this is our own doing.
    yield* Effect.addFinalizer(() =>
      Effect.map(lostNow(connection.lost), (lost) => {
        poisonAtEnd = lost?.reason ?? null
      })
    )

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
        // Not even its first answer came: it is not asked to leave for the whole of its grace.
        Effect.tapErrorTag("AppServerRequestTimeout", ({ timeoutMs }) =>
          connection.retire({ _tag: "probes-missed", count: 1, silentMs: timeoutMs })
        ),
        Effect.mapError(
          (error) =>
            new AppServerUnavailable({
              stage: "handshake",
              problem: error._tag === "AppServerLost" ? beforeItAnswered(error, server.origin) : error.message
            })
        )
      )
    // Governance reads that home's configuration, for its MCP servers say.
    if (server.origin === "adopted" && !isSameDirectory(initialized.codexHome, codex.home))
      return yield* new AppServerUnavailable({
        stage: "connect",
        problem: `${server.name} works in another CODEX_HOME than codex.home (${codex.home}). Set codex.home to that server's.`
      })
    const version = parseVersion(initialized.userAgent) ?? "0.0.0"
    if (isOlder(version, minimumVersion))
      return yield* new AppServerUnavailable({
        stage: "version",
        problem: new CodexTooOld({ path: server.name, version }).message
      })
    yield* Effect.mapError(
      connection.notify("initialized"),
      (error) => new AppServerUnavailable({ stage: "handshake", problem: error.message })
    )
    const { origin, pid, runId, mark, gone } = server
    yield* Effect.logInfo("app-server up").pipe(
      Effect.annotateLogs({ generation, origin, pid, run: runId, version })
    )
    const { request, thread, lost, retire } = connection
    return {
      generation,
      origin,
      pid,
      runId,
      mark,
      version,
      request,
      thread,
      lost,
      retire,
      gone
    } satisfies AppServerConnection
  })
  return AppServerProcess.of({ start })
})

/** A child on pipes, which ends with this process. */
export const make = Effect.gen(function* () {
  const { codex, lease } = yield* Settings
  const epoch = yield* Epoch
  const marks = yield* InstanceMark
  return yield* makeWith(
    Effect.fnUntraced(function* ({ program, env, poisonedBy }: Launch) {
      // Claimed before the child and so given back after its sweep.
      const mark = yield* epoch.claimMark
      const child = yield* launch({
        program,
        args: [...launchArguments, "--listen", "stdio://"],
        cwd: codex.home,
        env,
        mark,
        lease,
        poisonedBy,
        sweep: marks.sweep
      })
      return { ...child, runId: null, mark: null }
    })
  )
})

/** A run on a Unix socket: with a keeper behind the supervisor it outlives this process, and the next one takes it over. */
const makeKept = Effect.gen(function* () {
  const { codex, lease, mark, paths } = yield* Settings
  const runs = yield* PtySupervisor
  const log = yield* RunLog
  const calls = (yield* Syscalls).table
  const leaving = yield* Handover
  const hands = { runs, log, calls, leaving, known: new Set<string>() }
  yield* Effect.forkScoped(Effect.andThen(Effect.sleep(lease.idleGraceMs), endUnclaimed(hands)))
  return yield* makeWith(
    Effect.fnUntraced(function* (wanted: Launch) {
      yield* Effect.mapError(
        Effect.andThen(checkSocketPath(paths.codexSocket(drawName())), ensurePrivateDirectory(paths.runtime)),
        ({ message }) => new AppServerUnavailable({ stage: "spawn", problem: message })
      )
      return yield* launchRun(hands, {
        ...wanted,
        args: launchArguments,
        cwd: codex.home,
        socketPath: paths.codexSocket,
        lease,
        sweepTimeoutMs: mark.sweepTimeoutMs
      })
    })
  )
})

export const layer = Layer.effect(AppServerProcess, make)

export const layerKept = Layer.effect(AppServerProcess, makeKept)

const beforeItAnswered = (
  { reason, stderrTail }: AppServerLost,
  origin: AppServerConnection["origin"]
): string => {
  const what = `${describePoison(reason)} before it answered.`
  return origin === "adopted" ? what : `${what} Its last words: ${lastLine(stderrTail)}`
}

const isSameDirectory = (one: string, other: string): boolean => {
  try {
    return fs.realpathSync(one) === fs.realpathSync(other)
  } catch {
    return false
  }
}
