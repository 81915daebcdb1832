/**
 * KeeperState: whether a keeper's gateway is there, and what follows when it is not, as a pure function.
 *
 * A gateway that is stopped or hung is there. When it is gone, a run that is to be killed then is ended at once, and one
 * that is to be adopted when its own grace is over; a keeper that holds nothing and serves nobody leaves. Times are
 * milliseconds of the monotonic clock.
 */
import type { RunSpec } from "./Run.ts"

/** How long a keeper that was just started waits for its first gateway: the connection comes within milliseconds. */
export const firstAttachMs = 10_000

/** While nobody is there, it looks so often whether all its runs are over. */
export const lookEveryMs = 250

/** And so often while some of them are being ended: what is left then is to be gone within half a second. */
export const endingLookMs = 25

/** A live run, as far as a keeper's end depends on it. */
export interface HeldRun extends Pick<RunSpec, "onGatewayLoss" | "adoptGraceMs"> {
  readonly runId: string
  /** It is being ended already. */
  readonly ending: boolean
}

export type KeeperState =
  /** `session` tells one connection from the next. */
  | { readonly _tag: "Attended"; readonly session: number }
  /** `told`: whose end was asked for. */
  | {
      readonly _tag: "Unattended"
      readonly since: number
      readonly until: number
      readonly told: ReadonlySet<string>
    }
  | { readonly _tag: "Leaving"; readonly why: "down" | "abandoned" }

export type KeeperEvent =
  | { readonly _tag: "Attached"; readonly session: number }
  /** Its process is gone, not only its connection. */
  | { readonly _tag: "Lost"; readonly session: number; readonly at: number }
  | { readonly _tag: "Looked"; readonly runs: ReadonlyArray<HeldRun>; readonly at: number }
  | { readonly _tag: "Down" }

export type KeeperAction =
  /** Answered by `Looked`, at `due` at the earliest. */
  | { readonly _tag: "Look"; readonly due: number }
  | { readonly _tag: "EndLost"; readonly runId: string }
  | { readonly _tag: "Leave" }

type Step = readonly [KeeperState, ReadonlyArray<KeeperAction>]

/** Nobody has ever been there. */
export const freshKeeper = (at: number): Step => [
  { _tag: "Unattended", since: at, until: at + firstAttachMs, told: new Set() },
  [{ _tag: "Look", due: at + lookEveryMs }]
]

const leaving = (why: "down" | "abandoned"): Step => [{ _tag: "Leaving", why }, [{ _tag: "Leave" }]]

const isDue = (run: HeldRun, since: number, at: number): boolean =>
  run.onGatewayLoss === "kill" || at >= since + run.adoptGraceMs

export const nextKeeper = (state: KeeperState, event: KeeperEvent): Step => {
  if (state._tag === "Leaving") return [state, []]
  switch (event._tag) {
    case "Down":
      return leaving("down")
    case "Attached":
      return [{ _tag: "Attended", session: event.session }, []]
    case "Lost":
      // The one before has been followed by another already.
      if (state._tag !== "Attended" || state.session !== event.session) return [state, []]
      return [
        { _tag: "Unattended", since: event.at, until: event.at, told: new Set() },
        [{ _tag: "Look", due: event.at }]
      ]
    case "Looked": {
      if (state._tag !== "Unattended") return [state, []]
      const { runs, at } = event
      if (runs.length === 0 && at >= state.until) return leaving("abandoned")
      const due = runs.filter(
        (run) => !run.ending && !state.told.has(run.runId) && isDue(run, state.since, at)
      )
      return [
        due.length === 0
          ? state
          : { ...state, told: new Set([...state.told, ...due.map(({ runId }) => runId)]) },
        [
          ...due.map(({ runId }): KeeperAction => ({ _tag: "EndLost", runId })),
          { _tag: "Look", due: nextLook(state, runs, due.length > 0, at) }
        ]
      ]
    }
  }
}

/** The next grace that ends, or the next look for those that end by themselves. */
const nextLook = (
  { since, until }: Extract<KeeperState, { _tag: "Unattended" }>,
  runs: ReadonlyArray<HeldRun>,
  told: boolean,
  at: number
): number =>
  Math.min(
    at + (told || runs.some(({ ending }) => ending) ? endingLookMs : lookEveryMs),
    ...[until, ...runs.map(({ adoptGraceMs }) => since + adoptGraceMs)].filter((due) => due > at)
  )
