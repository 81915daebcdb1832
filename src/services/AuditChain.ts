/**
 * AuditChain: how the rows of the audit log hang together, and what it says when they do not.
 *
 * Each row's hash is taken over the hash before it, its own number and all of its fields. So a row that was changed, moved,
 * taken out or put in breaks the chain where that was done; the head, which is also kept outside of the database, shows what
 * was cut off at the end. Who may write both files can forge both: a head that was noted elsewhere shows that too.
 */
import * as Schema from "effect/Schema"
import type { AuditRow } from "./AuditLog.ts"
import { isBlocking } from "./HookEvent.ts"

/** sha256 of a text, base64url. */
export type Hash = (text: string) => string

/** What comes before the first row. */
export const genesis = "holdfast audit chain 1"

/** The last row, and how many there are. */
export const AuditHead = Schema.Struct({ seq: Schema.Int, rows: Schema.Int, hash: Schema.String })
export type AuditHead = typeof AuditHead.Type

/** In a fixed order: the text of a row must not depend on that of a struct's keys. */
const chained = (previous: string, row: AuditRow): string =>
  JSON.stringify([
    previous,
    row.seq,
    row.at,
    row.epoch,
    row.relayId,
    row.runId,
    row.provider,
    row.source,
    row.event,
    row.sessionId,
    row.agentId,
    row.spawnedBy,
    row.callId,
    row.tool,
    row.subject,
    row.verdict,
    row.policy,
    row.reason,
    row.votes.map(({ policy, verdict, failed }) => [policy, verdict, failed]),
    row.tookMs
  ])

export const linkOf = (hash: Hash, previous: string, row: AuditRow): string => hash(chained(previous, row))

/** Rows that are between two checkpoints: what an auditor looks at again when one of them is wrong. */
export const checkpointEvery = 1_000

/** Findings that are shown; a log that was rewritten has as many as rows. */
export const maxFindings = 100

export const AuditFinding = Schema.Struct({
  /** The first row that it is about. */
  seq: Schema.Int,
  kind: Schema.Literals(["changed", "missing", "unchained", "cut-off", "checkpoint", "head"])
})
export type AuditFinding = typeof AuditFinding.Type

export const AuditVerification = Schema.Struct({
  rows: Schema.Int,
  /** Written before there was a chain; the first link holds them. */
  older: Schema.Int,
  last: Schema.NullOr(AuditHead),
  /** As it is kept outside of the database; null where there is none. */
  head: Schema.NullOr(AuditHead),
  checkpoints: Schema.Int,
  findings: Schema.Array(AuditFinding),
  /** All of them, also those that are not shown. */
  found: Schema.Int,
  /** Calls that ran without a decision, and hooks that failed at their provider or never came. */
  incidents: Schema.Int,
  /** Hooks that let a call pass because nobody could decide it. */
  fellOpen: Schema.Int
})
export type AuditVerification = typeof AuditVerification.Type

export interface Stored {
  readonly row: AuditRow
  /** Null in rows that were written before there was a chain. */
  readonly hash: string | null
}

export interface Checkpoint {
  readonly seq: number
  readonly hash: string
}

export interface Check {
  readonly last: AuditHead
  readonly older: number
  /** Whether a row with a hash has been met. */
  readonly begun: boolean
  readonly findings: ReadonlyArray<AuditFinding>
  readonly found: number
  readonly incidents: number
  readonly fellOpen: number
}

export const startCheck: Check = {
  last: { seq: 0, rows: 0, hash: genesis },
  older: 0,
  begun: false,
  findings: [],
  found: 0,
  incidents: 0,
  fellOpen: 0
}

const finding = (check: Check, seq: number, kind: AuditFinding["kind"]): Check => ({
  ...check,
  findings: check.findings.length < maxFindings ? [...check.findings, { seq, kind }] : check.findings,
  found: check.found + 1
})

/** Whether a hook let a call pass because nobody could decide it. */
export const hasFallenOpen = ({ event, source, policy, verdict }: AuditRow): boolean =>
  isBlocking(event) && verdict === "allow" && (source === "client" || policy === "unanswered")

/** One more row, in the order of their numbers. */
export const nextCheck = (hash: Hash, check: Check, { row, hash: stored }: Stored): Check => {
  const { last, begun } = check
  const expected = linkOf(hash, last.hash, row)
  const passed: Check = {
    ...check,
    begun: begun || stored !== null,
    older: check.older + (stored === null && !begun ? 1 : 0),
    incidents: check.incidents + (row.source === "incident" ? 1 : 0),
    fellOpen: check.fellOpen + (hasFallenOpen(row) ? 1 : 0),
    // From what is stored: a row that is wrong does not make all of the following wrong.
    last: { seq: row.seq, rows: last.rows + 1, hash: stored ?? expected }
  }
  // Numbers of rows from before the chain may have gaps: a failed insert used one up.
  const gap = (begun || (stored !== null && last.rows === 0)) && row.seq !== last.seq + 1
  const missing = gap ? finding(passed, last.seq + 1, "missing") : passed
  if (stored === null) return begun ? finding(missing, row.seq, "unchained") : missing
  return stored === expected || gap ? missing : finding(missing, row.seq, "changed")
}

/** The end of it: what was kept elsewhere. `hashAt` is what is stored at a number now. */
export const endCheck = (
  check: Check,
  head: AuditHead | null,
  checkpoints: ReadonlyArray<Checkpoint>,
  hashAt: (seq: number) => string | null
): AuditVerification => {
  let ended = check
  for (const { seq, hash } of checkpoints)
    if (hashAt(seq) !== hash) ended = finding(ended, seq, seq > check.last.seq ? "cut-off" : "checkpoint")
  if (head !== null && head.rows > 0) {
    if (head.seq > check.last.seq) ended = finding(ended, check.last.seq + 1, "cut-off")
    else if (hashAt(head.seq) !== head.hash) ended = finding(ended, head.seq, "head")
  }
  return {
    rows: check.last.rows,
    older: check.older,
    last: check.last.rows === 0 ? null : check.last,
    head,
    checkpoints: checkpoints.length,
    findings: ended.findings,
    found: ended.found,
    incidents: check.incidents,
    fellOpen: check.fellOpen
  }
}
