/**
 * Keeper, the gateway's end: finds the one that an earlier gateway left, starts one when the first run needs it, notices its
 * death at once and deals with what it held, and at the end either leaves it to its graces or ends it.
 *
 * Starting, adopting and dealing with a loss happen one at a time, and whoever asks meanwhile waits.
 */
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { SqlClient } from "effect/sql/SqlClient"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { Epoch } from "../services/Epoch.ts"
import {
  InstanceMark,
  isFree,
  type MarkRange,
  overlaps,
  siblingRange,
  type SweepReport
} from "../services/InstanceMark.ts"
import {
  dealingWithKeeper,
  Handover,
  Keeper,
  type KeeperInfo,
  type KeeperLink,
  type KeeperRecord,
  lossPeriodMs,
  mayStart
} from "../services/Keeper.ts"
import { type Identity, ProcessIdentity } from "../services/ProcessIdentity.ts"
import { KeeperUnavailable, RunLedgerError } from "../services/PtySupervisor.ts"
import { RunReaper } from "../services/RunReaper.ts"
import { Settings } from "../services/Settings.ts"
import { startKeeper } from "./internal/keeperChild.ts"
import { attach, type Attached } from "./internal/keeperLink.ts"
import { makeKeeperRows } from "./internal/keeperRows.ts"

export * from "../services/Keeper.ts"

/** A free sibling range is found at the first draw unless thousands of instances run. */
const draws = 64
/** A keeper whose connection broke and who lives is connected to again; one that is dying needs a moment to be dead. */
const deathLookMs = 5
const deathWaitMs = 2_000
/** Above the longest grace that the end of a keeper gives a run, and its sweep. */
const downTimeoutMs = 30_000
const downLookMs = 10
/** A tree is a look into memory. */
const treeTimeoutMs = 2_000

interface Held {
  readonly record: KeeperRecord & { readonly identity: Identity }
  readonly adopted: boolean
  readonly attached: Attached
  readonly scope: Scope.Closeable
  readonly settled: Deferred.Deferred<void>
}

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const epoch = yield* Epoch
  const marks = yield* InstanceMark
  const identities = yield* ProcessIdentity
  const reaper = yield* RunReaper
  const rows = makeKeeperRows(yield* SqlClient)
  const handover = yield* Handover
  // Forked before the finalizer below is added, so it closes after it: a keeper is told to end while it can be asked.
  const scope = yield* Scope.fork(yield* Effect.scope)
  const oneAtATime = (yield* Semaphore.make(1)).withPermits(1)
  const { bootId, pidNamespace } = identities.self
  const ledger = Effect.mapError((cause: unknown) => new RunLedgerError({ cause }))
  let held: Held | null = null
  let losses: ReadonlyArray<number> = []
  let closing = false

  const isDead = (identity: Identity) =>
    Effect.map(identities.verdict(identity), (verdict) => verdict === "dead")

  /** Whatever still carries a mark of its range is ended; with nobody left the row is closed, else the next start looks. */
  const sweepAndClose = Effect.fnUntraced(function* ({ keeperId, mark, socketPath }: KeeperRecord) {
    let report: SweepReport = nothing
    if (mark !== null) {
      report = yield* marks.sweep(mark)
      const { ended, survivors } = report
      if (ended.length > 0 || survivors.length > 0)
        yield* Effect.logWarning("swept what a keeper had left").pipe(
          Effect.annotateLogs({ keeper: keeperId, ended: ended.length, survivors: survivors.length })
        )
      if (survivors.length > 0) return report
    }
    // Of one that was killed; nobody answers there any more.
    yield* Effect.sync(() => fs.rmSync(socketPath, { force: true }))
    yield* ledger(rows.end(keeperId))
    return report
  })

  const hold = Effect.fnUntraced(function* (record: KeeperRecord, adopted: boolean) {
    const linkScope = yield* Scope.fork(scope)
    const attached = yield* attach(record.socketPath, epoch.current).pipe(
      Scope.provide(linkScope),
      Effect.onExit((exit) => (Exit.isFailure(exit) ? Scope.close(linkScope, exit) : Effect.void))
    )
    const { identity } = attached.hello
    const one: Held = {
      record: { ...record, identity },
      adopted,
      attached,
      scope: linkScope,
      settled: yield* Deferred.make<void>()
    }
    held = one
    yield* Effect.forkIn(Effect.andThen(attached.disconnected, onDisconnected(one)), scope)
    return one
  })

  /** Its process has gone, or is still there when it should have. */
  const untilDead = (identity: Identity, withinMs: number, lookMs: number) =>
    Effect.gen(function* () {
      while (!(yield* isDead(identity))) yield* Effect.sleep(lookMs)
      return true
    }).pipe(Effect.timeoutOrElse({ duration: withinMs, orElse: () => Effect.succeed(false) }))

  /** Goes on with one that lives. One whose socket is closed is ending what it holds, and then it is dead. */
  const regain = (record: KeeperRecord & { readonly identity: Identity }, adopted: boolean) =>
    hold(record, adopted).pipe(
      Effect.as("held" as const),
      Effect.catch((error) =>
        error.problem === "lost"
          ? Effect.map(untilDead(record.identity, downTimeoutMs, downLookMs), (dead) =>
              dead ? ("dead" as const) : error
            )
          : Effect.succeed(error)
      ),
      Effect.tap((outcome) => (typeof outcome === "string" ? Effect.void : Effect.logError(outcome.message)))
    )

  const onDisconnected = (one: Held): Effect.Effect<void> =>
    Effect.gen(function* () {
      if (closing) return
      const { record } = one
      const gone = yield* untilDead(record.identity, deathWaitMs, deathLookMs)
      // It lives: what broke is the connection, and the runs have not noticed; or it is on its way out.
      if (!gone && (yield* regain(record, one.adopted)) !== "dead") {
        if (held === one) held = null
        yield* Scope.close(one.scope, Exit.void)
        yield* Deferred.succeed(one.settled, undefined)
        return
      }
      held = null
      losses = [...losses.slice(-lossesKept), yield* Clock.currentTimeMillis]
      yield* Effect.logError("the keeper was lost; its runs are being ended").pipe(
        Effect.annotateLogs({ keeper: record.keeperId, pid: record.identity.pid })
      )
      // Its range first: there a mark alone is proof, and all of its runs are ended at once.
      yield* sweepAndClose(record).pipe(
        Effect.flatMap((report) => reaper.reap("keeper-lost", [report])),
        // The next start finds the open row and does it then.
        Effect.catch((error) => Effect.logError(error.message, error.cause))
      )
      yield* Scope.close(one.scope, Exit.void)
      yield* Deferred.succeed(one.settled, undefined)
      yield* Effect.catch(started, (error) => Effect.logError(error.message))
    }).pipe(oneAtATime, Effect.asVoid)

  const chooseMark = Effect.gen(function* () {
    const { mark } = epoch.current
    if (mark === null) return null
    const inUse = (yield* marks.members({ low: 0, high: Number.MAX_SAFE_INTEGER })).map((one) => one.mark)
    const open = yield* rows.open.pipe(
      Effect.map((all) =>
        all.flatMap((row): ReadonlyArray<MarkRange> => (row.mark === null ? [] : [row.mark]))
      )
    )
    for (let draw = 0; draw < draws; draw++) {
      const range = siblingRange(mark, epoch.outer, yield* Random.next)
      if (range === null) break
      if (isFree(range, mark.high, inUse) && !open.some((other) => overlaps(other, range))) return range
    }
    yield* Effect.logWarning("no range of marks is free for a keeper: it runs without one")
    return null
  })

  const start = Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis
    if (!mayStart(losses, now)) {
      const waitMs = lossPeriodMs - (now - losses[0]!)
      return yield* new KeeperUnavailable({
        problem: "gave-up",
        detail: `Try again in ${Math.ceil(waitMs / 1000)} s, and look at its log.`
      })
    }
    const keeperId = yield* ulid
    const record: KeeperRecord = {
      keeperId,
      epoch: epoch.current.epoch,
      identity: null,
      bootId,
      mark: yield* ledger(chooseMark),
      socketPath: `${settings.paths.runtime}/keeper-${keeperId.slice(-12)}.sock`,
      startedAt: now
    }
    yield* ledger(rows.insert(record, pidNamespace))
    const { state, runtime } = settings.paths
    const begun = yield* Effect.scoped(startKeeper({ ...record, state, runtime }, settings)).pipe(
      Effect.tapError(() => Effect.ignore(sweepAndClose(record)))
    )
    if (!begun.marked) yield* ledger(rows.unmark(keeperId))
    return yield* hold({ ...record, mark: begun.marked ? record.mark : null }, false)
  }).pipe(
    Effect.catchTag("RunLedgerError", ({ message }) =>
      Effect.fail(new KeeperUnavailable({ problem: "not-started", detail: message }))
    )
  )

  const closed = new KeeperUnavailable({ problem: "closing", detail: "" })
  const started = Effect.suspend(() =>
    closing ? Effect.fail(closed) : held === null ? start : Effect.succeed(held)
  )

  // What earlier gateways have left: those that live are gone on with; whatever carries a mark of the others is ended, and
  // then their runs are dealt with one by one.
  const found = yield* ledger(rows.open)
  const dealt = yield* Effect.forEach(found, (row) =>
    Effect.map(
      row.identity === null ? Effect.succeed(null) : identities.verdict(row.identity),
      (verdict) => ({ row, dealing: dealingWithKeeper(row, verdict, { bootId }) })
    )
  )
  const living = dealt.find(({ dealing }) => dealing === "adopt")?.row
  const outcome =
    living?.identity == null ? null : yield* regain({ ...living, identity: living.identity }, true)
  if (outcome !== null && typeof outcome !== "string")
    return yield* new KeeperUnavailable({
      problem: "unresponsive",
      detail: `It is process ${living?.identity?.pid} and holds the runs of the last gateway: let it go on if it is stopped (kill -CONT), or end it with its runs (kill), and start again.`
    })
  if (outcome === "held")
    yield* Effect.logInfo("goes on with the keeper of an earlier gateway").pipe(
      Effect.annotateLogs({ keeper: living?.keeperId, pid: living?.identity?.pid })
    )
  const swept: Array<SweepReport> = []
  for (const { row, dealing } of dealt) {
    if (dealing === "sweep" || (row === living && outcome === "dead")) swept.push(yield* sweepAndClose(row))
    if (dealing === "close") yield* sweepAndClose({ ...row, mark: null })
  }
  const reconciled = yield* reaper.reap("both-lost", swept)
  for (const { runId, dealing, extinction } of reconciled)
    yield* Effect.logInfo("dealt with a run of an earlier keeper").pipe(
      Effect.annotateLogs({ run: runId, dealing: dealing._tag, survivors: extinction?.survivors.length ?? 0 })
    )

  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      closing = true
      const one = held
      if (one === null || (yield* handover)) return
      yield* Effect.ignore(one.attached.client.Down())
      const gone = yield* untilDead(one.record.identity, downTimeoutMs, downLookMs)
      if (!gone) yield* Effect.logWarning("the keeper did not end in time and is ended by its mark")
      // Its own sweep has mostly left nothing to do; it also covers one that died on the way.
      yield* sweepAndClose(one.record)
    }).pipe(
      oneAtATime,
      Effect.catch((error) => Effect.logWarning(error.message, error.cause)),
      // Whoever asked in its last moment is told what the ledger says.
      Effect.ensuring(
        Effect.suspend(() => (held === null ? Effect.void : Deferred.succeed(held.settled, undefined)))
      )
    )
  )

  /** Not the caller's, who may be cut off in the middle of it: there would be a keeper that nobody is attached to. */
  const startedForAll = Effect.flatMap(Effect.forkIn(oneAtATime(started), scope), Fiber.join)

  const linkOf = ({ record, attached, settled }: Held): KeeperLink => ({
    keeperId: record.keeperId,
    identity: record.identity,
    client: attached.client,
    settled: Deferred.await(settled)
  })

  return Keeper.of({
    link: Effect.suspend(() => (held === null ? startedForAll : Effect.succeed(held))).pipe(
      Effect.map(linkOf),
      Effect.withSpan("Keeper.link")
    ),
    current: Effect.suspend(() =>
      held === null
        ? oneAtATime(Effect.sync(() => (held === null ? null : linkOf(held))))
        : Effect.succeed(linkOf(held))
    ),
    info: Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const one = held
      const info: KeeperInfo = {
        state:
          one !== null
            ? "attached"
            : losses.length === 0
              ? "none"
              : mayStart(losses, now)
                ? "lost"
                : "gave-up",
        keeperId: one?.record.keeperId ?? null,
        identity: one?.record.identity ?? null,
        mark: one?.record.mark ?? null,
        adopted: one?.adopted ?? false,
        startedAt: one?.attached.hello.startedAt ?? null,
        losses: losses.length
      }
      return info
    }),
    reconciled,
    reap: ({ dryRun }) => (dryRun ? reaper.plan : oneAtATime(reaper.reap("both-lost", []))),
    tree: Effect.suspend(() =>
      held === null
        ? Effect.succeed([])
        : held.attached.client.Tree().pipe(
            Effect.timeoutOrElse({ duration: treeTimeoutMs, orElse: () => Effect.succeed([]) }),
            Effect.orElseSucceed(() => [])
          )
    )
  })
})

export const layer = Layer.effect(Keeper, make)

const nothing: SweepReport = { ended: [], survivors: [], proven: true }

/** Enough to tell whether they were too many. */
const lossesKept = 32

const { ulid } = SecureRandom.make((size) => new Uint8Array(randomBytes(size)))
