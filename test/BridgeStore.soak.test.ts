/** What two gateways do to one record at once, left to chance. 20,000 comings by `npm run soak`, everything else 400. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { glance, removeFile, replaceFile } from "../src/layers/internal/atomicFile.ts"
import { Place, World } from "./support/bridgeFiles.ts"

const rounds = process.env["HOLDFAST_SOAK"] ? 20_000 : 400

const named = Effect.map(Place, ({ runtime }) => {
  fs.mkdirSync(runtime, { recursive: true, mode: 0o700 })
  return { file: `${runtime}/file`, aside: `${runtime}/aside`, beside: `${runtime}/beside`, runtime }
})
describe("BridgeStore between two processes, by chance", () => {
  it.live(
    "a successor's file is never lost to a predecessor that comes and goes",
    () =>
      Effect.gen(function* () {
        const { file, aside, beside, runtime } = yield* named
        const predecessor = spawn(
          process.execPath,
          [path.join(import.meta.dirname, "fixtures/comes-and-goes.ts"), file],
          { stdio: ["pipe", "pipe", "inherit"] }
        )
        yield* Effect.addFinalizer(() => Effect.sync(() => predecessor.kill("SIGKILL")))
        const exited = once(predecessor, "exit")
        yield* Effect.promise(() => once(predecessor.stdout, "data"))
        const wrong: Array<string> = []
        let seen = 0
        for (let round = 0; round < rounds; round++) {
          const mine = `successor ${round}\n`
          replaceFile(file, beside, mine)
          for (let look = 0; look < 10; look++) {
            // Null while the predecessor, having looked before we came, has it moved aside.
            const text = glance(file, 100)?.text ?? null
            if (text === mine) seen++
            else if (text !== null) wrong.push(text)
          }
          if (round < rounds - 1) removeFile(file, aside, 100, (text) => text === mine)
        }
        predecessor.stdin.end()
        const [code] = yield* Effect.promise(() => exited)
        assert.deepStrictEqual(
          { code, wrong, left: fs.readdirSync(runtime), last: fs.readFileSync(file, "utf8") },
          { code: 0, wrong: [], left: ["file"], last: `successor ${rounds - 1}\n` }
        )
        assert.isAbove(seen, 0)
      }).pipe(Effect.provide(World)),
    // Real files and another process: bounded for a machine that is busy.
    60_000
  )
})
