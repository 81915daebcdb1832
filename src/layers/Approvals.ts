/**
 * Approvals, live: rows of the state database, changed one at a time; whoever waits is woken by the change.
 *
 * A change is one statement and is in the database before anybody hears of it, so a gateway that dies at any point leaves an
 * approval as the last one who was answered has seen it.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { SqlClient } from "effect/sql/SqlClient"
import * as crypto from "node:crypto"
import {
  type Approval,
  Approval as Record,
  ApprovalAmbiguous,
  ApprovalClosed,
  type ApprovalEvent,
  ApprovalNotFound,
  Approvals,
  ApprovalsUnavailable,
  type AskRequest,
  type CallFacts,
  liveUntil,
  maxEndedKept,
  maxListed,
  maxPending,
  maxPendingPerNode,
  maxPendingPerRelay,
  maxPerWindow,
  nextApproval,
  type Outcome,
  rateWindowMs,
  standingOf,
  type Used
} from "../services/Approvals.ts"
import { nodeOfRelay, relayOfNode } from "../services/NodeCalls.ts"
import { Settings } from "../services/Settings.ts"
import { allowedBecause, changedSince, refusedBecause, stillOpen, tooMany } from "./internal/approvalWords.ts"

export * from "../services/Approvals.ts"

/** What a slow reader of `changes` may be behind before it loses the oldest. */
const maxUnread = 256
/** Approvals about one call that a new one is compared with: the newest, as only they are live. */
const maxAlike = 64
/** How often one call may find that another has used the answer it waited for. */
const maxRounds = 8
/** Rows between two looks at how many ended ones are kept. */
const pruneEvery = 256
/** 40 bits: two of the same among ten thousand are one in twenty thousand, and then one ask fails. */
const idBytes = 5

const decodeRows = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ body: Schema.fromJsonString(Record) }))
)
const encodeBody = Schema.encodeEffect(Schema.fromJsonString(Record))

const keyOf = ({ provider, tool, input, cwd }: CallFacts): string =>
  crypto.hash("sha256", JSON.stringify([provider, tool, input, cwd]), "base64url")

const unavailable = Effect.mapError((cause: unknown) => new ApprovalsUnavailable({ cause }))

type Step =
  | { readonly _tag: "Settled"; readonly outcome: Outcome }
  | { readonly _tag: "Wait"; readonly approval: Approval }

const settled = (outcome: Outcome): Step => ({ _tag: "Settled", outcome })

export const make = Effect.gen(function* () {
  const sql = yield* SqlClient
  const { expireMs } = (yield* Settings).approvals
  const changed = yield* Effect.acquireRelease(PubSub.sliding<Approval>(maxUnread), PubSub.shutdown)
  const oneAtATime = yield* Semaphore.make(1)
  /** Who waits for a change, by approval; an entry lives as long as somebody does. */
  const waiting = new Map<string, Set<Deferred.Deferred<void>>>()
  /** Something new can expire. */
  const due = yield* Queue.sliding<void>(1)
  let inserted = 0

  const rows = (query: Effect.Effect<ReadonlyArray<unknown>, unknown>) =>
    Effect.flatMap(query, decodeRows).pipe(
      Effect.map((found) => found.map(({ body }) => body)),
      unavailable
    )

  const announce = (approval: Approval) =>
    Effect.gen(function* () {
      yield* PubSub.publish(changed, approval)
      for (const waiter of waiting.get(approval.id) ?? []) Deferred.doneUnsafe(waiter, Effect.void)
    })

  const write = (approval: Approval) =>
    Effect.gen(function* () {
      const body = yield* encodeBody(approval)
      yield* sql`UPDATE approvals SET state = ${approval.state._tag}, live_until = ${liveUntil(approval)}, body = ${body}
        WHERE approval_id = ${approval.id}`
      yield* announce(approval)
    }).pipe(unavailable)

  const prune = Effect.gen(function* () {
    const now = yield* Clock.currentTimeMillis
    yield* sql`DELETE FROM approvals WHERE live_until <= ${now} AND approval_id IN
      (SELECT approval_id FROM approvals WHERE live_until <= ${now} ORDER BY created_at DESC LIMIT -1 OFFSET ${maxEndedKept})`
  }).pipe(unavailable)

  const insert = (approval: Approval) =>
    Effect.gen(function* () {
      const body = yield* encodeBody(approval)
      yield* sql`INSERT INTO approvals (approval_id, relay_id, call_key, state, created_at, live_until, body)
        VALUES (${approval.id}, ${approval.requester.relayId}, ${keyOf(approval.facts)}, ${approval.state._tag},
          ${approval.createdAt}, ${liveUntil(approval)}, ${body})`
      if (++inserted % pruneEvery === 0) yield* prune
      yield* announce(approval)
      yield* Queue.offer(due, undefined)
    }).pipe(unavailable)

  /** Only inside of `exclusively`. */
  const apply = Effect.fnUntraced(function* (approval: Approval, event: ApprovalEvent) {
    const next = nextApproval(approval, event, yield* Clock.currentTimeMillis)
    if (Result.isFailure(next)) return Option.none<readonly [Approval, Used | null]>()
    if (next.success[0] !== approval) yield* write(next.success[0])
    return Option.some(next.success)
  })

  /** A change that has begun is finished and told, whoever asked for it leaves. */
  const exclusively = <A, E>(change: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    oneAtATime.withPermit(Effect.uninterruptible(change))

  const find = Effect.fnUntraced(function* (ref: string) {
    // Not LIKE: what a person types may hold its wildcards.
    const found = yield* rows(
      sql`SELECT body FROM approvals WHERE substr(approval_id, 1, ${ref.length}) = ${ref} LIMIT ${maxListed}`
    )
    const exact = found.find(({ id }) => id === ref)
    if (exact !== undefined) return exact
    if (found.length === 0 || ref === "") return yield* new ApprovalNotFound({ ref })
    if (found.length > 1) return yield* new ApprovalAmbiguous({ ref, count: found.length })
    return found[0]!
  })

  /** What a person does to an approval. */
  const settle = (ref: string, event: ApprovalEvent) =>
    exclusively(
      Effect.gen(function* () {
        const approval = yield* find(ref)
        const next = yield* apply(approval, event)
        if (Option.isSome(next)) return next.value[0]
        // Its time is up, and nobody has written that down yet.
        const closed = Option.match(yield* apply(approval, { _tag: "Expire" }), {
          onNone: () => approval,
          onSome: ([expired]) => expired
        })
        return yield* new ApprovalClosed({ id: closed.id, state: closed.state._tag })
      })
    )

  const count = (query: Effect.Effect<ReadonlyArray<unknown>, unknown>) =>
    Effect.map(query, ([row]) => Number((row as { readonly n: unknown }).n)).pipe(unavailable)

  const crowded = Effect.fnUntraced(function* (relayId: string, now: number) {
    const [all, own, lately] = yield* Effect.all([
      count(sql`SELECT count(*) AS n FROM approvals WHERE state = 'pending' AND live_until > ${now}`),
      count(
        sql`SELECT count(*) AS n FROM approvals WHERE relay_id = ${relayId} AND state = 'pending' AND live_until > ${now}`
      ),
      count(
        sql`SELECT count(*) AS n FROM approvals WHERE relay_id = ${relayId} AND created_at > ${now - rateWindowMs}`
      )
    ])
    if (lately >= maxPerWindow) return tooMany(`this session has asked ${lately} times within a minute`)
    if (own >= maxPendingPerRelay) return tooMany(`${own} calls of this session wait for an answer already`)
    const nodeId = nodeOfRelay(relayId)
    if (nodeId !== null) {
      const there = yield* count(
        sql`SELECT count(*) AS n FROM approvals WHERE relay_id > ${relayOfNode(nodeId, "")} AND relay_id < ${`${nodeId}0`} AND state = 'pending' AND live_until > ${now}`
      )
      if (there >= maxPendingPerNode) return tooMany(`${there} calls of this node wait for an answer already`)
    }
    return all >= maxPending ? tooMany(`${all} calls wait for an answer already`) : null
  })

  const open = Effect.fnUntraced(function* (request: AskRequest, facts: CallFacts, now: number) {
    const full = yield* crowded(request.requester.relayId, now)
    if (full !== null) return settled({ allowed: false, reason: full })
    const approval: Approval = {
      id: crypto.randomBytes(idBytes).toString("hex"),
      requester: request.requester,
      call: request.call,
      policy: request.policy,
      reason: request.reason,
      facts,
      createdAt: now,
      expiresAt: now + Math.min(expireMs, request.expireMs ?? expireMs),
      callIds: [request.callId],
      state: { _tag: "pending" }
    }
    yield* insert(approval)
    return { _tag: "Wait", approval } satisfies Step
  })

  const stand = (request: AskRequest, facts: CallFacts): Effect.Effect<Step, ApprovalsUnavailable> =>
    exclusively(
      Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        const found = yield* rows(
          sql`SELECT body FROM approvals WHERE call_key = ${keyOf(facts)} ORDER BY created_at DESC LIMIT ${maxAlike}`
        )
        const alike = yield* Effect.forEach(found, (approval) =>
          Effect.map(
            apply(approval, { _tag: "Expire" }),
            Option.match({ onNone: () => approval, onSome: ([expired]) => expired })
          )
        )
        const call = { callId: request.callId, relayId: request.requester.relayId }
        const standing = standingOf(alike, call, now)
        switch (standing._tag) {
          case "new":
            return yield* open(request, facts, now)
          case "told":
            return settled({ allowed: false, reason: refusedBecause(standing.approval) })
          case "join": {
            const joined = yield* apply(standing.approval, { _tag: "Join", callId: request.callId })
            return Option.match(joined, {
              onNone: () => settled({ allowed: false, reason: refusedBecause(standing.approval) }),
              onSome: ([approval]): Step => ({ _tag: "Wait", approval })
            })
          }
          case "use": {
            const use = yield* apply(standing.approval, { _tag: "Use", ...call, facts })
            return Option.match(use, {
              onNone: () => settled({ allowed: false, reason: refusedBecause(standing.approval) }),
              onSome: ([approval, used]) =>
                used?._tag === "drifted"
                  ? settled({ allowed: false, reason: changedSince(approval, used.what) })
                  : settled({ allowed: true, reason: allowedBecause(approval) })
            })
          }
        }
      })
    )

  const waiterOf = (id: string) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const waiter = Deferred.makeUnsafe<void>()
        waiting.set(id, (waiting.get(id) ?? new Set()).add(waiter))
        return waiter
      }),
      (waiter) =>
        Effect.sync(() => {
          const others = waiting.get(id)
          others?.delete(waiter)
          if (others?.size === 0) waiting.delete(id)
        })
    )

  /** Until the approval has changed or is over; false when `until` comes first. */
  const changeOf = Effect.fnUntraced(function* ({ id, expiresAt }: Approval, until: number) {
    const waiter = yield* waiterOf(id)
    // What changed before this one waited is seen by a look, not by waiting.
    const [latest] = yield* rows(sql`SELECT body FROM approvals WHERE approval_id = ${id}`)
    if (latest?.state._tag !== "pending") return true
    const now = yield* Clock.currentTimeMillis
    return yield* Effect.as(Deferred.await(waiter), true).pipe(
      Effect.timeoutOrElse({
        duration: Math.max(0, Math.min(until, expiresAt) - now),
        orElse: () => Effect.succeed(until >= expiresAt)
      })
    )
  }, Effect.scoped)

  const ask = Effect.fn("Approvals.ask")(function* (request: AskRequest) {
    const until = (yield* Clock.currentTimeMillis) + request.holdMs
    for (let round = 0; round < maxRounds; round++) {
      const step = yield* stand(request, yield* request.facts)
      if (step._tag === "Settled") return step.outcome
      if (!(yield* changeOf(step.approval, until)))
        return { allowed: false, reason: stillOpen(step.approval) }
    }
    return { allowed: false, reason: tooMany("other calls used every answer that this one waited for") }
  })

  const expireDue = exclusively(
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const over = yield* rows(
        sql`SELECT body FROM approvals WHERE state = 'pending' AND live_until <= ${now} LIMIT ${maxPending}`
      )
      for (const approval of over) yield* apply(approval, { _tag: "Expire" })
    })
  )

  /** Sleeps until the next approval expires, or there is a new one. */
  const expiring = Effect.gen(function* () {
    yield* expireDue
    const [next] = yield* sql<{
      readonly at: number | null
    }>`SELECT min(live_until) AS at FROM approvals WHERE state = 'pending'`
    const news = Queue.take(due)
    if (next?.at == null) return yield* news
    const duration = Math.max(0, next.at - (yield* Clock.currentTimeMillis))
    yield* Effect.timeoutOrElse(news, { duration, orElse: () => Effect.void })
  })

  yield* prune
  yield* expiring.pipe(
    Effect.tapError((error) => Effect.logError("approvals cannot be expired", error)),
    Effect.catch(() => Queue.take(due)),
    Effect.forever,
    Effect.forkScoped
  )

  return Approvals.of({
    ask,
    find,
    answer: (ref, answer, by, note) => settle(ref, { _tag: "Answer", answer, by, note }),
    revoke: (ref) => settle(ref, { _tag: "Revoke" }),
    list: Effect.fn("Approvals.list")(function* (live: boolean) {
      const now = yield* Clock.currentTimeMillis
      return yield* rows(
        live
          ? sql`SELECT body FROM approvals WHERE live_until > ${now} ORDER BY created_at DESC LIMIT ${maxListed}`
          : sql`SELECT body FROM approvals ORDER BY created_at DESC LIMIT ${maxListed}`
      )
    }),
    changes: Stream.fromPubSub(changed)
  })
})

export const layer = Layer.effect(Approvals, make)
