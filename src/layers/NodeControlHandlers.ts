/** NodeControl, the gateway's answers: which machines there are, and who may become one. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { NodeControl, NotListening } from "../services/NodeControl.ts"
import { NodeStore } from "../services/NodeStore.ts"
import { Nodes } from "../services/Nodes.ts"

export * from "../services/NodeControl.ts"

export const make = Effect.gen(function* () {
  const registry = yield* NodeStore
  const nodes = yield* Nodes
  return NodeControl.of({
    PairNode: () =>
      Effect.gen(function* () {
        const { listening } = nodes
        if (listening === null) return yield* new NotListening()
        return { ...listening, ...(yield* registry.pair) }
      }),
    ListNodes: () =>
      Effect.gen(function* () {
        return { nodes: yield* nodes.statuses, now: yield* Clock.currentTimeMillis }
      }),
    RevokeNode: ({ ref }) => registry.revoke(ref),
    RenameNode: ({ ref, name }) => registry.rename(ref, name)
  })
})

export const layer = NodeControl.toLayer(make)
