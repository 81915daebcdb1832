/** Turns that outlive their gateway, on the real codex: two gateways after each other over one supervisor. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { AgentEvent } from "../src/services/AgentDriver.ts"
import { eventually } from "./support/gateway.ts"
import { gatewayIn } from "./support/keptGateway.ts"
import { keptWorld } from "./support/keptServer.ts"
import { scripted, shell, textsOf } from "./support/leases.ts"

const seconds = 90_000

const runIdOf = (events: ReadonlyArray<AgentEvent>): string =>
  events.find((event) => event._tag === "governed")?.runId ?? "none"

const outputsOf = (events: ReadonlyArray<AgentEvent>) =>
  events.flatMap((event) => (event._tag === "command" ? [`${event.status} ${event.output.trim()}`] : []))

const endOf = (events: ReadonlyArray<AgentEvent>) =>
  events.flatMap((event) => (event._tag === "ended" ? [event.status] : [])).at(-1)

describe("a turn that outlives its gateway", () => {
  it.live(
    "goes on in its command, in a hook that waits, in one that fires meanwhile and in an approval that is pending",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const at = (name: string) => path.join(world.place.workspace, name)
        const first = yield* gatewayIn(world, { letter: "A", undecided: "held", deafTo: "pending" })
        yield* scripted("long", [
          shell("echo one; touch going; while [ ! -e go ]; do sleep 0.02; done; echo two"),
          shell("touch forbidden"),
          { say: "long is done" }
        ])
        yield* scripted("hook", [shell("echo held; touch held-1"), { say: "hook is done" }])
        yield* scripted("approval", [shell("echo pending; touch pending-1"), { say: "approval is done" }])
        const before = {
          long: yield* first.start("long"),
          hook: yield* first.start("hook"),
          approval: yield* first.start("approval")
        }
        yield* eventually("the command runs", () => fs.existsSync(at("going")), 60_000)
        yield* eventually(
          "the hook waits",
          () => first.asked.some((command) => command.includes("held")),
          60_000
        )
        yield* eventually("the approval is pending", () => first.unheard.length > 0, 60_000)
        const runs = Object.values(before).map(({ seen }) => runIdOf(seen))
        assert.deepStrictEqual(
          (yield* first.turns).map(({ runId, turnId }) => [runs.includes(runId), typeof turnId]),
          [
            [true, "string"],
            [true, "string"],
            [true, "string"]
          ]
        )
        yield* first.leave
        assert.strictEqual(fs.readdirSync(world.paths.bridges).length, 3)

        // Nobody is there: the command ends, and the next one's hook fires.
        fs.writeFileSync(at("go"), "")
        const second = yield* gatewayIn(world, { letter: "B" })
        const after = {
          long: yield* second.attach(runs[0]!),
          hook: yield* second.attach(runs[1]!),
          approval: yield* second.attach(runs[2]!)
        }
        for (const { ended } of Object.values(after)) yield* ended
        assert.deepStrictEqual(
          Object.values(after).map(({ seen }) => [endOf(seen), outputsOf(seen), textsOf(seen)]),
          [
            ["completed", ["completed one\ntwo"], ["long is done"]],
            ["completed", ["completed held"], ["hook is done"]],
            ["completed", ["completed pending"], ["approval is done"]]
          ]
        )
        const rows = yield* second.rows
        assert.deepStrictEqual(
          rows
            .map(({ source, verdict, subject }) => `${source} ${verdict} ${subject.slice(0, 15)}`)
            .toSorted(),
          [
            "hook allow echo held; touc",
            "hook allow echo one; touch",
            "hook allow echo pending; t",
            "hook deny touch forbidden"
          ]
        )
        assert.deepStrictEqual(
          ["held-1", "pending-1", "forbidden"].map((name) => fs.existsSync(at(name))),
          [true, true, false]
        )
        assert.deepStrictEqual(
          [first.unheard, second.asked.map((command) => command.slice(0, 15)).toSorted()],
          [["item/commandExecution/requestApproval"], ["echo held; touc", "touch forbidden"]]
        )
        assert.deepStrictEqual(yield* second.turns, [])
        yield* second.end
        assert.deepStrictEqual(
          { left: yield* world.left, runtime: fs.readdirSync(world.place.runtimeDir, { recursive: true }) },
          { left: [], runtime: ["bridges"] }
        )
        yield* Effect.forEach(Object.values(before), ({ fiber }) => Fiber.interrupt(fiber))
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )
})
