/**
 * Who names a run in its environment, by the cookie or in PATH: the second proof where there is a mark, the first where
 * there is none.
 */
import * as Effect from "effect/Effect"
import { processKey } from "../../services/ProcessIdentity.ts"
import { runsNamedIn } from "../../services/RunPlace.ts"
import { maxPendingReads, readEnvironment } from "./environ.ts"
import { ancestorsOf, imageOf, pids, type Seen, sight } from "./procfs.ts"

/** By run id: every process that names it, but this one and those it descends from. */
export const cookieBearers: Effect.Effect<ReadonlyMap<string, ReadonlyArray<Seen>>> = Effect.suspend(() => {
  const never = new Set([process.pid, ...ancestorsOf(process.pid)])
  return bearersAmong(
    (pids() ?? []).filter((pid) => !never.has(pid)).map((pid) => ({ pid, startToken: null }))
  )
})

/** For reads that are under way to be answered. Two that never are (their processes are stuck in the kernel) end a look. */
const patienceMs = 2_000

/** What was read of a process, by its number and start; it holds for as long as it runs the same program. */
export type KnownCookies = Map<string, { readonly image: string | null; readonly runs: ReadonlySet<string> }>

/** As many as a machine has processes, 1.4 KB each; past it everything is read anew. */
const maxKnown = 16_384
/** So many more than there are processes are kept before those that are gone are forgotten. */
const slackKnown = 256

/** `living`: whoever there is now. */
export const forgetGone = (known: KnownCookies, living: ReadonlyArray<Seen>): void => {
  if (known.size <= 2 * living.length + slackKnown) return
  const keys = new Set(living.map(processKey))
  for (const key of known.keys()) if (!keys.has(key)) known.delete(key)
}

/**
 * The same of some processes, each looked at only while it is who was seen. Once a run's, always: one that has cleared its
 * environment since has it from there.
 */
export const bearersAmong = Effect.fnUntraced(function* (
  among: ReadonlyArray<{ readonly pid: number; readonly startToken: string | null }>,
  known: KnownCookies = new Map()
): Effect.fn.Return<ReadonlyMap<string, ReadonlyArray<Seen>>> {
  const found = new Map<string, Array<Seen>>()
  const reading = new Set<Promise<void>>()

  if (known.size > maxKnown) known.clear()

  const note = (one: Seen, runs: ReadonlySet<string>): void => {
    for (const runId of runs) {
      const theirs = found.get(runId)
      if (theirs === undefined) found.set(runId, [one])
      else theirs.push(one)
    }
  }
  /** False when there are more for longer than anybody waits. */
  const fewerThan = (most: number) =>
    Effect.gen(function* () {
      while (reading.size >= most) yield* Effect.promise(() => Promise.race(reading))
      return true
    }).pipe(Effect.timeoutOrElse({ duration: patienceMs, orElse: () => Effect.succeed(false) }))

  for (const { pid, startToken } of among) {
    if (!(yield* fewerThan(maxPendingReads))) {
      yield* Effect.logWarning(
        "environments of processes do not answer, so those with a run's cookie may be missed"
      )
      break
    }
    const seen = sight(pid)
    if (seen._tag !== "Running" || (startToken ?? seen.startToken) !== seen.startToken) continue
    const bearer = { pid, startToken: seen.startToken }
    const key = processKey(bearer)
    const before = known.get(key)
    const image = imageOf(pid)
    if (before !== undefined && (before.runs.size > 0 || before.image === image)) {
      note(bearer, before.runs)
      continue
    }
    const one = readEnvironment(pid)
      .then(
        (environment) => {
          const runs = runsNamedIn(environment)
          // Another program by now: what was read may be of either.
          if (runs.size > 0 || imageOf(pid) === image) known.set(key, { image, runs })
          note(bearer, runs)
        },
        () => undefined
      )
      .finally(() => reading.delete(one))
    reading.add(one)
  }
  yield* fewerThan(1)
  return found
})
