/** A gateway that is started inside a run of another: it works, and whatever it leaves ends with that run. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { isStill, relativesOf, type Seen } from "../src/layers/internal/procfs.ts"
import { dist, eventually, holdfast, makePlace, startGateway } from "./support/gateway.ts"

const seconds = 60_000

const launcher = path.join(dist, "holdfast.sh")

/** A gateway in a home of its own below the outer one's workspace, with a run; it says who it is and who its run is. */
const script = `export HOLDFAST_HOME="$1" HOLDFAST_RUNTIME_DIR="$2"
  sh "$0" up --json > up & until [ -s up ]; do sleep 0.02; done
  sh "$0" run -d --no-pty -- sh -c 'echo $$ > "'"$PWD"'/inner.new"; mv inner.new inner; trap "" HUP TERM; while :; do sleep 1; done'
  until [ -e inner ]; do sleep 0.02; done; echo ready; wait`

describe("a gateway inside a run", () => {
  it.live(
    "holds runs of its own, and all of it ends with the outer run, its keeper too",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const inner = { home: path.join(place.tmp, "inner"), runtime: path.join(place.tmp, "r") }
        yield* startGateway(place)
        const words = ["sh", "-c", script, launcher, inner.home, inner.runtime]
        const started = yield* holdfast(place, [
          "run",
          "-d",
          "--no-pty",
          "--name",
          "nest",
          "--env",
          `HOLDFAST_NODE=${process.execPath}`,
          "--",
          ...words
        ])
        assert.deepStrictEqual([started.code, started.stderr], [0, ""])
        const innerRun = path.join(place.workspace, "inner")
        yield* eventually("the inner run is there", () => fs.existsSync(innerRun), 30_000)
        const seen = (pid: number): Seen => ({ pid, startToken: relativesOf(pid)!.startToken })
        const run = seen(Number(fs.readFileSync(innerRun, "utf8")))
        const gateway = seen(
          Number(JSON.parse(fs.readFileSync(path.join(place.workspace, "up"), "utf8")).pid)
        )
        const keeper = seen(relativesOf(run.pid)!.parent)
        const before = [gateway, keeper, run].map(isStill)
        const stopped = yield* holdfast(place, ["stop", "nest"])
        assert.deepStrictEqual(
          { before, code: stopped.code, after: [gateway, keeper, run].map(isStill) },
          { before: [true, true, true], code: 0, after: [false, false, false] }
        )
      }),
    seconds
  )
})
