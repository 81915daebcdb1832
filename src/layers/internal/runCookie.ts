/**
 * Who has a run's cookie in its environment: the second proof where there is a mark, the first where there is none.
 *
 * Unlike the other files of /proc `environ` waits for the process's memory map, so it is read aside, and not for long.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { cookieVariable } from "../../services/RunLedger.ts"
import { ancestorsOf, pids, type Seen, sight } from "./procfs.ts"

const readTimeoutMs = 250
/** Of an environment: the kernel lets a string have 128 KB, and agents have some. */
const readBytes = 256 * 1024
/** Reads at once; each holds one of Node's four threads for files. */
const readers = 2

const read = async (pid: number): Promise<string> => {
  const file = await fs.promises.open(`/proc/${pid}/environ`)
  try {
    const buffer = Buffer.alloc(readBytes)
    let length = 0
    while (length < readBytes) {
      const { bytesRead } = await file.read(buffer, length, readBytes - length, null)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return buffer.toString("latin1", 0, length)
  } finally {
    await file.close()
  }
}

const cookie = new RegExp(`(?<=^|\\0)${cookieVariable}=([^\\0]+)`, "g")

/** By run id: every process that has its cookie, but this one and those it descends from. */
export const cookieBearers: Effect.Effect<ReadonlyMap<string, ReadonlyArray<Seen>>> = Effect.suspend(() => {
  const found = new Map<string, Array<Seen>>()
  const never = new Set([process.pid, ...ancestorsOf(process.pid)])
  const look = (pid: number) =>
    Effect.suspend(() => {
      const seen = sight(pid)
      if (seen._tag !== "Running") return Effect.void
      return Effect.promise(() => read(pid).catch(() => "")).pipe(
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
    { concurrency: readers, discard: true }
  ).pipe(Effect.as(found))
})
