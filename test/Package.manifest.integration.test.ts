/** .ci/manifest: package.json as a consumer may have it, and ours back, however npm ends. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { eventually, run } from "./support/gateway.ts"
import { plainEnv, root, temporary } from "./support/stranger.ts"

describe(".ci/manifest", () => {
  const makeClone = Effect.gen(function* () {
    const place = yield* temporary("hf clone-")
    for (const file of [".ci/manifest", "src/programs/node.sh", "package.json"])
      fs.cpSync(path.join(root, file), path.join(place, file))
    const file = path.join(place, "package.json")
    // Neither the bytes that npm would write nor the usual mode.
    fs.appendFileSync(file, "\n\n")
    fs.chmodSync(file, 0o640)
    const read = () => ({ text: fs.readFileSync(file, "utf8"), mode: fs.statSync(file).mode & 0o777 })
    return {
      file,
      read,
      full: read(),
      kept: path.join(place, "node_modules/.cache/holdfast-manifest"),
      manifest: (...args: ReadonlyArray<string>) =>
        run("/bin/sh", [path.join(place, ".ci/manifest"), ...args], { env: plainEnv, cwd: "/" })
    }
  })
  const nothing = { code: 0, signal: null, stdout: "", stderr: "" }

  it.live("what strip took, restore gives back with every byte and the mode", () =>
    Effect.gen(function* () {
      const { full, kept, manifest, read } = yield* makeClone
      assert.deepStrictEqual(yield* manifest("strip"), nothing)
      assert.notMatch(read().text, /node-linux|devDependencies|scripts/)
      assert.deepStrictEqual(yield* manifest("restore"), nothing)
      assert.deepStrictEqual([read(), fs.existsSync(kept)], [full, false])
    })
  )

  it.live("a pack after an interrupted one starts from the full file", () =>
    Effect.gen(function* () {
      const { full, manifest, read } = yield* makeClone
      yield* manifest("strip")
      assert.deepStrictEqual(yield* manifest("strip"), nothing)
      assert.deepStrictEqual(yield* manifest("restore"), nothing)
      assert.deepStrictEqual(read(), full)
    })
  )

  it.live("when npm ends and asks for nothing, the file comes back all the same", () =>
    Effect.gen(function* () {
      const { full, kept, manifest, read } = yield* makeClone
      yield* manifest("strip", "1")
      assert.notDeepEqual(read(), full)
      yield* eventually("the file is back", () => !fs.existsSync(kept))
      assert.deepStrictEqual(read(), full)
    })
  )

  it.live("what was written after an interruption stays, and so does what was written before it", () =>
    Effect.gen(function* () {
      const { file, full, kept, manifest, read } = yield* makeClone
      yield* manifest("strip")
      fs.writeFileSync(file, '{ "name": "edited" }')
      const edited = read()
      for (const again of ["restore", "strip"]) {
        const ran = yield* manifest(again)
        assert.deepStrictEqual([ran.code, ran.stdout], [1, ""])
        assert.match(ran.stderr, /^holdfast: package\.json has changed since a pack was interrupted[^\n]+\n$/)
        assert.deepStrictEqual(
          [read(), fs.readFileSync(path.join(kept, "full.json"), "utf8")],
          [edited, full.text]
        )
      }
    })
  )

  it.live("a restore with nothing to restore fails, so that no wrong tarball goes unnoticed", () =>
    Effect.gen(function* () {
      const { full, manifest, read } = yield* makeClone
      const ran = yield* manifest("restore")
      assert.deepStrictEqual([ran.code, ran.stderr.split("\n").length, read()], [1, 2, full])
    })
  )
})
