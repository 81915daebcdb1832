/**
 * HookSpool, live: takes the file away from the clients, makes its lines rows, and removes it when they are written.
 *
 * A gateway that dies in between leaves the file that was taken; the next one begins with that, and may write a row twice.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as fs from "node:fs"
import * as path from "node:path"
import { AuditLog } from "../services/AuditLog.ts"
import { Epoch } from "../services/Epoch.ts"
import { entryOf, HookSpool, parseSpool } from "../services/HookSpool.ts"
import { maxSpoolBytes, spoolName } from "../services/HookWire.ts"
import { Settings } from "../services/Settings.ts"
import { errorCode } from "./internal/errorCode.ts"
import { effectiveUid } from "./internal/privateDirectory.ts"

export * from "../services/HookSpool.ts"

/** Clients write while there is a gateway, too: when it refuses one, or does not answer in time. */
const takeEveryMs = 30_000

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

  const move = Effect.try({
    try: () => fs.renameSync(spool, takenFile),
    catch: (cause) => errorCode(cause)
  }).pipe(
    Effect.catch((code) =>
      code === "ENOENT"
        ? Effect.void
        : Effect.logWarning("what hooks decided by themselves cannot be taken").pipe(
            Effect.annotateLogs({ file: spool, code })
          )
    )
  )
  const oneTaker = yield* Semaphore.make(1)
  const take = oneTaker.withPermit(
    Effect.gen(function* () {
      // One that is still there first: to take another over it would lose its lines.
      const before = yield* ingest
      yield* move
      return before + (yield* ingest)
    })
  )
  yield* take
  yield* Effect.sleep(takeEveryMs).pipe(
    Effect.andThen(Effect.ignore(take)),
    Effect.forever,
    Effect.forkScoped
  )
  return HookSpool.of({ take })
})

export const layer = Layer.effect(HookSpool, make)
