/** CodexBinary on disk: which file is run for a name, a path and a launcher of npm. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { CodexBinary, layer, nativeCandidates } from "../src/layers/CodexBinary.ts"
import { Settings } from "../src/services/Settings.ts"

const makeRoot = Effect.acquireRelease(
  Effect.sync(() => fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "hf-binary-")))),
  (root) => Effect.sync(() => fs.rmSync(root, { recursive: true, force: true }))
)

const program = (file: string, text = "#!/bin/sh\necho codex-cli 0.169.0\n", mode = 0o755): string => {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, text, { mode })
  return file
}

const binary = Effect.fnUntraced(function* (options: {
  readonly PATH: string
  readonly command?: string
  readonly clientDirectory?: string
}) {
  const settings = yield* Settings
  const { PATH, command = null, clientDirectory = "/nonexistent" } = options
  return yield* Effect.provide(
    CodexBinary,
    layer.pipe(
      Layer.provide(
        Layer.succeed(Settings, {
          ...settings,
          environment: { PATH },
          codex: { ...settings.codex, command },
          hook: { ...settings.hook, clientDirectory }
        })
      )
    )
  )
})

const found = (options: Parameters<typeof binary>[0]) => Effect.flatMap(binary(options), ({ path }) => path)

/** A fake node_modules with the launcher on PATH, and the native program beside it. */
const npmTree = (root: string) => {
  const launcher = program(`${root}/node_modules/@openai/codex/bin/codex.js`)
  const native = program(nativeCandidates(launcher, process.platform, process.arch)[1]!)
  fs.mkdirSync(`${root}/node_modules/.bin`)
  fs.symlinkSync("../@openai/codex/bin/codex.js", `${root}/node_modules/.bin/codex`)
  return { bin: `${root}/node_modules/.bin`, native }
}

describe("CodexBinary", () => {
  it.live("a launcher of npm resolves to the native program beside it", () =>
    Effect.gen(function* () {
      const { bin, native } = npmTree(yield* makeRoot)
      assert.strictEqual(yield* found({ PATH: bin }), native)
    })
  )

  it.live("a launcher without its native program is passed over, and the next place is taken", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      const { bin, native } = npmTree(root)
      const other = program(`${root}/other/codex`)
      fs.chmodSync(native, 0o644)
      assert.strictEqual(yield* found({ PATH: `${bin}:${root}/other` }), other)
    })
  )

  it.live("PATH is searched in its order, and our own package's codex comes last", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      const [one, two] = [program(`${root}/one/codex`), program(`${root}/two/codex`)]
      const { native } = npmTree(root)
      const clientDirectory = `${root}/dist`
      assert.strictEqual(yield* found({ PATH: `${root}/one:${root}/two`, clientDirectory }), one)
      assert.strictEqual(yield* found({ PATH: `${root}/two:${root}/one`, clientDirectory }), two)
      assert.strictEqual(yield* found({ PATH: `${root}/gone`, clientDirectory }), native)
    })
  )

  it.live("a codex that is named is the only one: our own package's is not taken for it", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      npmTree(root)
      const error = yield* Effect.flip(
        found({ PATH: `${root}/gone`, command: "codex", clientDirectory: `${root}/dist` })
      )
      assert.deepStrictEqual({ ...error }, { ...error, _tag: "CodexNotFound", looked: ["codex on PATH"] })
    })
  )

  it.live("a codex in the current directory is never run", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      program(`${root}/codex`)
      // A worker has no directory of its own to change to, so the way there is relative.
      const relative = path.relative(process.cwd(), root)
      for (const PATH of [relative, `.:/gone`, `:/gone:${relative}`])
        assert.strictEqual((yield* Effect.flip(found({ PATH })))._tag, "CodexNotFound")
      assert.strictEqual(
        (yield* Effect.flip(found({ PATH: "/gone", command: "gone/codex" })))._tag,
        "CodexNotFound"
      )
    })
  )

  it.live("a directory and a file that cannot be run are no codex", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      fs.mkdirSync(`${root}/one/codex`, { recursive: true })
      program(`${root}/two/codex`, "", 0o644)
      const { _tag } = yield* Effect.flip(found({ PATH: `${root}/one:${root}/two` }))
      assert.strictEqual(_tag, "CodexNotFound")
    })
  )

  it.live("the version is what the program says; one too old and one that says none are refused", () =>
    Effect.gen(function* () {
      const root = yield* makeRoot
      const version = Effect.fnUntraced(function* (script: string) {
        const command = program(`${root}/codex`, `#!/bin/sh\n${script}\n`)
        const result = Effect.flatMap(binary({ PATH: "", command }), ({ version }) => version)
        return yield* Effect.catch(result, ({ _tag }) => Effect.succeed(_tag))
      })
      assert.deepStrictEqual(
        [
          yield* version("echo codex-cli 0.170.2"),
          yield* version("echo codex-cli 0.168.0"),
          yield* version("echo hello"),
          yield* version("echo codex-cli 0.170.2; exit 1"),
          yield* version("cat; echo codex-cli 0.169.0")
        ],
        ["0.170.2", "CodexTooOld", "CodexUnusable", "CodexUnusable", "0.169.0"]
      )
    })
  )
})
