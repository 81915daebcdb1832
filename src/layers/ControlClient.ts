/**
 * Control, the caller's end: one connection to the gateway's socket; when nobody answers, a typed error and no retry. A
 * gateway that dies is noticed at once, one that is held up is waited for.
 */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as RpcClient from "effect/rpc/RpcClient"
import type { RpcClientError } from "effect/rpc/RpcClientError"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import { ControlSocket, NoGateway } from "../services/Control.ts"
import { Settings } from "../services/Settings.ts"
import { isAnswered } from "./internal/unixSocket.ts"

export * from "../services/Control.ts"

/**
 * The kernel closes a local socket with the process behind it, so silence says only that the gateway is stopped, in a
 * debugger or on a machine that was put to sleep. By the library's 5 s each of those would cost every caller its turn.
 */
const pingIntervalMs = 60_000
/** Longer than anybody stops a gateway on purpose: as long as Linux lets TCP try in vain by default (tcp_retries2). */
const pingTimeoutMs = 15 * 60_000

export class GatewayLost extends Schema.TaggedError<GatewayLost>()("GatewayLost", {}) {
  override get message(): string {
    return "The gateway closed the connection before it answered. Look at its log, and start it again with `holdfast up`."
  }
}

type Client<E> = RpcClient.FromGroup<typeof ControlSocket, E>

export class ControlClient extends Context.Service<ControlClient, Client<GatewayLost>>()(
  "holdfast/ControlClient"
) {}

/**
 * A transport that fails, even as the library's defect on writing, is a lost gateway; so is one that ends and cuts off what
 * it was answering. A caller that is interrupted itself catches nothing any more.
 */
const isLoss = (cause: Cause.Cause<unknown>): boolean => {
  if (Cause.hasInterruptsOnly(cause)) return true
  const error = Cause.squash(cause)
  return (
    Predicate.isTagged(error, "RpcClientError") ||
    (Cause.hasDies(cause) && Predicate.isTagged(error, "SocketError"))
  )
}

type Answer = Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>

const orLost = (answer: Answer): Answer =>
  Stream.isStream(answer)
    ? Stream.catchCauseIf(answer, isLoss, () => Stream.fail(new GatewayLost({})))
    : Effect.catchCauseIf(answer, isLoss, () => Effect.fail(new GatewayLost({})))

const withLoss = (client: Client<RpcClientError>): Client<GatewayLost> =>
  Object.fromEntries(
    Object.entries<(...args: ReadonlyArray<never>) => Answer>(client).map(([tag, call]) => [
      tag,
      (...args: ReadonlyArray<never>) => orLost(call(...args))
    ])
  ) as unknown as Client<GatewayLost>

export const make = Effect.gen(function* () {
  const path = (yield* Settings).paths.controlSocket
  if (!(yield* isAnswered(path))) return yield* new NoGateway({ socket: path })
  const protocol = yield* Layer.build(
    RpcClient.layerProtocolSocket({
      retryTransientErrors: false,
      pingInterval: pingIntervalMs,
      pingTimeout: pingTimeoutMs
    }).pipe(Layer.provide([NodeSocket.layerNet({ path }), RpcSerialization.layerNdjson]))
  ).pipe(Effect.mapError(() => new NoGateway({ socket: path })))
  return withLoss(yield* Effect.provide(RpcClient.make(ControlSocket), protocol))
})

export const layer = Layer.effect(ControlClient, make)
