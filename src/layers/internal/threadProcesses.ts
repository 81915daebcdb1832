/**
 * What an interrupted thread's commands left running in sessions of their own, where Codex no longer knows them: processes of
 * this gateway's mark whose environment names the thread. One that has cleared its environment is found when its app-server
 * ends.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { InstanceMark, MarkRange } from "../../services/InstanceMark.ts"
import { isStill, type Seen, signal } from "./procfs.ts"

/** Codex gives it to every command of the model, measured on 0.169.0; its own helpers and MCP servers do not get it. */
const variable = "CODEX_THREAD_ID"
/** Unlike the other files of /proc this one waits for the process's memory map, so it is read aside, and not for long. */
const readTimeoutMs = 250
/** Between being asked and being killed. */
const graceMs = 200
const pauseMs = 20
/** A tree that outgrows so many rounds is left to the sweep of its app-server's end. */
const maxRounds = 20

const environmentOf = (pid: number): Effect.Effect<string> =>
  Effect.promise((signal) =>
    fs.promises.readFile(`/proc/${pid}/environ`, { encoding: "latin1", signal })
  ).pipe(
    Effect.catchCause(() => Effect.succeed("")),
    Effect.timeoutOrElse({ duration: readTimeoutMs, orElse: () => Effect.succeed("") })
  )

/** Ends what carries a mark of the range and names one of the threads; how many rounds of signals it took. */
export const endThreadProcesses = Effect.fnUntraced(function* (
  marks: InstanceMark["Service"],
  range: MarkRange | null,
  threads: ReadonlyArray<string>
): Effect.fn.Return<void> {
  if (range === null) return
  const entries = threads.map((thread) => `\0${variable}=${thread}\0`)
  for (let round = 0; round < maxRounds; round++) {
    const found: Array<Seen> = []
    for (const { identity } of yield* marks.members(range)) {
      const environment = `\0${yield* environmentOf(identity.pid)}\0`
      if (entries.some((entry) => environment.includes(entry))) found.push(identity)
    }
    if (found.length === 0) return
    // The look and the signal are one step.
    for (const one of found)
      if (isStill(one)) {
        signal(one.pid, round === 0 ? "SIGTERM" : "SIGKILL")
        if (round === 0) signal(one.pid, "SIGCONT")
      }
    yield* Effect.sleep(round === 0 ? graceMs : pauseMs)
  }
  yield* Effect.logWarning("commands of an interrupted turn still run").pipe(Effect.annotateLogs({ threads }))
})
