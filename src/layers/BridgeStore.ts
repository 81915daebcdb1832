/**
 * BridgeStore on files. A single record is handled in one short synchronous run, which costs less than a trip to the thread
 * pool and lets no fiber of ours in between; the directory as a whole is only walked in slices.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { hash } from "node:crypto"
import { type Dir, lstatSync, opendirSync, unlinkSync } from "node:fs"
import {
  besideName,
  type BridgeOwner,
  type BridgeRecord,
  BridgeRecordText,
  BridgeStore,
  BridgeWriteError,
  entryKind,
  isAbandoned,
  isPruneDue,
  maxRecordBytes,
  type PruneReport,
  type PublishSpec,
  readRecord,
  recordName,
  sameClaim,
  staleness,
  succeeds,
  unwritableKey
} from "../services/BridgeStore.ts"
import { Epoch } from "../services/Epoch.ts"
import { DirectoryRefused } from "../services/PrivateDirectory.ts"
import { type Identity, ProcessIdentity, type Verdict } from "../services/ProcessIdentity.ts"
import { Settings } from "../services/Settings.ts"
import { createFile, editFile, glance, removeFile, replaceFile } from "./internal/atomicFile.ts"
import { errorCode } from "./internal/errorCode.ts"
import { ensurePrivateDirectory, privateDirectoryExists } from "./internal/privateDirectory.ts"

export * from "../services/BridgeStore.ts"

/** How long a prune keeps the event loop before it lets others on; a stall may last 3 ms, most of which is for a slow disk. */
const sliceMs = 0.25

/** A renewal may find the file changed under its hands this often; then it waits for its next turn. */
const renewalAttempts = 3

/** Owners whose verdict one prune remembers; more are asked for again. */
const verdictsKept = 1024

type Looked = "removed" | "kept" | "foreign"

/** A record that only its owner's death makes stale. */
interface Doubtful {
  readonly path: string
  readonly text: string
  readonly record: BridgeRecord
}

export const make = Effect.gen(function* () {
  const { current } = yield* Epoch
  const { verdict } = yield* ProcessIdentity
  const { paths, relay } = yield* Settings
  const background = yield* FiberHandle.make<PruneReport | void>()
  const turn = yield* Semaphore.make(1)

  const owner: BridgeOwner = { epoch: current.epoch, identity: current.owner }
  /** How many scopes of this gateway stand for a path; a prune leaves those to them. */
  const held = new Map<string, number>()
  let serial = 0
  let prunedAt: number | null = null

  const pathOf = (relayId: string): string => `${paths.bridges}/${recordName(hash("sha256", relayId))}`
  const beside = (path: string, end: "new" | "gone"): string => besideName(path, owner.epoch, ++serial, end)

  // The runtime directory too: who owns a directory can put another in the place of what lies in it.
  const directories = Effect.andThen(
    ensurePrivateDirectory(paths.runtime),
    ensurePrivateDirectory(paths.bridges)
  )
  const directoriesExist = Effect.flatMap(privateDirectoryExists(paths.runtime), (exists) =>
    exists ? privateDirectoryExists(paths.bridges) : Effect.succeed(false)
  )

  const hold = (path: string, scopes: 1 | -1): void => {
    const count = (held.get(path) ?? 0) + scopes
    if (count > 0) held.set(path, count)
    else held.delete(path)
  }

  const write = (path: string, record: BridgeRecord) =>
    onFile(path, () => {
      replaceFile(path, beside(path, "new"), encode(record))
      hold(path, 1)
    })

  const remove = (path: string, record: BridgeRecord) =>
    directoriesExist.pipe(
      Effect.flatMap((exist) =>
        onFile(
          path,
          () =>
            exist && removeFile(path, beside(path, "gone"), maxRecordBytes, (text) => claims(text, record))
        )
      ),
      Effect.catch((error) =>
        Effect.logWarning("A bridge record stays until a prune finds it expired.", error)
      ),
      Effect.ensuring(Effect.sync(() => hold(path, -1)))
    )

  /** False once a successor holds the path. */
  const renewFile = (path: string, record: BridgeRecord): boolean => {
    for (let attempt = 0; attempt < renewalAttempts; attempt++) {
      let before = ""
      const outcome = editFile(path, maxRecordBytes, (text) => {
        before = text
        return claims(text, record) ? encode(record) : null
      })
      if (outcome === "edited") return true
      if (outcome === "left") {
        const found = readRecord(before)
        if (found === "newer" || (found !== "malformed" && succeeds(found, record))) return false
        removeFile(path, beside(path, "gone"), maxRecordBytes, (text) => text === before)
      }
      // By link, not by rename: whoever has come in the meantime stays, and is looked at again.
      if (createFile(path, beside(path, "new"), encode(record))) return true
    }
    return true
  }

  const renew = Effect.fnUntraced(function* (path: string, record: BridgeRecord) {
    yield* Effect.sleep(relay.ttlMs / 3)
    yield* directories
    const now = yield* Clock.currentTimeMillis
    return yield* onFile(path, () => renewFile(path, { ...record, expiresAt: now + relay.ttlMs }))
  })

  const renewals = (path: string, record: BridgeRecord) =>
    renew(path, record).pipe(
      Effect.catch((error) =>
        Effect.as(Effect.logWarning("A bridge record was not renewed; trying again.", error), true)
      ),
      Effect.repeat({ while: (ours) => ours }),
      Effect.andThen(Effect.logDebug("A bridge record has a new holder.", { path }))
    )

  /** The very text that was judged: a renewal or a successor since has another one. */
  const removeJudged = (path: string, judged: string): Looked =>
    removeFile(path, beside(path, "gone"), maxRecordBytes, (text) => text === judged) ? "removed" : "kept"

  const look = (name: string, now: number): Looked | Doubtful => {
    const path = `${paths.bridges}/${name}`
    const kind = entryKind(name)
    if (kind === "foreign") return "foreign"
    if (kind === "leftover") {
      const modifiedAt = lstatSync(path, { throwIfNoEntry: false })?.mtimeMs
      if (modifiedAt === undefined || !isAbandoned(modifiedAt, now)) return "kept"
      unlinkSync(path)
      return "removed"
    }
    const seen = held.has(path) ? null : glance(path, maxRecordBytes)
    if (seen === null) return "kept"
    const found = readRecord(seen.text)
    if (found === "newer") return "kept"
    if (found === "malformed")
      return isAbandoned(seen.modifiedAt, now) ? removeJudged(path, seen.text) : "kept"
    return staleness(found, now, "unknown") === null
      ? { path, text: seen.text, record: found }
      : removeJudged(path, seen.text)
  }

  const refused = (error: unknown): DirectoryRefused =>
    new DirectoryRefused({ path: paths.bridges, problem: "unusable", code: errorCode(error) ?? "?" })

  const walk = Effect.fnUntraced(function* (directory: Dir, now: number) {
    const report = { removed: 0, kept: 0 }
    const verdictOf = remembered(verdict)
    let until = performance.now() + sliceMs
    for (;;) {
      const entry = yield* Effect.try({ try: () => directory.readSync(), catch: refused })
      if (entry === null) return report
      let outcome = unlessItFails(() => look(entry.name, now))
      if (typeof outcome === "object") {
        const { path, text, record } = outcome
        const stale = staleness(record, now, yield* verdictOf(record.owner.identity))
        outcome = stale === null ? "kept" : unlessItFails(() => removeJudged(path, text))
      }
      if (outcome !== "foreign") report[outcome]++
      if (performance.now() >= until) {
        yield* Effect.yieldNow
        until = performance.now() + sliceMs
      }
    }
  })

  const prune = Effect.gen(function* () {
    if (!(yield* directoriesExist)) return { removed: 0, kept: 0 }
    const now = yield* Clock.currentTimeMillis
    prunedAt = now
    return yield* Effect.acquireUseRelease(
      Effect.try({ try: () => opendirSync(paths.bridges), catch: refused }),
      (directory) => walk(directory, now),
      (directory) => Effect.sync(() => directory.closeSync())
    )
  }).pipe(turn.withPermit, Effect.withSpan("BridgeStore.prune"))

  const pruneInBackground = prune.pipe(
    Effect.catch((error) => Effect.logDebug("Stale bridge records were not removed.", error))
  )

  const publish = Effect.fn("BridgeStore.publish")(function* (spec: PublishSpec) {
    const path = pathOf(spec.relayId)
    yield* directories
    const now = yield* Clock.currentTimeMillis
    const record: BridgeRecord = {
      version: 1,
      relayId: spec.relayId,
      generation: spec.generation,
      owner,
      socketPath: spec.socketPath,
      token: spec.token,
      publishedAt: now,
      expiresAt: now + relay.ttlMs
    }
    const key = unwritableKey(record)
    if (key !== null) return yield* new BridgeWriteError({ path, key, cause: "no plain value" })
    yield* Effect.acquireRelease(write(path, record), () =>
      Effect.flatMap(spec.leaving ?? Effect.succeed(false), (leaving) =>
        leaving ? Effect.sync(() => hold(path, -1)) : remove(path, record)
      )
    )
    yield* Effect.forkScoped(renewals(path, record))
    if (isPruneDue(prunedAt, now)) {
      prunedAt = now
      yield* FiberHandle.run(background, pruneInBackground, { onlyIfMissing: true })
    }
    return path
  })

  const lookup = Effect.fn("BridgeStore.lookup")(function* (relayId: string) {
    if (!(yield* directoriesExist)) return Option.none()
    const path = pathOf(relayId)
    const seen = yield* onFile(path, () => glance(path, maxRecordBytes)).pipe(
      Effect.orElseSucceed(() => null)
    )
    const found = seen === null ? "malformed" : readRecord(seen.text)
    return typeof found === "object" && found.relayId === relayId ? Option.some(found) : Option.none()
  })

  // The codec compiles at its first use, which takes longer than a registration may hold the event loop.
  readRecord(encode(sample(owner)))

  return BridgeStore.of({ pathOf, publish, lookup, prune })
})

export const layer = Layer.effect(BridgeStore, make)

const encode = Schema.encodeSync(BridgeRecordText)

const onFile = <A>(path: string, run: () => A): Effect.Effect<A, BridgeWriteError> =>
  Effect.try({ try: run, catch: (cause) => new BridgeWriteError({ path, cause }) })

const sample = (owner: BridgeOwner): BridgeRecord => ({
  version: 1,
  relayId: "-",
  generation: 0,
  owner,
  socketPath: "/-",
  token: "-",
  publishedAt: 0,
  expiresAt: 0
})

const claims = (text: string, record: BridgeRecord): boolean => {
  const found = readRecord(text)
  return typeof found === "object" && sameClaim(found, record)
}

/** What the system will not let us look at or remove stays. */
const unlessItFails = <A>(run: () => A): A | "kept" => {
  try {
    return run()
  } catch {
    return "kept"
  }
}

/** Thousands of records have a handful of owners, and the dead do not come back within one walk. */
const remembered = (verdict: (identity: Identity) => Effect.Effect<Verdict>) => {
  const known = new Map<string, Verdict>()
  return Effect.fnUntraced(function* (identity: Identity) {
    const key = JSON.stringify(identity)
    const before = known.get(key)
    if (before !== undefined) return before
    const verdictNow = yield* verdict(identity)
    if (known.size >= verdictsKept) known.clear()
    known.set(key, verdictNow)
    return verdictNow
  })
}
