/** The caller's end of one connection, whatever carries it: every question is answered, or lost with the connection. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type * as Rpc from "effect/rpc/Rpc"
import * as RpcClient from "effect/rpc/RpcClient"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as Schedule from "effect/Schedule"
import type * as Schema from "effect/Schema"
import { Socket } from "effect/socket/Socket"
import * as Stream from "effect/Stream"

/**
 * A connection closes with the process behind it, and whoever watches it says so; silence says only that the process is
 * stopped, in a debugger or on a machine that was put to sleep. By the library's 5 s each of those would cost every caller
 * its turn.
 */
const pingIntervalMs = 60_000
/** Longer than anybody stops one on purpose: as long as Linux lets TCP try in vain by default (tcp_retries2). */
const pingTimeoutMs = 15 * 60_000

/**
 * A transport that fails, even as the library's defect on writing, is a lost peer; so is one that ends, which interrupts
 * what it has not answered. An interruption of the caller itself never comes by here.
 */
const isLoss = (cause: Cause.Cause<unknown>): boolean => {
  if (Cause.hasInterruptsOnly(cause)) return true
  const error = Cause.squash(cause)
  return (
    Predicate.isTagged(error, "RpcClientError") ||
    (Cause.hasDies(cause) && Predicate.isTagged(error, "SocketError"))
  )
}

type Answer<E> = Effect.Effect<unknown, E> | Stream.Stream<unknown, E>
type Call<E> = (...args: ReadonlyArray<never>) => Answer<E>

/** `gone` completes when the connection is. */
export const makeClientOver = Effect.fnUntraced(function* <Rpcs extends Rpc.Any, E>(
  group: RpcGroup.RpcGroup<Rpcs>,
  connection: { readonly socket: Effect.Effect<Socket>; readonly gone: Effect.Effect<void> },
  lost: () => E
) {
  const protocol = yield* Layer.build(
    RpcClient.layerProtocolSocket({
      retryTransientErrors: false,
      retryPolicy: Schedule.recurs(0),
      pingInterval: pingIntervalMs,
      pingTimeout: pingTimeoutMs
    }).pipe(Layer.provide([Layer.effect(Socket, connection.socket), RpcSerialization.layerNdjson]))
  )
  const plain = yield* Effect.provide(
    RpcClient.make(group as unknown as RpcGroup.RpcGroup<Rpc.Rpc<"any", Schema.Any>>),
    protocol
  )
  const loss = Effect.andThen(
    connection.gone,
    Effect.suspend(() => Effect.fail(lost()))
  )
  const orLost = (answer: Answer<unknown>): Answer<unknown> =>
    Stream.isStream(answer)
      ? Stream.catchCauseIf(Stream.interruptWhen(answer, loss), isLoss, () => Stream.fail(lost()))
      : Effect.catchCauseIf(Effect.raceFirst(answer, loss), isLoss, () => Effect.fail(lost()))
  const client = Object.fromEntries(
    Object.entries<Call<unknown>>(plain as never).map(([tag, call]) => [
      tag,
      (...args: ReadonlyArray<never>) => orLost(call(...args))
    ])
  )
  return client as unknown as RpcClient.RpcClient<Rpcs, E>
})
