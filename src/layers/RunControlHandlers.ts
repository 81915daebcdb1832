/** RunControl, the gateway's answers: asks the supervisor, the logs and the screens, and keeps who is a run's writer. */
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { randomBytes } from "node:crypto"
import * as os from "node:os"
import { AgentDriver } from "../services/AgentDriver.ts"
import { ClaudeDriver } from "../services/ClaudeDriver.ts"
import { withoutDaemon } from "../services/CodexBinary.ts"
import { newestFirst, PtySupervisor, RunInputRefused } from "../services/PtySupervisor.ts"
import {
  type AttachEvent,
  isOver,
  NotTheWriter,
  type Output,
  pieceBytes,
  RunControl,
  RunHasNoTerminal,
  RunIsOver,
  shortIds,
  type Typed
} from "../services/RunControl.ts"
import { type LogChunk, type LogPosition, RunLog } from "../services/RunLog.ts"
import { encodeKeys, encodePaste, Screen } from "../services/Screen.ts"
import { makeRoutes } from "./internal/nodeRoutes.ts"

export * from "../services/RunControl.ts"

const operator = "operator"

const outputOf = ({ cursor, bytes, missing }: LogChunk): Output => ({
  _tag: "output",
  cursor,
  bytes,
  missing
})

const piecesOf = (bytes: Uint8Array): ReadonlyArray<Uint8Array> =>
  Array.from({ length: Math.ceil(bytes.length / pieceBytes) }, (_, index) =>
    bytes.subarray(index * pieceBytes, (index + 1) * pieceBytes)
  )

export const make = Effect.gen(function* () {
  const runs = yield* PtySupervisor
  const log = yield* RunLog
  const screen = yield* Screen
  const driver = yield* AgentDriver
  const claude = yield* ClaudeDriver
  /** The attachment that is the writer, by run. An entry lives as long as the stream of its caller. */
  const writers = new Map<string, number>()
  let attachments = 0
  const routes = yield* makeRoutes(runs.list)
  const find = (ref: string) =>
    Effect.catchTag(runs.find(ref), "RunNotFound", (missing) => routes.find(ref, missing))

  const becomeWriter = (runId: string, attachment: number) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        if (writers.has(runId)) return false
        writers.set(runId, attachment)
        return true
      }),
      () =>
        Effect.sync(() => {
          if (writers.get(runId) === attachment) writers.delete(runId)
        })
    )

  const asWriter = (runId: string, attachment: number | null) =>
    Effect.suspend(() =>
      attachment === null || writers.get(runId) === attachment
        ? Effect.void
        : Effect.fail(new NotTheWriter({ runId }))
    )

  /** The log is there from the first attempt on; a run that waits for its scope has none yet. */
  const begun = (runId: string) =>
    runs.watch(runId).pipe(
      Stream.takeUntil((run) => run.leader !== null || isOver(run)),
      Stream.runDrain
    )

  const read = (runId: string, from: LogPosition, follow: boolean) =>
    log.read(runId, from, { follow }).pipe(
      Stream.catchTag("RunLogMissing", (missing) =>
        Stream.unwrap(
          Effect.gen(function* () {
            const run = yield* Effect.catchTag(runs.find(runId), "RunAmbiguous", () => Effect.fail(missing))
            if (!follow || isOver(run)) return yield* missing
            yield* begun(runId)
            return log.read(runId, from, { follow })
          })
        )
      ),
      Stream.map(outputOf)
    )

  const attach = Effect.fnUntraced(function* (options: {
    readonly runId: string
    readonly readOnly: boolean
    readonly size: { readonly cols: number; readonly rows: number } | null
    readonly cursor: number | null
  }) {
    const { runId, readOnly, size, cursor } = options
    yield* begun(runId)
    const run = yield* Effect.catchTag(runs.find(runId), "RunAmbiguous", Effect.die)
    if (run.spec.pty === null) return yield* new RunHasNoTerminal({ runId })
    if (isOver(run) && cursor === null) return yield* new RunIsOver({ runId })
    const attachment = ++attachments
    const writer = readOnly ? false : yield* becomeWriter(runId, attachment)
    if (writer && size !== null) yield* runs.resize(runId, size)
    const goOn = (from: number): Stream.Stream<AttachEvent, Stream.Error<ReturnType<typeof log.replay>>> =>
      log
        .replay(runId, { _tag: "cursor", cursor: from }, { follow: true })
        .pipe(Stream.map((item) => (item._tag === "chunk" ? outputOf(item) : item)))
    const attached: AttachEvent = { _tag: "attached", attachment, writer, run }
    if (cursor !== null) return Stream.concat(Stream.succeed(attached), goOn(cursor))
    const { bytes, ...shown } = yield* screen.snapshot(runId)
    const drawn: ReadonlyArray<AttachEvent> = [
      attached,
      { _tag: "screen", ...shown },
      ...piecesOf(bytes).map((bytes) => ({ _tag: "draw", bytes }) as const)
    ]
    return Stream.concat(Stream.fromIterable(drawn).pipe(Stream.rechunk(1)), goOn(shown.cursor))
  })

  const bytesOf = Effect.fnUntraced(function* (runId: string, typed: ReadonlyArray<Typed>) {
    const run = yield* Effect.catchTag(runs.find(runId), "RunAmbiguous", Effect.die)
    if (run.state !== "Running") return yield* new RunInputRefused({ runId, problem: "not-running" })
    const hasTerminal = run.spec.pty !== null
    if (!hasTerminal && typed.some(({ _tag }) => _tag === "keys"))
      return yield* new RunHasNoTerminal({ runId })
    const modes =
      hasTerminal && typed.some(({ _tag }) => _tag !== "text")
        ? yield* screen.modes(runId)
        : { bracketedPaste: false, applicationCursor: false }
    const parts = yield* Effect.forEach(typed, (one) => {
      if (one._tag === "keys") return Effect.fromResult(encodeKeys(one.keys, modes))
      const isPaste = one._tag === "paste" && hasTerminal
      return Effect.succeed(isPaste ? encodePaste(one.text, modes) : new TextEncoder().encode(one.text))
    })
    return new Uint8Array(Buffer.concat(parts))
  })

  return RunControl.of({
    StartRun: ({ spec, variables, node, home }) =>
      Effect.suspend(() => {
        const plain = { ...spec, args: withoutDaemon(spec.command, spec.args) }
        if (node !== undefined && node !== null)
          return Effect.flatMap(ulid, (id) =>
            routes.start(node, spec.id ?? `r-${id}`, { spec: plain, variables, home: home ?? false })
          )
        return runs.start(home === true ? { ...plain, cwd: os.homedir() } : plain, variables)
      }),
    StartClaude: ({ request, variables }) => claude.start(request, variables),
    ProveClaude: ({ variables }) => Effect.map(claude.prove(variables), (proven) => ({ proven })),
    ListRuns: ({ ended }) =>
      Effect.gen(function* () {
        const elsewhere = yield* routes.list(ended)
        const here = yield* runs.list
        const all = elsewhere.runs.length === 0 ? here : newestFirst([...here, ...elsewhere.runs])
        const short = shortIds(all.map(({ id }) => id))
        return {
          runs: all.flatMap((run) =>
            ended || run.endedAt === null ? [{ short: short.get(run.id) ?? run.id, run }] : []
          ),
          ...(elsewhere.away.length === 0 ? {} : { away: elsewhere.away }),
          turns: [...(yield* driver.active), ...elsewhere.turns],
          now: yield* Clock.currentTimeMillis
        }
      }),
    FindRun: ({ ref }) => find(ref),
    WatchRun: ({ runId }) => routes.follow(runId, runs.watch(runId), ({ WatchRun }) => WatchRun({ runId })),
    EndRun: ({ runId, graceMs }) =>
      routes.ask(runId, runs.end(runId, { by: operator, graceMs }), ({ EndRun }) =>
        EndRun({ runId, graceMs })
      ),
    RemoveRun: ({ runId }) => routes.ask(runId, runs.remove(runId), ({ RemoveRun }) => RemoveRun({ runId })),
    WriteRun: ({ runId, bytes, attachment }) =>
      routes.ask(
        runId,
        Effect.andThen(asWriter(runId, attachment), runs.write(runId, bytes)),
        ({ WriteRun }) => WriteRun({ runId, bytes, attachment })
      ),
    TypeRun: ({ runId, typed }) =>
      routes.ask(
        runId,
        Effect.flatMap(bytesOf(runId, typed), (bytes) => runs.write(runId, bytes)),
        ({ TypeRun }) => TypeRun({ runId, typed })
      ),
    CloseRunInput: ({ runId }) =>
      routes.ask(runId, runs.closeInput(runId), ({ CloseRunInput }) => CloseRunInput({ runId })),
    ResizeRun: ({ runId, size, attachment }) =>
      routes.ask(
        runId,
        Effect.andThen(asWriter(runId, attachment), runs.resize(runId, size)),
        ({ ResizeRun }) => ResizeRun({ runId, size, attachment })
      ),
    ReadRun: ({ runId, from, follow }) =>
      routes.follow(runId, read(runId, from, follow), ({ ReadRun }) => ReadRun({ runId, from, follow })),
    AttachRun: (options) =>
      routes.follow(options.runId, Stream.unwrap(attach(options)), ({ AttachRun }) => AttachRun(options))
  })
})

export const layer = RunControl.toLayer(make)

const { ulid } = SecureRandom.make((size) => new Uint8Array(randomBytes(size)))
