/** Who has a run's cookie in its environment: the second proof where there is a mark, the first where there is none. */
import * as Effect from "effect/Effect"
import { cookieVariable } from "../../services/RunLedger.ts"
import { maxPendingReads, readEnvironment, readTimeoutMs } from "./environ.ts"
import { ancestorsOf, pids, type Seen, sight } from "./procfs.ts"

const cookie = new RegExp(`(?<=^|\\0)${cookieVariable}=([^\\0]+)`, "g")

/** By run id: every process that has its cookie, but this one and those it descends from. */
export const cookieBearers: Effect.Effect<ReadonlyMap<string, ReadonlyArray<Seen>>> = Effect.suspend(() => {
  const found = new Map<string, Array<Seen>>()
  const never = new Set([process.pid, ...ancestorsOf(process.pid)])
  const look = (pid: number) =>
    Effect.suspend(() => {
      const seen = sight(pid)
      if (seen._tag !== "Running") return Effect.void
      return Effect.promise(() => readEnvironment(pid).catch(() => "")).pipe(
        Effect.timeoutOrElse({ duration: readTimeoutMs, orElse: () => Effect.succeed("") }),
        Effect.map((text) => {
          for (const [, runId] of text.matchAll(cookie)) {
            const theirs = found.get(runId!)
            const one = { pid, startToken: seen.startToken }
            if (theirs === undefined) found.set(runId!, [one])
            else theirs.push(one)
          }
        })
      )
    })
  return Effect.forEach(
    (pids() ?? []).filter((pid) => !never.has(pid)),
    look,
    { concurrency: maxPendingReads, discard: true }
  ).pipe(Effect.as(found))
})
