/** The verbs about approvals: what waits for a person, what was granted, and the answers. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as ApprovalReport from "../../services/ApprovalReport.ts"
import { type Answer, type Approval, maxGrantMs, maxNoteLength } from "../../services/Approvals.ts"
import { follow, Json, show } from "./answers.ts"
import { watchOnTerminal } from "./approvalWatch.ts"
import { isTerminal } from "./device.ts"
import { parseDuration } from "./duration.ts"
import { answered, oneGateway } from "./operator.ts"

const ref = Argument.String("approval").pipe(
  Argument.withDescription("An approval's id, or an unambiguous beginning of it")
)

const note = Flag.String("note").pipe(
  Flag.filter(
    (text) => text.length <= maxNoteLength,
    () => `at most ${maxNoteLength} characters`
  ),
  Flag.optional,
  Flag.withDescription("A word to the agent, and for the record")
)

/** Two ways of saying for how long. */
class OneScope extends Schema.TaggedError<OneScope>()("OneScope", {}) {
  override get message(): string {
    return "Give --session or --for, not both: a yes is for one call, for a session, or for a time."
  }
}

const one = (approval: Approval) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    show(approval, (value) => ApprovalReport.approval(value, now))
  )

const listed = (live: boolean, keep: (approval: Approval) => boolean) =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      const { approvals, now } = yield* answered(client.ListApprovals({ live }))
      yield* show(approvals.filter(keep), (all) => ApprovalReport.approvals(all, now))
    })
  )

const list = Command.make(
  "list",
  {
    all: Flag.Boolean("all").pipe(
      Flag.withAlias("a"),
      Flag.withDefault(false),
      Flag.withDescription("Also those that were answered or have expired")
    )
  },
  ({ all }) => listed(!all, ({ state }) => all || state._tag === "pending")
).pipe(Command.withDescription("What waits for an answer"))

const grants = Command.make("grants", {}, () => listed(true, ({ state }) => state._tag === "granted")).pipe(
  Command.withDescription("What was allowed, and can still be used")
)

const showOne = Command.make("show", { ref }, (options) =>
  oneGateway(
    Effect.gen(function* () {
      yield* one(yield* answered((yield* ControlClient).FindApproval(options)))
    })
  )
).pipe(Command.withDescription("Everything about one"))

const answerWith = (refOf: string, answer: Answer, noted: Option.Option<string>) =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      yield* one(
        yield* answered(client.AnswerApproval({ ref: refOf, answer, note: Option.getOrNull(noted) }))
      )
    })
  )

const approve = Command.make(
  "approve",
  {
    ref,
    note,
    session: Flag.Boolean("session").pipe(
      Flag.withDefault(false),
      Flag.withDescription("Also the same call again, in the same session")
    ),
    for: Flag.String("for").pipe(
      Flag.filterMap(parseDuration(maxGrantMs), () => "a duration like 10m or 2h, of 30 days at most"),
      Flag.optional,
      Flag.withDescription("Also the same call again, from anybody, for so long")
    )
  },
  (options) =>
    Effect.gen(function* () {
      if (options.session && Option.isSome(options.for)) return yield* new OneScope()
      const answer = Option.match(options.for, {
        onSome: (ms): Answer => ({ _tag: "allow-for", ms }),
        onNone: (): Answer => ({ _tag: options.session ? "allow-session" : "allow-once" })
      })
      yield* answerWith(options.ref, answer, options.note)
    })
).pipe(Command.withDescription("Allow one call, or more with --session or --for"))

const deny = Command.make("deny", { ref, note }, (options) =>
  answerWith(options.ref, { _tag: "deny" }, options.note)
).pipe(Command.withDescription("Refuse it"))

const revoke = Command.make("revoke", { ref }, (options) =>
  oneGateway(
    Effect.gen(function* () {
      yield* one(yield* answered((yield* ControlClient).RevokeApproval(options)))
    })
  )
).pipe(Command.withDescription("Take back what was allowed, as far as it is not used"))

const watch = Command.make("watch", {}, () =>
  oneGateway(
    Effect.gen(function* () {
      const client = yield* ControlClient
      if (!(yield* Json) && isTerminal()) return yield* watchOnTerminal(client)
      yield* follow(client.WatchApprovals(), ApprovalReport.changed)
    })
  )
).pipe(Command.withDescription("Answer them as they come: arrows, y, s, h, n; in a pipe one line per change"))

export const approvals = Command.make("approvals").pipe(
  Command.withDescription("Calls that a policy wants a person to decide"),
  Command.withSubcommands([list, showOne, approve, deny, watch, grants, revoke])
)
