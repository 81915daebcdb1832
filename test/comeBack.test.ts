import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import { GatewayLost, NoGateway } from "../src/layers/ControlClient.ts"
import { overGateways } from "../src/programs/internal/comeBack.ts"
import type { AgentEvent } from "../src/services/AgentDriver.ts"

const governed = (outlives: boolean): AgentEvent => ({
  _tag: "governed",
  runId: "run-1",
  spawnedBy: null,
  threadId: "T",
  relayId: "R",
  generation: 1,
  model: null,
  hooks: 1,
  outlives
})
const said = (itemId: string): AgentEvent => ({ _tag: "message", threadId: "T", itemId, text: itemId })
const noticed: AgentEvent = { _tag: "notice", text: "n" }
const ended: AgentEvent = { _tag: "ended", status: "completed", problem: null, failure: null }

const lost = Stream.fail(new GatewayLost({}))
const cutOff = (...events: ReadonlyArray<AgentEvent>) => Stream.concat(Stream.fromIterable(events), lost)

/** What a caller is shown, and how it ends for him, when these gateways follow each other. */
const shown = Effect.fnUntraced(function* (
  first: Stream.Stream<AgentEvent, GatewayLost>,
  ...next: Array<Stream.Stream<AgentEvent, GatewayLost | NoGateway>>
) {
  const events: Array<string> = []
  const asked: Array<string> = []
  const exit = yield* overGateways(first, ({ runId }) => {
    asked.push(runId)
    return next.shift() ?? Stream.fail(new NoGateway({ socket: "/s" }))
  }).pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => events.push(event._tag === "message" ? event.itemId : event._tag))
    ),
    Effect.exit
  )
  return { events, asked, end: Exit.isSuccess(exit) ? "ended" : exit.cause.toString().split("(")[0] }
})

describe("a caller whose gateway is lost", () => {
  it.effect("comes back to its turn, gateway after gateway, and is shown everything once", () =>
    Effect.gen(function* () {
      const seen = yield* shown(
        cutOff(governed(true), said("a"), noticed),
        cutOff(governed(true), said("a"), said("b")),
        Stream.make(governed(true), said("a"), said("b"), noticed, said("c"), ended)
      )
      assert.deepStrictEqual(seen.events, [
        "governed",
        "a",
        "notice",
        "notice",
        "b",
        "notice",
        "notice",
        "c",
        "ended"
      ])
      assert.deepStrictEqual([seen.asked, seen.end], [["run-1", "run-1"], "ended"])
    })
  )

  it.effect("does not ask again for a turn that ended with its gateway, or that it has seen the end of", () =>
    Effect.gen(function* () {
      const without = yield* shown(cutOff(governed(false), said("a")))
      const over = yield* shown(cutOff(governed(true), ended))
      assert.deepStrictEqual([without.asked, over.asked, over.end], [[], [], "ended"])
      assert.notStrictEqual(without.end, "ended")
    })
  )

  it.effect("fails when no gateway follows", () =>
    Effect.gen(function* () {
      const seen = yield* shown(cutOff(governed(true)))
      assert.deepStrictEqual([seen.events, seen.asked], [["governed", "notice"], ["run-1"]])
      assert.notStrictEqual(seen.end, "ended")
    })
  )
})
