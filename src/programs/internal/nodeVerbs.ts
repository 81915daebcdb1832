/** The verbs about nodes: which there are, who may become one, and being one. */
import * as Effect from "effect/Effect"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as NodeReport from "../../services/NodeReport.ts"
import { show } from "./answers.ts"
import { handOver } from "./handOver.ts"
import { answered, oneGateway } from "./operator.ts"

const oneNode = Argument.String("node").pipe(
  Argument.withDescription("A node's name, id, or the beginning of its id")
)

const listed = oneGateway(
  Effect.gen(function* () {
    const client = yield* ControlClient
    const found = yield* answered(client.ListNodes())
    yield* show(found, ({ nodes, now }) => NodeReport.nodes(nodes, now))
  })
)

const list = Command.make("list", {}, () => listed).pipe(
  Command.withDescription("The machines that are paired, and which of them are connected")
)

const pair = Command.make("pair", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      yield* show(yield* answered(client.PairNode()), NodeReport.pairing)
    })
  )
).pipe(Command.withDescription("A code for one more machine, and the line to start on it"))

const revoke = Command.make("revoke", { node: oneNode }, ({ node }) =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      yield* show(yield* answered(client.RevokeNode({ ref: node })), NodeReport.revoked)
    })
  )
).pipe(Command.withDescription("Close a node's connection at once, and let it in no more"))

const rename = Command.make(
  "rename",
  { node: oneNode, name: Argument.String("name").pipe(Argument.withDescription("How to call it")) },
  ({ node, name }) =>
    oneGateway(
      Effect.gen(function* () {
        const client = yield* ControlClient
        yield* show(yield* answered(client.RenameNode({ ref: node, name })), NodeReport.renamed)
      })
    )
).pipe(Command.withDescription("Call a node something else"))

export const nodes = Command.make("nodes", {}, () => listed).pipe(
  Command.withDescription("Other machines, whose runs look local"),
  Command.withSubcommands([list, pair, revoke, rename])
)

/** The launcher starts it itself: these say what it is, and lead there from behind other flags. */
const run = Command.make("run", {}, () => handOver("gateway", ["--node"])).pipe(
  Command.withDescription("Start this machine's gateway as a node of another one (see: node run --help)")
)

export const node = Command.make("node").pipe(
  Command.withDescription("Be a node of a gateway elsewhere"),
  Command.withSubcommands([run])
)
