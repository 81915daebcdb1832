/**
 * Orphans of this process's tree as its own children, where the system makes them that (a Linux subreaper). Whoever has
 * neither mark nor cookie any more is still somebody's child, and that the kernel says.
 *
 * A process that adopts has to bury as well: whatever it has not started itself.
 */
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import type { SyscallTable } from "../../services/Syscalls.ts"
import { endSeen } from "./endSeen.ts"
import { childrenOf, listedChildren, relativesOf, type Seen } from "./procfs.ts"
import { makeSlices } from "./slices.ts"
import { isStartedHere } from "./startedHere.ts"

export interface Orphans {
  /** This process's children that live and that it has not started itself. */
  readonly living: Effect.Effect<ReadonlyArray<Seen>>
}

/** Of a process that adopts nobody. */
export const noOrphans: Orphans = { living: Effect.succeed([]) }

export interface OrphansOptions {
  readonly calls: Effect.Effect<SyscallTable>
  /** For the end of those that are left. */
  readonly sweepTimeoutMs: number
}

/** Deaths that are taken together: a run that forks for its life leaves thousands of dead a second. */
const buryEveryMs = 10

/** Until the scope ends; whoever is left then is ended first. */
const adoptOrphans = Effect.fnUntraced(function* ({
  calls,
  sweepTimeoutMs
}: OrphansOptions): Effect.fn.Return<Orphans, never, Scope.Scope> {
  const { setSubreaper, reap, signal } = yield* calls
  // Somebody here has started them, and perhaps before anybody took note of that.
  const earlier = new Set(listedChildren(process.pid) ?? childrenOf(process.pid).map(({ pid }) => pid))
  const adopting = setSubreaper(true)
  if (adopting._tag === "NotDone") {
    yield* Effect.logInfo(`orphans of runs go to init (${adopting.problem})`)
    return noOrphans
  }
  const isAdopted = (pid: number): boolean => !earlier.has(pid) && !isStartedHere(pid)
  const living = Effect.sync(() => childrenOf(process.pid).filter(({ pid, dead }) => !dead && isAdopted(pid)))

  const heard = yield* Queue.sliding<void>(1)
  const hear = (): void => void Queue.offerUnsafe(heard, undefined)
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("SIGCHLD", hear)),
    () => Effect.sync(() => process.off("SIGCHLD", hear))
  )
  /** Whether one lives is what its burial says, for a seventh of the price of a look. */
  const bury = Effect.gen(function* () {
    const turn = yield* makeSlices
    const all = listedChildren(process.pid) ?? childrenOf(process.pid).map(({ pid }) => pid)
    const there = new Set(all)
    for (const pid of earlier) if (!there.has(pid)) earlier.delete(pid)
    for (const pid of all) {
      yield* turn
      if (isAdopted(pid)) reap(pid)
    }
    yield* Effect.sleep(buryEveryMs)
  })
  yield* Queue.take(heard).pipe(
    Effect.andThen(bury),
    Effect.catchDefect((defect) => Effect.logError("burying the adopted dead broke", defect)),
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
