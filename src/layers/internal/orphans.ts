/**
 * Orphans of this process's tree as its own children, where the system makes them that (a Linux subreaper). Whoever has
 * neither mark nor cookie any more is still somebody's child, and that the kernel says.
 *
 * A process that adopts has to bury as well: what it has not started itself, once it is sure that nobody else will.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { burialsOf, type Waiting, burialMs } from "../../services/Containment.ts"
import { processKey } from "../../services/ProcessIdentity.ts"
import type { SyscallTable } from "../../services/Syscalls.ts"
import { endSeen } from "./endSeen.ts"
import { childrenOf, relativesOf, type Seen } from "./procfs.ts"

export interface Orphans {
  /** This process's children that live and are no run's leader; what it runs for itself, for a moment, is among them. */
  readonly living: Effect.Effect<ReadonlyArray<Seen>>
}

/** Of a process that adopts nobody. */
export const noOrphans: Orphans = { living: Effect.succeed([]) }

export interface OrphansOptions {
  readonly calls: Effect.Effect<SyscallTable>
  /** Those that were started here, by whoever takes their status. */
  readonly own: () => ReadonlySet<number>
  /** For the end of those that are left. */
  readonly sweepTimeoutMs: number
}

/** A turn of the event loop, in which Node takes the status of what it has started itself. */
const turn = Effect.callback<void>((resume) => {
  setImmediate(() => setImmediate(() => resume(Effect.void)))
})

/** Until the scope ends; whoever is left then is ended first. */
const adoptOrphans = Effect.fnUntraced(function* ({
  calls,
  own,
  sweepTimeoutMs
}: OrphansOptions): Effect.fn.Return<Orphans, never, Scope.Scope> {
  const { setSubreaper, reap, signal } = yield* calls
  const adopting = setSubreaper(true)
  if (adopting._tag === "NotDone") {
    yield* Effect.logInfo(`orphans of runs go to init (${adopting.problem})`)
    return noOrphans
  }
  const children = Effect.sync(() => {
    const started = own()
    return childrenOf(process.pid).filter(({ pid }) => !started.has(pid))
  })
  const living = Effect.map(children, (all) => all.filter(({ dead }) => !dead))

  const heard = yield* Queue.sliding<void>(1)
  const hear = (): void => void Queue.offerUnsafe(heard, undefined)
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("SIGCHLD", hear)),
    () => Effect.sync(() => process.off("SIGCHLD", hear))
  )
  const bury = Effect.gen(function* () {
    let waiting: Waiting = new Map()
    do {
      const dead = (yield* children).filter((one) => one.dead)
      const now = Number((yield* Clock.monotonicTimeNanos) / 1_000_000n)
      const burials = burialsOf(dead, waiting, now)
      waiting = burials.waiting
      if (burials.due.length > 0) {
        yield* turn
        const still = new Set((yield* children).filter((one) => one.dead).map(processKey))
        for (const one of burials.due) if (still.has(processKey(one))) reap(one.pid)
      }
      if (waiting.size > 0) yield* Effect.sleep(burialMs)
    } while (waiting.size > 0)
  })
  yield* Queue.take(heard).pipe(
    Effect.andThen(bury),
    Effect.catchDefect((defect) => Effect.logError("a look at the adopted dead broke", defect)),
    Effect.forever,
    Effect.forkScoped
  )
  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      const found = yield* living
      if (found.length === 0) return
      const left = yield* endSeen({
        look: living,
        send: (members, names) =>
          Effect.sync(() => {
            for (const one of members) for (const name of names) signal(one.pid, name, () => isStillOurs(one))
          }),
        graceMs: null,
        timeoutMs: sweepTimeoutMs
      })
      yield* Effect.logWarning("ended orphans of runs that nothing else tied to one").pipe(
        Effect.annotateLogs({ found: found.length, left: left.length })
      )
    })
  )
  return { living }
})

/** The same from the first `begin` on, which costs 3 MB; before, and where nobody is to be adopted, there is nobody. */
export const adoptLater = Effect.fnUntraced(function* (
  adopts: boolean,
  options: OrphansOptions
): Effect.fn.Return<Orphans & { readonly begin: Effect.Effect<void> }, never, Scope.Scope> {
  const scope = yield* Scope.fork(yield* Effect.scope)
  let orphans = noOrphans
  const begin = yield* Effect.cached(
    Effect.map(Scope.provide(adoptOrphans(options), scope), (adopted) => void (orphans = adopted))
  )
  return { begin: adopts ? begin : Effect.void, living: Effect.suspend(() => orphans.living) }
})

const isStillOurs = ({ pid, startToken }: Seen): boolean => {
  const now = relativesOf(pid)
  return now?.parent === process.pid && now.startToken === startToken
}
