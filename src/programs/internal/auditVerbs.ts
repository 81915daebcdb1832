/** The verbs about the audit log: look, take away, and prove. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as AuditReport from "../../services/AuditReport.ts"
import { maxTail } from "../../services/Control.ts"
import * as Report from "../../services/Report.ts"
import { follow, show } from "./answers.ts"
import { answered, oneGateway } from "./operator.ts"
import { exitCodes, ExitWith } from "./terminal.ts"

class NoSuchRow extends Schema.TaggedError<NoSuchRow>()("NoSuchRow", { seq: Schema.Int }) {
  override get message(): string {
    return `The audit log has no row ${this.seq}. \`holdfast audit tail\` shows the last ones.`
  }
}

/** A log of a million rows is read and hashed in some twenty seconds. */
const verifyTimeoutMs = 600_000

const tail = Command.make(
  "tail",
  {
    lines: Flag.Int("lines").pipe(Flag.withAlias("n"), Flag.withDefault(20)),
    follow: Flag.Boolean("follow").pipe(Flag.withAlias("f"), Flag.withDefault(false))
  },
  (options) =>
    oneGateway(
      Effect.gen(function* () {
        const client = yield* ControlClient
        const limit = Math.max(0, Math.min(options.lines, maxTail))
        yield* follow(client.AuditTail({ limit, follow: options.follow }), Report.auditRow)
      })
    )
).pipe(Command.withDescription("The last decisions; -f goes on"))

const showOne = Command.make(
  "show",
  { seq: Argument.Int("row").pipe(Argument.withDescription("Its number")) },
  ({ seq }) =>
    oneGateway(
      Effect.gen(function* () {
        const row = yield* answered((yield* ControlClient).FindAuditRow({ seq }))
        if (row === null) return yield* new NoSuchRow({ seq })
        yield* show(row, AuditReport.record)
      })
    )
).pipe(Command.withDescription("One decision, and who had a say in it"))

const verify = Command.make("verify", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const verification = yield* (yield* ControlClient).VerifyAudit().pipe(Effect.timeout(verifyTimeoutMs))
      yield* show(verification, AuditReport.verification)
      if (verification.found > 0) return yield* Effect.fail(new ExitWith(exitCodes.failed))
    })
  )
).pipe(Command.withDescription("Prove that no row was changed, moved, taken out or cut off"))

const exported = Command.make("export", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      yield* follow((yield* ControlClient).ExportAudit(), (record) => JSON.stringify(record))
    })
  )
).pipe(Command.withDescription("Every row with its hash, one JSON line each"))

export const audit = Command.make("audit").pipe(
  Command.withDescription("Every decision about a tool call"),
  Command.withSubcommands([tail, showOne, verify, exported])
)
