/**
 * The processes behind the connections of the hook socket, from the end of a connection to their own.
 *
 * A client prints its answer and is gone. One that was stopped is not, and its provider waits for it: it is ended, if it is
 * proved to be ours (it, or what it descends from, has our mark or is named after a run), so that the wrapper around it says
 * no. One that goes on by itself has a deadline of its own.
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as net from "node:net"
import { Epoch } from "../../services/Epoch.ts"
import { maxConnections } from "../../services/HookRelay.ts"
import { standingOf } from "../../services/Operator.ts"
import { Syscalls } from "../../services/Syscalls.ts"
import { chainOf, lookTimeoutMs, noted } from "./peerChain.ts"
import { isStill, type Seen, vitals } from "./procfs.ts"

/** From the end of a connection to the first look, and between two. */
const lookEveryMs = 1_000
/** Of one that goes on by itself; longer than any provider gives a hook that nobody is asked about. */
const maxLooks = 60

interface Leaving extends Seen {
  readonly looks: number
}

const isStopped = (peer: Seen): boolean => vitals(peer.pid)?.state === "T" && isStill(peer)

/** What is to be told of each connection. */
export const makeHookPeers = Effect.gen(function* () {
  const { current, outer } = yield* Epoch
  const table = yield* (yield* Syscalls).table
  // More than can be connected have not left a second ago, or the oldest of them are forgotten.
  const leaving = yield* Queue.sliding<Leaving>(maxConnections)

  const isOurs = (pid: number) =>
    Effect.promise(() => chainOf(pid)).pipe(
      Effect.map(
        (chain) =>
          chain !== null &&
          standingOf(chain, { pid: process.pid, outer, marked: current.mark !== null }) !== null
      ),
      Effect.timeoutOrElse({ duration: lookTimeoutMs, orElse: () => Effect.succeed(false) })
    )

  const look = Effect.fnUntraced(function* (peer: Leaving) {
    if (!isStill(peer)) return
    if (isStopped(peer) && (yield* isOurs(peer.pid))) {
      const outcome = table.signal(peer.pid, "SIGKILL", () => isStopped(peer))
      if (outcome === "sent")
        return yield* Effect.annotateLogs(Effect.logWarning("ended a hook client that was stopped"), {
          pid: peer.pid
        })
    }
    if (peer.looks < maxLooks) yield* Queue.offer(leaving, { ...peer, looks: peer.looks + 1 })
  })

  yield* Queue.take(leaving).pipe(
    Effect.tap(Effect.sleep(lookEveryMs)),
    Effect.flatMap((first) =>
      Effect.flatMap(Queue.clear(leaving), (others) =>
        Effect.forEach([first, ...others], look, { discard: true })
      )
    ),
    Effect.forever,
    Effect.forkScoped
  )

  return (connection: net.Socket): void => {
    const peer = noted(table, connection)
    if (peer === null || peer.pid === null || peer.pid === process.pid || peer.startToken === null) return
    const seen = { pid: peer.pid, startToken: peer.startToken, looks: 0 }
    connection.once("close", () => Queue.offerUnsafe(leaving, seen))
  }
})
