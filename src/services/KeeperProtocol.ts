/**
 * KeeperProtocol: what a gateway asks its keeper, as one RPC group over a private Unix socket.
 *
 * The same words as PtySupervisor and RunLog. `Attach` is held open for a gateway's whole life: its end is how the keeper
 * learns that the gateway is gone.
 */
import * as Schema from "effect/Schema"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import { Identity } from "./ProcessIdentity.ts"
import {
  type KeeperUnavailable,
  RunAmbiguous,
  RunInfo,
  RunInputRefused,
  RunLedgerError,
  RunNameInUse,
  RunNotFound,
  RunStillLive,
  ScopeInUse,
  TooManyRuns
} from "./PtySupervisor.ts"
import { RunSpec, WindowSize } from "./Run.ts"
import {
  LogChunk,
  LogInfo,
  LogPosition,
  LogReaderSlow,
  ResizeMark,
  RunLogMissing,
  RunLogRefused,
  RunLogUnreadable
} from "./RunLog.ts"
import { TreeNode } from "./SupervisionTree.ts"

/** Of the words below; a keeper of another number is not spoken to, and runs out its graces. */
export const keeperProtocol = 1

/** Callers that read a log or watch a run at a time, each over a connection of its own; twice what a gateway has in all. */
export const maxKeeperStreams = 512

export const KeeperHello = Schema.Struct({
  protocol: Schema.Int,
  keeperId: Schema.String,
  identity: Identity,
  startedAt: Schema.Finite
})
export type KeeperHello = typeof KeeperHello.Type

export class KeeperRefused extends Schema.TaggedError<KeeperRefused>()("KeeperRefused", {
  detail: Schema.String
}) {
  override get message(): string {
    return `The keeper refused this gateway: ${this.detail}`
  }
}

const run = { runId: Schema.String }
const logErrors = Schema.Union([RunLogRefused, RunLogMissing, RunLogUnreadable])

export const KeeperProtocol = RpcGroup.make(
  /** One element, and then nothing until one of the two ends. The newest gateway counts. */
  Rpc.make("Attach", {
    payload: { protocol: Schema.Int, epoch: Schema.String, owner: Identity },
    success: KeeperHello,
    error: KeeperRefused,
    stream: true
  }),
  Rpc.make("Start", {
    payload: { spec: RunSpec, variables: Schema.Record(Schema.String, Schema.String) },
    success: RunInfo,
    error: Schema.Union([RunNameInUse, ScopeInUse, TooManyRuns, RunLedgerError])
  }),
  Rpc.make("List", { success: Schema.Array(RunInfo) }),
  Rpc.make("Find", {
    payload: { ref: Schema.String },
    success: RunInfo,
    error: Schema.Union([RunNotFound, RunAmbiguous])
  }),
  Rpc.make("Watch", { payload: run, success: RunInfo, error: RunNotFound, stream: true }),
  Rpc.make("End", {
    payload: { ...run, by: Schema.String, graceMs: Schema.NullOr(Schema.Int) },
    success: RunInfo,
    error: RunNotFound
  }),
  Rpc.make("Write", {
    payload: { ...run, bytes: Schema.Uint8Array },
    error: Schema.Union([RunNotFound, RunInputRefused])
  }),
  Rpc.make("CloseInput", { payload: run, error: Schema.Union([RunNotFound, RunInputRefused]) }),
  Rpc.make("Resize", { payload: { ...run, size: WindowSize }, error: RunNotFound }),
  Rpc.make("Remove", {
    payload: run,
    error: Schema.Union([RunNotFound, RunStillLive, RunLedgerError])
  }),
  Rpc.make("ReadLog", {
    payload: { ...run, from: LogPosition, follow: Schema.Boolean, resizes: Schema.Boolean },
    success: Schema.Union([LogChunk, ResizeMark]),
    error: Schema.Union([...logErrors.members, LogReaderSlow]),
    stream: true
  }),
  Rpc.make("LogInfo", { payload: run, success: LogInfo, error: logErrors }),
  Rpc.make("RemoveLog", { payload: run, error: Schema.Union([RunLogRefused, RunLogUnreadable]) }),
  Rpc.make("Tree", { success: Schema.Array(TreeNode) }),
  /** Says that it has heard; then it ends every run and itself. */
  Rpc.make("Down", {})
)

type Rpcs = typeof KeeperProtocol extends RpcGroup.RpcGroup<infer R> ? R : never
type Call<R extends Rpc.Any> =
  R extends Rpc.Rpc<infer _Tag, infer Payload, infer Success, infer Error, infer _Middleware, infer _Requires>
    ? (
        payload: Payload["Type"]
      ) => Success extends { readonly success: Schema.Top; readonly error: Schema.Top }
        ? Stream.Stream<Success["success"]["Type"], Success["error"]["Type"] | KeeperUnavailable>
        : Effect.Effect<Success["Type"], Error["Type"] | KeeperUnavailable>
    : never

/** Every question as a function; a lost connection is `KeeperUnavailable`. */
export type RpcClient = { readonly [R in Rpcs as R["_tag"]]: Call<R> }
