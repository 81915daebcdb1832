/**
 * A ProcessIdentity without a system: a test says which processes run and what the verdicts are, and reads what was asked.
 *
 * Unless `says` overrides it, a verdict follows the same rule as the real layer, from what `runs` and `ends` declared.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { type Identity, ProcessIdentity, type Verdict } from "../services/ProcessIdentity.ts"

const defaultSelf: Identity = {
  bootId: "boot-1",
  pidNamespace: "pid:[1]",
  pid: 1000,
  startToken: "1000"
}

/** An identity beside this fake's own; the start token follows the pid unless it is given. */
export const identity = (pid: number, over: Partial<Identity> = {}): Identity => ({
  ...defaultSelf,
  pid,
  startToken: String(pid),
  ...over
})

const keyOf = (id: Identity): string => `${id.bootId}/${id.pidNamespace}/${id.pid}/${id.startToken}`

export class FakeProcessIdentity extends Context.Service<
  FakeProcessIdentity,
  {
    /** Declares a running process; one with the same pid is replaced, which is how a pid is recycled. */
    readonly runs: (identity: Identity) => Effect.Effect<void>
    readonly ends: (pid: number) => Effect.Effect<void>
    /** Fixes the verdict of one identity, whatever runs. */
    readonly says: (identity: Identity, verdict: Verdict) => Effect.Effect<void>
    /** The identities whose verdict was asked, in order. */
    readonly asked: Effect.Effect<ReadonlyArray<Identity>>
  }
>()("holdfast/testing/FakeProcessIdentity") {}

export const layerOf = (self: Identity): Layer.Layer<ProcessIdentity | FakeProcessIdentity> =>
  Layer.effectContext(
    Effect.sync(() => {
      const running = new Map<number, Identity>([[self.pid, self]])
      const fixed = new Map<string, Verdict>()
      const asked: Array<Identity> = []
      const verdictOf = (id: Identity): Verdict => {
        const said = fixed.get(keyOf(id))
        if (said !== undefined) return said
        if (id.bootId !== self.bootId) return "dead"
        if (id.pidNamespace !== self.pidNamespace) return "unknown"
        const now = running.get(id.pid)
        return now !== undefined && keyOf(now) === keyOf(id) ? "alive" : "dead"
      }
      return Context.make(ProcessIdentity, {
        self,
        of: (pid) => Effect.sync(() => Option.fromNullishOr(running.get(pid))),
        verdict: (id) =>
          Effect.sync(() => {
            asked.push(id)
            return verdictOf(id)
          })
      }).pipe(
        Context.add(FakeProcessIdentity, {
          runs: (id) => Effect.sync(() => void running.set(id.pid, id)),
          ends: (pid) => Effect.sync(() => void running.delete(pid)),
          says: (id, verdict) => Effect.sync(() => void fixed.set(keyOf(id), verdict)),
          asked: Effect.sync(() => [...asked])
        })
      )
    })
  )

export const layer = layerOf(defaultSelf)
