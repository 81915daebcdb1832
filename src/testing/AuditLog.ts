/**
 * AuditLog, fake: rows in memory, numbered from one. It can be made to refuse every row, as a full disk does, and be given
 * rows of an earlier gateway. There is no chain to verify.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import {
  type AuditEntry,
  AuditLog,
  type AuditRecord,
  type AuditRow,
  AuditUnavailable
} from "../services/AuditLog.ts"

/** An entry to start from. */
export const entry: AuditEntry = {
  epoch: "01JC0000000000000000000000",
  relayId: "relay-1",
  runId: "run-1",
  provider: "codex",
  source: "hook",
  event: "pre_tool_use",
  sessionId: "thread-1",
  agentId: null,
  spawnedBy: null,
  callId: "call-1",
  tool: "Bash",
  subject: "ls",
  verdict: "allow",
  policy: "default",
  reason: "no policy has a say in this call; the default is allow",
  votes: [],
  tookMs: 0.25
}

export class FakeAuditLog extends Context.Service<
  FakeAuditLog,
  {
    /** Oldest first. */
    readonly rows: Effect.Effect<ReadonlyArray<AuditRow>>
    /** No row can be written from now on, or it can again. */
    readonly breaks: (broken: boolean) => Effect.Effect<void>
    /** Rows that were there before; whoever reads `live` does not hear of them. */
    readonly has: (...entries: ReadonlyArray<AuditEntry>) => Effect.Effect<void>
  }
>()("holdfast/testing/FakeAuditLog") {}

/** What a slow reader of `live` may be behind before it loses the oldest. */
const maxUnread = 1024

const recordOf = (row: AuditRow): AuditRecord => ({ ...row, hash: null })

export const layer: Layer.Layer<AuditLog | FakeAuditLog> = Layer.effectContext(
  Effect.gen(function* () {
    const rows: Array<AuditRow> = []
    const appended = yield* Effect.acquireRelease(PubSub.sliding<AuditRow>(maxUnread), PubSub.shutdown)
    let broken = false

    const add = (entry: AuditEntry) =>
      Effect.map(Clock.currentTimeMillis, (at) => {
        const row: AuditRow = { ...entry, seq: rows.length + 1, at }
        rows.push(row)
        return row
      })

    const mocked = yield* Layer.build(
      Layer.mock(AuditLog, {
        append: (entry) =>
          broken
            ? Effect.fail(new AuditUnavailable({ cause: new Error("the disk is full") }))
            : Effect.tap(add(entry), (row) => PubSub.publish(appended, row)),
        tail: (limit) => Effect.sync(() => rows.slice(-limit)),
        decided: (relayId, callId, event) =>
          Effect.sync(
            () =>
              rows.find(
                (row) =>
                  row.relayId === relayId &&
                  row.callId === callId &&
                  row.event === event &&
                  row.source === "hook"
              ) ?? null
          ),
        isDecided: (relayId, callId) =>
          Effect.sync(() =>
            rows.some(
              (row) =>
                row.relayId === relayId &&
                row.callId === callId &&
                ["hook", "approval"].includes(row.source) &&
                ["pre_tool_use", "permission_request"].includes(row.event) &&
                row.verdict !== "deny"
            )
          ),
        hasHook: (relayId) =>
          Effect.sync(() =>
            rows.some(
              (row) => row.relayId === relayId && row.source === "hook" && row.policy !== "unanswered"
            )
          ),
        guardRows: Effect.sync(() =>
          rows.filter(
            ({ source, policy }) =>
              ["incident", "canary", "client"].includes(source) || policy === "unanswered"
          )
        ),
        find: (seq) =>
          Effect.sync(() => {
            const row = rows[seq - 1]
            return row === undefined ? null : recordOf(row)
          }),
        all: Stream.suspend(() => Stream.fromIterable(rows.map(recordOf))),
        live: Stream.fromPubSub(appended)
      })
    )
    return mocked.pipe(
      Context.add(FakeAuditLog, {
        rows: Effect.sync(() => [...rows]),
        breaks: (next) =>
          Effect.sync(() => {
            broken = next
          }),
        has: (...entries) => Effect.forEach(entries, add, { discard: true })
      })
    )
  })
)
