/** Words for tests of a run's life: its events and actions in short, one spec, and a run that is followed by its alarms. */
import {
  type ExitReason,
  type ExitStatus,
  type Extinction,
  type Leader,
  type RunAction,
  runDefaults,
  type RunEvent,
  type RunSpec,
  type RunState
} from "../../src/services/Run.ts"
import { nextRun, requestedRun } from "../../src/services/RunState.ts"

export const spec: RunSpec = { ...runDefaults, command: "agent", args: [], cwd: "/" }

export const leader: Leader = { pid: 42, startToken: "7" }
export const operator: ExitReason = { _tag: "stopped", by: "operator" }
const clean: Extinction = { proven: true, survivors: [] }
export const zero: ExitStatus = { code: 0, signal: null }
export const killed: ExitStatus = { code: null, signal: "SIGKILL" }

export const cleared = (at = 0): RunEvent => ({ _tag: "Cleared", at })
export const spawned = (at = 0): RunEvent => ({ _tag: "Spawned", leader, at })
export const failed = (at = 0): RunEvent => ({
  _tag: "SpawnFailed",
  problem: "no-pty",
  detail: "none left",
  at
})
export const output = (at: number): RunEvent => ({ _tag: "Output", at })
export const exited = (status: ExitStatus, at = 0): RunEvent => ({ _tag: "LeaderExited", status, at })
export const end = (graceMs: number, at = 0, reason: ExitReason = operator): RunEvent => ({
  _tag: "End",
  reason,
  graceMs,
  at
})
export const alarm = (due: number, at = due): RunEvent => ({ _tag: "Alarm", due, at })
export const swept = (at = 0, extinction = clean): RunEvent => ({ _tag: "Swept", extinction, at })

/** What each event led to. */
export const live = (changes: Partial<RunSpec>, ...events: ReadonlyArray<RunEvent>) => {
  const next = nextRun({ ...spec, ...changes })
  let state: RunState = requestedRun
  const steps: Array<ReadonlyArray<RunAction>> = []
  for (const event of events) {
    const [after, actions] = next(state, event)
    state = after
    steps.push(actions)
  }
  return { state, steps, last: steps.at(-1) ?? [] }
}

/** A run that is looked at twice a minute is followed for days. */
const maxRings = 10_000

/** Follows every alarm from `from` on; says what else was done, and when. */
export const follow = (changes: Partial<RunSpec>, from: RunState, due: number, until: number) => {
  const next = nextRun({ ...spec, ...changes })
  let state = from
  let alarmAt: number | null = due
  const log: Array<readonly [number, RunAction]> = []
  for (let rings = 0; alarmAt !== null && alarmAt <= until; rings++) {
    if (rings === maxRings) throw new Error(`the alarm rings for ever at ${alarmAt}`)
    const at: number = alarmAt
    alarmAt = null
    const [after, actions] = next(state, alarm(at))
    state = after
    for (const action of actions)
      if (action._tag === "SetAlarm") alarmAt = action.due
      else log.push([at, action])
  }
  return { state, log, alarmAt }
}

export const alarmOf = (actions: ReadonlyArray<RunAction>): number =>
  actions.flatMap((action) => (action._tag === "SetAlarm" ? [action.due] : [])).at(-1) ?? Number.NaN

/** From the start of an attempt that prints nothing. */
export const silent = (changes: Partial<RunSpec>, until: number) => {
  const started = live(changes, cleared(), spawned())
  return follow(changes, started.state, alarmOf(started.steps[0]!), until)
}

export const Spawn = (attempt: number): RunAction => ({ _tag: "Spawn", attempt })
export const Sweep: RunAction = { _tag: "Sweep" }
export const Ask: RunAction = { _tag: "Ask" }
export const Finish: RunAction = { _tag: "Finish" }
export const SetAlarm = (due: number): RunAction => ({ _tag: "SetAlarm", due })

export const over = (reason: ExitReason, status: ExitStatus | null, changes: object = {}): RunState => ({
  _tag: "Exited",
  reason,
  status,
  extinction: clean,
  attempts: 1,
  noRestart: "not-wanted",
  ...changes
})

export type Roll = () => number

export const pick = <A>(roll: Roll, all: ReadonlyArray<A>): A => all[Math.floor(roll() * all.length)]!

/** Small limits that meet each other, and each policy. */
export const specOf = (roll: Roll): RunSpec => ({
  ...runDefaults,
  command: "agent",
  args: [],
  cwd: "/",
  timeoutMs: pick(roll, [null, 20_000, 60_000, 100_000]),
  startTimeoutMs: pick(roll, [null, 10_000, 20_000, 60_000]),
  idleTimeoutMs: pick(roll, [null, 20_000, 60_000]),
  killGraceMs: pick(roll, [2_000, 40_000]),
  restart: pick(roll, ["permanent", "transient", "temporary"]),
  restartLimits: { intensity: pick(roll, [0, 1, 3]), periodMs: pick(roll, [10_000, 60_000]) }
})

export const isFinal = ({ _tag }: ExitReason) => ["stopped", "replaced", "gateway-lost"].includes(_tag)
export const reasonOf = ({ code, signal }: ExitStatus): ExitReason =>
  signal === null ? { _tag: "exited", code: code ?? 0 } : { _tag: "signalled", signal }
export const isAbnormal = (reason: ExitReason) => reason._tag !== "exited" || reason.code !== 0
