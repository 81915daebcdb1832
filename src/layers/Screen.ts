/**
 * Screen, live: a model per run that somebody looks at, drawn from the log and following it, dropped when nobody looked for a
 * while. The log remembers everything, so a model may be forgotten at any time.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RcMap from "effect/RcMap"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { type LogPosition, type ResizeMark, RunLog, type RunLogReadError } from "../services/RunLog.ts"
import {
  defaultSize,
  Screen,
  ScreenBroken,
  type ScreenSnapshot,
  scrollbackLines
} from "../services/Screen.ts"
import type { ScreenModel } from "./internal/screenModel.ts"
import { makeSignal } from "./internal/signal.ts"

export * from "../services/Screen.ts"

/** A model nobody has looked at for so long goes; drawing a full log again takes half a second. */
const idleTimeToLive = "30 seconds"

/** Screens looked at at once; one of 120 columns with all its scrollback takes 1.5 MB. */
const maxScreens = 64

/** For a screen to catch up with its log as it was when asked: forty full logs. */
const drawTimeoutMs = 20_000

/** For a size that was set before anybody asked to reach the model; one of several in a row may pass unseen. */
const resizeTimeoutMs = 100

/** What a model that cannot keep up with its run begins again from: far more than its scrollback. */
const restartBytes = 1024 * 1024

interface Follower {
  readonly model: () => ScreenModel
  /** The model stands right before this byte of the log. */
  readonly cursor: () => number
  readonly missing: () => number
  readonly upTo: (cursor: number, size: ResizeMark | null) => Effect.Effect<void, RunLogReadError>
  /** While it is held nothing is fed. */
  readonly still: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export const make = Effect.gen(function* () {
  const log = yield* RunLog

  const follow = Effect.fnUntraced(function* (runId: string) {
    // Not before somebody looks: the terminal costs every process that loads it 7 MB.
    const { makeScreenModel } = yield* Effect.promise(() => import("./internal/screenModel.ts"))
    const signal = makeSignal()
    const lock = yield* Semaphore.make(1)
    let model = makeScreenModel(defaultSize, scrollbackLines)
    let cursor = 0
    let missing = 0
    let size: ResizeMark | null = null
    let failure: RunLogReadError | null = null
    let over = false

    const beginAgain = (): void => {
      const { cols, rows } = model.terminal
      model.dispose()
      model = makeScreenModel({ cols, rows }, scrollbackLines)
      missing = cursor
    }

    const from = (position: LogPosition): Effect.Effect<void, RunLogReadError> =>
      log.replay(runId, position, { follow: true }).pipe(
        Stream.runForEach((item) =>
          lock.withPermit(
            Effect.sync(() => {
              if (item._tag === "resize") {
                model.resize(item)
                size = item
                return signal.notify()
              }
              // What lies between: rotated away, lost, or skipped by a restart.
              missing += Math.max(0, item.cursor - cursor)
              cursor = item.cursor + item.bytes.length
              try {
                model.feed(item.bytes)
              } catch {
                // A sequence that the terminal cannot take: the screen begins again after it, and says so.
                beginAgain()
              }
              signal.notify()
            })
          )
        ),
        Effect.catchTag("LogReaderSlow", () =>
          lock
            .withPermit(Effect.sync(beginAgain))
            .pipe(Effect.andThen(Effect.suspend(() => from({ _tag: "tail-bytes", bytes: restartBytes }))))
        )
      )

    yield* from({ _tag: "start" }).pipe(
      Effect.catch((error) => Effect.sync(() => void (failure = error))),
      Effect.ensuring(
        Effect.sync(() => {
          over = true
          signal.notify()
        })
      ),
      Effect.forkScoped
    )
    yield* Effect.addFinalizer(() => Effect.sync(() => model.dispose()))
    const follower: Follower = {
      model: () => model,
      cursor: () => cursor,
      missing: () => missing,
      upTo: Effect.fnUntraced(function* (target, mark) {
        yield* signal.until(() => over || cursor >= target)
        if (failure !== null) return yield* failure
        if (mark !== null)
          yield* Effect.timeoutOption(
            signal.until(
              () =>
                over || (size?.cursor === mark.cursor && size.cols === mark.cols && size.rows === mark.rows)
            ),
            resizeTimeoutMs
          )
      }),
      still: lock.withPermit
    }
    return follower
  })

  const followers = yield* RcMap.make({ lookup: follow, idleTimeToLive, capacity: maxScreens })

  const look = <A>(runId: string, see: (follower: Follower) => A) =>
    Effect.gen(function* () {
      const broken = (cause: unknown): ScreenBroken => new ScreenBroken({ runId, cause })
      const { end } = yield* log.info(runId)
      const marks = yield* log.replay(runId, { _tag: "end" }, { follow: false }).pipe(
        Stream.filter((item) => item._tag === "resize"),
        Stream.runCollect
      )
      const follower = yield* RcMap.get(followers, runId).pipe(Effect.mapError(broken))
      yield* follower.upTo(end, marks.at(-1) ?? null).pipe(
        // A model that lost its log is of no use to the next who looks.
        Effect.tapError(() => RcMap.invalidate(followers, runId)),
        Effect.timeoutOrElse({
          duration: drawTimeoutMs,
          orElse: () => Effect.fail(broken(new Error(`it takes longer than ${drawTimeoutMs} ms`)))
        })
      )
      return yield* follower.still(Effect.try({ try: () => see(follower), catch: broken }))
    }).pipe(Effect.scoped)

  return Screen.of({
    snapshot: Effect.fn("Screen.snapshot")((runId: string) =>
      look(runId, ({ model, cursor, missing }): ScreenSnapshot => {
        const { terminal, draw, rows, modes } = model()
        const { cursorX: x, cursorY: y } = terminal.buffer.active
        return {
          cursor: cursor(),
          size: { cols: terminal.cols, rows: terminal.rows },
          bytes: draw(),
          rows: rows(),
          at: { x, y },
          modes: modes(),
          missing: missing()
        }
      })
    ),
    modes: Effect.fn("Screen.modes")((runId: string) => look(runId, ({ model }) => model().modes()))
  })
})

export const layer = Layer.effect(Screen, make)
