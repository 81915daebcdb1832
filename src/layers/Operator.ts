/** Operator, live: the kernel's word on who connected, noted when it did, and /proc about that process and its ancestors. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { NetSocket } from "@effect/platform-node/NodeSocket"
import * as RpcServer from "effect/rpc/RpcServer"
import { Epoch } from "../services/Epoch.ts"
import { NotAnOperator, Operator, OperatorsOnly, Peers, standingOf } from "../services/Operator.ts"
import { Syscalls } from "../services/Syscalls.ts"
import { chainOf, lookTimeoutMs, type Noted, noted } from "./internal/peerChain.ts"
import { effectiveUid } from "./internal/privateDirectory.ts"
import { sight } from "./internal/procfs.ts"

export * from "../services/Operator.ts"

const refused = (why: NotAnOperator["why"]) => Effect.fail(new NotAnOperator({ why }))

/** The protocol of a control server, and who is behind each of its connections. */
export const make = Effect.gen(function* () {
  const protocol = yield* RpcServer.makeProtocolSocketServer
  const { current, outer } = yield* Epoch
  const table = yield* (yield* Syscalls).table
  const connections = new Map<number, Noted | null>()

  const note = (client: number) =>
    Effect.map(Effect.serviceOption(NetSocket), (found) => {
      // Of one that has closed there is nothing to know any more, and nothing would take it out again.
      if (connections.has(client) || Option.isNone(found) || found.value.destroyed) return
      connections.set(client, noted(table, found.value))
      found.value.once("close", () => connections.delete(client))
    })

  const find = Effect.fn("Peers.find")(function* (client: number) {
    const peer = connections.get(client)
    if (peer === undefined || peer === null || peer.pid === null) return yield* refused("unknown")
    const { uid, pid, startToken } = peer
    if (uid !== effectiveUid()) return yield* refused("foreign")
    const chain = yield* Effect.promise(() => chainOf(pid)).pipe(
      Effect.timeoutOrElse({ duration: lookTimeoutMs, orElse: () => refused("unknown") })
    )
    if (chain === null) return yield* refused("unknown")
    const why = standingOf(chain, { pid: process.pid, outer, marked: current.mark !== null })
    if (why !== null) return yield* refused(why)
    // Last: whatever was looked at was still the process that connected.
    const seen = sight(pid)
    if (startToken === null || seen._tag !== "Running" || seen.startToken !== startToken)
      return yield* refused("gone")
    return { uid, pid, command: seen.command }
  })

  return Context.make(Peers, Peers.of({ find })).pipe(
    Context.add(
      RpcServer.Protocol,
      RpcServer.Protocol.of({
        ...protocol,
        run: (answer) =>
          protocol.run((client, message) => Effect.andThen(note(client), answer(client, message)))
      })
    )
  )
})

export const layerProtocol = Layer.effectContext(make)

/** Goes before the handlers of what is marked with it. */
export const layer = Layer.effect(
  OperatorsOnly,
  Effect.map(Peers, ({ find }) =>
    OperatorsOnly.of((handler, { client }) =>
      Effect.flatMap(find(client.id), (operator) => Effect.provideService(handler, Operator, operator))
    )
  )
)
