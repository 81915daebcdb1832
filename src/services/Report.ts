/** Report: how the operator's answers read in a terminal. Text only; `--json` prints the values themselves. */
import type { AgentEvent } from "./AgentDriver.ts"
import type { LeaseInfo } from "./AppServerLease.ts"
import { describePoison } from "./AppServerProcess.ts"
import type { AuditRow } from "./AuditLog.ts"
import type { GatewayStatus } from "./Control.ts"
import type { Check } from "./Doctor.ts"
import type { RelayInfo } from "./RelayRegistry.ts"
import { formatAge } from "./SupervisionTree.ts"

/** Control characters of foreign text would let an agent draw on the operator's terminal. */
// oxlint-disable-next-line no-control-regex -- the control characters are what this is about
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

export const printable = (text: string): string => text.replace(controls, "\u{fffd}")

const oneLine = (text: string, width = 100): string => {
  const line = printable(text).replace(/\s+/g, " ").trim()
  return line.length > width ? `${line.slice(0, width - 1)}…` : line
}

/** Columns as wide as their widest cell; the last one is not padded. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? "").length))
  )
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column]!)))
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}

const leaseLine = (lease: LeaseInfo): ReadonlyArray<string> => [
  lease.state,
  String(lease.generation),
  String(lease.borrowers),
  lease.pid === null ? "-" : String(lease.pid),
  lease.version ?? "-",
  lease.lastLost ? `generation ${lease.lastLost.generation}: ${describePoison(lease.lastLost.reason)}` : "-",
  lease.key
]

export const leases = (all: ReadonlyArray<LeaseInfo>): string =>
  table([
    ["STATE", "GENERATION", "BORROWERS", "PID", "CODEX", "LAST LOST", "CODEX_HOME"],
    ...all.map(leaseLine)
  ])

export const relays = (all: ReadonlyArray<RelayInfo>, now: number): string =>
  all.length === 0
    ? "no relay is open"
    : table([
        ["RELAY", "GENERATION", "STATE", "AGE", "DECIDED", "REFUSED", "SESSION", "RUN"],
        ...all.map((relay) => [
          relay.relayId,
          String(relay.generation),
          relay.state,
          formatAge(now - relay.openedAt),
          String(relay.decided),
          String(relay.refused),
          oneLine(relay.sessionId ?? "-"),
          relay.runId
        ])
      ])

export const status = (gateway: GatewayStatus): string => {
  const swept = gateway.swept.map(
    ({ epoch, report }) =>
      `epoch ${epoch}: ${report.ended.length} ended${report.survivors.length > 0 ? `, ${report.survivors.length} would not go` : ""}`
  )
  return table([
    ["gateway", `${gateway.version}, pid ${gateway.owner.pid}, up ${formatAge(gateway.upMs)}`],
    ["epoch", gateway.epoch],
    ["memory", `${Math.round(gateway.rssBytes / 1024 / 1024)} MB`],
    ["mark", gateway.unmarked ?? "taken"],
    ["left by dead gateways", swept.length === 0 ? "nothing" : swept.join("; ")],
    ["policies", gateway.policies.length === 0 ? "none" : gateway.policies.join(", ")],
    ["hook client", gateway.hookClient],
    ["relays", String(gateway.relays)],
    ...gateway.leases.map((lease) => ["app-server", `${lease.state}, ${lease.borrowers} borrowed`]),
    ["state", gateway.state],
    ["runtime", gateway.runtime]
  ])
}

const verdictMark = { allow: "allow  ", deny: "DENY   ", rewrite: "REWRITE" } as const

export const auditRow = (row: AuditRow): string =>
  `${new Date(row.at).toISOString()}  ${verdictMark[row.verdict]} ${row.source.padEnd(8)} ${oneLine(row.tool ?? row.event, 40)}  ${oneLine(row.subject, 72)}  (${oneLine(row.policy, 40)}: ${oneLine(row.reason, 72)})`

/** One line for one event of a run; null for what a reader need not see. */
export const agentEvent = (event: AgentEvent): string | null => {
  switch (event._tag) {
    case "governed":
      return `thread ${oneLine(event.threadId, 60)} is governed: ${event.hooks} hook${event.hooks === 1 ? "" : "s"} trusted and in force${event.model ? `, model ${oneLine(event.model, 60)}` : ""}`
    case "verdict":
      return event.row.source === "incident"
        ? `INCIDENT  ${oneLine(event.row.reason)}`
        : `${verdictMark[event.row.verdict]} ${oneLine(event.row.tool ?? event.row.event, 40)}  ${oneLine(event.row.subject)}\n         ${oneLine(event.row.policy, 40)}: ${oneLine(event.row.reason)}  (${event.row.tookMs.toFixed(1)} ms, ${event.row.source})`
    case "command": {
      const output = printable(event.output).trimEnd()
      const head = `$ ${oneLine(event.command)}  ${oneLine(event.status, 40)}${event.exitCode === null ? "" : `, exit ${event.exitCode}`}`
      return output === "" ? head : `${head}\n${output.replace(/^/gm, "  ")}`
    }
    case "patch":
      return `patch ${oneLine(event.status, 40)}: ${event.paths.map((path) => oneLine(path)).join(", ")}`
    case "message":
      return event.text === "" ? null : printable(event.text)
    case "notice":
      return `note: ${oneLine(event.text, 200)}`
    case "hook":
      return event.status === "completed" || event.status === "blocked"
        ? null
        : `hook ${[event.event, event.callId, event.status].map((word) => oneLine(word, 60)).join(" ")}`
    case "ended":
      return `turn ${oneLine(event.status, 40)}${event.problem ? `: ${oneLine(event.problem, 300)}` : ""}`
  }
}

const checkMark = { ok: "ok  ", warn: "warn", fail: "FAIL" } as const

export const checks = (all: ReadonlyArray<Check>): string =>
  all
    .map(
      (check) =>
        `${checkMark[check.status]}  ${check.what.padEnd(20)} ${check.detail}${check.remedy ? `\n      -> ${check.remedy}` : ""}`
    )
    .join("\n")
