/**
 * One app-server as a run, reached over its Unix socket: whoever holds the run may outlive this process, and so may it.
 *
 * There is one per key, however many gateways follow each other: a start takes over the one that an earlier gateway left,
 * or has one started in the place of whatever is left. It is ended by its run, with everything that descends from it.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import type * as net from "node:net"
import * as path from "node:path"
import { AppServerUnavailable, describePoison, type PoisonReason } from "../../services/AppServerFailure.ts"
import type { Gone } from "../../services/AppServerProcess.ts"
import { type MarkRange, rangeOf } from "../../services/InstanceMark.ts"
import type { PtySupervisor, RunInfo } from "../../services/PtySupervisor.ts"
import { type ExitReason, type Leader, runDefaults, type RunSpec } from "../../services/Run.ts"
import type { RunLog } from "../../services/RunLog.ts"
import type { SettingsShape } from "../../services/Settings.ts"
import { descriptorOf, type SyscallTable } from "../../services/Syscalls.ts"
import type { Transport } from "./appServerConnection.ts"
import { dial } from "./appServerSocket.ts"
import { untilStopped } from "./appServerWatch.ts"
import { keptLength, lastLine, shownWords } from "./lastWords.ts"
import { effectiveUid } from "./privateDirectory.ts"
import { ancestorsOf, isStill, markOf, vitals } from "./procfs.ts"

/** How long a run's end may come after its socket has closed: it is told by the supervisor, perhaps over another socket. */
const exitAfterCloseMs = 500
/** Codex opens its socket within 100 ms, measured; a cold disk takes seconds. */
const listenLookMs = 20
/** What was written before an exit is in the log by then; reading it is one question. */
const lastWordsMs = 500
/** From killing to a confirmed end, the sweep's own limit beside it: reaping, and the status that follows. */
const endBudgetMs = 10_000
/** A follower that the log has dropped begins again so often. */
const followAgain = 8

const listenFlag = "--listen"
const scheme = "unix://"

export interface RunHands {
  readonly runs: PtySupervisor["Service"]
  readonly log: RunLog["Service"]
  readonly calls: Effect.Effect<SyscallTable>
  /** Asked as the scope closes: whether the run is left to whoever comes next. */
  readonly leaving: Effect.Effect<boolean>
  /** Runs that were in these hands before; none is taken over twice. */
  readonly known: Set<string>
}

export interface RunOptions {
  readonly program: string
  /** Without where to listen. */
  readonly args: ReadonlyArray<string>
  readonly cwd: string
  /** The environment, secrets included: none of it is written down. */
  readonly env: Readonly<Record<string, string>>
  /** What two generations must share to share an app-server. */
  readonly key: string
  readonly socketPath: (name: string) => string
  readonly lease: Pick<
    SettingsShape["lease"],
    "exitGraceMs" | "poisonGraceMs" | "stateLookMs" | "handshakeTimeoutMs"
  >
  readonly sweepTimeoutMs: number
  /** Why it is of no use any more, when its end begins; null for a healthy one. */
  readonly poisonedBy: Effect.Effect<PoisonReason | null>
}

export interface ServerRun {
  readonly runId: string
  readonly pid: number
  /** Of everything that it starts; null where there is none. */
  readonly mark: MarkRange | null
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

const unavailable = (stage: AppServerUnavailable["stage"], problem: string): AppServerUnavailable =>
  new AppServerUnavailable({ stage, problem })

const scopePrefix = "app-server "
const scopeOf = (key: string): string => `${scopePrefix}${key}`

/** Of a socket: short, because the whole path has 107 bytes, and no other's. */
export const drawName = (): string => crypto.randomBytes(4).toString("hex")

/** Where an app-server that was started here listens; null for any other run. */
const socketOf = ({ args }: RunSpec): string | null => {
  const address = args[args.indexOf(listenFlag) + 1]
  return address?.startsWith(scheme) === true ? address.slice(scheme.length) : null
}

const specOf = ({ program, args, cwd, key, lease }: RunOptions, socketPath: string): RunSpec => {
  const [verb = "app-server", ...rest] = args
  return {
    ...runDefaults,
    command: program,
    args: [verb, listenFlag, `${scheme}${socketPath}`, ...rest],
    cwd,
    scope: scopeOf(key),
    // Of the last generation something may still be on its way out.
    replace: true,
    killGraceMs: lease.exitGraceMs,
    onGatewayLoss: "adopt",
    restart: "temporary"
  }
}

interface Held {
  readonly info: RunInfo
  readonly socketPath: string
}

/** Sockets of this gateway's app-servers that no live run is told to listen at: their servers were killed with everybody. */
const clearSockets = (socketPath: RunOptions["socketPath"], inUse: ReadonlyArray<string | null>): void => {
  const [before = "", after = ""] = path.basename(socketPath("*")).split("*")
  const directory = path.dirname(socketPath("*"))
  try {
    for (const name of fs.readdirSync(directory)) {
      const file = path.join(directory, name)
      if (name.startsWith(before) && name.endsWith(after) && !inUse.includes(file)) fs.rmSync(file)
    }
  } catch {
    // A file that stays is in nobody's way.
  }
}

/** Ends the app-servers that an earlier gateway left and nobody has taken over: of another login, or without a turn. */
export const endUnclaimed = ({ runs, known }: RunHands): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (const { id, spec, endedAt } of yield* runs.list) {
      if (endedAt !== null || known.has(id) || spec.scope?.startsWith(scopePrefix) !== true) continue
      known.add(id)
      yield* Effect.logInfo("an app-server that nobody took over is ended").pipe(
        Effect.annotateLogs({ run: id })
      )
      yield* runs.end(id, { by: "app-server lease", graceMs: null })
    }
  }).pipe(Effect.catch((error) => Effect.logWarning(error.message)))

/** The one that an earlier gateway left, or a new one. */
const obtain = Effect.fnUntraced(
  function* ({ runs, known }: RunHands, options: RunOptions) {
    const live = (yield* runs.list).filter(({ endedAt }) => endedAt === null)
    clearSockets(
      options.socketPath,
      live.map(({ spec }) => socketOf(spec))
    )
    for (const id of known) if (!live.some((info) => info.id === id)) known.delete(id)
    const left = live.find(
      ({ id, spec, state }) => spec.scope === scopeOf(options.key) && state === "Running" && !known.has(id)
    )
    const where = left === undefined ? null : socketOf(left.spec)
    if (left !== undefined && where !== null) {
      known.add(left.id)
      return { info: left, socketPath: where } satisfies Held
    }
    const socketPath = options.socketPath(drawName())
    const info = yield* runs.start(specOf(options, socketPath), options.env)
    known.add(info.id)
    return { info, socketPath } satisfies Held
  },
  (obtaining) => Effect.mapError(obtaining, (error) => unavailable("spawn", error.message))
)

const goneBy = ({ status, extinction, endedAt }: RunInfo): Gone | null =>
  status !== null
    ? { confirmed: true, ...status }
    : endedAt === null
      ? null
      : { confirmed: extinction?.survivors.length === 0, code: null, signal: null }

const whyNone = (reason: ExitReason | null): string =>
  reason?._tag === "spawn-error" ? reason.detail : `its run ended first (${reason?._tag ?? "lost"}).`

const poisonBy = ({ confirmed, code, signal }: Gone): PoisonReason | null =>
  !confirmed || (code === null && signal === null)
    ? null
    : signal === null
      ? { _tag: "exited", code: code ?? 0 }
      : { _tag: "signalled", signal }

export const launchRun = Effect.fnUntraced(function* (
  hands: RunHands,
  options: RunOptions
): Effect.fn.Return<ServerRun, AppServerUnavailable, Scope.Scope> {
  const { runs, log } = hands
  const { lease } = options
  const calls = yield* hands.calls
  const gone = yield* Deferred.make<Gone>()
  const leading = yield* Deferred.make<Leader, AppServerUnavailable>()
  /** It never answered, so it does not get the whole of its grace. */
  let unheard = false

  const end = Effect.fnUntraced(function* ({ info, socketPath }: Held) {
    const poison = yield* options.poisonedBy
    if (poison === null && !unheard && (yield* hands.leaving)) return
    const graceMs =
      poison?._tag === "stopped" ? 0 : poison === null && !unheard ? lease.exitGraceMs : lease.poisonGraceMs
    const ended = yield* runs.end(info.id, { by: "app-server lease", graceMs }).pipe(
      Effect.catchTags({
        RunNotFound: () => Effect.succeed(null),
        KeeperUnavailable: ({ message }) => Effect.as(Effect.logWarning(message), null)
      }),
      Effect.timeoutOption(graceMs + options.sweepTimeoutMs + endBudgetMs),
      Effect.map(Option.getOrNull)
    )
    const survivors = ended?.extinction?.survivors ?? []
    if (survivors.length > 0)
      yield* Effect.logWarning("processes of the app-server would not end").pipe(
        Effect.annotateLogs({ app_server: ended?.leader?.pid, survivors: survivors.join(" ") })
      )
    yield* Deferred.succeed(
      gone,
      (ended === null ? null : goneBy(ended)) ?? { confirmed: false, code: null, signal: null }
    )
    // One that was killed leaves it; the name is no other's.
    yield* Effect.sync(() => fs.rmSync(socketPath, { force: true }))
  })

  const { info, socketPath } = yield* Effect.acquireRelease(obtain(hands, options), end)
  const runId = info.id
  yield* Effect.forkScoped(
    runs.watch(runId).pipe(
      Stream.runForEach((now) =>
        Effect.sync(() => {
          if (now.leader !== null) Deferred.doneUnsafe(leading, Effect.succeed(now.leader))
          else if (now.endedAt !== null)
            Deferred.doneUnsafe(leading, Effect.fail(unavailable("spawn", whyNone(now.reason))))
          const left = goneBy(now)
          if (left !== null) Deferred.doneUnsafe(gone, Effect.succeed(left))
        })
      ),
      Effect.catch((error) => Deferred.fail(leading, unavailable("spawn", error.message)))
    )
  )

  const within = <A>(step: Effect.Effect<A, AppServerUnavailable>, problem: string) =>
    Effect.timeoutOrElse(step, {
      duration: lease.handshakeTimeoutMs,
      orElse: () => {
        unheard = true
        return Effect.fail(unavailable("handshake", `${problem} within ${lease.handshakeTimeoutMs} ms.`))
      }
    })
  const leader = yield* within(Deferred.await(leading), "it was not started")

  let stderr = ""
  const take = (follow: boolean) =>
    Effect.suspend(() => {
      const decoder = new TextDecoder()
      let words = ""
      return Stream.runForEach(
        log.read(runId, { _tag: "tail-bytes", bytes: keptLength }, { follow }),
        ({ bytes }) =>
          Effect.sync(() => {
            words = (words + decoder.decode(bytes, { stream: true })).slice(-keptLength)
            stderr = words
          })
      )
    })
  yield* Effect.forkScoped(Effect.ignore(Effect.retry(take(true), { times: followAgain })))

  const exited = Deferred.await(gone).pipe(
    Effect.tap(Effect.timeoutOption(Effect.ignore(take(false)), lastWordsMs)),
    Effect.flatMap((left): Effect.Effect<PoisonReason> => {
      const poison = poisonBy(left)
      return poison === null ? Effect.never : Effect.succeed(poison)
    })
  )
  const stderrTail = () => shownWords(stderr)
  const beforeItAnswered = (reason: PoisonReason): AppServerUnavailable =>
    unavailable(
      "handshake",
      `${describePoison(reason)} before it answered. Its last words: ${lastLine(stderrTail())}`
    )

  const objection = (connection: net.Socket): string | null => {
    const fd = descriptorOf(connection)
    const peer = fd === null ? null : calls.peerCredentials(fd)
    if (peer?._tag !== "Peer" || peer.pid === null) return null
    const { pid, uid } = peer
    const mark = markOf(leader.pid)
    const isOurs =
      uid === effectiveUid() &&
      (pid === leader.pid ||
        ancestorsOf(pid).includes(leader.pid) ||
        (typeof mark === "number" && markOf(pid) === mark))
    return isOurs ? null : `${socketPath} is served by process ${pid}, which is not of the run ${runId}.`
  }
  const listening = Effect.gen(function* () {
    while (!fs.existsSync(socketPath)) yield* Effect.sleep(listenLookMs)
  })
  yield* within(
    Effect.raceFirst(
      listening,
      Effect.flatMap(exited, (reason) => Effect.fail(beforeItAnswered(reason)))
    ),
    `it did not listen at ${socketPath}`
  )
  const { transport } = yield* dial(`unix:${socketPath}`, {
    tokenFile: null,
    timeoutMs: lease.handshakeTimeoutMs,
    objection
  }).pipe(
    Effect.catch((error) =>
      Effect.flatMap(Effect.timeoutOption(exited, exitAfterCloseMs), (exit) =>
        Effect.fail(Option.isSome(exit) ? beforeItAnswered(exit.value) : error)
      )
    )
  )

  // A socket that closes mostly means that the run is about to end, and its status is the better reason.
  const orItsExit = (reason: PoisonReason): Effect.Effect<never, PoisonReason> =>
    Effect.flatMap(Effect.timeoutOption(exited, exitAfterCloseMs), (exit) =>
      Effect.fail(Option.getOrElse(exit, () => reason))
    )
  const look = () => {
    const here = isStill(leader) ? vitals(leader.pid) : null
    return here === null ? null : { ...here, pid: leader.pid }
  }
  const mark = markOf(leader.pid)
  return {
    runId,
    pid: leader.pid,
    mark: typeof mark === "number" ? rangeOf(mark) : null,
    transport: {
      input: transport.input.pipe(
        Stream.catch((reason) => Stream.fromEffect(orItsExit(reason))),
        Stream.concat(Stream.fromEffect(orItsExit({ _tag: "socket-closed", code: null })))
      ),
      write: (text) => Effect.catch(transport.write(text), orItsExit)
    },
    stderrTail,
    cpuTimeMs: () => look()?.cpuTimeMs ?? null,
    exited,
    stopped: untilStopped(look, lease.stateLookMs),
    gone: Deferred.await(gone)
  }
})
