/** AppServerProcess, fake: logs `start n` and `stop n`; levers let a start wait, fail, or the child die. */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import {
  type AppServerConnection,
  AppServerLost,
  AppServerProcess,
  AppServerUnavailable
} from "../../src/services/AppServerProcess.ts"

export const unavailable = new AppServerUnavailable({ stage: "spawn", problem: "it is a test." })

export class FakeAppServer extends Context.Service<
  FakeAppServer,
  {
    readonly log: Array<string>
    /** Starts from now on wait for this, or start at once again. */
    readonly startsWaitFor: (gate: Deferred.Deferred<void> | null) => void
    readonly startsFail: (fail: boolean) => void
    /** Starts from now on break with a defect, or not any more. */
    readonly startsBreak: (breaks: boolean) => void
    readonly dies: (generation: number) => Effect.Effect<void>
  }
>()("test/FakeAppServer") {}

const connection = (generation: number, death: Deferred.Deferred<AppServerLost>): AppServerConnection => ({
  generation,
  pid: 1000 + generation,
  version: "0.169.0",
  request: () => Effect.die("the fake answers nothing"),
  thread: () => Effect.orDie(Queue.bounded(1)),
  lost: Deferred.await(death)
})

export const layerFake = Layer.effectContext(
  Effect.sync(() => {
    const log: Array<string> = []
    const deaths = new Map<number, Deferred.Deferred<AppServerLost>>()
    let gate: Deferred.Deferred<void> | null = null
    let fail = false
    let breaks = false
    const start = (generation: number) =>
      Effect.gen(function* () {
        yield* Effect.acquireRelease(
          Effect.sync(() => log.push(`start ${generation}`)),
          () => Effect.sync(() => log.push(`stop ${generation}`))
        )
        if (gate) yield* Deferred.await(gate)
        if (fail) return yield* unavailable
        if (breaks) return yield* Effect.die(new Error("a bug of ours"))
        const death = yield* Deferred.make<AppServerLost>()
        deaths.set(generation, death)
        return connection(generation, death)
      })
    return Context.make(AppServerProcess, { start }).pipe(
      Context.add(FakeAppServer, {
        log,
        startsWaitFor: (next) => {
          gate = next
        },
        startsFail: (next) => {
          fail = next
        },
        startsBreak: (next) => {
          breaks = next
        },
        dies: (generation) =>
          Effect.asVoid(
            Deferred.succeed(
              deaths.get(generation)!,
              new AppServerLost({
                generation,
                reason: { _tag: "exited", code: null, signal: "SIGKILL" },
                stderrTail: "last words"
              })
            )
          )
      })
    )
  })
)
