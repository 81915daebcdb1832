/** Policy, fake: one decider that a test puts there, and the events that were judged. It allows everything unless told. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { HookEvent } from "../services/HookEvent.ts"
import { type Judgement, Policy } from "../services/Policy.ts"

type Decide = (event: HookEvent) => Effect.Effect<Judgement>

/** A judgement of the policy `test`; its reason is the verdict's name unless it is given. */
export const judged = (
  verdict: Judgement["verdict"] | "allow" | "deny" | "ask",
  reason?: string
): Judgement => {
  const said: Judgement["verdict"] = typeof verdict === "string" ? { _tag: verdict } : verdict
  return { verdict: said, policy: "test", reason: reason ?? said._tag, votes: [] }
}

export class FakePolicy extends Context.Service<
  FakePolicy,
  {
    readonly decidesWith: (decide: Decide) => Effect.Effect<void>
    /** What was judged, in order. */
    readonly judgedEvents: Effect.Effect<ReadonlyArray<HookEvent>>
  }
>()("holdfast/testing/FakePolicy") {}

export const layerOf = (decide: Decide): Layer.Layer<Policy | FakePolicy> =>
  Layer.effectContext(
    Effect.sync(() => {
      const events: Array<HookEvent> = []
      let current = decide
      return Context.make(Policy, {
        loaded: ["test"],
        version: "1",
        decide: (event) =>
          Effect.suspend(() => {
            events.push(event)
            return current(event)
          })
      }).pipe(
        Context.add(FakePolicy, {
          decidesWith: (next) =>
            Effect.sync(() => {
              current = next
            }),
          judgedEvents: Effect.sync(() => [...events])
        })
      )
    })
  )

export const layer = layerOf(() => Effect.succeed(judged("allow")))
