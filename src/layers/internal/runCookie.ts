/**
 * Who names a run in its environment, by the cookie or in PATH: the second proof where there is a mark, the first where
 * there is none.
 */
import * as Effect from "effect/Effect"
import { runsNamedIn } from "../../services/RunPlace.ts"
import { maxPendingReads, readEnvironment } from "./environ.ts"
import { ancestorsOf, pids, type Seen, sight } from "./procfs.ts"

/** By run id: every process that names it, but this one and those it descends from. */
export const cookieBearers: Effect.Effect<ReadonlyMap<string, ReadonlyArray<Seen>>> = Effect.suspend(() => {
  const never = new Set([process.pid, ...ancestorsOf(process.pid)])
  return bearersAmong(
    (pids() ?? []).filter((pid) => !never.has(pid)).map((pid) => ({ pid, startToken: null }))
  )
})

/** For reads that are under way to be answered. Two that never are (their processes are stuck in the kernel) end a look. */
const patienceMs = 2_000

/** The same of some processes, each looked at only while it is who was seen. */
export const bearersAmong = Effect.fnUntraced(function* (
  among: ReadonlyArray<{ readonly pid: number; readonly startToken: string | null }>
): Effect.fn.Return<ReadonlyMap<string, ReadonlyArray<Seen>>> {
  const found = new Map<string, Array<Seen>>()
  const reading = new Set<Promise<void>>()

  const note = (one: Seen, environment: string): void => {
    for (const runId of runsNamedIn(environment)) {
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
    const one = readEnvironment(pid)
      .then(
        (environment) => note({ pid, startToken: seen.startToken }, environment),
        () => undefined
      )
      .finally(() => reading.delete(one))
    reading.add(one)
  }
  yield* fewerThan(1)
  return found
})
