/** A person's terminal at a run: its screen and output to theirs, their keys and window to it. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import {
  belowScreen,
  type DetachKeys,
  emptyTerminal,
  holdMs,
  isReport,
  makeDetachMatcher,
  makeResidue
} from "../../services/Attachment.ts"
import type { RunInfo } from "../../services/PtySupervisor.ts"
import { type AttachEvent, pieceBytes } from "../../services/RunControl.ts"
import { endWords, missingBytes } from "../../services/RunReport.ts"
import { input, rawTerminal, windowSize, windowSizes, writeOut } from "./device.ts"
import { type Client, goOn } from "./reconnect.ts"
import { endedBySignals, exitAs, inputPauseMs, runOver } from "./runFollow.ts"
import { complain } from "./terminal.ts"

/** Keys that wait while the gateway is replaced, or the run does not read. */
const keysAhead = 256
/** A line is read before the screen covers it. */
const noticeMs = 1_000
const bell = Uint8Array.of(7)
const newLine = Uint8Array.of(13, 10)

/** In raw mode a line feed alone goes straight down. */
const say = (line: string): void => complain(`${line}\r`)

/** The screen has to be drawn anew. */
class ScreenStale extends Schema.TaggedError<ScreenStale>()("ScreenStale", { why: Schema.String }) {}

/** A person's terminal at a run, until they detach or the run is over. */
const atTerminal = Effect.fnUntraced(function* (
  runId: string,
  options: {
    readonly readOnly: boolean
    readonly detach: DetachKeys
    /** From here on, on a terminal that shows what came before; null for the screen as it is. */
    readonly cursor: number | null
  }
) {
  const residue = makeResidue()
  yield* rawTerminal(residue)
  const keys = yield* input
  let { readOnly, cursor } = options
  /** Where keys go; null while nobody takes them. */
  let hands: { readonly client: Client; readonly attachment: number } | null = null

  const draw = (bytes: Uint8Array) => {
    residue.feed(bytes)
    return writeOut(bytes)
  }
  const onEvent = (client: Client) => (event: AttachEvent) =>
    Effect.gen(function* () {
      switch (event._tag) {
        case "attached": {
          hands = event.writer ? { client, attachment: event.attachment } : null
          if (event.writer) return
          if (readOnly) return
          readOnly = true
          say("another terminal is the writer; this one only looks on")
          return yield* Effect.sleep(noticeMs)
        }
        case "screen": {
          cursor = null
          const { cols, rows } = event.size
          const mine = windowSize()
          if (readOnly && (cols > mine.cols || rows > mine.rows)) {
            say(
              `its terminal has ${cols}x${rows} cells, this one ${mine.cols}x${mine.rows}: not all of it can be shown`
            )
            yield* Effect.sleep(noticeMs)
          }
          return yield* draw(Buffer.from(emptyTerminal(mine.rows)))
        }
        case "draw":
          return yield* draw(event.bytes)
        case "output": {
          if (event.missing > 0) return yield* new ScreenStale({ why: missingBytes(event.missing) })
          yield* draw(event.bytes)
          cursor = event.cursor + event.bytes.length
          return
        }
        case "resize":
          return
      }
    })
  const shown: Effect.Effect<void, Effect.Error<ReturnType<typeof showing>>> = Effect.suspend(() =>
    Effect.catchTags(showing(), {
      ScreenStale: ({ why }) => again(why),
      LogReaderSlow: ({ behind }) => again(`this terminal was ${behind} bytes behind and was dropped`)
    })
  )
  const again = (why: string) =>
    Effect.suspend(() => {
      cursor = null
      say(`${why}; attached anew`)
      return shown
    })
  const showing = () =>
    goOn((client) =>
      client
        .AttachRun({ runId, readOnly, size: windowSize(), cursor })
        .pipe(Stream.runForEach(onEvent(client)), Effect.ensuring(Effect.sync(() => (hands = null))))
    )

  const typed = yield* Queue.bounded<Uint8Array>(keysAhead)
  const matcher = makeDetachMatcher(options.detach)
  const type = (bytes: Uint8Array) =>
    Effect.suspend(() => {
      if (bytes.length === 0 || (readOnly && isReport(bytes))) return Effect.void
      return readOnly || !Queue.offerUnsafe(typed, bytes) ? Effect.ignore(writeOut(bell)) : Effect.void
    })
  let holding: Fiber.Fiber<void> | null = null
  const detached = keys.pipe(
    Stream.takeUntilEffect((bytes) =>
      Effect.gen(function* () {
        if (holding !== null) yield* Fiber.interrupt(holding)
        const fed = matcher.feed(bytes)
        yield* type(fed.forward)
        if (matcher.isHolding())
          holding = yield* Effect.forkScoped(
            Effect.delay(
              Effect.suspend(() => type(matcher.flush())),
              holdMs
            )
          )
        return fed.detached
      })
    ),
    Stream.runDrain
  )

  const handTo = (bytes: Uint8Array): Effect.Effect<void> =>
    Effect.suspend(() => {
      const now = hands
      const later = Effect.andThen(Effect.sleep(inputPauseMs), handTo(bytes))
      if (now === null) return readOnly ? Effect.void : later
      return now.client
        .WriteRun({ runId, bytes, attachment: now.attachment })
        .pipe(
          Effect.catch((error) =>
            error._tag === "RunInputRefused" && error.problem === "full"
              ? later
              : Effect.ignore(writeOut(bell))
          )
        )
    })
  const typing = Effect.forever(
    Effect.flatMap(Queue.take(typed), (bytes) =>
      Effect.gen(function* () {
        for (let at = 0; at < bytes.length; at += pieceBytes)
          yield* handTo(bytes.subarray(at, at + pieceBytes))
      })
    )
  )
  yield* Effect.forkScoped(typing)
  yield* windowSizes.pipe(
    Stream.runForEach((size) =>
      hands === null
        ? Effect.void
        : Effect.ignore(hands.client.ResizeRun({ runId, size, attachment: hands.attachment }))
    ),
    Effect.forkScoped
  )
  return yield* Effect.raceFirst(Effect.as(shown, "over" as const), Effect.as(detached, "detached" as const))
}, Effect.scoped)

/** A run in the foreground of a terminal. */
export const foregroundOnTerminal = Effect.fnUntraced(function* (run: RunInfo, detach: DetachKeys) {
  yield* Effect.forkScoped(endedBySignals(run.id), { startImmediately: true })
  const how = yield* Effect.catchTag(
    atTerminal(run.id, { readOnly: false, detach, cursor: 0 }),
    "RunLogMissing",
    () => Effect.succeed("over" as const)
  )
  if (how === "detached") {
    // The cursor stands wherever the run has left it.
    yield* Effect.ignore(writeOut(newLine))
    return complain(`detached from ${run.id}, which goes on`)
  }
  return yield* exitAs(yield* runOver(run.id))
}, Effect.scoped)

export const attachTo = Effect.fnUntraced(function* (
  run: RunInfo,
  options: { readonly readOnly: boolean; readonly detach: DetachKeys }
) {
  const how = yield* atTerminal(run.id, { ...options, cursor: null })
  yield* Effect.ignore(writeOut(Buffer.from(belowScreen(windowSize().rows))))
  complain(
    how === "detached"
      ? `detached from ${run.id}, which goes on`
      : `${run.id}: ${endWords(yield* runOver(run.id))}`
  )
})
