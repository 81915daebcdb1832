/** Following a run from outside: its output to this program's, what is piped in to it, and its end to an exit code. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as ControlClient from "../../layers/ControlClient.ts"
import { makeResidue } from "../../services/Attachment.ts"
import { exitCodeOf, type RunInfo } from "../../services/PtySupervisor.ts"
import type { NodeAway } from "../../services/NodeAway.ts"
import { isOver, Output, pieceBytes } from "../../services/RunControl.ts"
import type { LogPosition } from "../../services/RunLog.ts"
import { endWords, missingBytes } from "../../services/RunReport.ts"
import { input, takenSignals, writeOut } from "./device.ts"
import { type Client, goOn } from "./reconnect.ts"
import { complain, ExitWith } from "./terminal.ts"

/** A node that is away comes back, with every run that it has; between two tries the gateway waits for it too. */
const whileAway = <A, E, R>(asking: Effect.Effect<A, E, R>) =>
  Effect.retry(asking, {
    while: (error) => Predicate.isTagged(error, "NodeAway") && (error as unknown as NodeAway).paired,
    schedule: Schedule.spaced(200)
  })

/** The run as it is when a condition holds, at the latest when it is over. */
export const runUntil = (runId: string, holds: (run: RunInfo) => boolean) =>
  goOn((client) =>
    client.WatchRun({ runId }).pipe(
      Stream.takeUntil((run) => isOver(run) || holds(run)),
      Stream.runLast,
      whileAway,
      Effect.flatMap(
        Option.match({
          onNone: () => Effect.fail(new ControlClient.GatewayLost({})),
          // A gateway that ends, ends what it was telling.
          onSome: (run) =>
            isOver(run) || holds(run) ? Effect.succeed(run) : Effect.fail(new ControlClient.GatewayLost({}))
        })
      )
    )
  )

export const runOver = (runId: string) => runUntil(runId, () => false)

/** Ends this program as the run ended; says how, where a status alone would not. */
export const exitAs = (run: RunInfo) =>
  Effect.suspend(() => {
    if (run.reason?._tag !== "exited" && run.reason?._tag !== "signalled")
      complain(`${run.id}: ${endWords(run)}`)
    return Effect.fail(new ExitWith(exitCodeOf(run)))
  })

/** The run's output from a position on, without a gap or a byte twice, whatever happens to the gateway. */
const outputOf = <E, R>(
  runId: string,
  from: LogPosition,
  follow: boolean,
  take: (piece: Output) => Effect.Effect<void, E, R>
) => {
  let position = from
  const read = (client: Client): ReturnType<typeof reading> =>
    Effect.catchTag(
      follow ? whileAway(Effect.suspend(() => reading(client))) : reading(client),
      "LogReaderSlow",
      () => read(client)
    )
  const reading = (client: Client) =>
    client.ReadRun({ runId, from: position, follow }).pipe(
      Stream.runForEach((piece) =>
        Effect.andThen(
          take(piece),
          Effect.sync(() => {
            position = { _tag: "cursor", cursor: piece.cursor + piece.bytes.length }
          })
        )
      )
    )
  return { read, position: () => position }
}

const encodeOutput = Schema.encodeSync(Output)

const taker = (json: boolean) => (piece: Output) =>
  json
    ? writeOut(Buffer.from(`${JSON.stringify(encodeOutput(piece))}\n`))
    : Effect.suspend(() => {
        if (piece.missing > 0) complain(missingBytes(piece.missing))
        return writeOut(piece.bytes)
      })

/** Prints a run's output, from its beginning or its last lines on. */
export const printLog = Effect.fnUntraced(function* (
  run: RunInfo,
  options: { readonly follow: boolean; readonly tail: number | null; readonly json: boolean }
) {
  const residue = makeResidue()
  const print = taker(options.json)
  let first = true
  const output = outputOf(
    run.id,
    options.tail === null ? { _tag: "start" } : { _tag: "tail-lines", lines: options.tail },
    options.follow,
    (piece) =>
      Effect.suspend(() => {
        if (first && options.tail === null && piece.cursor > 0 && !options.json)
          complain(missingBytes(piece.cursor))
        first = false
        if (process.stdout.isTTY) residue.feed(piece.bytes)
        return print(piece)
      })
  )
  yield* goOn(output.read).pipe(
    Effect.catchTag("RunLogMissing", () =>
      Effect.sync(() =>
        complain(
          `No output of ${run.id} is kept: it printed nothing, or what it printed made room for newer runs.`
        )
      )
    ),
    Effect.ensuring(Effect.suspend(() => Effect.ignore(writeOut(Buffer.from(residue.undo())))))
  )
})

const endRun = (runId: string, graceMs: number | null) => goOn((client) => client.EndRun({ runId, graceMs }))

/** The first signal ends the run by its own grace, the second at once. What is left to show is shown. */
export const endedBySignals = (runId: string) =>
  takenSignals.pipe(
    Stream.zipWithIndex,
    Stream.runForEach(([, index]) =>
      Effect.forkScoped(Effect.ignore(endRun(runId, index === 0 ? null : 0)), { startImmediately: true })
    )
  )

/** Pieces of a pipe that are read ahead of the run. */
const piecesAhead = 4
/** A run that does not read is asked again so often. */
export const inputPauseMs = 20

/** Hands over what is piped in, and its end. A run that cannot take any now is waited for. */
const makeForwarder = Effect.fnUntraced(function* (runId: string) {
  const pieces = yield* Queue.bounded<Uint8Array, Cause.Done>(piecesAhead)
  yield* (yield* input).pipe(
    Stream.runForEach((bytes) =>
      Effect.gen(function* () {
        for (let at = 0; at < bytes.length; at += pieceBytes)
          yield* Queue.offer(pieces, bytes.subarray(at, at + pieceBytes))
      })
    ),
    Effect.andThen(Queue.end(pieces)),
    Effect.forkScoped
  )
  let underWay = 0
  const later = Effect.sleep(inputPauseMs)
  const put = (client: Client, bytes: Uint8Array): Effect.Effect<boolean, ControlClient.GatewayLost> =>
    client.WriteRun({ runId, bytes, attachment: null }).pipe(
      Effect.as(true),
      Effect.catchTag("RunInputRefused", ({ problem }) =>
        problem === "closed"
          ? Effect.succeed(false)
          : Effect.andThen(
              later,
              Effect.suspend(() => put(client, bytes))
            )
      ),
      Effect.catchTags({
        RunNotFound: () => Effect.succeed(false),
        NotTheWriter: () => Effect.succeed(false),
        KeeperUnavailable: () =>
          Effect.andThen(
            later,
            Effect.suspend(() => put(client, bytes))
          ),
        // It may have been lost with the question or with its answer: written again, it could be there twice.
        NodeAway: () =>
          Effect.sync(() => {
            complain(
              `The node went away while ${bytes.length} bytes of the input were under way; they may not have arrived.`
            )
            return true
          })
      })
    )
  const end = (client: Client): Effect.Effect<void, ControlClient.GatewayLost> =>
    Effect.catch(client.CloseRunInput({ runId }), (error) =>
      error._tag === "GatewayLost"
        ? Effect.fail(error)
        : error._tag === "RunInputRefused" && error.problem !== "closed"
          ? Effect.andThen(
              later,
              Effect.suspend(() => end(client))
            )
          : Effect.void
    )
  return (client: Client) =>
    Effect.gen(function* () {
      if (underWay > 0) {
        complain(
          `The gateway was replaced while ${underWay} bytes of the input were under way; they may not have arrived.`
        )
        underWay = 0
      }
      for (;;) {
        const bytes = yield* Effect.orElseSucceed(Queue.take(pieces), () => null)
        if (bytes === null) return yield* end(client)
        underWay = bytes.length
        const taken = yield* put(client, bytes)
        underWay = 0
        if (!taken) return
      }
    })
})

/** A run in the foreground of pipes: its bytes to ours, ours to it, and its end is ours. */
export const foregroundOnPipes = Effect.fnUntraced(function* (run: RunInfo, json: boolean) {
  yield* Effect.forkScoped(endedBySignals(run.id), { startImmediately: true })
  const forward = yield* makeForwarder(run.id)
  const output = outputOf(run.id, { _tag: "start" }, true, taker(json))
  yield* goOn((client) =>
    Effect.raceFirst(output.read(client), Effect.andThen(forward(client), Effect.never))
  ).pipe(
    Effect.catchTags({
      RunLogMissing: () => Effect.void,
      // Nobody reads what it prints: it is not wanted any more.
      OutputClosed: () => Effect.asVoid(endRun(run.id, null))
    })
  )
  const last = yield* runOver(run.id)
  if (json) yield* Effect.ignore(writeOut(Buffer.from(`${JSON.stringify({ _tag: "ended", run: last })}\n`)))
  return yield* exitAs(last)
}, Effect.scoped)
