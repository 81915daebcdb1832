/**
 * AppServerProcess, live: the native codex as a child with a scrubbed environment and a mark of its own, or one that runs
 * already, reached over its socket; either past its handshake and watched for as long as the scope.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
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
import { InstanceMark } from "../services/InstanceMark.ts"
import { Settings } from "../services/Settings.ts"
import { launch } from "./internal/appServerChild.ts"
import { open, type Transport } from "./internal/appServerConnection.ts"
import { dial, shownAddress } from "./internal/appServerSocket.ts"
import { lostNow } from "./internal/connectionEnd.ts"
import { passed } from "./internal/passedVariables.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"

export * from "../services/AppServerProcess.ts"

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
interface Reached extends Pick<AppServerConnection, "origin" | "pid" | "gone"> {
  /** The program or the address, for messages. */
  readonly name: string
  readonly transport: Transport
  readonly stderrTail: () => string
  readonly cpuTimeMs: () => number | null
  /** What ends its use and is seen from outside the connection. */
  readonly poison: Effect.Effect<PoisonReason>
}

export const make = Effect.gen(function* () {
  const { appServer, codex, environment, lease } = yield* Settings
  const binary = yield* CodexBinary
  const epoch = yield* Epoch
  const marks = yield* InstanceMark
  const auth = yield* CodexAuth
  const env = passed(environment, ["TERM", ...codex.passEnv])

  // Codex makes no sandbox helpers in a home below the temp dir, so such a home gets a temp dir of its own inside it.
  const ownTemp = `${codex.home}/tmp`
  const isBelowTemp = !path.relative(environment["TMPDIR"] ?? os.tmpdir(), codex.home).startsWith("..")
  const childEnv = { ...env, CODEX_HOME: codex.home, ...(isBelowTemp ? { TMPDIR: ownTemp } : {}) }

  const spawned = Effect.fnUntraced(function* (
    generation: number,
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
    // Claimed before the child and so given back after its sweep.
    const mark = yield* epoch.claimMark
    const child = yield* launch({
      program,
      args: launchArguments,
      cwd: codex.home,
      env: { ...childEnv, [cookieVariable]: `${epoch.current.epoch}.${generation}` },
      mark,
      lease,
      poisonedBy,
      sweep: marks.sweep
    })
    const { pid, transport, stderrTail, cpuTimeMs, gone } = child
    const poison = Effect.raceFirst(
      child.exited,
      Effect.as(child.stopped, { _tag: "stopped" } satisfies PoisonReason)
    )
    return {
      origin: "spawned",
      name: program,
      pid,
      transport,
      stderrTail,
      cpuTimeMs,
      gone,
      poison
    } satisfies Reached
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

  const start = Effect.fn("AppServerProcess.start")(function* (generation: number) {
    let poisonAtEnd: PoisonReason | null = null
    const server: Reached =
      appServer.connect === null
        ? yield* spawned(
            generation,
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
    const { origin, pid, gone } = server
    yield* Effect.logInfo("app-server up").pipe(Effect.annotateLogs({ generation, origin, pid, version }))
    const { request, thread, lost, retire } = connection
    return {
      generation,
      origin,
      pid,
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

export const layer = Layer.effect(AppServerProcess, make)

const beforeItAnswered = (
  { reason, stderrTail }: AppServerLost,
  origin: AppServerConnection["origin"]
): string => {
  const what = `${describePoison(reason)} before it answered.`
  return origin === "adopted"
    ? what
    : `${what} Its last words: ${stderrTail.trim().split("\n").at(-1) || "none"}`
}

const isSameDirectory = (one: string, other: string): boolean => {
  try {
    return fs.realpathSync(one) === fs.realpathSync(other)
  } catch {
    return false
  }
}
