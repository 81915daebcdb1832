/**
 * What ties a process to a run beside its mark: descent, session and group while they can be seen, and its environment.
 *
 * However many ask at the same time, /proc is read once for all of them, in slices.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { ancestorsOf, familyOf, pids, type Relatives, relativesOf, type Seen } from "./procfs.ts"
import { bearersAmong, forgetGone, type KnownCookies } from "./runCookie.ts"
import { makeSlices } from "./slices.ts"

export interface Traces {
  /** The family of a process that lives or has just left: later its number may be another's. */
  readonly kinOf: (leader: number) => Effect.Effect<ReadonlyArray<Seen>>
  /** Whoever names the run in its environment and was started since; null: whenever. */
  readonly bearers: (runId: string, since: string | null) => Effect.Effect<ReadonlyArray<Seen>>
}

const census = Effect.gen(function* () {
  const turn = yield* makeSlices
  const found: Array<Relatives> = []
  for (const pid of pids() ?? []) {
    const one = relativesOf(pid)
    if (one !== null) found.push(one)
    yield* turn
  }
  return found
})

/**
 * Of looks at the whole machine one at a time, each begun after it was asked for: whoever asks while one is under way
 * shares the next with everybody else who does.
 */
const makeShared = <Ask, A>(look: (asks: ReadonlyArray<Ask>) => Effect.Effect<A>) =>
  Effect.map(Semaphore.make(1), (looking) => {
    let coming: { readonly asks: Array<Ask>; readonly answer: Deferred.Deferred<A> } | null = null
    return (ask: Ask): Effect.Effect<A> =>
      Effect.suspend(() => {
        if (coming !== null) {
          coming.asks.push(ask)
          return Deferred.await(coming.answer)
        }
        const mine = (coming = { asks: [ask], answer: Deferred.makeUnsafe<A>() })
        return looking
          .withPermits(1)(
            Effect.suspend(() => {
              coming = null
              return look(mine.asks)
            })
          )
          .pipe(
            Effect.onExit((exit) => Deferred.done(mine.answer, exit)),
            // The others wait for it, whatever becomes of the one that asked first.
            Effect.uninterruptible
          )
      })
  })

export const makeTraces: Effect.Effect<Traces> = Effect.gen(function* () {
  const look = yield* makeShared<null, ReadonlyArray<Relatives>>(() => census)
  const known: KnownCookies = new Map()
  const bearers = yield* makeShared((asks: ReadonlyArray<string | null>) =>
    Effect.gen(function* () {
      const never = new Set([process.pid, ...ancestorsOf(process.pid)])
      const since = Math.min(...asks.map((token) => (token === null ? 0 : Number(token))))
      const all = yield* look(null)
      forgetGone(known, all)
      return yield* bearersAmong(
        all.filter(({ pid, startToken }) => !never.has(pid) && Number(startToken) >= since),
        known
      )
    })
  )
  return {
    kinOf: (leader) => Effect.map(look(null), (all) => familyOf(all, leader)),
    bearers: (runId, since) => Effect.map(bearers(since), (found) => found.get(runId) ?? [])
  }
})
