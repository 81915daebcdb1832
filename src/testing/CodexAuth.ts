/** CodexAuth, fake: who is logged in is a lever, and nobody's tokens are refreshed. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CodexAuth, TokenRefreshFailed } from "../services/CodexAuth.ts"

export class FakeCodexAuth extends Context.Service<
  FakeCodexAuth,
  {
    /** Who borrows from now on does so as this one. */
    readonly logsIn: (identity: string) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeCodexAuth") {}

export const layer: Layer.Layer<CodexAuth | FakeCodexAuth> = Layer.effectContext(
  Effect.sync(() => {
    let current = "somebody"
    return Context.make(CodexAuth, {
      identity: Effect.sync(() => current),
      refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" }))
    }).pipe(
      Context.add(FakeCodexAuth, {
        logsIn: (identity) =>
          Effect.sync(() => {
            current = identity
          })
      })
    )
  })
)
