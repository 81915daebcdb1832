/** A connection to a keeper: attached for as long as its scope, every answer with the loss of it as one typed error. */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { EpochRecord } from "../../services/Epoch.ts"
import {
  type KeeperHello,
  type RpcClient as Client,
  KeeperProtocol,
  keeperProtocol
} from "../../services/KeeperProtocol.ts"
import { KeeperUnavailable } from "../../services/PtySupervisor.ts"

/** A hello is a look into memory; a keeper that takes this long is stopped or stuck. */
const helloTimeoutMs = 10_000
/** The kernel closes a local socket with the process behind it, so silence says only that the keeper is stopped. */
const pingIntervalMs = 60_000
/** A keeper that is stopped for longer than anybody stops one on purpose is given up. */
const pingTimeoutMs = 15 * 60_000

const unreachable = (detail: string) => new KeeperUnavailable({ problem: "unresponsive", detail })
/** It may be on its way out: its socket goes first. */
const goneAway = (detail: string) => new KeeperUnavailable({ problem: "lost", detail })
const lost = new KeeperUnavailable({ problem: "lost", detail: "" })

/**
 * A transport that fails, even as the library's defect on writing, is a lost keeper; so is one that ends, which interrupts
 * what it has not answered. An interruption of the caller itself never comes by here.
 */
const isLoss = (cause: Cause.Cause<unknown>): boolean => {
  const error = Cause.squash(cause)
  return (
    Cause.hasInterruptsOnly(cause) ||
    Predicate.isTagged(error, "RpcClientError") ||
    (Cause.hasDies(cause) && Predicate.isTagged(error, "SocketError"))
  )
}

type Answer = Effect.Effect<unknown, unknown> | Stream.Stream<unknown, unknown>

/** What is asked over a connection that has just gone would never be answered: the library waits for ever. */
const orLost = (answer: Answer, gone: Deferred.Deferred<void>): Answer => {
  const loss = Effect.andThen(Deferred.await(gone), Effect.fail(lost))
  return Stream.isStream(answer)
    ? Stream.catchCauseIf(Stream.interruptWhen(answer, loss), isLoss, () => Stream.fail(lost))
    : Effect.catchCauseIf(Effect.raceFirst(answer, loss), isLoss, () => Effect.fail(lost))
}

export interface Attached {
  readonly hello: KeeperHello
  readonly client: Client
  /** Completes when the connection is gone, whatever became of the keeper. */
  readonly disconnected: Effect.Effect<void>
}

export const attach = Effect.fnUntraced(function* (
  socketPath: string,
  { epoch, owner }: Pick<EpochRecord, "epoch" | "owner">
): Effect.fn.Return<Attached, KeeperUnavailable, Scope.Scope> {
  const protocol = yield* Layer.build(
    RpcClient.layerProtocolSocket({
      retryTransientErrors: false,
      pingInterval: pingIntervalMs,
      pingTimeout: pingTimeoutMs
    }).pipe(Layer.provide([NodeSocket.layerNet({ path: socketPath }), RpcSerialization.layerNdjson]))
  ).pipe(Effect.mapError(() => goneAway("Its socket refuses connections.")))
  const plain = yield* Effect.provide(RpcClient.make(KeeperProtocol), protocol)
  const hello = yield* Deferred.make<KeeperHello, KeeperUnavailable>()
  const gone = yield* Deferred.make<void>()
  const client = Object.fromEntries(
    Object.entries<(...args: ReadonlyArray<never>) => Answer>(plain as never).map(([tag, call]) => [
      tag,
      (...args: ReadonlyArray<never>) => orLost(call(...args), gone)
    ])
  ) as unknown as Client

  yield* client.Attach({ protocol: keeperProtocol, epoch, owner }).pipe(
    Stream.runForEach((said) => Deferred.succeed(hello, said)),
    Effect.catch((error) =>
      Deferred.fail(hello, error._tag === "KeeperRefused" ? unreachable(error.message) : error)
    ),
    Effect.andThen(Deferred.fail(hello, goneAway("It closed the connection."))),
    Effect.ensuring(Deferred.succeed(gone, undefined)),
    Effect.forkScoped
  )
  return {
    hello: yield* Deferred.await(hello).pipe(
      Effect.timeoutOrElse({
        duration: helloTimeoutMs,
        orElse: () => Effect.fail(unreachable(`It did not answer within ${helloTimeoutMs / 1000} s.`))
      })
    ),
    client,
    disconnected: Deferred.await(gone)
  }
})
