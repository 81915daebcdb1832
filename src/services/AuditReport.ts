/** AuditReport: how rows of the audit log, and what is wrong with it, read in a terminal. */
import type { AuditFinding, AuditVerification } from "./AuditChain.ts"
import type { AuditRecord } from "./AuditLog.ts"
import { printable } from "./Report.ts"

export const record = (row: AuditRecord): string =>
  [
    `${row.seq}  ${new Date(row.at).toISOString()}  ${row.verdict}  by ${printable(row.policy)}`,
    `  ${printable(row.reason)}`,
    `  ${row.event} of ${printable(row.tool ?? "no tool")}, call ${printable(row.callId)}, from the ${row.source}`,
    `  ${printable(row.subject)}`,
    `  run ${printable(row.runId)}${row.spawnedBy === null ? "" : `, spawned by ${printable(row.spawnedBy)}`}, relay ${row.relayId}, session ${printable(row.sessionId ?? "unknown")}${row.agentId === null ? "" : `, agent ${printable(row.agentId)}`}`,
    `  epoch ${row.epoch}, ${row.tookMs.toFixed(2)} ms`,
    ...row.votes.map(
      ({ policy, verdict, failed }) =>
        `  vote ${printable(policy)}: ${verdict}${failed === null ? "" : ` (it ${failed})`}`
    ),
    `  hash ${row.hash ?? "none: it is older than the chain"}`
  ].join("\n")

const findings: Readonly<Record<AuditFinding["kind"], (seq: number) => string>> = {
  changed: (seq) => `row ${seq} is not what was written, or not where it was written`,
  missing: (seq) => `rows are missing from ${seq} on`,
  unchained: (seq) => `row ${seq} was put in without its link`,
  "cut-off": (seq) => `the log was cut off: there was a row ${seq}`,
  checkpoint: (seq) => `row ${seq} is not the one of its checkpoint`,
  head: (seq) => `row ${seq} is not the one that the head names`
}

/** The answer to whether any call ran undecided, as far as agents reported what they ran. */
const undecidedWords = ({ incidents, fellOpen }: AuditVerification): string =>
  incidents === 0 && fellOpen === 0
    ? "no call is known to have run undecided"
    : [
        `UNDECIDED: ${incidents} incident${incidents === 1 ? "" : "s"}, ${fellOpen} hook${fellOpen === 1 ? "" : "s"} that fell open;`,
        "look for the sources `incident` and `client` in `holdfast audit export`"
      ].join(" ")

export const verification = (found: AuditVerification): string => {
  const { rows, older, last, head, checkpoints, findings: shown } = found
  const summary =
    last === null
      ? "no rows"
      : `${rows} rows${older === 0 ? "" : ` (${older} of them older than the chain)`}, ${checkpoints} checkpoints, the last is ${last.seq} with ${last.hash}`
  return [
    found.found === 0 ? `whole: ${summary}` : `BROKEN: ${summary}`,
    ...(head === null && last !== null
      ? ["  the head outside of the database is gone, so a cut end would not show"]
      : []),
    ...shown.map(({ kind, seq }) => `  ${findings[kind](seq)}`),
    ...(found.found > shown.length ? [`  and ${found.found - shown.length} more`] : []),
    undecidedWords(found)
  ].join("\n")
}
