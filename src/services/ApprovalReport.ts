/** ApprovalReport: how approvals read in a terminal. */
import type { Approval, ApprovalState, GrantScope } from "./Approvals.ts"
import { oneLine, printable, table } from "./Report.ts"
import { formatAge } from "./SupervisionTree.ts"

/** Minutes and seconds, or hours and minutes, that are left. */
export const countdown = (ms: number): string => {
  const seconds = Math.max(0, Math.ceil(ms / 1000))
  const [large, small, unit] =
    seconds < 3600
      ? [Math.floor(seconds / 60), seconds % 60, ""]
      : [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), " h"]
  return `${large}:${String(small).padStart(2, "0")}${unit}`
}

const scopeWords = (scope: GrantScope): string => {
  switch (scope._tag) {
    case "once":
      return "once"
    case "session":
      return "for its session"
    case "until":
      return `until ${new Date(scope.at).toISOString()}`
  }
}

const noteWords = (note: string | null): string => (note === null ? "" : `, who said: ${printable(note)}`)

export const stateWords = (state: ApprovalState, expiresAt: number, now: number): string => {
  switch (state._tag) {
    case "pending":
      return now < expiresAt ? `${countdown(expiresAt - now)} left` : "expired, which is a deny"
    case "denied":
      return `denied by pid ${state.by.pid} (${printable(state.by.command)})${noteWords(state.note)}`
    case "expired":
      return "expired, which is a deny"
    case "granted":
      return `allowed ${scopeWords(state.scope)} by pid ${state.by.pid} (${printable(state.by.command)}), used ${state.uses === 1 ? "once" : `${state.uses} times`}${noteWords(state.note)}`
    case "void":
      return `void: ${printable(state.why)}`
  }
}

/** One line each, newest first. */
export const approvals = (all: ReadonlyArray<Approval>, now: number): string =>
  all.length === 0
    ? "no approvals"
    : table(
        all.map(({ id, call, state, expiresAt, createdAt }) => [
          id,
          `${formatAge(Math.max(0, now - createdAt))} ago`,
          oneLine(stateWords(state, expiresAt, now), 48),
          oneLine(call.tool, 24),
          oneLine(call.subject, 80)
        ])
      )

/** Everything that a person judges by. */
export const approval = (one: Approval, now: number): string => {
  const { id, call, requester, facts, state, policy, reason, createdAt, expiresAt } = one
  const files = Object.keys(facts.files)
  return [
    `${id}  ${stateWords(state, expiresAt, now)}`,
    `  ${printable(policy)} asks: ${printable(reason)}`,
    `  ${oneLine(call.tool, 60)} (${call.kind}) in ${call.cwd === null ? "an unknown directory" : printable(call.cwd)}:`,
    ...printable(call.subject)
      .split("\n")
      .map((line) => `    ${line}`),
    ...(files.length === 0
      ? []
      : [`  holds as long as these do not change: ${files.map((name) => oneLine(name, 80)).join(", ")}`]),
    `  asked by the run ${printable(requester.runId)}${requester.spawnedBy === null ? "" : `, spawned by ${printable(requester.spawnedBy)}`}, relay ${requester.relayId}`,
    `  asked at ${new Date(createdAt).toISOString()}, open until ${new Date(expiresAt).toISOString()}`
  ].join("\n")
}

export const changed = (one: Approval): string =>
  `${one.id}  ${one.state._tag === "pending" ? `asked, open until ${new Date(one.expiresAt).toISOString()}` : stateWords(one.state, one.expiresAt, one.createdAt)}  ${oneLine(one.call.tool, 24)}  ${oneLine(one.call.subject, 100)}`
