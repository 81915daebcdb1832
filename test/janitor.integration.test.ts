/** The janitor with real processes: who is ended, and who beside them is not. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { TestClock } from "effect/testing"
import { once } from "node:events"
import { startJanitor } from "../src/layers/internal/janitor.ts"
import { InstanceMark, layer as layerMark } from "../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../src/layers/ProcessIdentity.ts"
import { layer as layerSyscalls, Syscalls } from "../src/layers/Syscalls.ts"
import { janitorEveryMs } from "../src/services/Containment.ts"
import { slotsBelow } from "../src/services/InstanceMark.ts"
import { bystander, lives, marked, sleeper } from "./support/markedProcesses.ts"

const live = Layer.mergeAll(layerMark.pipe(Layer.provide(layerIdentity)), layerSyscalls)

describe("the janitor on this machine", () => {
  it.effect("ends who is of a range that nobody has open any more, and nobody beside", () =>
    Effect.gen(function* () {
      const marks = yield* InstanceMark
      const range = yield* marks.choose
      const slots = slotsBelow(range.high)!
      const { child: orphan } = yield* marked(slots.at(3).high, ...sleeper)
      const others = [
        (yield* marked(slots.at(4).high, ...sleeper)).child,
        (yield* marked(range.high, ...sleeper)).child,
        (yield* marked(77, ...sleeper)).child,
        yield* bystander
      ]
      const ended = once(orphan, "exit")
      let looks = 0
      yield* startJanitor({
        range,
        claimed: Effect.succeed([slots.at(4)]),
        members: (range) =>
          Effect.ensuring(
            marks.members(range),
            Effect.sync(() => looks++)
          ),
        sweep: () => Effect.die("nothing moves here"),
        calls: (yield* Syscalls).table
      })
      // A look takes real time, which that of the test does not.
      const look = (most: number) =>
        TestClock.adjust(janitorEveryMs).pipe(
          Effect.andThen(Effect.yieldNow.pipe(Effect.repeat({ while: () => looks < most })))
        )
      yield* look(1)
      const first = lives(orphan)
      yield* look(2)
      yield* Effect.promise(() => ended)
      yield* look(3)
      assert.deepStrictEqual(
        { first, signal: orphan.signalCode, others: others.map(lives) },
        { first: true, signal: "SIGKILL", others: [true, true, true, true] }
      )
    }).pipe(Effect.provide(live))
  )
})
