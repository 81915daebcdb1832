/** SupervisionTree: every supervisor of this gateway, so that one question shows all actors with state, age and restarts. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { ChildState, type RestartLimits, type Supervisor } from "./Supervisor.ts"

export const TreeNode = Schema.Struct({
  supervisor: Schema.String,
  children: Schema.Array(
    Schema.Struct({
      id: Schema.String,
      state: ChildState,
      detail: Schema.String,
      restarts: Schema.Int,
      ageMs: Schema.Finite
    })
  )
})
export type TreeNode = typeof TreeNode.Type

export class SupervisionTree extends Context.Service<
  SupervisionTree,
  {
    /** A supervisor of its own name in the caller's scope; listed until that closes. */
    readonly supervisor: (
      name: string,
      limits?: RestartLimits
    ) => Effect.Effect<Supervisor, never, Scope.Scope>
    readonly snapshot: Effect.Effect<ReadonlyArray<TreeNode>>
  }
>()("holdfast/SupervisionTree") {}

/** `900 ms`, `42 s`, `3 min`, `5 h`, `2 d`: one unit is enough to see what is young and what is old. */
export const formatAge = (ms: number): string =>
  ms < 1000
    ? `${Math.round(ms)} ms`
    : ms < 60_000
      ? `${Math.floor(ms / 1000)} s`
      : ms < 3_600_000
        ? `${Math.floor(ms / 60_000)} min`
        : ms < 86_400_000
          ? `${Math.floor(ms / 3_600_000)} h`
          : `${Math.floor(ms / 86_400_000)} d`

export const renderTree = (root: string, tree: ReadonlyArray<TreeNode>): string => {
  const lines = [root]
  tree.forEach((node, i) => {
    const last = i === tree.length - 1
    lines.push(`${last ? "└─" : "├─"} ${node.supervisor}${node.children.length === 0 ? " (none)" : ""}`)
    node.children.forEach((child, j) => {
      const branch = `${last ? "  " : "│ "} ${j === node.children.length - 1 ? "└─" : "├─"}`
      const state = child.state === "running" ? child.detail : `${child.state}: ${child.detail}`
      lines.push(`${branch} ${child.id}  ${state}  ${formatAge(child.ageMs)}  restarts ${child.restarts}`)
    })
  })
  return lines.join("\n")
}
