/** `holdfast doctor --node URL`: why this machine does not come into a connection with that gateway. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as os from "node:os"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as NodeDoctor from "../../layers/NodeDoctor.ts"
import * as PinStore from "../../layers/PinStore.ts"
import { type OwnLink, nodeChecks } from "../../services/NodeDoctor.ts"
import { Settings } from "../../services/Settings.ts"
import type { TlsPin } from "../../services/TlsPin.ts"
import { nameOf, readKept } from "./gatewayArguments.ts"
import { answered, oneGateway } from "./operator.ts"

/** What this machine's gateway does with its identity, by itself. */
const ownLink = oneGateway(
  Effect.gen(function* (): Effect.fn.Return<OwnLink, { readonly message: string }, ControlClient> {
    const { link } = yield* answered((yield* ControlClient).Status())
    if (link === undefined) return { _tag: "none" }
    const { gateway, state } = link
    return state._tag === "Connected" || state._tag === "Connecting"
      ? { _tag: "live", gateway, connected: state._tag === "Connected" }
      : { _tag: "none" }
  })
).pipe(
  Effect.catch((error) =>
    Effect.succeed<OwnLink>(
      "_tag" in error && error._tag === "NoGateway"
        ? { _tag: "none" }
        : { _tag: "unknown", problem: error.message }
    )
  )
)

export const checksOfNode = Effect.fnUntraced(
  function* (asked: {
    readonly url: string
    readonly pins: ReadonlyArray<TlsPin>
    readonly proxy: string | null
  }) {
    const settings = yield* Settings
    const doctor = yield* NodeDoctor.NodeDoctor
    const kept = readKept(settings)
    const facts = yield* doctor.look({
      ...asked,
      kept,
      name: kept?.name ?? nameOf(os.hostname()),
      link: ownLink
    })
    return nodeChecks(facts)
  },
  Effect.provide(NodeDoctor.layer.pipe(Layer.provide(PinStore.layer)))
)
