/** A gateway and its node over time: a partition, and nothing to say. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { eventually, holdfast } from "./support/gateway.ts"
import { isConnected, logOf, over, seenBy, specOf, startOn, until, world } from "./support/nodeWorld.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
const partitionMs = soak ? 30_000 : 3_000
/** Longer than any deadline of the door; in full, than what a silent connection is closed after. */
const idleMs = soak ? 100_000 : 12_000

describe("a gateway and its node, over time", () => {
  it.live(
    "a run survives a partition with every byte, can be stopped after it, and what was asked meanwhile ran once",
    () =>
      Effect.gen(function* () {
        const { home, there, cutter } = yield* world()
        const counting = yield* startOn(
          home,
          specOf(
            there,
            `i=0; while [ $i -lt ${partitionMs / 10} ]; do i=$((i+1)); echo line $i; sleep 0.015; done`
          )
        )
        const lasting = yield* startOn(home, specOf(there, "sleep 600"))
        // The question arrives, its answer does not: asked again, it must not be there twice.
        yield* cutter.muteNear
        const file = path.join(there.workspace, "ran")
        const starting = yield* startOn(home, specOf(there, `echo ran >> ${file}`)).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        yield* eventually("it has run there", () => fs.existsSync(file))
        yield* cutter.cut
        yield* until("the node is away", seenBy(home), (names) => names.includes("box away"))
        assert.match((yield* holdfast(there, ["status"])).stdout, /hooks denied: cut off/)
        yield* Effect.sleep(partitionMs)
        yield* cutter.mend
        yield* until("it is back", seenBy(home), isConnected)
        const once = yield* Fiber.join(starting)
        assert.strictEqual((yield* over(home, once.id)).status?.code, 0)
        assert.strictEqual(fs.readFileSync(file, "utf8"), "ran\n")
        assert.strictEqual((yield* over(home, counting.id)).status?.code, 0)
        const lines = (yield* logOf(home, counting.id)).trimEnd().split("\n")
        assert.deepStrictEqual(
          lines,
          Array.from({ length: partitionMs / 10 }, (_, i) => `line ${i + 1}`)
        )
        assert.strictEqual((yield* holdfast(home, ["stop", lasting.id])).code, 0)
        assert.deepStrictEqual((yield* over(home, lasting.id)).reason, { _tag: "stopped", by: "operator" })
      }),
    180_000
  )

  it.live(
    `a connection on which nobody says anything for ${idleMs / 1000} s is the same one`,
    () =>
      Effect.gen(function* () {
        const { home, cutter } = yield* world()
        yield* Effect.sleep(idleMs)
        assert.deepStrictEqual(yield* seenBy(home), ["box connected"])
        assert.strictEqual(cutter.passed(), 1)
      }),
    180_000
  )
})
