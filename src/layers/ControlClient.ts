/**
 * Control, the caller's end: one connection to the gateway's socket; when nobody answers, a typed error and no retry. A
 * gateway that dies is noticed at once, one that is held up is waited for.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as RpcClient from "effect/rpc/RpcClient"
import { ControlSocket, NoGateway } from "../services/Control.ts"
import { Settings } from "../services/Settings.ts"
import { makePrivateClient } from "./internal/privateClient.ts"

export * from "../services/Control.ts"

export class GatewayLost extends Schema.TaggedError<GatewayLost>()("GatewayLost", {}) {
  override get message(): string {
    return "The gateway closed the connection before it answered. Look at its log, and start it again with `holdfast up`."
  }
}

export class ControlClient extends Context.Service<
  ControlClient,
  RpcClient.FromGroup<typeof ControlSocket, GatewayLost>
>()("holdfast/ControlClient") {}

export const make = Effect.gen(function* () {
  const path = (yield* Settings).paths.controlSocket
  const { client } = yield* makePrivateClient(ControlSocket, path, () => new GatewayLost({})).pipe(
    Effect.mapError(() => new NoGateway({ socket: path }))
  )
  return client
})

export const layer = Layer.effect(ControlClient, make)
