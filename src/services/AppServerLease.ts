/**
 * AppServerLease: the one shared app-server child, borrowed for a while.
 *
 * However many runs there are, one child serves them. It starts with the first borrow, outlives the last by an idle grace,
 * and a child that is lost is replaced, never repaired: its borrowers' requests fail with the reason and they borrow
 * again. `next` is the whole life of it; the layer only performs what it says.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { AppServerConnection, AppServerLost, AppServerUnavailable } from "./AppServerProcess.ts"
import { PoisonReason } from "./AppServerProcess.ts"

/** A borrow that has not been given back, by number; `granted` once it has its connection. */
export type Claims = ReadonlySet<number>

/** `waiting` are borrows that want a child; `holding` are those of the current generation that have one. */
export type LeaseState =
  | { readonly _tag: "Absent"; readonly generation: number }
  | { readonly _tag: "Starting"; readonly generation: number; readonly waiting: Claims }
  | {
      readonly _tag: "Ready"
      readonly generation: number
      readonly connection: AppServerConnection
      readonly holding: Claims
      /** Rises with every change between idle and borrowed, so that an old idle timer is recognised. */
      readonly idleTimer: number
    }
  | { readonly _tag: "Stopping"; readonly generation: number; readonly waiting: Claims }

export type LeaseEvent =
  | { readonly _tag: "Borrow"; readonly claim: number }
  | { readonly _tag: "GiveBack"; readonly claim: number }
  | { readonly _tag: "Started"; readonly generation: number; readonly connection: AppServerConnection }
  | { readonly _tag: "StartFailed"; readonly generation: number; readonly error: AppServerUnavailable }
  | { readonly _tag: "Lost"; readonly generation: number; readonly error: AppServerLost }
  | { readonly _tag: "IdleElapsed"; readonly generation: number; readonly idleTimer: number }
  | { readonly _tag: "Stopped"; readonly generation: number }

export type LeaseAction =
  | { readonly _tag: "Start"; readonly generation: number }
  | { readonly _tag: "Stop"; readonly generation: number }
  | { readonly _tag: "Grant"; readonly claim: number; readonly connection: AppServerConnection }
  | { readonly _tag: "Refuse"; readonly claim: number; readonly error: AppServerUnavailable }
  | { readonly _tag: "StartIdleTimer"; readonly generation: number; readonly idleTimer: number }
  | { readonly _tag: "NoteLost"; readonly error: AppServerLost }

/** Before the first child, or after a crash of the lease itself: generations go on where they were. */
export const absentLease = (generation: number): LeaseState => ({ _tag: "Absent", generation })

const none: Claims = new Set()
const withClaim = (claims: Claims, claim: number): Claims => new Set([...claims, claim])
const withoutClaim = (claims: Claims, claim: number): Claims =>
  new Set([...claims].filter((other) => other !== claim))

type Step = readonly [LeaseState, ReadonlyArray<LeaseAction>]

const startFor = (waiting: Claims, generation: number): Step => [
  { _tag: "Starting", generation, waiting },
  [{ _tag: "Start", generation }]
]

const onBorrow = (state: LeaseState, claim: number): Step => {
  switch (state._tag) {
    case "Absent":
      return startFor(new Set([claim]), state.generation + 1)
    case "Starting":
    case "Stopping":
      return [{ ...state, waiting: withClaim(state.waiting, claim) }, []]
    case "Ready":
      return [
        { ...state, holding: withClaim(state.holding, claim), idleTimer: state.idleTimer + 1 },
        [{ _tag: "Grant", claim, connection: state.connection }]
      ]
  }
}

const onGiveBack = (state: LeaseState, claim: number): Step => {
  switch (state._tag) {
    case "Absent":
      return [state, []]
    case "Starting":
    case "Stopping":
      return [{ ...state, waiting: withoutClaim(state.waiting, claim) }, []]
    case "Ready": {
      if (!state.holding.has(claim)) return [state, []]
      const holding = withoutClaim(state.holding, claim)
      if (holding.size > 0) return [{ ...state, holding }, []]
      const idleTimer = state.idleTimer + 1
      return [
        { ...state, holding, idleTimer },
        [{ _tag: "StartIdleTimer", generation: state.generation, idleTimer }]
      ]
    }
  }
}

const onStarted = (state: LeaseState, connection: AppServerConnection): Step => {
  if (state._tag !== "Starting") return [state, []]
  const { generation, waiting } = state
  const ready: LeaseState = { _tag: "Ready", generation, connection, holding: waiting, idleTimer: 1 }
  return waiting.size === 0
    ? [ready, [{ _tag: "StartIdleTimer", generation, idleTimer: 1 }]]
    : [ready, [...waiting].map((claim) => ({ _tag: "Grant", claim, connection }))]
}

/** One child per lease under any order of events; an event of another generation changes nothing. */
export const nextLease = (state: LeaseState, event: LeaseEvent): Step => {
  if (event._tag === "Borrow") return onBorrow(state, event.claim)
  if (event._tag === "GiveBack") return onGiveBack(state, event.claim)
  if (event.generation !== state.generation) return [state, []]
  const { generation } = state
  switch (event._tag) {
    case "Started":
      return onStarted(state, event.connection)
    case "StartFailed":
      return state._tag === "Starting"
        ? [
            { _tag: "Stopping", generation, waiting: none },
            [
              ...[...state.waiting].map((claim) => ({ _tag: "Refuse" as const, claim, error: event.error })),
              { _tag: "Stop", generation }
            ]
          ]
        : [state, []]
    case "Lost":
      return state._tag === "Ready"
        ? [
            { _tag: "Stopping", generation, waiting: none },
            [
              { _tag: "NoteLost", error: event.error },
              { _tag: "Stop", generation }
            ]
          ]
        : [state, []]
    case "IdleElapsed":
      return state._tag === "Ready" && state.holding.size === 0 && state.idleTimer === event.idleTimer
        ? [{ _tag: "Stopping", generation, waiting: none }, [{ _tag: "Stop", generation }]]
        : [state, []]
    case "Stopped":
      if (state._tag !== "Stopping") return [state, []]
      return state.waiting.size === 0
        ? [{ _tag: "Absent", generation }, []]
        : startFor(state.waiting, generation + 1)
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
    case "Stopping":
      return `stopping, ${state.waiting.size} waiting`
  }
}

/** What an operator sees of a lease. */
export const LeaseInfo = Schema.Struct({
  /** CODEX_HOME and launch shape: what two borrowers must share to share a child. */
  key: Schema.String,
  state: Schema.Literals(["Absent", "Starting", "Ready", "Stopping"]),
  generation: Schema.Int,
  borrowers: Schema.Int,
  pid: Schema.NullOr(Schema.Int),
  version: Schema.NullOr(Schema.String),
  lastLost: Schema.NullOr(
    Schema.Struct({
      generation: Schema.Int,
      reason: PoisonReason,
      stderrTail: Schema.String,
      at: Schema.Finite
    })
  )
})
export type LeaseInfo = typeof LeaseInfo.Type

/** This waiter's own deadline; the child goes on starting for the others. */
export class LeaseTimeout extends Schema.TaggedError<LeaseTimeout>()("LeaseTimeout", {
  timeoutMs: Schema.Finite
}) {
  override get message(): string {
    return `The app-server was not ready within ${this.timeoutMs} ms. Look at \`holdfast leases\` and try again.`
  }
}

export class AppServerLease extends Context.Service<
  AppServerLease,
  {
    readonly borrow: Effect.Effect<AppServerConnection, AppServerUnavailable | LeaseTimeout, Scope.Scope>
    readonly list: Effect.Effect<ReadonlyArray<LeaseInfo>>
  }
>()("holdfast/AppServerLease") {}
