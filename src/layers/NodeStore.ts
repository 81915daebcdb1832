/** NodeStore, live: rows of the state database, changed one at a time; what a connection has to hear of follows the row. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { SqlClient } from "effect/sql/SqlClient"
import * as crypto from "node:crypto"
import {
  chooseName,
  codeBytes,
  codeLifeMs,
  codeOf,
  matchingNodes,
  maxClosedCodes,
  maxNodes,
  maxOpenCodes,
  nextWrongCodes,
  NodeAmbiguous,
  type NodeChange,
  NodeInfo,
  NodeName,
  NodeNameInUse,
  NodeNameMalformed,
  NodeNotFound,
  NodeStore,
  NodesUnavailable,
  normalizeCode,
  PairingRefused,
  TooManyNodes,
  type WrongCodes
} from "../services/NodeStore.ts"
import { nodeIdOf } from "./internal/ed25519.ts"

export * from "../services/NodeStore.ts"

/** What a slow reader of `changes` may be behind before it loses the oldest. */
const maxUnread = 256

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(NodeInfo))
const isName = Schema.is(NodeName)
const digestOf = (code: string): string => crypto.hash("sha256", code, "hex")

const unavailable = Effect.mapError((cause: unknown) => new NodesUnavailable({ cause }))
/** The same for what refuses by itself too. */
const unavailableOrRefused = Effect.mapError((error: unknown) =>
  error instanceof PairingRefused || error instanceof TooManyNodes || error instanceof NodesUnavailable
    ? error
    : new NodesUnavailable({ cause: error })
)

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  const changed = yield* Effect.acquireRelease(PubSub.sliding<NodeChange>(maxUnread), PubSub.shutdown)
  const oneAtATime = yield* Semaphore.make(1)
  let wrong: WrongCodes = []

  /** A change that has begun is finished and told, whoever asked for it leaves. */
  const exclusively = <A, E>(change: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    oneAtATime.withPermit(Effect.uninterruptible(change))

  const columns = sql.literal(
    `node_id AS "nodeId", name, public_key AS "publicKey", paired_at AS "pairedAt", last_seen_at AS "lastSeenAt", revoked_at AS "revokedAt"`
  )
  const nodes = (query: Effect.Effect<ReadonlyArray<unknown>, unknown>) =>
    unavailable(Effect.flatMap(query, decodeRows))

  const list = nodes(sql`SELECT ${columns} FROM nodes ORDER BY rowid LIMIT ${maxNodes}`)
  const byKey = (publicKey: string) =>
    Effect.map(nodes(sql`SELECT ${columns} FROM nodes WHERE public_key = ${publicKey}`), ([node]) =>
      Option.fromNullishOr(node)
    )

  const pair = exclusively(
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const code = codeOf(crypto.randomBytes(codeBytes))
      const expiresAt = now + codeLifeMs
      yield* sql`INSERT OR REPLACE INTO node_codes (digest, created_at, expires_at)
        VALUES (${digestOf(code)}, ${now}, ${expiresAt})`
      // By rowid: a clock that was set back makes no code older than it is.
      yield* sql`DELETE FROM node_codes WHERE rowid IN (SELECT rowid FROM node_codes
        WHERE used_at IS NULL AND expires_at > ${now} ORDER BY rowid DESC LIMIT -1 OFFSET ${maxOpenCodes})`
      yield* sql`DELETE FROM node_codes WHERE rowid IN (SELECT rowid FROM node_codes
        WHERE used_at IS NOT NULL OR expires_at <= ${now} ORDER BY rowid DESC LIMIT -1 OFFSET ${maxClosedCodes})`
      return { code, expiresAt }
    }).pipe(sql.withTransaction, unavailable)
  ).pipe(Effect.withSpan("NodeStore.pair"))

  /** Takes the code, or says why not. */
  const take = Effect.fnUntraced(function* (typed: string, now: number) {
    const code = normalizeCode(typed)
    if (code === null) return yield* new PairingRefused({ reason: "unknown" })
    const digest = digestOf(code)
    const taken = yield* sql`UPDATE node_codes SET used_at = ${now}
      WHERE digest = ${digest} AND used_at IS NULL AND expires_at > ${now} RETURNING digest`
    if (taken.length === 1) return
    const [row] = yield* sql<{ readonly used_at: number | null }>`
      SELECT used_at FROM node_codes WHERE digest = ${digest}`
    return yield* new PairingRefused({
      reason: row === undefined ? "unknown" : row.used_at === null ? "expired" : "used"
    })
  })

  const makeRoom = Effect.gen(function* () {
    const [counted] = yield* sql<{ readonly n: number }>`SELECT count(*) AS n FROM nodes`
    if (counted!.n < maxNodes) return
    // What is forgotten here is refused as before, as a key that nobody knows.
    const gone = yield* sql`DELETE FROM nodes WHERE rowid IN
      (SELECT rowid FROM nodes WHERE revoked_at IS NOT NULL ORDER BY revoked_at LIMIT 1) RETURNING node_id`
    if (gone.length === 0) return yield* new TooManyNodes()
  })

  const admit = Effect.fnUntraced(function* (publicKey: string, wanted: string, now: number) {
    const known = Option.getOrNull(yield* byKey(publicKey))
    const others = yield* sql<{ readonly name: string }>`
      SELECT name FROM nodes WHERE revoked_at IS NULL AND public_key <> ${publicKey}`
    const name = chooseName(wanted, new Set(others.map((other) => other.name)))
    if (known === null) {
      yield* makeRoom
      yield* sql`INSERT INTO nodes (node_id, public_key, name, paired_at)
        VALUES (${nodeIdOf(publicKey)}, ${publicKey}, ${name}, ${now})`
    } else {
      const pairedAt = known.revokedAt === null ? known.pairedAt : now
      yield* sql`UPDATE nodes SET name = ${name}, paired_at = ${pairedAt}, revoked_at = NULL
        WHERE public_key = ${publicKey}`
    }
    const node = Option.getOrThrow(yield* byKey(publicKey))
    return { node, renamed: known !== null && known.name !== name }
  })

  const redeem = (code: string, { publicKey, name }: { readonly publicKey: string; readonly name: string }) =>
    exclusively(
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        const look = nextWrongCodes(wrong, "attempt", now)
        wrong = look.wrong
        if (look.limited) return yield* new PairingRefused({ reason: "rate-limited" })
        const { node, renamed } = yield* Effect.andThen(take(code, now), admit(publicKey, name, now)).pipe(
          sql.withTransaction,
          unavailableOrRefused,
          Effect.tapError((error) =>
            Effect.sync(() => {
              if (error._tag === "PairingRefused") wrong = nextWrongCodes(wrong, "wrong", now).wrong
            })
          )
        )
        if (renamed) yield* PubSub.publish(changed, { _tag: "Renamed", nodeId: node.nodeId, name: node.name })
        return node
      })
    ).pipe(Effect.withSpan("NodeStore.redeem"))

  const one = Effect.fnUntraced(function* (ref: string, all: ReadonlyArray<NodeInfo>) {
    const found = matchingNodes(all, ref)
    if (found.length > 1) return yield* new NodeAmbiguous({ ref, count: found.length })
    return found[0] ?? (yield* new NodeNotFound({ ref }))
  })

  const revoke = (ref: string) =>
    exclusively(
      Effect.gen(function* () {
        const node = yield* one(ref, yield* list)
        const revokedAt = node.revokedAt ?? (yield* Clock.currentTimeMillis)
        yield* unavailable(sql`UPDATE nodes SET revoked_at = ${revokedAt} WHERE node_id = ${node.nodeId}`)
        yield* PubSub.publish(changed, { _tag: "Revoked", nodeId: node.nodeId })
        return { ...node, revokedAt }
      })
    ).pipe(Effect.withSpan("NodeStore.revoke"))

  const rename = (ref: string, name: string) =>
    exclusively(
      Effect.gen(function* () {
        if (!isName(name)) return yield* new NodeNameMalformed({ name })
        const live = (yield* list).filter(({ revokedAt }) => revokedAt === null)
        const node = yield* one(ref, live)
        if (node.name === name) return node
        if (live.some((other) => other.name === name)) return yield* new NodeNameInUse({ name })
        yield* unavailable(sql`UPDATE nodes SET name = ${name} WHERE node_id = ${node.nodeId}`)
        yield* PubSub.publish(changed, { _tag: "Renamed", nodeId: node.nodeId, name })
        return { ...node, name }
      })
    ).pipe(Effect.withSpan("NodeStore.rename"))

  return NodeStore.of({
    pair,
    redeem,
    find: Effect.fn("NodeStore.find")(byKey),
    seen: Effect.fn("NodeStore.seen")(function* (nodeId: string) {
      const now = yield* Clock.currentTimeMillis
      yield* unavailable(sql`UPDATE nodes SET last_seen_at = ${now} WHERE node_id = ${nodeId}`)
    }),
    list: Effect.withSpan(list, "NodeStore.list"),
    revoke,
    rename,
    changes: Stream.fromPubSub(changed)
  })
})

export const layer = Layer.effect(NodeStore, make)
