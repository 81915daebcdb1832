/**
 * Keeper, its own end: answers its gateway over a socket of its own, and knows whether there is one.
 *
 * A peer that carries a mark of the keeper's range descends from a run, and is not admitted.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as Schema from "effect/Schema"
import { SocketServer } from "effect/socket/SocketServer"
import * as Stream from "effect/Stream"
import type * as net from "node:net"
import { Epoch } from "../services/Epoch.ts"
import { contains } from "../services/InstanceMark.ts"
import { KeeperBirth, KeeperEnd } from "../services/Keeper.ts"
import {
  KeeperProtocol,
  keeperProtocol,
  KeeperRefused,
  maxKeeperStreams
} from "../services/KeeperProtocol.ts"
import {
  freshKeeper,
  type HeldRun,
  type KeeperAction,
  type KeeperEvent,
  type KeeperState,
  nextKeeper
} from "../services/KeeperState.ts"
import { type Identity, ProcessIdentity } from "../services/ProcessIdentity.ts"
import { KeeperUnavailable, lostGateway, PtySupervisor, type RunInfo } from "../services/PtySupervisor.ts"
import { RunLog, RunLogUnavailable } from "../services/RunLog.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"
import { descriptorOf, Syscalls } from "../services/Syscalls.ts"
import { makePrivateServer } from "./internal/privateServer.ts"
import { markOf } from "./internal/procfs.ts"
import { monotonicMs } from "./internal/runLife.ts"

export * from "../services/Keeper.ts"

/** One gateway with its readers, and for a moment the one before; a few more for whoever looks. */
const maxCallers = maxKeeperStreams + 16
/** Attached, lost, looked, down: a few in a keeper's life, and a look a quarter of a second. */
const mailboxCapacity = 64
/** A gateway whose connection is gone is looked at so often, until its process is. */
const goneLookMs = 20

class KeeperSocketUnusable extends Schema.TaggedError<KeeperSocketUnusable>()("KeeperSocketUnusable", {
  path: Schema.String,
  problem: Schema.Literals(["in-use", "unusable"])
}) {
  override get message(): string {
    return `The keeper's socket ${this.path} is ${this.problem === "in-use" ? "another's" : "unusable"}. Check the runtime directory's owner, mode and free space, or set HOLDFAST_RUNTIME_DIR.`
  }
}

const isLive = ({ state }: RunInfo): boolean =>
  state === "Requested" || state === "Spawning" || state === "Running" || state === "Stopping"

const heldOf = ({ id, spec, state }: RunInfo): HeldRun => ({
  runId: id,
  onGatewayLoss: spec.onGatewayLoss,
  adoptGraceMs: spec.adoptGraceMs,
  ending: state === "Stopping"
})

type Elsewhere = KeeperUnavailable | RunLogUnavailable

const isElsewhere = (error: unknown): error is Elsewhere =>
  error instanceof KeeperUnavailable || error instanceof RunLogUnavailable

/** Here the runs are in process: there is no keeper to miss. */
const here = <A, E>(work: Effect.Effect<A, E>): Effect.Effect<A, Exclude<E, Elsewhere>> =>
  Effect.catch(work, (error) =>
    isElsewhere(error) ? Effect.die(error) : Effect.fail(error)
  ) as Effect.Effect<A, Exclude<E, Elsewhere>>

const hereToo = <A, E>(stream: Stream.Stream<A, E>): Stream.Stream<A, Exclude<E, Elsewhere>> =>
  Stream.catch(stream, (error) =>
    isElsewhere(error) ? Stream.die(error) : Stream.fail(error)
  ) as Stream.Stream<A, Exclude<E, Elsewhere>>

export const make = Effect.gen(function* () {
  const { keeperId } = yield* KeeperBirth
  const runs = yield* PtySupervisor
  const log = yield* RunLog
  const tree = yield* SupervisionTree
  const { self, verdict } = yield* ProcessIdentity
  const { current } = yield* Epoch
  const leaving = yield* KeeperEnd
  const scope = yield* Effect.scope
  let sessions = 0

  // From a finalizer too, which nothing interrupts: the end of the keeper would wait for it.
  const inBackground = (work: Effect.Effect<unknown>) =>
    Effect.asVoid(Effect.forkIn(Effect.interruptible(work), scope))
  const live = Effect.map(here(runs.list), (all) => all.filter(isLive).map(heldOf))
  const [fresh, first] = freshKeeper(yield* monotonicMs)

  const perform = (action: KeeperAction, tell: (event: KeeperEvent) => Effect.Effect<unknown>) => {
    switch (action._tag) {
      case "Look":
        return inBackground(
          Effect.gen(function* () {
            yield* Effect.sleep(Math.max(0, action.due - (yield* monotonicMs)))
            yield* tell({ _tag: "Looked", runs: yield* live, at: yield* monotonicMs })
          })
        )
      case "EndLost":
        return inBackground(Effect.ignore(runs.end(action.runId, { by: lostGateway, graceMs: null })))
      case "Leave":
        return leaving.request
    }
  }
  const presence = yield* Effect.orDie(
    (yield* tree.supervisor("keeper")).start<KeeperState, KeeperEvent, KeeperAction, never>(
      { id: "gateway", restart: "temporary", shutdownMs: 1_000 },
      {
        name: "the keeper's gateway",
        initial: () => fresh,
        next: nextKeeper,
        perform: (action, self) => perform(action, (event) => Effect.ignore(self.tell(event))),
        mailbox: { capacity: mailboxCapacity, overflow: "wait" },
        describe: ({ _tag }) => _tag.toLowerCase()
      }
    )
  )
  const tell = (event: KeeperEvent) => Effect.ignore(presence.tell(event))
  for (const action of first) yield* perform(action, tell)
  // A keeper that cannot tell whether it is needed must not stay.
  yield* Effect.forkIn(Effect.andThen(presence.stopped, leaving.request), scope)

  /** A connection may end before its process, and a process that is only stopped has not gone. */
  const untilGone = (owner: Identity) =>
    Effect.gen(function* () {
      while ((yield* verdict(owner)) === "alive") yield* Effect.sleep(goneLookMs)
    })

  return KeeperProtocol.of({
    Attach: ({ protocol, owner }) =>
      protocol === keeperProtocol
        ? Stream.unwrap(
            Effect.gen(function* () {
              const session = ++sessions
              yield* Effect.acquireRelease(tell({ _tag: "Attached", session }), () =>
                inBackground(
                  Effect.gen(function* () {
                    yield* untilGone(owner)
                    yield* tell({ _tag: "Lost", session, at: yield* monotonicMs })
                  })
                )
              )
              return Stream.concat(
                Stream.succeed({
                  protocol: keeperProtocol,
                  keeperId,
                  identity: self,
                  startedAt: current.startedAt
                }),
                Stream.never
              )
            })
          )
        : Stream.fail(
            new KeeperRefused({ detail: `it speaks version ${keeperProtocol} and not ${protocol}.` })
          ),
    Start: ({ spec, variables }) => here(runs.start(spec, variables)),
    List: () => here(runs.list),
    Find: ({ ref }) => here(runs.find(ref)),
    Watch: ({ runId }) => hereToo(runs.watch(runId)),
    End: ({ runId, ...how }) => here(runs.end(runId, how)),
    Write: ({ runId, bytes }) => here(runs.write(runId, bytes)),
    CloseInput: ({ runId }) => here(runs.closeInput(runId)),
    Resize: ({ runId, size }) => here(runs.resize(runId, size)),
    Remove: ({ runId }) => here(runs.remove(runId)),
    ReadLog: ({ runId, from, follow, resizes }) =>
      hereToo(resizes ? log.replay(runId, from, { follow }) : log.read(runId, from, { follow })),
    LogInfo: ({ runId }) => here(log.info(runId)),
    RemoveLog: ({ runId }) => log.remove(runId),
    Tree: () => tree.snapshot,
    Down: () => tell({ _tag: "Down" })
  })
})

const handlers = KeeperProtocol.toLayer(make)

const server = Layer.effect(
  SocketServer,
  Effect.gen(function* () {
    const { socketPath } = yield* KeeperBirth
    const { current } = yield* Epoch
    const { peerCredentials } = yield* (yield* Syscalls).table
    const isOfARun = (pid: number): boolean => {
      const mark = current.mark === null ? "none" : markOf(pid)
      // Who has gone already cannot be told, and gets no answer.
      return mark === "unreadable" || (typeof mark === "number" && contains(current.mark!, mark))
    }
    const admits = (connection: net.Socket): boolean => {
      const fd = descriptorOf(connection)
      const peer = fd === null ? null : peerCredentials(fd)
      if (peer === null || peer._tag === "NotDone") return true
      return peer.uid === process.getuid?.() && (peer.pid === null || !isOfARun(peer.pid))
    }
    return (yield* makePrivateServer({
      socketPath,
      fail: (problem) => new KeeperSocketUnusable({ path: socketPath, problem }),
      maxCallers,
      admits
    })).server
  })
)

export const layer = RpcServer.layer(KeeperProtocol, { disableFatalDefects: true }).pipe(
  Layer.provide(handlers),
  Layer.provide(RpcServer.layerProtocolSocketServer),
  Layer.provide([server, RpcSerialization.layerNdjson])
)
