/**
 * Keeper: the one small process that forks every run and holds its terminal, its pipes and its exit status.
 *
 * It outlives its gateway for the grace of each run, and the next gateway goes on with it. A gateway has at most one, has
 * none before the first run, and spawns nothing while there is none. Whatever a keeper has left behind is found by its row
 * and its range of marks, which no gateway's range meets.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { RpcClient } from "./KeeperProtocol.ts"
import { MarkRange } from "./InstanceMark.ts"
import { Identity, type Verdict } from "./ProcessIdentity.ts"
import type { KeeperUnavailable, RunLedgerError } from "./PtySupervisor.ts"
import type { Reconciled } from "./RunLedger.ts"
import type { Paths } from "./Settings.ts"
import type { TreeNode } from "./SupervisionTree.ts"

/** In the keeper's own environment, its value is the keeper's id: the second proof beside its mark. */
export const keeperVariable = "HOLDFAST_KEEPER"

/** A row of the ledger: there before the process, and closed when nothing of its range is left. */
export const KeeperRecord = Schema.Struct({
  /** A ULID; the `epoch` of every run that it holds. */
  keeperId: Schema.String,
  /** The gateway that started it. */
  epoch: Schema.String,
  /** Null until it is noted, by its gateway or by itself. */
  identity: Schema.NullOr(Identity),
  bootId: Schema.String,
  mark: Schema.NullOr(MarkRange),
  socketPath: Schema.String,
  startedAt: Schema.Finite
})
export type KeeperRecord = typeof KeeperRecord.Type

/** What becomes of an open row when a gateway starts. */
export type KeeperDealing =
  /** It lives: go on with it. */
  | "adopt"
  /** Whatever is left of its range is ended, and the row closed. */
  | "sweep"
  /** Another boot has ended everything, or there is no mark to look for. */
  | "close"
  /** Of a pid namespace that cannot be seen from here. */
  | "leave"

/** One that has no identity yet and whose gateway is gone had nothing to hold. */
export const dealingWithKeeper = (
  { mark, bootId }: Pick<KeeperRecord, "mark" | "bootId">,
  verdict: Verdict | null,
  here: { readonly bootId: string }
): KeeperDealing => {
  if (bootId !== here.bootId) return "close"
  if (verdict === "alive") return "adopt"
  if (verdict === "unknown") return "leave"
  return mark === null ? "close" : "sweep"
}

/** Keepers that are lost within this time count against `maxLosses`: OTP's intensity over period. */
export const lossPeriodMs = 60_000
export const maxLosses = 5

/** Whether one more may be started now; `losses` are the times of the last ones, oldest first. */
export const mayStart = (losses: ReadonlyArray<number>, now: number): boolean =>
  losses.filter((at) => now - at < lossPeriodMs).length < maxLosses

export const KeeperInfo = Schema.Struct({
  state: Schema.Literals(["none", "attached", "lost", "gave-up"]),
  keeperId: Schema.NullOr(Schema.String),
  identity: Schema.NullOr(Identity),
  mark: Schema.NullOr(MarkRange),
  /** Of an earlier gateway. */
  adopted: Schema.Boolean,
  startedAt: Schema.NullOr(Schema.Finite),
  /** Lost in this gateway's life. */
  losses: Schema.Int
})
export type KeeperInfo = typeof KeeperInfo.Type

/** A connection to the keeper, for as long as it stands. */
export interface KeeperLink {
  readonly keeperId: string
  readonly identity: Identity
  readonly client: RpcClient
  /**
   * Completes when the keeper is gone and whatever it held is dealt with: from then on the ledger says what became of it.
   */
  readonly settled: Effect.Effect<void>
}

export class Keeper extends Context.Service<
  Keeper,
  {
    /** The one there is, or a new one; waits for one that is just being started or swept. */
    readonly link: Effect.Effect<KeeperLink, KeeperUnavailable>
    /** The one there is: null before the first run, and after the last loss. */
    readonly current: Effect.Effect<KeeperLink | null, KeeperUnavailable>
    readonly info: Effect.Effect<KeeperInfo>
    /** What the start found of earlier keepers' runs and did about it, the adopted ones among them. */
    readonly reconciled: ReadonlyArray<Reconciled>
    /** Looks again at what was left alone. */
    readonly reap: (options: {
      readonly dryRun: boolean
    }) => Effect.Effect<ReadonlyArray<Reconciled>, RunLedgerError>
    /** The keeper's own actors; none where there is no keeper, or it does not answer in time. */
    readonly tree: Effect.Effect<ReadonlyArray<TreeNode>>
  }
>()("holdfast/Keeper") {}

/**
 * Whether what ends now is to be gone on with by the next gateway: then the keeper is left to its graces; otherwise, as by
 * default for embedders, it ends everything first.
 */
export class Handover extends Context.Reference<Effect.Effect<boolean>>("holdfast/Handover", {
  defaultValue: () => Effect.succeed(false)
}) {}

/** What a keeper is told by whoever starts it, in its arguments: nothing of it is a secret. */
export interface KeeperBirthShape
  extends
    Pick<KeeperRecord, "keeperId" | "epoch" | "mark" | "socketPath">,
    Pick<Paths, "state" | "runtime"> {}

export class KeeperBirth extends Context.Service<KeeperBirth, KeeperBirthShape>()("holdfast/KeeperBirth") {}

const range = /^(\d{1,16}):(\d{1,16})$/

/** As arguments, and back; null when they are not what a gateway says. */
export const birthArguments = (birth: KeeperBirthShape): ReadonlyArray<string> =>
  Object.entries({
    keeper: birth.keeperId,
    epoch: birth.epoch,
    socket: birth.socketPath,
    state: birth.state,
    runtime: birth.runtime,
    ...(birth.mark === null ? {} : { mark: `${birth.mark.low}:${birth.mark.high}` })
  }).map(([name, value]) => `--${name}=${value}`)

export const readBirth = (values: {
  readonly [K in "keeper" | "epoch" | "socket" | "state" | "runtime" | "mark"]?: string | undefined
}): KeeperBirthShape | null => {
  const { keeper, epoch, socket, state, runtime } = values
  const [, low, high] = range.exec(values.mark ?? "") ?? []
  if (!keeper || !epoch || (values.mark !== undefined && high === undefined)) return null
  if (!socket?.startsWith("/") || !state?.startsWith("/") || !runtime?.startsWith("/")) return null
  const mark = low === undefined || high === undefined ? null : { low: Number(low), high: Number(high) }
  return { keeperId: keeper, epoch, mark, socketPath: socket, state, runtime }
}

/** The keeper's own end, asked for by its gateway, a signal, or itself when nobody needs it any more. */
export class KeeperEnd extends Context.Service<
  KeeperEnd,
  { readonly request: Effect.Effect<void>; readonly requested: Effect.Effect<void> }
>()("holdfast/KeeperEnd") {}
