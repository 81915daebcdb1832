/** RunReport: how runs read in a terminal. */
import type { RunInfo } from "./PtySupervisor.ts"
import { oneLine, table } from "./Report.ts"
import type { ExitReason, LossReason } from "./Run.ts"
import type { RunList } from "./RunControl.ts"
import { formatAge } from "./SupervisionTree.ts"

/** A word of a shell where it needs no quotes, else in them. */
const quoted = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`

const seconds = (ms: number): string => (ms % 1000 === 0 ? `${ms / 1000} s` : `${ms} ms`)

const lossWords: Record<LossReason, string> = {
  "keeper-lost": "its keeper was lost, so nobody saw how it ended",
  "both-lost": "gateway and keeper were lost, so nobody saw how it ended",
  "never-started": "its gateway was lost before it began",
  "foreign-boot": "the machine was started anew"
}

const reasonWords = (reason: ExitReason): string => {
  switch (reason._tag) {
    case "exited":
      return `exited with status ${reason.code}`
    case "signalled":
      return `ended by ${reason.signal}`
    case "overall-timeout":
      return `ended after its ${seconds(reason.timeoutMs)} in all`
    case "startup-timeout":
      return `ended without any output in its first ${seconds(reason.timeoutMs)}`
    case "no-output-timeout":
      return `ended after ${seconds(reason.timeoutMs)} without output`
    case "stopped":
      return `stopped by ${reason.by}`
    case "replaced":
      return `replaced by ${reason.by}`
    case "spawn-error":
      return reason.detail === "" ? `not started (${reason.problem})` : reason.detail
    case "gateway-lost":
      return "ended with its gateway"
  }
}

/** What was proved about what it left behind, where that is not nothing. */
const remains = ({ extinction }: RunInfo): string =>
  extinction === null || (extinction.proven && extinction.survivors.length === 0)
    ? ""
    : extinction.survivors.length > 0
      ? `; still there: ${extinction.survivors.join(", ")}`
      : "; whether anything of it is left is not proven"

/** How a run ended, in a few words; what it does now, where it has not. */
export const endWords = (run: RunInfo): string =>
  oneLine(
    run.lost !== null
      ? `lost: ${lossWords[run.lost]}`
      : run.state === "Lost"
        ? "lost: it may live, and nobody can tell what it is"
        : run.reason === null
          ? run.state.toLowerCase()
          : `${reasonWords(run.reason)}${remains(run)}`,
    300
  )

/** One line for a run that is over. */
export const ended = (run: RunInfo): string =>
  `${run.id}${run.spec.name === null ? "" : ` (${run.spec.name})`}  ${endWords(run)}`

const stateWords = (run: RunInfo): string => `${run.state.toLowerCase()}${run.warned ? ", silent" : ""}`

/** The hooks of a governed session are none of what its person typed. */
const typed = (args: ReadonlyArray<string>): ReadonlyArray<string> =>
  args[0] === "--settings" && args[1]?.startsWith('{"disableAllHooks":false,') === true ? args.slice(2) : args

const commandWords = ({ command, args }: RunInfo["spec"]): string =>
  oneLine([command, ...typed(args)].map(quoted).join(" "), 80)

/** `all`: with how each ended. */
export const runs = ({ runs, turns, now, away = [] }: RunList, all: boolean): string => {
  if (runs.length === 0 && turns.length === 0 && away.length === 0)
    return all ? "there is no run" : "no run is live; `holdfast ps -a` shows those that ended"
  const none = "-"
  const elsewhere = runs.some(({ run }) => run.node !== undefined)
  const onNode = (name: string | undefined): ReadonlyArray<string> => (elsewhere ? [name ?? none] : [])
  const rows = table([
    [
      "ID",
      "NAME",
      ...(elsewhere ? ["NODE"] : []),
      "STATE",
      "AGE",
      "PID",
      "ATTEMPT",
      "SCOPE",
      ...(all ? ["END"] : []),
      "COMMAND"
    ],
    ...turns.map((turn) => [
      turn.runId,
      none,
      ...onNode(undefined),
      "turn",
      formatAge(Math.max(0, now - turn.startedAt)),
      none,
      none,
      none,
      ...(all ? [none] : []),
      `codex ${oneLine(turn.prompt, 74)}`
    ]),
    ...runs.map(({ short, run }) => [
      short,
      run.spec.name ?? none,
      ...onNode(run.node),
      stateWords(run),
      formatAge(Math.max(0, now - run.createdAt)),
      run.leader === null || run.endedAt !== null ? none : String(run.leader.pid),
      String(run.attempt),
      run.spec.scope === null ? none : oneLine(run.spec.scope, 40),
      ...(all ? [run.endedAt === null ? none : oneLine(endWords(run), 48)] : []),
      commandWords(run.spec)
    ])
  ])
  return [
    rows,
    ...away.map((name) => `the node ${oneLine(name, 64)} is away; its runs go on there, and are not shown`)
  ].join("\n")
}

/** What a reader is told where bytes are kept no more. */
export const missingBytes = (missing: number): string =>
  `${missing} byte${missing === 1 ? "" : "s"} of the output here ${missing === 1 ? "is" : "are"} kept no more`
