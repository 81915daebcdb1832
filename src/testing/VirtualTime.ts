/**
 * VirtualTime: what TestClock alone does not say: that everything which follows from an event has happened. Three days pass
 * in milliseconds, and nobody sleeps or polls.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"

/** Far more hops between fibers than any event needs that waits for no time; the scheduler is the same in every run. */
const hops = 64

/** All that was begun has gone as far as it can without time. */
export const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeat(Effect.yieldNow, { times: hops }))

/** Time passes, and all that follows from it happens. Needs a TestClock. */
export const pass = (duration: Duration.Input): Effect.Effect<void> =>
  Effect.andThen(Effect.andThen(settle, TestClock.adjust(duration)), settle)
