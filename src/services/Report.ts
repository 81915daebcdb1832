/** Report: how the operator's answers read in a terminal. Text only; `--json` prints the values themselves. */
import type { AgentEvent } from "./AgentDriver.ts"
import { type AppServerFailure, describePoison, isRetryable, severity } from "./AppServerFailure.ts"
import type { LeaseInfo, Retirement } from "./AppServerLease.ts"
import type { AuditRow } from "./AuditLog.ts"
import type { GatewayStatus } from "./Control.ts"
import { adoptedNote, type Check, circuitRemedy } from "./Doctor.ts"
import type { GuardState } from "./Guard.ts"
import type { directionTable, FailureCause } from "./HookEvent.ts"
import { linkWords } from "./NodeLink.ts"
import type { RelayInfo } from "./RelayRegistry.ts"
import type { KeeperInfo } from "./Keeper.ts"
import type { LeftBecause, Reconciled } from "./RunLedger.ts"
import { formatAge } from "./SupervisionTree.ts"

/** Control characters of foreign text would let an agent draw on the operator's terminal. */
// oxlint-disable-next-line no-control-regex -- the control characters are what this is about
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

export const printable = (text: string): string => text.replace(controls, "\u{fffd}")

const cut = (line: string, width: number): string =>
  line.length > width ? `${line.slice(0, width - 1)}…` : line

export const oneLine = (text: string, width = 100): string =>
  cut(printable(text).replace(/\s+/g, " ").trim(), width)

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

/** The table event x cause: one line an event, one column a cause. */
export const directions = (all: ReturnType<typeof directionTable>): string => {
  const causes = Object.keys(all[0]?.causes ?? {}) as ReadonlyArray<FailureCause>
  return [
    "Where a hook falls when it gets no decision. The first column is for a client that could not run or say why.",
    table([
      ["event", "client", ...causes],
      ...all.map(({ event, direction, causes: by }) => [
        event,
        direction,
        ...causes.map((cause) => by[cause])
      ])
    ])
  ].join("\n")
}

const childOf = (lease: LeaseInfo): string =>
  lease.origin === "adopted" ? "adopted" : lease.pid === null ? "-" : String(lease.pid)

const exitOf = ({ exit }: Retirement): string =>
  exit === null
    ? "its end is not confirmed yet"
    : exit.signal !== null
      ? `its process ended by ${exit.signal}`
      : exit.code !== null
        ? `its process ended with status ${exit.code}`
        : "how its process ended is not known"

/** The end of what a child wrote to stderr; the gateway's log has more. */
const maxTailLines = 20
const maxTailWidth = 200

const stderrTail = (text: string): ReadonlyArray<string> => {
  const lines = printable(text.replaceAll("\r\n", "\n")).trimEnd().split("\n")
  return lines
    .slice(-maxTailLines)
    .flatMap((line) => (line === "" ? [] : [cut(line.trimEnd(), maxTailWidth)]))
}

const nextAttempt = (until: number, now: number): string =>
  `the next attempt is at ${new Date(until).toISOString()}${until > now ? `, in ${formatAge(until - now)}` : ""}`

const runWords = (run: { readonly runId: string; readonly spawnedBy: string | null }): string =>
  run.spawnedBy === null ? run.runId : `${run.runId}, spawned by ${run.spawnedBy}`

const leaseDetails = (lease: LeaseInfo, now: number): ReadonlyArray<string> => {
  const { circuit, retired } = lease
  return [
    `${oneLine(lease.key)}  CODEX_HOME ${oneLine(lease.codexHome, 200)}`,
    ...(lease.origin === "adopted" ? [`  note: ${adoptedNote}`] : []),
    ...lease.borrowers.map((run) => `  borrowed by ${oneLine(runWords(run), 200)}`),
    ...(retired === null
      ? []
      : [
          `  generation ${retired.generation} was retired ${formatAge(Math.max(0, now - retired.at))} ago: ${oneLine(describePoison(retired.reason), 200)}; ${oneLine(exitOf(retired))}`,
          ...stderrTail(retired.stderrTail).map((line) => `    ${line}`)
        ]),
    ...(circuit === null
      ? []
      : [
          `  circuit open: ${oneLine(circuit.problem, 300)}; ${nextAttempt(circuit.until, now)}`,
          `    -> ${circuitRemedy}`
        ])
  ]
}

export const leases = (all: ReadonlyArray<LeaseInfo>, now: number): string =>
  all.length === 0
    ? "no app-server was asked for yet"
    : [
        table([
          ["STATE", "GENERATION", "PID", "CODEX", "BORROWERS", "WAITING", "FAULTS", "KEY"],
          ...all.map((lease) => [
            lease.state,
            String(lease.generation),
            childOf(lease),
            oneLine(lease.version ?? "-", 20),
            String(lease.borrowers.length),
            String(lease.waiting),
            String(lease.faults),
            oneLine(lease.key)
          ])
        ]),
        ...all.map((lease) => leaseDetails(lease, now).join("\n"))
      ].join("\n\n")

export const closedCircuits = (closed: number): string =>
  closed === 0
    ? "no circuit was open"
    : `closed ${closed} open circuit${closed === 1 ? "" : "s"}; the next run tries at once`

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
          oneLine(runWords(relay))
        ])
      ])

const leaseRows = (lease: LeaseInfo, now: number): ReadonlyArray<ReadonlyArray<string>> => {
  const child = lease.origin === "spawned" && lease.pid === null ? [] : [childOf(lease)]
  const rows = [
    [
      "app-server",
      [lease.state, `generation ${lease.generation}`, ...child, `${lease.borrowers.length} borrowed`].join(
        ", "
      )
    ]
  ]
  if (lease.origin === "adopted") rows.push(["", adoptedNote])
  if (lease.circuit !== null)
    rows.push(
      ["", `circuit open: ${oneLine(lease.circuit.problem, 300)}; ${nextAttempt(lease.circuit.until, now)}`],
      ["", `-> ${circuitRemedy}`]
    )
  return rows
}

const keeperWords = ({ state, identity, adopted, startedAt, losses }: KeeperInfo, now: number): string => {
  const lost = losses === 0 ? "" : `, ${losses} lost`
  if (state === "attached" && identity !== null && startedAt !== null)
    return `pid ${identity.pid}, up ${formatAge(now - startedAt)}${adopted ? ", of an earlier gateway" : ""}${lost}`
  if (state === "gave-up") return `none: too many were lost of late${lost}`
  return `none${state === "none" ? ", since nothing has run yet" : lost}`
}

/** What became, or becomes, of a run that nobody supervised. */
export const dealingWords = ({ dealing, extinction }: Reconciled): string => {
  switch (dealing._tag) {
    case "adopt":
      return "adopted: its keeper lives and holds it"
    case "close":
      return `finished: nothing of it is left (${dealing.lost})`
    case "sweep":
      return extinction === null
        ? `killed: what is left of it carries its mark or cookie (${dealing.lost})`
        : `killed (${dealing.lost})${extinction.survivors.length > 0 ? `; would not go: ${extinction.survivors.join(", ")}` : extinction.proven ? "" : "; not proven"}`
    case "leave":
      return `left: ${leftWords[dealing.because]}`
  }
}

const leftWords: Record<typeof LeftBecause.Type, string> = {
  "identity-unknown": "whether it lives cannot be seen from here",
  "not-proven": "somebody has its number or its mark, and nothing proves that it is the run's",
  "mark-held": "this process has its mark, or runs inside of it"
}

const reconciledWords = (all: ReadonlyArray<Reconciled>): string => {
  const count = (tag: Reconciled["dealing"]["_tag"]) =>
    all.filter(({ dealing }) => dealing._tag === tag).length
  const words = [
    [count("adopt"), "adopted"],
    [count("close"), "finished"],
    [count("sweep"), "killed"],
    [count("leave"), "left"]
  ].flatMap(([n, word]) => (n === 0 ? [] : [`${n} ${word}`]))
  return words.length === 0 ? "none" : words.join(", ")
}

/** What a reap did, or with `dryRun` would do. */
export const reaped = (all: ReadonlyArray<Reconciled>): string =>
  all.length === 0
    ? "no run is without a supervisor"
    : table(all.map((one) => [one.runId, dealingWords(one)]))

/** Whether the hooks of a provider are in force, as far as anybody has seen. */
export const guardWords = (guard: GuardState, now: number): string => {
  switch (guard._tag) {
    case "unproven":
      return "UNPROVEN: no hook of it has come yet; `holdfast doctor --guard` tries one"
    case "proven":
      return `PROVEN ${formatAge(Math.max(0, now - guard.at))} ago`
    case "broken":
      return `BROKEN ${formatAge(Math.max(0, now - guard.at))} ago: ${oneLine(guard.reason, 120)}`
  }
}

export const status = (gateway: GatewayStatus): string => {
  const now = gateway.startedAt + gateway.upMs
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
    ["keeper", keeperWords(gateway.keeper, now)],
    ["runs of earlier keepers", reconciledWords(gateway.reconciled)],
    ["policies", gateway.policies.length === 0 ? "none" : gateway.policies.join(", ")],
    ...Object.entries(gateway.guard).map(([provider, guard]) => [
      `guard of ${provider}`,
      guardWords(guard, now)
    ]),
    ["hook client", gateway.hookClient],
    ["relays", String(gateway.relays)],
    ...(gateway.link === undefined ? [] : [["node of", oneLine(linkWords(gateway.link), 400)]]),
    ...(gateway.nodes === undefined
      ? []
      : [["nodes", `${gateway.nodes.connected} connected; they dial in at ${gateway.nodes.url}`]]),
    ...gateway.leases.flatMap((lease) => leaseRows(lease, now)),
    ["state", gateway.state],
    ["runtime", gateway.runtime]
  ])
}

const verdictMark = { allow: "allow  ", deny: "DENY   ", rewrite: "REWRITE" } as const

/** A report of a call is not a call: what would be asked about then was asked about before. */
const eventWords = ({ event, tool }: AuditRow): string =>
  tool === null ? event : event === "pre_tool_use" ? tool : `${event} ${tool}`

export const auditRow = (row: AuditRow): string =>
  `${new Date(row.at).toISOString()}  ${verdictMark[row.verdict]} ${row.source.padEnd(8)} ${oneLine(eventWords(row), 60)}  ${oneLine(row.subject, 72)}  (${oneLine(row.policy, 40)}: ${oneLine(row.reason, 72)})${row.spawnedBy === null ? "" : `  helper of ${oneLine(row.spawnedBy, 60)}`}`

/** Which member of the algebra it is, whether it was this run's own, and whether trying again may help. */
export const member = (failure: AppServerFailure): string =>
  `[${failure._tag}, ${severity(failure)}${isRetryable(failure) ? ", retryable" : ""}]`

/** Codex's own words follow where ours do not hold them. */
const endedText = (status: string, problem: string | null, failure: AppServerFailure | null): string => {
  const head = `turn ${oneLine(status, 40)}`
  const said = problem ?? ""
  if (failure === null) return said === "" ? head : `${head}: ${oneLine(said, 500)}`
  const ours = failure._tag === "TurnFailed" ? failure.detail : failure.message
  return `${head}: ${oneLine(ours, 500)} ${member(failure)}${ours.includes(said) ? "" : `\n  codex: ${oneLine(said, 300)}`}`
}

/** A few lines at most for one event of a run; null for what a reader need not see. */
export const agentEvent = (event: AgentEvent): string | null => {
  switch (event._tag) {
    case "governed":
      return `run ${oneLine(event.runId, 60)}${event.spawnedBy === null ? "" : `, a helper of ${oneLine(event.spawnedBy, 60)},`} on thread ${oneLine(event.threadId, 60)} is governed: ${event.hooks} hook${event.hooks === 1 ? "" : "s"} trusted and in force${event.model ? `, model ${oneLine(event.model, 60)}` : ""}`
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
    case "resumed":
      return `the app-server was lost (generation ${event.lost.generation}: ${oneLine(describePoison(event.lost.reason), 200)}); the turn goes on at generation ${event.generation}${event.inDoubt === 0 ? "" : `, ${event.inDoubt} decided call${event.inDoubt === 1 ? "" : "s"} without a seen end will not be run again`}`
    case "ended":
      return endedText(event.status, event.problem, event.failure)
  }
}

const checkMark = { ok: "ok  ", warn: "warn", fail: "FAIL" } as const

export const checks = (all: ReadonlyArray<Check>): string =>
  all
    .map(
      (check) =>
        `${checkMark[check.status]}  ${check.what.padEnd(20)} ${oneLine(check.detail, 1000)}${check.remedy ? `\n      -> ${check.remedy}` : ""}`
    )
    .join("\n")
