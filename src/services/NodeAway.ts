/** NodeAway: a machine that is not connected; apart, because what is asked about runs may fail by it. */
import * as Schema from "effect/Schema"

export class NodeAway extends Schema.TaggedError<NodeAway>()("NodeAway", {
  node: Schema.String,
  /** It is paired, and may come back. */
  paired: Schema.Boolean
}) {
  override get message(): string {
    const name = JSON.stringify(this.node)
    return this.paired
      ? `The node ${name} is not connected. Its runs go on there; look at \`holdfast nodes list\`.`
      : `There is no node ${name}. Look at \`holdfast nodes list\`; \`holdfast nodes pair\` adds one.`
  }
}
