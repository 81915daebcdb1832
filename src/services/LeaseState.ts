/**
 * LeaseState: the whole life of one lease of the shared app-server, as a pure function.
 *
 * However events interleave there is one child at a time, told to stop once, and each borrow is answered once: with the
 * child, or with why there is none. Generations rise. The layer of AppServerLease only performs what `nextLease` says.
 */
import {
  type AppServerLost,
  type AppServerUnavailable,
  describePoison,
  LeaseCircuitOpen
} from "./AppServerFailure.ts"
import type { Intensity } from "./AppServerLease.ts"
import type { AppServerConnection, Gone } from "./AppServerProcess.ts"

/** A borrow that has not been given back, by number. */
export type Claims = ReadonlySet<number>

export const maxCooldownMs = 600_000

/**
 * Lost children and failed starts of late. After an open circuit the next fault opens it again, until a child has lasted a
 * period or left in peace.
 */
export interface Faults {
  /** Oldest first; at most one more than the intensity. */
  readonly times: ReadonlyArray<number>
  readonly last: string | null
  /** How often the circuit has opened since the last child that did. */
  readonly openings: number
}

export interface Circuit {
  /** Epoch milliseconds. */
  readonly until: number
}

/**
 * `waiting` are borrows that want a child; `holding` are those that have one. Draining leaves in peace: with its last holder
 * it is told to stop, and from then on nobody gets it. A borrow before that says that the key is in use again, and it stays:
 * to wait for the last holder of a healthy child of the right login could take hours. Retired is being ended because it is
 * poisoned or did not come up. Both last until the process has gone or was given up on. `circuit` of a retired one says that
 * no other follows it for now.
 */
export type LeaseState = { readonly generation: number; readonly faults: Faults } & (
  | { readonly _tag: "Absent" }
  | {
      readonly _tag: "Starting"
      readonly waiting: Claims
      /** Told to drain before it was up: it serves who waits, and leaves. */
      readonly leaving: boolean
    }
  | {
      readonly _tag: "Ready"
      readonly connection: AppServerConnection
      readonly since: number
      readonly holding: Claims
      /** Rises with every change between idle and borrowed, so that an old idle timer is recognised. */
      readonly idleTimer: number
    }
  | {
      readonly _tag: "Draining"
      readonly connection: AppServerConnection
      readonly since: number
      readonly holding: Claims
      readonly idleTimer: number
      /** Empty while anybody holds it. */
      readonly waiting: Claims
    }
  | {
      readonly _tag: "Retired"
      readonly waiting: Claims
      readonly circuit: Circuit | null
    }
  | {
      readonly _tag: "OpenCircuit"
      readonly circuit: Circuit
    }
)

export type LeaseEvent =
  | { readonly _tag: "Borrow"; readonly claim: number }
  | { readonly _tag: "GiveBack"; readonly claim: number }
  | {
      readonly _tag: "Started"
      readonly generation: number
      readonly connection: AppServerConnection
      readonly at: number
    }
  | {
      readonly _tag: "StartFailed"
      readonly generation: number
      readonly error: AppServerUnavailable
      readonly at: number
    }
  | { readonly _tag: "Lost"; readonly generation: number; readonly error: AppServerLost; readonly at: number }
  | { readonly _tag: "IdleElapsed"; readonly generation: number; readonly idleTimer: number }
  /** Another key is in use: whoever holds it goes on, and it leaves with the last of them. */
  | { readonly _tag: "Drain" }
  | { readonly _tag: "Stopped"; readonly generation: number; readonly gone: Gone; readonly at: number }
  | { readonly _tag: "CircuitElapsed"; readonly generation: number }
  /** An operator says that the cause is gone. */
  | { readonly _tag: "Reset" }

export type LeaseAction =
  | { readonly _tag: "Start"; readonly generation: number }
  /** Asked for once per generation; answered by `Stopped`. */
  | { readonly _tag: "Stop"; readonly generation: number }
  | { readonly _tag: "Grant"; readonly claim: number; readonly connection: AppServerConnection }
  | {
      readonly _tag: "Refuse"
      readonly claim: number
      readonly error: AppServerUnavailable | LeaseCircuitOpen
    }
  | { readonly _tag: "StartIdleTimer"; readonly generation: number; readonly idleTimer: number }
  /** Elapses as `CircuitElapsed`; a generation opens at most one. */
  | { readonly _tag: "StartCircuitTimer"; readonly generation: number; readonly until: number }
  | { readonly _tag: "NoteLost"; readonly error: AppServerLost; readonly at: number }
  | { readonly _tag: "NoteGone"; readonly generation: number; readonly gone: Gone }

const noFaults: Faults = { times: [], last: null, openings: 0 }

/** Before the first child, or after a crash of the lease itself: generations go on where they were. */
export const absentLease = (generation: number): LeaseState => ({
  _tag: "Absent",
  generation,
  faults: noFaults
})

const none: Claims = new Set()
const withClaim = (claims: Claims, claim: number): Claims => new Set([...claims, claim])
const withoutClaim = (claims: Claims, claim: number): Claims =>
  new Set([...claims].filter((other) => other !== claim))

type Step = readonly [LeaseState, ReadonlyArray<LeaseAction>]

const startFor = (waiting: Claims, generation: number, faults: Faults): Step => [
  { _tag: "Starting", generation, faults, waiting, leaving: false },
  [{ _tag: "Start", generation }]
]

const circuitError = (faults: Faults, circuit: Circuit): LeaseCircuitOpen =>
  new LeaseCircuitOpen({
    faults: faults.times.length,
    until: circuit.until,
    problem: faults.last ?? "it failed too often"
  })

const refuseAll = (
  waiting: Claims,
  error: AppServerUnavailable | LeaseCircuitOpen
): ReadonlyArray<LeaseAction> => [...waiting].map((claim) => ({ _tag: "Refuse", claim, error }))

type Ready = Extract<LeaseState, { readonly _tag: "Ready" }>
type Draining = Extract<LeaseState, { readonly _tag: "Draining" }>
type Retired = Extract<LeaseState, { readonly _tag: "Retired" }>

const isStopping = (state: LeaseState): state is Draining =>
  state._tag === "Draining" && state.holding.size === 0

const grant = (state: Ready | Draining, claim: number): Step => {
  const { generation, faults, connection, since } = state
  const holding = withClaim(state.holding, claim)
  const idleTimer = state.idleTimer + 1
  return [
    { _tag: "Ready", generation, faults, connection, since, holding, idleTimer },
    [{ _tag: "Grant", claim, connection }]
  ]
}

const idle = (ready: Ready): Step => {
  const idleTimer = ready.idleTimer + 1
  return [{ ...ready, idleTimer }, [{ _tag: "StartIdleTimer", generation: ready.generation, idleTimer }]]
}

const drain = (ready: Ready): Step => [
  { ...ready, _tag: "Draining", waiting: none },
  ready.holding.size === 0 ? [{ _tag: "Stop", generation: ready.generation }] : []
]

const onBorrow = (state: LeaseState, claim: number): Step => {
  switch (state._tag) {
    case "Absent":
      return startFor(new Set([claim]), state.generation + 1, state.faults)
    case "Starting":
      return [{ ...state, waiting: withClaim(state.waiting, claim), leaving: false }, []]
    case "Draining":
      if (state.holding.size === 0) return [{ ...state, waiting: withClaim(state.waiting, claim) }, []]
      return grant(state, claim)
    case "Ready":
      return grant(state, claim)
    case "Retired":
      return state.circuit === null
        ? [{ ...state, waiting: withClaim(state.waiting, claim) }, []]
        : [state, [{ _tag: "Refuse", claim, error: circuitError(state.faults, state.circuit) }]]
    case "OpenCircuit":
      return [state, [{ _tag: "Refuse", claim, error: circuitError(state.faults, state.circuit) }]]
  }
}

const onGiveBack = (state: LeaseState, claim: number): Step => {
  switch (state._tag) {
    case "Absent":
    case "OpenCircuit":
      return [state, []]
    case "Starting":
    case "Retired":
      return [{ ...state, waiting: withoutClaim(state.waiting, claim) }, []]
    case "Draining": {
      const { generation } = state
      if (!state.holding.has(claim)) return [{ ...state, waiting: withoutClaim(state.waiting, claim) }, []]
      const holding = withoutClaim(state.holding, claim)
      return [{ ...state, holding }, holding.size === 0 ? [{ _tag: "Stop", generation }] : []]
    }
    case "Ready": {
      if (!state.holding.has(claim)) return [state, []]
      const holding = withoutClaim(state.holding, claim)
      return holding.size > 0 ? [{ ...state, holding }, []] : idle({ ...state, holding })
    }
  }
}

const onStarted = (state: LeaseState, connection: AppServerConnection, since: number): Step => {
  if (state._tag !== "Starting") return [state, []]
  const { generation, faults, waiting, leaving } = state
  const ready: Ready = {
    _tag: "Ready",
    generation,
    faults,
    connection,
    since,
    holding: waiting,
    idleTimer: 0
  }
  const grants = [...waiting].map((claim): LeaseAction => ({ _tag: "Grant", claim, connection }))
  if (!leaving) return waiting.size === 0 ? idle(ready) : [ready, grants]
  const [draining, stop] = drain(ready)
  return [draining, [...grants, ...stop]]
}

const cooldownOf = (openings: number, { cooldownMs }: Intensity): number =>
  Math.max(cooldownMs, Math.min(cooldownMs * 2 ** (openings - 1), maxCooldownMs))

/** One more fault, and the circuit it opens, if it does. */
const faulted = (
  before: Faults,
  what: string,
  at: number,
  intensity: Intensity
): readonly [Faults, Circuit | null] => {
  const recent = before.times.filter((time) => at - time < intensity.periodMs)
  const times = [...recent, at].slice(-(intensity.faults + 1))
  if (times.length <= intensity.faults && before.openings === 0)
    return [{ times, last: what, openings: 0 }, null]
  const openings = before.openings + 1
  return [{ times, last: what, openings }, { until: at + cooldownOf(openings, intensity) }]
}

/** Its faults count no more once a child has lasted or left in peace. */
const forgiven = (faults: Faults): Faults => (faults.openings === 0 ? faults : { ...faults, openings: 0 })

const onLost = (state: LeaseState, error: AppServerLost, at: number, intensity: Intensity): Step => {
  if (state._tag !== "Ready" && state._tag !== "Draining") return [state, []]
  // It was told to stop, and this is how it leaves.
  if (isStopping(state)) return [state, []]
  const { generation, since } = state
  const before = at - since >= intensity.periodMs ? forgiven(state.faults) : state.faults
  const [faults, circuit] = faulted(before, describePoison(error.reason), at, intensity)
  return [
    { _tag: "Retired", generation, faults, waiting: none, circuit },
    [
      { _tag: "NoteLost", error, at },
      { _tag: "Stop", generation }
    ]
  ]
}

const onStartFailed = (
  state: LeaseState,
  error: AppServerUnavailable,
  at: number,
  intensity: Intensity
): Step => {
  if (state._tag !== "Starting") return [state, []]
  const { generation, waiting } = state
  const [faults, circuit] = faulted(state.faults, error.message, at, intensity)
  return [
    { _tag: "Retired", generation, faults, waiting: none, circuit },
    [...refuseAll(waiting, error), { _tag: "Stop", generation }]
  ]
}

const opened = (generation: number, faults: Faults, circuit: Circuit): Step => [
  { _tag: "OpenCircuit", generation, faults, circuit },
  [{ _tag: "StartCircuitTimer", generation, until: circuit.until }]
]

/** Beside one that may still write its threads no other is started, until the circuit has cooled or somebody says so. */
const givenUp = (state: Retired | Draining, at: number, intensity: Intensity): Step => {
  const last = "the last one was killed and its end could not be confirmed"
  const already = state._tag === "Retired" && state.circuit !== null
  const openings = already ? state.faults.openings : state.faults.openings + 1
  const faults = { ...state.faults, last, openings }
  const circuit = { until: at + cooldownOf(openings, intensity) }
  const [next, timer] = opened(state.generation, faults, circuit)
  return [next, [...refuseAll(state.waiting, circuitError(faults, circuit)), ...timer]]
}

const succeeded = (state: Retired | Draining): Step => {
  if (state._tag === "Retired" && state.circuit !== null)
    return opened(state.generation, state.faults, state.circuit)
  const { generation, waiting } = state
  const faults = state._tag === "Draining" ? forgiven(state.faults) : state.faults
  return waiting.size === 0
    ? [{ _tag: "Absent", generation, faults }, []]
    : startFor(waiting, generation + 1, faults)
}

const onStopped = (state: LeaseState, gone: Gone, at: number, intensity: Intensity): Step => {
  if (state._tag !== "Retired" && !isStopping(state)) return [state, []]
  const [next, actions] = gone.confirmed ? succeeded(state) : givenUp(state, at, intensity)
  return [next, [{ _tag: "NoteGone", generation: state.generation, gone }, ...actions]]
}

const onDrain = (state: LeaseState): Step => {
  if (state._tag === "Starting") return [{ ...state, leaving: true }, []]
  return state._tag === "Ready" ? drain(state) : [state, []]
}

/** An open circuit, or a child that is being ended before one: what `Reset` undoes. */
export const isCircuitOpen = (state: LeaseState): boolean =>
  state._tag === "OpenCircuit" || (state._tag === "Retired" && state.circuit !== null)

const onCircuitElapsed = (state: LeaseState): Step => {
  if (state._tag !== "OpenCircuit") return [state, []]
  const { generation, faults } = state
  return [{ _tag: "Absent", generation, faults: { ...faults, times: [] } }, []]
}

const onReset = (state: LeaseState): Step => {
  if (state._tag === "OpenCircuit") return [absentLease(state.generation), []]
  return state._tag === "Retired"
    ? [{ ...state, faults: noFaults, circuit: null }, []]
    : [{ ...state, faults: noFaults }, []]
}

/** One child per lease under any order of events; an event of another generation changes nothing. */
export const nextLease =
  (intensity: Intensity) =>
  (state: LeaseState, event: LeaseEvent): Step => {
    switch (event._tag) {
      case "Borrow":
        return onBorrow(state, event.claim)
      case "GiveBack":
        return onGiveBack(state, event.claim)
      case "Drain":
        return onDrain(state)
      case "Reset":
        return onReset(state)
    }
    if (event.generation !== state.generation) return [state, []]
    switch (event._tag) {
      case "Started":
        return onStarted(state, event.connection, event.at)
      case "StartFailed":
        return onStartFailed(state, event.error, event.at, intensity)
      case "Lost":
        return onLost(state, event.error, event.at, intensity)
      case "IdleElapsed":
        return state._tag === "Ready" && state.holding.size === 0 && state.idleTimer === event.idleTimer
          ? drain(state)
          : [state, []]
      case "Stopped":
        return onStopped(state, event.gone, event.at, intensity)
      case "CircuitElapsed":
        return onCircuitElapsed(state)
    }
  }

export const describeLease = (state: LeaseState): string => {
  switch (state._tag) {
    case "Absent":
      return "absent"
    case "Starting":
      return `starting, ${state.waiting.size} waiting`
    case "Ready":
      return state.holding.size === 0 ? "idle" : `ready, ${state.holding.size} borrowed`
    case "Draining":
      return `draining, ${state.holding.size} borrowed, ${state.waiting.size} waiting`
    case "Retired":
      return `retired, ${state.waiting.size} waiting`
    case "OpenCircuit":
      return "circuit open"
  }
}
