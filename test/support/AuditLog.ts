/** An audit log in an array that can be made to fail, and an entry to start from. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import {
  auditable,
  type AuditEntry,
  AuditLog,
  type AuditRow,
  AuditUnavailable
} from "../../src/services/AuditLog.ts"

export class FakeAuditLog extends Context.Service<
  FakeAuditLog,
  {
    readonly rows: ReadonlyArray<AuditRow>
    /** While broken, appends and reads fail and nothing is kept. */
    readonly breaks: (broken: boolean) => Effect.Effect<void>
  }
>()("test/FakeAuditLog") {}

export const entry: AuditEntry = {
  epoch: "01JC0000000000000000000000",
  relayId: "relay-1",
  runId: "run-1",
  provider: "codex",
  source: "hook",
  event: "pre_tool_use",
  sessionId: "thread-1",
  agentId: null,
  callId: "call-1",
  tool: "Bash",
  subject: "ls",
  verdict: "allow",
  policy: "default",
  reason: "no policy has a say in this call; the default is allow",
  votes: [],
  tookMs: 0.25
}

export const layerFake = Layer.effectContext(
  Effect.gen(function* () {
    const rows: Array<AuditRow> = []
    const appended = yield* PubSub.unbounded<AuditRow>()
    let broken = false
    const unlessBroken = <A>(effect: Effect.Effect<A>) =>
      Effect.suspend(() =>
        broken ? Effect.fail(new AuditUnavailable({ cause: new Error("broken by the test") })) : effect
      )
    const log = AuditLog.of({
      append: (entry) =>
        unlessBroken(
          Effect.suspend(() => {
            const row: AuditRow = { ...auditable(entry), seq: rows.length + 1, at: rows.length }
            rows.push(row)
            return Effect.as(PubSub.publish(appended, row), row)
          })
        ),
      tail: (limit) => unlessBroken(Effect.sync(() => rows.slice(-limit))),
      live: Stream.fromPubSub(appended)
    })
    const fake = FakeAuditLog.of({
      rows,
      breaks: (value) =>
        Effect.sync(() => {
          broken = value
        })
    })
    return Context.make(AuditLog, log).pipe(Context.add(FakeAuditLog, fake))
  })
)
