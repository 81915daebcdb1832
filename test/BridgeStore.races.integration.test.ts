/** What two gateways do to one record at once: each step of one is put between two steps of the other. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { createFile, editFile, glance, removeFile, replaceFile } from "../src/layers/internal/atomicFile.ts"
import { Place, World } from "./support/bridgeFiles.ts"

const named = Effect.map(Place, ({ runtime }) => {
  fs.mkdirSync(runtime, { recursive: true, mode: 0o700 })
  return { file: `${runtime}/file`, aside: `${runtime}/aside`, beside: `${runtime}/beside`, runtime }
})
/** Does something the first time it is asked, as another process would between two of our calls. */
const meanwhile = (act: () => void) => {
  let done = false
  return (): void => {
    if (!done) act()
    done = true
  }
}

describe("BridgeStore between two processes", () => {
  it.effect("a successor that comes between the look and the removal stays", () =>
    Effect.gen(function* () {
      const { file, aside, beside, runtime } = yield* named
      fs.writeFileSync(file, "mine")
      const comes = meanwhile(() => replaceFile(file, beside, "successor"))
      const removed = removeFile(file, aside, 100, (text) => {
        comes()
        return text === "mine"
      })
      assert.deepStrictEqual(
        [removed, fs.readFileSync(file, "utf8"), fs.readdirSync(runtime)],
        [false, "successor", ["file"]]
      )
    }).pipe(Effect.provide(World))
  )

  it.effect("a renewal that comes between the look and the removal wins", () =>
    Effect.gen(function* () {
      const { file, aside, runtime } = yield* named
      fs.writeFileSync(file, "expired")
      const comes = meanwhile(() => editFile(file, 100, () => "renewed"))
      const removed = removeFile(file, aside, 100, (text) => {
        const doomed = text === "expired"
        comes()
        return doomed
      })
      assert.deepStrictEqual(
        [removed, fs.readFileSync(file, "utf8"), fs.readdirSync(runtime)],
        [false, "renewed", ["file"]]
      )
    }).pipe(Effect.provide(World))
  )

  it.effect("a renewal that comes after the second look finds its name empty", () =>
    Effect.gen(function* () {
      const { file, aside } = yield* named
      fs.writeFileSync(file, "expired")
      const outcome = editFile(file, 100, () => {
        removeFile(file, aside, 100, () => true)
        return "renewed"
      })
      assert.deepStrictEqual([outcome, fs.existsSync(file)], ["absent", false])
    }).pipe(Effect.provide(World))
  )

  it.effect("a renewal never touches the file of a successor that came after the look", () =>
    Effect.gen(function* () {
      const { file, beside } = yield* named
      fs.writeFileSync(file, "mine")
      const outcome = editFile(file, 100, () => {
        replaceFile(file, beside, "successor")
        return "mine renewed"
      })
      const created = createFile(file, beside, "mine again")
      assert.deepStrictEqual(
        [outcome, created, fs.readFileSync(file, "utf8"), fs.existsSync(beside)],
        ["absent", false, "successor", false]
      )
    }).pipe(Effect.provide(World))
  )

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
        for (let round = 0; round < 2000; round++) {
          const mine = `successor ${round}\n`
          replaceFile(file, beside, mine)
          for (let look = 0; look < 10; look++) {
            // Null while the predecessor, having looked before we came, has it moved aside.
            const text = glance(file, 100)?.text ?? null
            if (text === mine) seen++
            else if (text !== null) wrong.push(text)
          }
          if (round < 1999) removeFile(file, aside, 100, (text) => text === mine)
        }
        predecessor.stdin.end()
        const [code] = yield* Effect.promise(() => exited)
        assert.deepStrictEqual(
          { code, wrong, left: fs.readdirSync(runtime), last: fs.readFileSync(file, "utf8") },
          { code: 0, wrong: [], left: ["file"], last: "successor 1999\n" }
        )
        assert.isAbove(seen, 0)
      }).pipe(Effect.provide(World)),
    // Real files and another process: bounded for a machine that is busy.
    60_000
  )
})
