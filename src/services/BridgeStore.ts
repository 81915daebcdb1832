/**
 * BridgeStore: how a hook finds its live gateway.
 *
 * One private directory per user, one record per relay, there exactly as long as the scope that published it. A record is
 * read by sh, perl and curl as well as by us: fixed keys in a fixed order, one `key=value` a line, nothing in a value that
 * a shell would have to unquote. Whoever published last holds the path; everybody else leaves that record alone.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import type * as Scope from "effect/Scope"
import type { DirectoryRefused } from "./PrivateDirectory.ts"
import { Identity, type Verdict } from "./ProcessIdentity.ts"

export const BridgeOwner = Schema.Struct({ epoch: Schema.String, identity: Identity })
export type BridgeOwner = typeof BridgeOwner.Type

export const BridgeRecord = Schema.Struct({
  version: Schema.Literal(1),
  relayId: Schema.String,
  generation: Schema.Int,
  owner: BridgeOwner,
  socketPath: Schema.String,
  token: Schema.String,
  /** Milliseconds since the epoch of the Clock. */
  publishedAt: Schema.Int,
  expiresAt: Schema.Int
})
export type BridgeRecord = typeof BridgeRecord.Type

export class BridgeWriteError extends Schema.TaggedError<BridgeWriteError>()("BridgeWriteError", {
  path: Schema.String,
  /** The key whose value no record can carry; absent when it was the disk. */
  key: Schema.optionalKey(Schema.String),
  cause: Schema.Defect()
}) {
  override get message(): string {
    if (this.key === undefined)
      return `The bridge record ${this.path} cannot be written. Check that the disk is not full or read-only.`
    const remedy = this.key === "socketPath" ? " Set HOLDFAST_RUNTIME_DIR to a plain path." : ""
    return `The bridge record ${this.path} cannot carry this ${this.key}: it is empty, too long, or has characters that a shell could misread.${remedy}`
  }
}

const word = String.raw`[A-Za-z0-9._-]{1,128}`
/** No leading zero, which sh reads as octal; never over 2^53. */
const count = String.raw`0|[1-9][0-9]{0,14}`
/** `read` drops a delimiter at the end of a line, so no value ends in `=`; and none starts or ends in a blank. */
const plain = String.raw`[A-Za-z0-9._:/@+,~%()\[\]-](?:[A-Za-z0-9._:/@+,=~%()\[\] -]{0,1022}[A-Za-z0-9._:/@+,~%()\[\]-])?`

/** The lines of a record, in their order. `expiresAt` is last, so that a renewal touches nothing else. */
const layout = {
  version: "1",
  relayId: word,
  generation: count,
  epoch: word,
  bootId: word,
  pidNamespace: plain,
  pid: count,
  startToken: plain,
  socketPath: `(?=/)${plain}`,
  token: word,
  publishedAt: count,
  expiresAt: count
} as const
type Line = keyof typeof layout
const keys = Object.keys(layout) as ReadonlyArray<Line>

/** No record has more bytes; a longer file is not read further. */
export const maxRecordBytes = 4096

const recordPattern = new RegExp(`^${keys.map((key) => `${key}=(?<${key}>${layout[key]})\\n`).join("")}$`)
const valuePatterns = keys.map((key) => [key, new RegExp(`^(?:${layout[key]})$`)] as const)
const newerPattern = /^version=([2-9]|[1-9][0-9]{1,8})\n/

const linesOf = (record: BridgeRecord): Record<Line, string | number> => ({
  version: record.version,
  relayId: record.relayId,
  generation: record.generation,
  epoch: record.owner.epoch,
  bootId: record.owner.identity.bootId,
  pidNamespace: record.owner.identity.pidNamespace,
  pid: record.owner.identity.pid,
  startToken: record.owner.identity.startToken,
  socketPath: record.socketPath,
  token: record.token,
  publishedAt: record.publishedAt,
  expiresAt: record.expiresAt
})

const fromText = (text: string): typeof BridgeRecord.Encoded => {
  const line = recordPattern.exec(text)?.groups as Record<Line, string>
  return {
    version: 1,
    relayId: line.relayId,
    generation: Number(line.generation),
    owner: {
      epoch: line.epoch,
      identity: {
        bootId: line.bootId,
        pidNamespace: line.pidNamespace,
        pid: Number(line.pid),
        startToken: line.startToken
      }
    },
    socketPath: line.socketPath,
    token: line.token,
    publishedAt: Number(line.publishedAt),
    expiresAt: Number(line.expiresAt)
  }
}

const toText = (record: BridgeRecord): string => {
  const lines = linesOf(record)
  return keys.map((key) => `${key}=${lines[key]}\n`).join("")
}

/** A record and its file's text. The pattern holds both ways: what cannot be read back is not written. */
export const BridgeRecordText = Schema.String.check(Schema.isPattern(recordPattern)).pipe(
  Schema.decodeTo(BridgeRecord, SchemaTransformation.transform({ decode: fromText, encode: toText }))
)

const decodeText = Schema.decodeUnknownOption(BridgeRecordText)

/** `newer`: written by a Holdfast after this one, whose business it stays. `malformed`: half-written, or no record at all. */
export const readRecord = (text: string): BridgeRecord | "newer" | "malformed" =>
  Option.getOrElse(decodeText(text), () => (newerPattern.test(text) ? "newer" : "malformed"))

/** The first key whose value no record can carry; null when there is none. */
export const unwritableKey = (record: BridgeRecord): string | null => {
  const lines = linesOf(record)
  return valuePatterns.find(([key, pattern]) => !pattern.test(String(lines[key])))?.[0] ?? null
}

/** The file name of a relay, from the sha256 of its id in hex. It is part of hook commands that outlive us: never change it. */
export const recordName = (digest: string): string => digest.slice(0, 32)

/** `leftover`: a file on its way into or out of place when its gateway died. `foreign`: not of our making. */
export const entryKind = (name: string): "record" | "leftover" | "foreign" =>
  /^[0-9a-f]{32}$/.test(name)
    ? "record"
    : /^[0-9a-f]{32}\.[A-Za-z0-9._-]{1,128}\.[0-9]{1,15}\.(?:new|gone)$/.test(name)
      ? "leftover"
      : "foreign"

/** Where a record is written before it is renamed into place (`new`), or moved before it is removed (`gone`). */
export const besideName = (path: string, epoch: string, serial: number, end: "new" | "gone"): string =>
  `${path}.${epoch}.${serial}.${end}`

/** A file takes microseconds to write, so one that is no record after this long never becomes one. */
export const leftoverKeptMs = 600_000

export const isAbandoned = (modifiedAt: number, now: number): boolean => now - modifiedAt > leftoverKeptMs

/** Publishing starts a prune in the background, but not oftener than this: dead gateways are rare, runs are not. */
export const pruneIntervalMs = 60_000

/** A clock that was set back makes one due as well. */
export const isPruneDue = (prunedAt: number | null, now: number): boolean =>
  prunedAt === null || now < prunedAt || now - prunedAt >= pruneIntervalMs

/** The same act of publishing, whenever it was last renewed. */
export const sameClaim = (a: BridgeRecord, b: BridgeRecord): boolean =>
  a.relayId === b.relayId &&
  a.generation === b.generation &&
  a.token === b.token &&
  a.owner.epoch === b.owner.epoch &&
  a.owner.identity.pid === b.owner.identity.pid &&
  a.owner.identity.startToken === b.owner.identity.startToken &&
  a.owner.identity.bootId === b.owner.identity.bootId &&
  a.owner.identity.pidNamespace === b.owner.identity.pidNamespace

/**
 * Whose turn it is at a path: the higher generation's, else the later one's. A claim that finds another is over only if
 * that one succeeds it; a predecessor may have come back into a gap that a prune made.
 */
export const succeeds = (later: BridgeRecord, earlier: BridgeRecord): boolean =>
  later.generation !== earlier.generation
    ? later.generation > earlier.generation
    : later.publishedAt !== earlier.publishedAt
      ? later.publishedAt > earlier.publishedAt
      : later.owner.epoch > earlier.owner.epoch

export const isExpired = (record: BridgeRecord, now: number): boolean => now >= record.expiresAt

/**
 * Why a prune may remove a record; null when it may not. An owner that lives and did not renew for a whole ttl has
 * stopped, or will put its record back when it wakes; `unknown` proves nothing.
 */
export const staleness = (
  record: BridgeRecord,
  now: number,
  verdict: Verdict
): "expired" | "owner-dead" | null =>
  isExpired(record, now) ? "expired" : verdict === "dead" ? "owner-dead" : null

/** What a prune did, in records and leftovers. `kept` counts every one left in place, whatever the reason. */
export interface PruneReport {
  readonly removed: number
  readonly kept: number
}

export interface PublishSpec {
  readonly relayId: string
  readonly generation: number
  readonly socketPath: string
  readonly token: string
  /**
   * Asked as the scope closes, whether the record stays for the next gateway to replace: until then it says that one is
   * expected. Absent: never.
   */
  readonly leaving?: Effect.Effect<boolean>
}

export class BridgeStore extends Context.Service<
  BridgeStore,
  {
    /** The record's path, stable for a relay id whatever gateway publishes it. */
    readonly pathOf: (relayId: string) => string
    /**
     * Writes the record (0600, beside and renamed) and renews it on the Clock until the scope closes; then removes it
     * unless a successor has replaced it. Starts a prune in the background, at most one per `pruneIntervalMs`. Returns
     * the path.
     */
    readonly publish: (
      spec: PublishSpec
    ) => Effect.Effect<string, DirectoryRefused | BridgeWriteError, Scope.Scope>
    /** What is in the file now, expired or not; none for a record of a newer version and for what is no record. */
    readonly lookup: (relayId: string) => Effect.Effect<Option.Option<BridgeRecord>, DirectoryRefused>
    /**
     * Removes records that are expired or whose owner is dead, and leftovers of a crash; never on `unknown`, never a
     * live owner's renewed one. One at a time, and in slices: it may take a second, and never holds the event loop.
     */
    readonly prune: Effect.Effect<PruneReport, DirectoryRefused>
  }
>()("holdfast/BridgeStore") {}
