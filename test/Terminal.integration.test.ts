/** The command line in a real terminal. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { ask, eventually, holdfast, makePlace, marked, startGateway } from "./support/gateway.ts"
import { terminal } from "./support/terminal.ts"

const seconds = 90_000

const status = Effect.gen(function* () {
  return yield* (yield* ControlClient).Status()
})

describe("holdfast up in a terminal", () => {
  it.live(
    "Ctrl-C ends it with 0 and leaves nothing",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const up = yield* terminal(place, ["up"])
        yield* up.shows("holdfast: ready")
        const { mark } = yield* ask(place, status)
        yield* up.type("\u0003")
        assert.strictEqual(yield* up.exit, 0)
        assert.deepStrictEqual(marked(mark), [])
      }),
    seconds
  )

  it.live(
    "a second Ctrl-C does not wait for a child that will not leave; its keeper does, and the next down ends both",
    () =>
      Effect.gen(function* () {
        const program = path.resolve(import.meta.dirname, "fixtures/codex-never-leaves.sh")
        const place = yield* makePlace({}, { HOLDFAST_CODEX: program })
        const up = yield* terminal(place, ["up"])
        yield* up.shows("holdfast: ready")
        const { mark } = yield* ask(place, status)
        yield* Effect.forkScoped(holdfast(place, ["codex", "hello"]))
        const kept = yield* Effect.map(ask(place, status), ({ keeper }) => keeper.mark).pipe(
          Effect.repeat({ until: (range) => range !== null })
        )
        yield* eventually("the child runs", () => marked(kept).length > 1)
        yield* up.type("\u0003")
        // Two at once would be one signal.
        yield* eventually("the first one is handled", () =>
          fs.readdirSync(place.runtimeDir).every((name) => !name.startsWith("control-"))
        )
        yield* up.type("\u0003")
        assert.strictEqual(yield* up.exit, 130)
        assert.isAbove(marked(kept).length, 0)
        yield* startGateway(place)
        assert.strictEqual((yield* holdfast(place, ["down"])).code, 0)
        assert.deepStrictEqual([marked(mark), marked(kept)], [[], []])
      }),
    seconds
  )
})
