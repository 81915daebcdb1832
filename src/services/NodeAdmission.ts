/** NodeAdmission: how many nodes a gateway lets in at a time, so that a fleet that comes back does not bring it down. */

/** A second of it at once; the others come again, each after a time of its own. */
export const admissionsPerSecond = 100

export interface Admission {
  /** What is left of this second's. */
  readonly tokens: number
  /** Milliseconds of the monotonic clock. */
  readonly at: number
}

export const fullAdmission = (at: number): Admission => ({ tokens: admissionsPerSecond, at })

/** One more at the door: whether it is let in. */
export const nextAdmission = (state: Admission, at: number): readonly [Admission, boolean] => {
  const tokens = Math.min(
    admissionsPerSecond,
    state.tokens + (Math.max(0, at - state.at) / 1000) * admissionsPerSecond
  )
  return tokens >= 1 ? [{ tokens: tokens - 1, at }, true] : [{ tokens, at }, false]
}
