/**
 * NodeSession: one lasting connection to a gateway elsewhere, as a machine of states.
 *
 * A connection has an id of its own. Whatever comes of an earlier one is dropped by it, and `connected` and `disconnected` are
 * told exactly once for each. Times are milliseconds of the monotonic clock; a machine that slept has not been silent.
 */
import * as Schema from "effect/Schema"

export const SessionState = Schema.Union([
  Schema.TaggedStruct("Idle", {}),
  Schema.TaggedStruct("Connecting", { attempt: Schema.Int }),
  Schema.TaggedStruct("Connected", {
    connectionId: Schema.Int,
    since: Schema.Finite,
    /** When a frame of it came last. */
    heardAt: Schema.Finite,
    /** When the clock was looked at last. */
    lookedAt: Schema.Finite,
    health: Schema.Literals(["healthy", "unresponsive"]),
    attempt: Schema.Int
  }),
  Schema.TaggedStruct("Backoff", { until: Schema.Finite, attempt: Schema.Int, reason: Schema.String }),
  /** No try will do better until somebody changes something. */
  Schema.TaggedStruct("Terminal", { reason: Schema.String })
])
export type SessionState = typeof SessionState.Type

export const idleSession: SessionState = { _tag: "Idle" }

/** `roll`: from 0 up to and without 1, drawn for this event. */
export type SessionEvent =
  | { readonly _tag: "Start" }
  | { readonly _tag: "Opened"; readonly connectionId: number; readonly at: number }
  | { readonly _tag: "Refused"; readonly reason: string; readonly at: number; readonly roll: number }
  | { readonly _tag: "Fatal"; readonly reason: string }
  | {
      readonly _tag: "Closed"
      readonly connectionId: number
      readonly reason: string
      readonly at: number
      readonly roll: number
    }
  | { readonly _tag: "Heard"; readonly connectionId: number; readonly at: number }
  | { readonly _tag: "Look"; readonly at: number; readonly roll: number }
  | { readonly _tag: "Stop" }

export type SessionAction =
  | { readonly _tag: "Dial"; readonly attempt: number }
  | { readonly _tag: "Wait"; readonly ms: number }
  | { readonly _tag: "Ping"; readonly connectionId: number }
  | { readonly _tag: "Close"; readonly connectionId: number }
  | { readonly _tag: "Connected"; readonly connectionId: number }
  | { readonly _tag: "Disconnected"; readonly connectionId: number; readonly reason: string }
  | { readonly _tag: "GiveUp"; readonly reason: string }

/** Doubles with each try that failed, up to the cap. */
export const backoffBaseMs = 500
export const backoffCapMs = 30_000
/** A connection that lasted so long was a good one: the next try is a first one. */
export const healthyMs = 60_000
/** How often a connection is looked at, and asked for a sign of life when it gave none meanwhile. */
export const lookMs = 10_000
/** Without a frame for so long it is unresponsive, which is shown; and for so long dead, which closes it. */
export const unresponsiveMs = 25_000
export const deadMs = 45_000

/** Full jitter (Brooker, "Exponential Backoff and Jitter", 2015): anything up to the bound, so that a thousand come apart. */
export const backoffMs = (attempt: number, roll: number): number =>
  Math.floor(roll * Math.min(backoffCapMs, backoffBaseMs * 2 ** Math.min(attempt, 16)))

const backOff = (
  attempt: number,
  reason: string,
  { at, roll }: { readonly at: number; readonly roll: number }
): readonly [SessionState, ReadonlyArray<SessionAction>] => {
  const ms = backoffMs(attempt, roll)
  return [{ _tag: "Backoff", until: at + ms, attempt, reason }, [{ _tag: "Wait", ms }]]
}

type Connected = Extract<SessionState, { readonly _tag: "Connected" }>

const nextAttempt = ({ since, attempt }: Connected, at: number): number =>
  at - since >= healthyMs ? 1 : attempt + 1

const disconnect = (
  state: Connected,
  reason: string,
  event: { readonly at: number; readonly roll: number }
): readonly [SessionState, ReadonlyArray<SessionAction>] => {
  const [next, actions] = backOff(nextAttempt(state, event.at), reason, event)
  return [next, [{ _tag: "Disconnected", connectionId: state.connectionId, reason }, ...actions]]
}

export const nextSession = (
  state: SessionState,
  event: SessionEvent
): readonly [SessionState, ReadonlyArray<SessionAction>] => {
  switch (event._tag) {
    case "Start":
      return state._tag === "Idle" || state._tag === "Terminal"
        ? [{ _tag: "Connecting", attempt: 0 }, [{ _tag: "Dial", attempt: 0 }]]
        : [state, []]
    case "Opened":
      // Of a dial that nobody waits for any more.
      if (state._tag !== "Connecting") return [state, [{ _tag: "Close", connectionId: event.connectionId }]]
      return [
        {
          _tag: "Connected",
          connectionId: event.connectionId,
          since: event.at,
          heardAt: event.at,
          lookedAt: event.at,
          health: "healthy",
          attempt: state.attempt
        },
        [
          { _tag: "Connected", connectionId: event.connectionId },
          { _tag: "Wait", ms: lookMs }
        ]
      ]
    case "Refused":
      return state._tag === "Connecting" ? backOff(state.attempt + 1, event.reason, event) : [state, []]
    case "Fatal": {
      if (state._tag === "Terminal" || state._tag === "Idle") return [state, []]
      const over: ReadonlyArray<SessionAction> =
        state._tag === "Connected"
          ? [
              { _tag: "Disconnected", connectionId: state.connectionId, reason: event.reason },
              { _tag: "Close", connectionId: state.connectionId }
            ]
          : []
      return [{ _tag: "Terminal", reason: event.reason }, [...over, { _tag: "GiveUp", reason: event.reason }]]
    }
    case "Closed":
      return state._tag === "Connected" && state.connectionId === event.connectionId
        ? disconnect(state, event.reason, event)
        : [state, []]
    case "Heard":
      return state._tag === "Connected" && state.connectionId === event.connectionId
        ? [{ ...state, heardAt: Math.max(state.heardAt, event.at), health: "healthy" }, []]
        : [state, []]
    case "Look":
      return look(state, event)
    case "Stop":
      return state._tag === "Connected"
        ? [
            idleSession,
            [
              { _tag: "Disconnected", connectionId: state.connectionId, reason: "stopped" },
              { _tag: "Close", connectionId: state.connectionId }
            ]
          ]
        : [idleSession, []]
  }
}

const look = (
  state: SessionState,
  event: { readonly at: number; readonly roll: number }
): readonly [SessionState, ReadonlyArray<SessionAction>] => {
  const { at } = event
  if (state._tag === "Backoff")
    return at < state.until
      ? [state, [{ _tag: "Wait", ms: state.until - at }]]
      : [{ _tag: "Connecting", attempt: state.attempt }, [{ _tag: "Dial", attempt: state.attempt }]]
  if (state._tag !== "Connected") return [state, []]
  // A look that comes much too late says that this machine stood still, and the time in between says nothing.
  const asleep = Math.max(0, at - state.lookedAt - 2 * lookMs)
  const heardAt = Math.min(at, state.heardAt + asleep)
  const silent = at - heardAt
  if (silent >= deadMs) {
    const [next, actions] = disconnect(state, "no sign of life", event)
    return [next, [{ _tag: "Close", connectionId: state.connectionId }, ...actions]]
  }
  return [
    { ...state, heardAt, lookedAt: at, health: silent >= unresponsiveMs ? "unresponsive" : "healthy" },
    [
      ...(silent >= lookMs ? [{ _tag: "Ping" as const, connectionId: state.connectionId }] : []),
      { _tag: "Wait", ms: lookMs }
    ]
  ]
}

/** For `status` and logs. */
export const describeSession = (state: SessionState): string => {
  switch (state._tag) {
    case "Idle":
      return "idle"
    case "Connecting":
      return state.attempt === 0 ? "connecting" : `connecting, try ${state.attempt + 1}`
    case "Connected":
      return state.health === "healthy" ? "connected" : "connected, but unresponsive"
    case "Backoff":
      return `waits for try ${state.attempt + 1}: ${state.reason}`
    case "Terminal":
      return `gave up: ${state.reason}`
  }
}
