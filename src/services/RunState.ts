/**
 * RunState: the whole life of one run, as a pure function; who performs its actions holds the process.
 *
 * A run that ends by itself is swept like one that was stopped, and only then is over: a leader's exit says nothing about
 * what it started. So one leader lives at a time, and none is started while something of the last may live. The first
 * reason to end it stands. Times are milliseconds of the monotonic clock.
 *
 * A restart follows at once, as in OTP: its limits are what ends a crash loop (by default the sixth restart within a minute
 * is not made), and a delay beside them would only make a run that crashed once be away for longer. A first attempt that
 * cannot be spawned is not tried again, as in OTP: who asked for it is told.
 */
import type {
  Attempt,
  Ending,
  ExitReason,
  ExitStatus,
  Extinction,
  NoRestart,
  RunAction,
  RunEvent,
  RunSpec,
  RunState,
  Underway
} from "./Run.ts"
import { decideRestart } from "./Supervisor.ts"

type In<Tag extends RunState["_tag"]> = Extract<RunState, { readonly _tag: Tag }>

type Step = readonly [RunState, ReadonlyArray<RunAction>]

/** An alarm that comes later than this means that the machine slept: the time is given back to every deadline. */
export const suspendedAfterMs = 10_000

/**
 * A run that has a deadline is looked at so often. What was slept is given back with at most this much more; a sleep
 * shorter than this and `suspendedAfterMs` together may count as time.
 */
export const lookEveryMs = 30_000

/** Between a proven end and the leader's status: its last output is read first, 64 KB of which take milliseconds. */
export const statusWaitMs = 5_000

export const requestedRun: RunState = { _tag: "Requested" }

/** For `status --tree`. */
export const describeRun = (state: RunState): string =>
  state._tag === "Running" ? `running ${state.leader.pid}` : state._tag.toLowerCase()

export const isOver = (state: RunState): state is In<"Exited" | "Lost"> =>
  state._tag === "Exited" || state._tag === "Lost"

/** What a silent run is warned at: half of what ends it. */
const warnAfter = (idleTimeoutMs: number): number => Math.ceil(idleTimeoutMs / 2)

interface Due {
  readonly at: number
  readonly what: "overall" | "startup" | "warning" | "no-output"
}

/** The earlier deadline counts; of two at the same instant the one that stands first here. */
const order = ["overall", "startup", "no-output", "warning"] as const

const firstDeadline = (spec: RunSpec, state: Underway): Due | undefined => {
  const all: Array<Due> = []
  const silentSince = state.lastOutputAt ?? state.since
  if (spec.timeoutMs !== null) all.push({ at: state.since + spec.timeoutMs, what: "overall" })
  if (spec.startTimeoutMs !== null && state.lastOutputAt === null)
    all.push({ at: state.since + spec.startTimeoutMs, what: "startup" })
  if (spec.idleTimeoutMs !== null) {
    all.push({ at: silentSince + spec.idleTimeoutMs, what: "no-output" })
    if (!state.warned) all.push({ at: silentSince + warnAfter(spec.idleTimeoutMs), what: "warning" })
  }
  return all.toSorted((a, b) => a.at - b.at || order.indexOf(a.what) - order.indexOf(b.what))[0]
}

type Live = In<"Spawning" | "Running" | "Stopping">

const deadlineOf = (spec: RunSpec, state: Live): number | null => {
  if (state._tag !== "Stopping")
    return state._tag === "Spawning" && state.ending !== null
      ? null
      : (firstDeadline(spec, state)?.at ?? null)
  switch (state.stage._tag) {
    case "Asked":
      return state.stage.killAt
    case "Sweeping":
      return null
    case "AwaitingStatus":
      return state.stage.until
  }
}

const withAlarm = <S extends Live>(
  spec: RunSpec,
  state: S,
  at: number
): readonly [S, ReadonlyArray<RunAction>] => {
  const deadline = deadlineOf(spec, state)
  if (deadline === null) return [state.alarm === null ? state : { ...state, alarm: null }, []]
  // In the past it would look late, and lateness is how a sleep is noticed.
  const alarm = Math.max(at, Math.min(deadline, at + lookEveryMs))
  return [{ ...state, alarm }, [{ _tag: "SetAlarm", due: alarm }]]
}

const later = (state: Live, ms: number): Live => {
  if (state._tag !== "Stopping")
    return {
      ...state,
      since: state.since + ms,
      lastOutputAt: state.lastOutputAt === null ? null : state.lastOutputAt + ms
    }
  const { stage } = state
  switch (stage._tag) {
    case "Asked":
      return { ...state, stage: { ...stage, killAt: stage.killAt + ms } }
    case "Sweeping":
      return state
    case "AwaitingStatus":
      return { ...state, stage: { ...stage, until: stage.until + ms } }
  }
}

/** Whatever is first heard after a sleep tells of it, not only the alarm: its order among them is nobody's. */
const seen = (spec: RunSpec, state: Live, at: number): readonly [Live, ReadonlyArray<RunAction>] => {
  const { alarm, seenAt } = state
  const now = { ...state, seenAt: Math.max(seenAt, at) }
  return alarm === null || at - alarm <= suspendedAfterMs
    ? [now, []]
    : withAlarm(spec, later(now, at - seenAt), at)
}

const sweep = (state: In<"Stopping">): Step => [
  { ...state, stage: { _tag: "Sweeping" }, alarm: null },
  [{ _tag: "Sweep" }]
]

const stopping = (
  spec: RunSpec,
  state: In<"Running">,
  { reason, graceMs, final }: Ending,
  status: ExitStatus | null,
  at: number
): Step => {
  const { leader, attempt, restarts, seenAt } = state
  const base = { _tag: "Stopping", leader, reason, final, status, attempt, restarts, seenAt } as const
  if (status !== null || graceMs === 0) return sweep({ ...base, stage: { _tag: "Sweeping" }, alarm: null })
  const asked = { ...base, stage: { _tag: "Asked", killAt: at + graceMs }, alarm: null } as const
  const [next, actions] = withAlarm<In<"Stopping">>(spec, asked, at)
  return [next, [{ _tag: "Ask" }, ...actions]]
}

const reasonOf = ({ code, signal }: ExitStatus): ExitReason =>
  signal === null ? { _tag: "exited", code: code ?? 0 } : { _tag: "signalled", signal }

/** A run that somebody ended stays ended; one that ended by itself or by a watchdog follows its policy. */
const isFinal = ({ _tag }: ExitReason): boolean =>
  _tag === "stopped" || _tag === "replaced" || _tag === "gateway-lost"

const isAbnormal = (reason: ExitReason): boolean => reason._tag !== "exited" || reason.code !== 0

const ownEnd = (status: ExitStatus): Ending => ({ reason: reasonOf(status), graceMs: 0, final: false })

/** The first reason stands; a shorter grace is taken, and that it is to be over. */
const endingOf = (first: Ending | null, reason: ExitReason, graceMs: number): Ending =>
  first === null
    ? { reason, graceMs, final: isFinal(reason) }
    : {
        reason: first.reason,
        graceMs: Math.min(first.graceMs, graceMs),
        final: first.final || isFinal(reason)
      }

const spawnNow = (spec: RunSpec, attempt: number, restarts: ReadonlyArray<number>, at: number): Step => {
  const fresh = { since: at, lastOutputAt: null, warned: false, ending: null, status: null, alarm: null }
  const [state, actions] = withAlarm<In<"Spawning">>(
    spec,
    { _tag: "Spawning", attempt, restarts, seenAt: at, ...fresh },
    at
  )
  return [state, [{ _tag: "Spawn", attempt }, ...actions]]
}

const noneLeft: Extinction = { proven: true, survivors: [] }

interface Ended extends Pick<Attempt, "attempt" | "restarts"> {
  readonly reason: ExitReason
  readonly status: ExitStatus | null
  readonly final: boolean
}

const exited = (
  { reason, status, attempt }: Ended,
  extinction: Extinction,
  noRestart: NoRestart = "not-wanted"
): Step => [
  { _tag: "Exited", reason, status, extinction, attempts: attempt, noRestart },
  [{ _tag: "Finish" }]
]

/** After an attempt is over: the next one, or the end. `safe`: nothing of it can live. */
const settled = (spec: RunSpec, ended: Ended, extinction: Extinction, safe: boolean, at: number): Step => {
  if (ended.final) return exited(ended, extinction)
  const { restart, restartLimits } = spec
  const decision = decideRestart(restart, restartLimits, ended.restarts, at, isAbnormal(ended.reason))
  if (decision._tag !== "restart")
    return exited(ended, extinction, decision._tag === "gave-up" ? "gave-up" : "not-wanted")
  return safe
    ? spawnNow(spec, ended.attempt + 1, decision.restarts, at)
    : exited(ended, extinction, "uncertain")
}

const swept = (spec: RunSpec, state: In<"Stopping">, extinction: Extinction, at: number): Step => {
  const { proven, survivors } = extinction
  // Whoever was swept exits too, and its status may be a moment behind the sweep; a survivor's never comes.
  if (state.status !== null || survivors.includes(state.leader.pid))
    return settled(spec, state, extinction, proven && survivors.length === 0 && state.status !== null, at)
  const stage = { _tag: "AwaitingStatus", extinction, until: at + statusWaitMs } as const
  return withAlarm(spec, { ...state, stage }, at)
}

const onEnd = (
  spec: RunSpec,
  state: In<"Spawning" | "Running">,
  reason: ExitReason,
  graceMs: number,
  at: number
): Step =>
  // A process that is just being made is ended as soon as it can be named.
  state._tag === "Spawning"
    ? [{ ...state, ending: endingOf(state.ending, reason, graceMs), alarm: null }, []]
    : stopping(spec, state, endingOf(null, reason, graceMs), null, at)

const onAlarm = (spec: RunSpec, state: In<"Spawning" | "Running">, at: number): Step => {
  const first = firstDeadline(spec, state)
  if (first === undefined || first.at > at) return withAlarm(spec, state, at)
  const end = (reason: ExitReason) => onEnd(spec, state, reason, spec.killGraceMs, at)
  switch (first.what) {
    case "overall":
      return end({ _tag: "overall-timeout", timeoutMs: spec.timeoutMs ?? 0 })
    case "startup":
      return end({ _tag: "startup-timeout", timeoutMs: spec.startTimeoutMs ?? 0 })
    case "no-output":
      return end({ _tag: "no-output-timeout", timeoutMs: spec.idleTimeoutMs ?? 0 })
    case "warning": {
      const silentMs = at - (state.lastOutputAt ?? state.since)
      const [next, actions] = onAlarm(spec, { ...state, warned: true }, at)
      return [next, [{ _tag: "Warn", silentMs }, ...actions]]
    }
  }
}

type LiveEvent = Exclude<RunEvent, { readonly _tag: "Abandoned" }>

/** The alarm stays where it is: output only moves deadlines away, and it looks again when it comes. */
const heard = <S extends Underway>(state: S, at: number): S => ({
  ...state,
  lastOutputAt: Math.max(state.lastOutputAt ?? state.since, at),
  warned: false
})

const whileSpawning = (spec: RunSpec, state: In<"Spawning">, event: LiveEvent): Step => {
  switch (event._tag) {
    case "Spawned": {
      const { ending, status, ...underway } = state
      const { leader, at } = event
      const running = { ...underway, _tag: "Running", leader } as const
      const note: RunAction = { _tag: "NoteLeader", leader, attempt: state.attempt }
      if (ending === null) return [running, [note]]
      const [next, actions] = stopping(spec, running, ending, status, at)
      return [next, [note, ...actions]]
    }
    case "SpawnFailed": {
      const { problem, detail, at } = event
      const { ending, attempt, restarts } = state
      const reason = ending?.reason ?? ({ _tag: "spawn-error", problem, detail } as const)
      const final = attempt === 1 || ending?.final === true
      return settled(spec, { reason, status: null, final, attempt, restarts }, noneLeft, true, at)
    }
    case "Output":
      return [heard(state, event.at), []]
    case "LeaderExited":
      return [
        { ...state, status: event.status, ending: state.ending ?? ownEnd(event.status), alarm: null },
        []
      ]
    case "End":
      return onEnd(spec, state, event.reason, event.graceMs, event.at)
    case "Alarm":
      return event.due === state.alarm ? onAlarm(spec, state, event.at) : [state, []]
    default:
      return [state, []]
  }
}

const whileRunning = (spec: RunSpec, state: In<"Running">, event: LiveEvent): Step => {
  switch (event._tag) {
    case "Output":
      return [heard(state, event.at), []]
    case "LeaderExited":
      return stopping(spec, state, ownEnd(event.status), event.status, event.at)
    case "End":
      return onEnd(spec, state, event.reason, event.graceMs, event.at)
    case "Alarm":
      return event.due === state.alarm ? onAlarm(spec, state, event.at) : [state, []]
    default:
      return [state, []]
  }
}

const whileStopping = (spec: RunSpec, state: In<"Stopping">, event: LiveEvent): Step => {
  const { stage } = state
  switch (event._tag) {
    case "LeaderExited": {
      const known = { ...state, status: event.status }
      if (stage._tag === "Sweeping") return [known, []]
      // It went as it was asked to: what it leaves is swept without waiting for the rest of the grace.
      return stage._tag === "Asked" ? sweep(known) : swept(spec, known, stage.extinction, event.at)
    }
    case "End": {
      const final = { ...state, final: state.final || isFinal(event.reason) }
      if (stage._tag !== "Asked") return [final, []]
      const killAt = Math.min(stage.killAt, event.at + event.graceMs)
      if (killAt <= event.at) return sweep(final)
      return killAt === stage.killAt
        ? [final, []]
        : withAlarm(spec, { ...final, stage: { _tag: "Asked", killAt } }, event.at)
    }
    case "Alarm":
      if (event.due !== state.alarm || stage._tag === "Sweeping") return [state, []]
      if (stage._tag === "Asked")
        return event.at < stage.killAt ? withAlarm(spec, state, event.at) : sweep(state)
      return event.at < stage.until
        ? withAlarm(spec, state, event.at)
        : settled(spec, state, stage.extinction, false, event.at)
    case "Swept":
      return stage._tag === "Sweeping" ? swept(spec, state, event.extinction, event.at) : [state, []]
    default:
      return [state, []]
  }
}

const whileLive = (spec: RunSpec, state: Live, event: LiveEvent): Step => {
  switch (state._tag) {
    case "Spawning":
      return whileSpawning(spec, state, event)
    case "Running":
      return whileRunning(spec, state, event)
    case "Stopping":
      return whileStopping(spec, state, event)
  }
}

const neverBegun = (reason: ExitReason): Step =>
  exited({ reason, status: null, final: true, attempt: 0, restarts: [] }, noneLeft)

/** One run under any order of events; what is over stays over. */
export const nextRun =
  (spec: RunSpec) =>
  (state: RunState, event: RunEvent): Step => {
    if (isOver(state)) return [state, []]
    if (event._tag === "Abandoned") return [{ _tag: "Lost", reason: event.reason }, [{ _tag: "Finish" }]]
    if (state._tag === "Requested") {
      if (event._tag === "Cleared") return spawnNow(spec, 1, [], event.at)
      return event._tag === "End" ? neverBegun(event.reason) : [state, []]
    }
    const [awake, woken] = seen(spec, state, event.at)
    const [next, actions] = whileLive(spec, awake, event)
    return woken.length === 0 ? [next, actions] : [next, [...woken, ...actions]]
  }
