/** A verb that goes on where it was when its gateway is replaced, under the test's clock. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import { GatewayLost, NoGateway } from "../src/layers/ControlClient.ts"
import { type Before, type Client, throughUpgradesOf } from "../src/programs/internal/reconnect.ts"

/** One try after the other: a connection that is lost after so long, or nobody there; when none is left, one that answers. */
type Try = number | "nobody"

const seen = Effect.fnUntraced(function* (
  tries: ReadonlyArray<Try>,
  { last = "answers", known = "nothing" }: { readonly last?: Try | "answers"; readonly known?: Before } = {}
) {
  const left = [...tries]
  let open = 0
  let made = 0
  const connect = Effect.suspend(() => {
    const next = left[0] ?? last
    if (next === "nobody") {
      left.shift()
      return Effect.fail(new NoGateway({ socket: "/s" }))
    }
    made++
    open++
    return Effect.as(
      Effect.addFinalizer(() => Effect.sync(() => void open--)),
      {} as Client
    )
  })
  const ask = () => {
    const next = left.shift() ?? last
    return typeof next === "number"
      ? Effect.andThen(Effect.sleep(next), Effect.fail(new GatewayLost({})))
      : Effect.succeed("answer")
  }
  const fiber = yield* throughUpgradesOf(
    connect,
    known
  )(ask).pipe(
    Effect.match({ onFailure: ({ _tag }) => _tag, onSuccess: (answer) => answer }),
    Effect.forkScoped
  )
  yield* TestClock.adjust("10 minutes")
  return { end: yield* Fiber.join(fiber), made, open }
})

const lives = 60_000

describe("a verb whose gateway is replaced", () => {
  it.effect("asks the next one, with a connection of its own, and leaves none open", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* seen([lives, "nobody", "nobody", lives, "nobody"]), {
        end: "answer",
        made: 3,
        open: 0
      })
    })
  )

  it.effect("fails at once where there is none at first", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* seen(["nobody"]), { end: "NoGateway", made: 0, open: 0 })
    })
  )

  it.effect("waits where there is none at first, but has just been one", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* seen(["nobody", "nobody"], { known: "answered" })).end, "answer")
      assert.strictEqual((yield* seen([], { last: "nobody", known: "answered" })).end, "GatewayGone")
    })
  )

  it.effect("waits for a successor as long as runs are kept, and no longer", () =>
    Effect.gen(function* () {
      const nobodyFor = (ms: number): ReadonlyArray<Try> => Array.from({ length: ms / 100 }, () => "nobody")
      assert.strictEqual((yield* seen([lives, ...nobodyFor(29_000)])).end, "answer")
      assert.strictEqual((yield* seen([lives, ...nobodyFor(31_000)])).end, "GatewayGone")
    })
  )

  it.effect("has patience anew for each gateway that lived", () =>
    Effect.gen(function* () {
      const gap = Array.from({ length: 200 }, () => "nobody" as const)
      assert.strictEqual((yield* seen([lives, ...gap, lives, ...gap, lives, ...gap])).end, "answer")
    })
  )

  it.effect("gives up on gateways that are lost at once, one after the other", () =>
    Effect.gen(function* () {
      const { end, open } = yield* seen([lives], { last: 10 })
      assert.deepStrictEqual([end, open], ["GatewayGone", 0])
    })
  )
})
