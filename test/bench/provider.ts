/** The scripted provider in a process of its own, so that neither kind of run shares it, with each request's arrival time. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Stream from "effect/Stream"
import * as ScriptedProvider from "../../src/layers/ScriptedProvider.ts"
import { serve } from "./serve.ts"

const arrivals = new Map<string | null, Array<number>>()

const watching = Layer.effectDiscard(
  Effect.gen(function* () {
    const provider = yield* ScriptedProvider.ScriptedProvider
    yield* Stream.runForEach(provider.requests, ({ threadId }) =>
      Effect.sync(() => {
        const known = arrivals.get(threadId)
        if (known) known.push(performance.now())
        else arrivals.set(threadId, [performance.now()])
      })
    ).pipe(Effect.forkScoped({ startImmediately: true }))
  })
)

const runtime = ManagedRuntime.make(watching.pipe(Layer.provideMerge(ScriptedProvider.layer)))

const handlers = {
  url: () => runtime.runPromise(ScriptedProvider.ScriptedProvider.use(({ url }) => Effect.succeed(url))),
  /** Milliseconds at which each request of a thread came, on this process's clock. */
  arrivals: (threadId: string) => arrivals.get(threadId) ?? []
}

export type Provider = typeof handlers

serve(handlers)
