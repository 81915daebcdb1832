/**
 * AppServerProcess, fake: logs `start n`, `stop n`, `gone n`, `swept n`; levers let a start, an exit or a sweep wait, a start
 * fail, an exit stay unconfirmed, and a child be lost, answer and say something. A child is `gone` before what it left behind is
 * swept, as in life.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import {
  AppServerLost,
  AppServerUnavailable,
  type BorrowerShed,
  type PoisonReason,
  type RequestFailure
} from "../services/AppServerFailure.ts"
import {
  type AppServerConnection,
  AppServerProcess,
  type Gone,
  type Incoming
} from "../services/AppServerProcess.ts"

export const unavailable = new AppServerUnavailable({ stage: "spawn", problem: "it is a test." })

const killed: PoisonReason = { _tag: "signalled", signal: "SIGKILL" }

export const lostOf = (generation: number, reason: PoisonReason = killed): AppServerLost =>
  new AppServerLost({ generation, reason, stderrTail: "last words" })

type Gate = Deferred.Deferred<void> | null

type Answer = (method: string, params: unknown, generation: number) => Effect.Effect<unknown, RequestFailure>

interface Route {
  readonly threadId: string
  readonly queue: Queue.Queue<Incoming, AppServerLost | BorrowerShed>
}

export class FakeAppServer extends Context.Service<
  FakeAppServer,
  {
    readonly log: Array<string>
    /** Starts from now on wait for this, or start at once again. */
    readonly startsWaitFor: (gate: Gate) => void
    /** Exits from now on wait for this after the child was told to stop. */
    readonly exitsWaitFor: (gate: Gate) => void
    /** What a child left behind is swept only then. */
    readonly sweepsWaitFor: (gate: Gate) => void
    readonly startsFail: (fail: boolean) => void
    /** Starts from now on break with a defect, or not any more. */
    readonly startsBreak: (breaks: boolean) => void
    /** How children end from now on. */
    readonly exitsAs: (gone: Gone) => void
    /** What requests are answered with from now on, as the server would write it; unless told, a request is a defect. */
    readonly answersWith: (answer: Answer) => void
    /** A message about a thread, to whoever listens to it at that child. */
    readonly says: (generation: number, threadId: string, message: Incoming) => Effect.Effect<void>
    /** The child of the generation is lost; killed unless another reason is given. */
    readonly dies: (generation: number, reason?: PoisonReason) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeAppServer") {}

/** Children whose acquisition is in the log and whose end is not. */
export const living = (log: ReadonlyArray<string>): ReadonlyArray<string> =>
  log.filter((line) => line.startsWith("start ") && !log.includes(line.replace("start", "gone")))

const awaited = (gate: Gate): Effect.Effect<void> => (gate ? Deferred.await(gate) : Effect.void)

const answersNothing: Answer = () => Effect.die(new Error("the fake answers nothing until it is told what"))

export const layer: Layer.Layer<AppServerProcess | FakeAppServer> = Layer.effectContext(
  Effect.sync(() => {
    const log: Array<string> = []
    const children = new Map<
      number,
      { readonly lost: Deferred.Deferred<AppServerLost>; readonly routes: Array<Route> }
    >()
    let answer = answersNothing
    let startGate: Gate = null
    let exitGate: Gate = null
    let sweepGate: Gate = null
    let fail = false
    let breaks = false
    let end: Gone = { confirmed: true, code: 0, signal: null }
    const start = (generation: number) =>
      Effect.gen(function* () {
        const lost = yield* Deferred.make<AppServerLost>()
        const gone = yield* Deferred.make<Gone>()
        yield* Effect.acquireRelease(
          Effect.sync(() => log.push(`start ${generation}`)),
          () =>
            Effect.gen(function* () {
              log.push(`stop ${generation}`)
              yield* awaited(exitGate)
              log.push(`gone ${generation}`)
              yield* Deferred.succeed(lost, lostOf(generation, { _tag: "stdio-closed" }))
              yield* Deferred.succeed(gone, end)
              yield* awaited(sweepGate)
              log.push(`swept ${generation}`)
            })
        )
        yield* awaited(startGate)
        if (fail) return yield* unavailable
        if (breaks) return yield* Effect.die(new Error("a bug of ours"))
        const routes: Array<Route> = []
        children.set(generation, { lost, routes })
        return {
          generation,
          origin: "spawned",
          pid: 1000 + generation,
          runId: null,
          mark: null,
          version: "0.169.0",
          request: (method, params, result) =>
            Effect.suspend(() => answer(method, params, generation)).pipe(
              Effect.raceFirst(Effect.flatMap(Deferred.await(lost), Effect.fail)),
              Effect.flatMap((value) => Effect.orDie(Schema.decodeUnknownEffect(result)(value)))
            ),
          thread: (threadId) =>
            Effect.tap(Queue.unbounded<Incoming, AppServerLost | BorrowerShed>(), (queue) =>
              Effect.sync(() => routes.push({ threadId, queue }))
            ),
          retire: (reason) => Effect.asVoid(Deferred.succeed(lost, lostOf(generation, reason))),
          lost: Deferred.await(lost),
          gone: Deferred.await(gone)
        } satisfies AppServerConnection
      })
    return Context.make(AppServerProcess, { start }).pipe(
      Context.add(FakeAppServer, {
        log,
        startsWaitFor: (gate) => {
          startGate = gate
        },
        exitsWaitFor: (gate) => {
          exitGate = gate
        },
        sweepsWaitFor: (gate) => {
          sweepGate = gate
        },
        startsFail: (next) => {
          fail = next
        },
        startsBreak: (next) => {
          breaks = next
        },
        exitsAs: (gone) => {
          end = gone
        },
        answersWith: (next) => {
          answer = next
        },
        says: (generation, threadId, message) =>
          Effect.sync(() => {
            for (const route of children.get(generation)?.routes ?? [])
              if (route.threadId === threadId) Queue.offerUnsafe(route.queue, message)
          }),
        dies: (generation, reason) =>
          Effect.sync(() => {
            const { lost, routes } = children.get(generation)!
            const error = lostOf(generation, reason)
            // As in life: who reads a thread's messages hears of it before the lease does.
            for (const { queue } of routes) Queue.failCauseUnsafe(queue, Cause.fail(error))
            Deferred.doneUnsafe(lost, Effect.succeed(error))
          })
      })
    )
  })
)
