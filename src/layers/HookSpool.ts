/**
 * HookSpool, live: takes the file away from the clients, makes its lines rows, and removes it when they are written.
 *
 * A gateway that dies in between leaves the file that was taken; the next one begins with that, and may write a row twice.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as path from "node:path"
import { AuditLog } from "../services/AuditLog.ts"
import { Epoch } from "../services/Epoch.ts"
import { entryOf, HookSpool, parseSpool } from "../services/HookSpool.ts"
import { maxSpoolBytes, spoolName } from "../services/HookWire.ts"
import { Settings } from "../services/Settings.ts"
import { effectiveUid } from "./internal/privateDirectory.ts"

export * from "../services/HookSpool.ts"

/** Clients look at the size before they write, several at once. */
const maxReadBytes = 2 * maxSpoolBytes

/** Null: there is none, or none of ours. */
const contentOf = (file: string): string | null => {
  let descriptor: number
  try {
    descriptor = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
  } catch {
    return null
  }
  try {
    const stats = fs.fstatSync(descriptor)
    if (!stats.isFile() || stats.uid !== effectiveUid()) return null
    const buffer = Buffer.alloc(maxReadBytes)
    return buffer.toString("latin1", 0, fs.readSync(descriptor, buffer, 0, maxReadBytes, 0))
  } catch {
    return null
  } finally {
    fs.closeSync(descriptor)
  }
}

export const make = Effect.gen(function* () {
  const { paths } = yield* Settings
  const audit = yield* AuditLog
  const { current } = yield* Epoch
  const spool = path.join(paths.runtime, spoolName)
  const takenFile = `${spool}.taken`

  const ingest = Effect.gen(function* () {
    const text = contentOf(takenFile)
    if (text === null) return 0
    const { undecided, unreadable } = parseSpool(text)
    yield* Effect.forEach(undecided, (line) => audit.append(entryOf(line, current.epoch)), {
      concurrency: "unbounded",
      discard: true
    })
    fs.rmSync(takenFile, { force: true })
    yield* Effect.logWarning("hooks were decided by their clients while no gateway answered").pipe(
      Effect.annotateLogs({ hooks: undecided.length, unreadable })
    )
    return undecided.length
  })

  const take = Effect.try(() => fs.renameSync(spool, takenFile))
  // One that is still there first: to take another over it would lose its lines.
  const before = yield* ingest
  const now = yield* Effect.ignore(take).pipe(Effect.andThen(ingest))
  return HookSpool.of({ taken: before + now })
})

export const layer = Layer.effect(HookSpool, make)
