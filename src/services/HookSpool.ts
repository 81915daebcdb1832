/**
 * HookSpool: what hook clients had to decide without a gateway, as the lines they leave for the next one: it makes a row of
 * each before it accepts work.
 *
 * Anybody of this user can write such a line, so it is evidence and no proof; the rows say where they are from.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { AuditEntry, AuditUnavailable } from "./AuditLog.ts"
import { Direction, explainCause, FailureCause, HookEventName } from "./HookEvent.ts"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** `SECONDS EVENT closed|open CAUSE RECORD`: the record's file name stands for its relay. */
export interface Undecided {
  readonly at: number
  readonly event: HookEventName
  readonly direction: Direction
  readonly cause: FailureCause
  readonly record: string
}

const decodeFields = Schema.decodeUnknownOption(
  Schema.Struct({
    event: HookEventName,
    direction: Direction,
    cause: FailureCause,
    record: Schema.String.check(Schema.isPattern(/^[\w.-]{1,128}$/))
  })
)

const parseLine = (line: string): ReadonlyArray<Undecided> => {
  const [at = "", event, direction, cause, record, ...rest] = line.split(" ")
  if (!/^\d{1,12}$/.test(at) || rest.length > 0) return []
  return Option.toArray(
    Option.map(decodeFields({ event, direction, cause, record }), (fields) => ({ at: Number(at), ...fields }))
  )
}

/** A line that is none is counted and left out. */
export const parseSpool = (
  text: string
): { readonly undecided: ReadonlyArray<Undecided>; readonly unreadable: number } => {
  const lines = text.split("\n").filter((line) => line !== "")
  const undecided = lines.flatMap(parseLine)
  return { undecided, unreadable: lines.length - undecided.length }
}

/** As a row of the audit log. */
export const entryOf = (line: Undecided, epoch: string): AuditEntry => ({
  epoch,
  relayId: line.record,
  runId: "unknown",
  provider: "unknown",
  source: "client",
  event: line.event,
  sessionId: null,
  agentId: null,
  spawnedBy: null,
  callId: "unknown",
  tool: null,
  subject: "",
  verdict: line.direction === "closed" ? "deny" : "allow",
  policy: "no gateway",
  reason: `${new Date(line.at * 1000).toISOString()}: ${explainCause[line.cause]} [${line.cause}]`,
  votes: [],
  tookMs: 0
})

export class HookSpool extends Context.Service<
  HookSpool,
  {
    /** Takes what there is by now; how many rows it made. Done at the start, by the clock, and before the log is verified. */
    readonly take: Effect.Effect<number, AuditUnavailable>
  }
>()("holdfast/HookSpool") {}
