/** Control, the caller's end: one connection to the gateway's socket; when nobody answers, a typed error and no retry. */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import { Control, NoGateway } from "../services/Control.ts"
import { Settings } from "../services/Settings.ts"
import { isAnswered } from "./internal/unixSocket.ts"

export * from "../services/Control.ts"

export class ControlClient extends Context.Service<
  ControlClient,
  RpcClient.FromGroup<typeof Control, RpcClientError>
>()("holdfast/ControlClient") {}

export const make = Effect.gen(function* () {
  const path = (yield* Settings).paths.controlSocket
  if (!(yield* isAnswered(path))) return yield* new NoGateway({ socket: path })
  const protocol = yield* Layer.build(
    RpcClient.layerProtocolSocket({ retryTransientErrors: false }).pipe(
      Layer.provide([NodeSocket.layerNet({ path }), RpcSerialization.layerNdjson])
    )
  ).pipe(Effect.mapError(() => new NoGateway({ socket: path })))
  return yield* Effect.provide(RpcClient.make(Control), protocol)
})

export const layer = Layer.effect(ControlClient, make)
