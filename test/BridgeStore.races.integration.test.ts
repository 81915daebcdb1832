/** What two gateways do to one record at once: each step of one is put between two steps of the other. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { createFile, editFile, removeFile, replaceFile } from "../src/layers/internal/atomicFile.ts"
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
})
