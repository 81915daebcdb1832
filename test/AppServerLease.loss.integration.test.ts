/** The shared app-server on the real codex, lost: everybody is told why, and the next generation serves. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { holdfast, makePlace, startGateway } from "./support/gateway.ts"

import {
  scripted,
  runOf,
  leaseOf,
  busyRun,
  textsOf,
  statusOf,
  assertNothingLeft,
  statusOfGateway
} from "./support/leases.ts"

const seconds = 120_000

const live = <A, E>(promise: string, test: () => Effect.Effect<A, E, ScriptedProvider | Scope.Scope>) =>
  it.live(promise, () => Effect.provide(test(), providerLayer), seconds)

describe("the shared app-server, lost", () => {
  live("a killed child fails every borrower with the reason, and the next generation serves", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const gateway = yield* startGateway(place)
      const { epoch, mark } = yield* statusOfGateway(place)
      const runs = yield* Effect.forEach(["one", "two", "three"], (name) => busyRun(place, name), {
        concurrency: 3
      })
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGKILL")
      for (const run of runs) {
        const { failure, error } = yield* run.ended
        assert.deepInclude(failure, {
          _tag: "AppServerLost",
          generation: 1,
          reason: { _tag: "signalled", signal: "SIGKILL" }
        })
        assert.deepInclude(error, { _tag: "RunFailed", retryable: true })
      }
      yield* scripted("again", [{ say: "served again" }])
      assert.deepStrictEqual(textsOf((yield* runOf(place, { prompt: "again" })).events), ["served again"])
      const lease = yield* leaseOf(place)
      assert.deepStrictEqual(
        [lease.state, lease.generation, lease.retired?.generation, lease.retired?.exit],
        ["Ready", 2, 1, { code: null, signal: "SIGKILL" }]
      )
      yield* gateway.end("SIGINT")
      assertNothingLeft(place, { epoch, mark, leaders: [pid!, lease.pid!] })
    })
  )

  live("a stopped child is seen as stopped and killed; its thread goes on in the next generation", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const run = yield* busyRun(place, "interrupted")
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGSTOP")
      const { failure } = yield* run.ended
      assert.deepInclude(failure, { _tag: "AppServerLost", reason: { _tag: "stopped" } })
      yield* scripted("goes on", [{ say: "resumed" }])
      const resumed = yield* runOf(place, {
        prompt: "goes on",
        thread: { _tag: "resume", threadId: run.governed.threadId }
      })
      assert.deepStrictEqual(textsOf(resumed.events), ["resumed"])
      const lease = yield* leaseOf(place)
      assert.deepStrictEqual([lease.generation, lease.retired?.exit], [2, { code: null, signal: "SIGKILL" }])
    })
  )

  live("a turn that may go on does so once, and no call that was decided runs again", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const run = yield* busyRun(place, "goes-on", { onLost: "resume" })
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGKILL")
      yield* run.release
      const ended = yield* run.ended
      const resumed = ended.events.filter((event) => event._tag === "resumed")
      assert.deepStrictEqual(
        resumed.map(({ generation, inDoubt }) => ({ generation, inDoubt })),
        [{ generation: 2, inDoubt: 1 }]
      )
      assert.strictEqual(statusOf(ended), "completed")
      const lines = fs.existsSync(run.output) ? fs.readFileSync(run.output, "utf8").split("\n").length - 1 : 0
      assert.isAtMost(lines, 1)
    })
  )

  live("a child that will not stay up opens the circuit; a reset closes it", () =>
    Effect.gen(function* () {
      const place = yield* makePlace(
        {},
        { HOLDFAST_CODEX: path.join(import.meta.dirname, "fixtures/codex-never-starts.sh") }
      )
      yield* startGateway(place)
      yield* scripted("tries", [{ say: "never" }])
      const failures: Array<string | undefined> = []
      for (let attempt = 0; attempt < 7; attempt++)
        failures.push((yield* runOf(place, { prompt: "tries" })).failure?._tag)
      assert.deepStrictEqual(failures, [
        ...Array.from({ length: 6 }, () => "AppServerUnavailable"),
        "LeaseCircuitOpen"
      ])
      // Retired until the end of the last one is confirmed.
      yield* leaseOf(place).pipe(Effect.repeat({ until: ({ state }) => state === "OpenCircuit" }))
      const reset = yield* holdfast(place, ["leases", "reset"])
      assert.strictEqual(reset.code, 0)
      assert.strictEqual((yield* runOf(place, { prompt: "tries" })).failure?._tag, "AppServerUnavailable")
    })
  )
})
