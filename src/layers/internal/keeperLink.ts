/** A connection to a keeper: attached for as long as its scope, every answer with the loss of it as one typed error. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { EpochRecord } from "../../services/Epoch.ts"
import {
  type KeeperHello,
  KeeperProtocol,
  keeperProtocol,
  maxKeeperStreams,
  type RpcClient as Client
} from "../../services/KeeperProtocol.ts"
import { KeeperUnavailable } from "../../services/PtySupervisor.ts"
import { makePrivateClient } from "./privateClient.ts"

/** A hello is a look into memory; a keeper that takes this long is stopped or stuck. */
const helloTimeoutMs = 10_000

const unreachable = (detail: string) => new KeeperUnavailable({ problem: "unresponsive", detail })
/** It may be on its way out: its socket goes first. */
const goneAway = (detail: string) => new KeeperUnavailable({ problem: "lost", detail })

const connect = (socketPath: string) =>
  makePrivateClient(KeeperProtocol, socketPath, () => goneAway("")).pipe(
    Effect.mapError(() => goneAway("Its socket refuses connections."))
  )

export interface Attached {
  readonly hello: KeeperHello
  readonly client: Client
  /** Completes when this gateway is no longer the keeper's, whatever became of either. */
  readonly disconnected: Effect.Effect<void>
}

/**
 * Each on a connection of its own: the library reads every answer of a connection in one fiber, which waits for the reader
 * of a stream. Whoever stopped reading a log would hold up every question to the keeper.
 */
const streamsOf = (socketPath: string): Pick<Client, "Watch" | "ReadLog"> => {
  let open = 0
  const taken = Effect.acquireRelease(
    Effect.suspend(() => {
      if (open >= maxKeeperStreams)
        return Effect.fail(
          unreachable(`${maxKeeperStreams} callers read or watch its runs already: end one of them.`)
        )
      open += 1
      return Effect.void
    }),
    () => Effect.sync(() => (open -= 1))
  )
  const own = <A, E>(stream: (client: Client) => Stream.Stream<A, E>) =>
    Stream.unwrap(Effect.map(Effect.andThen(taken, connect(socketPath)), ({ client }) => stream(client)))
  return {
    Watch: (payload) => own((client) => client.Watch(payload)),
    ReadLog: (payload) => own((client) => client.ReadLog(payload))
  }
}

export const attach = Effect.fnUntraced(function* (
  socketPath: string,
  { epoch, owner }: Pick<EpochRecord, "epoch" | "owner">
): Effect.fn.Return<Attached, KeeperUnavailable, Scope.Scope> {
  const { client, gone } = yield* connect(socketPath)
  const hello = yield* Deferred.make<KeeperHello, KeeperUnavailable>()
  const ended = yield* Deferred.make<void>()
  yield* client.Attach({ protocol: keeperProtocol, epoch, owner }).pipe(
    Stream.runForEach((said) => Deferred.succeed(hello, said)),
    Effect.catch((error) =>
      Deferred.fail(hello, error._tag === "KeeperRefused" ? unreachable(error.message) : error)
    ),
    Effect.andThen(Deferred.fail(hello, goneAway("It closed the connection."))),
    Effect.ensuring(Deferred.succeed(ended, undefined)),
    Effect.forkScoped
  )
  return {
    hello: yield* Deferred.await(hello).pipe(
      Effect.timeoutOrElse({
        duration: helloTimeoutMs,
        orElse: () => Effect.fail(unreachable(`It did not answer within ${helloTimeoutMs / 1000} s.`))
      })
    ),
    client: { ...client, ...streamsOf(socketPath) },
    disconnected: Effect.raceFirst(gone, Deferred.await(ended))
  }
})
