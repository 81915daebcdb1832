/** What a test needs to run the real Codex: where its binary lies, and places of its own for one test. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"

const targets: Readonly<Record<string, string>> = {
  "linux-x64": "x86_64-unknown-linux-musl",
  "linux-arm64": "aarch64-unknown-linux-musl",
  "darwin-x64": "x86_64-apple-darwin",
  "darwin-arm64": "aarch64-apple-darwin"
}

/** The native binary of the installed `@openai/codex`, without its launcher, which on older Nodes stays as a parent. */
export const codexBinary = ((): string => {
  const platform = `${process.platform}-${process.arch}`
  const target = targets[platform]
  if (target === undefined) throw new Error(`Codex has no binary for ${platform}.`)
  // npm puts the platform package beside the launcher's, or below it; resolving from the launcher finds both.
  const launcher = createRequire(import.meta.url).resolve("@openai/codex/package.json")
  const manifest = createRequire(launcher).resolve(`@openai/codex-${platform}/package.json`)
  return path.join(path.dirname(manifest), "vendor", target, "bin", "codex")
})()

export interface TestHome {
  /** HOLDFAST_HOME. Below the repository, because Codex's sandbox breaks when CODEX_HOME is below the temp directory. */
  readonly home: string
  /** `<home>/codex`, made and empty. */
  readonly codexHome: string
  /** TMPDIR for Codex: not above `codexHome`, wherever the repository lies. */
  readonly tmp: string
  /** Short enough for a Unix socket's 107 bytes; 0700. */
  readonly runtimeDir: string
  /** An empty directory to work in. Outside the repository, which Codex would take for the project otherwise. */
  readonly workspace: string
}

const caches = path.resolve(import.meta.dirname, "../../node_modules/.cache/holdfast-test")

const directory = (make: () => string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(Effect.sync(make), (made) =>
    // A Codex that is just going may still write a last line: five tries, 100 ms apart.
    Effect.promise(() =>
      fs.promises.rm(made, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
    )
  )

/** Everything in it is gone with the scope. Acquire it before what runs in it. */
export const makeHome: Effect.Effect<TestHome, never, Scope.Scope> = Effect.gen(function* () {
  const home = yield* directory(() => {
    fs.mkdirSync(caches, { recursive: true, mode: 0o700 })
    return fs.mkdtempSync(path.join(caches, "h-"))
  })
  const runtimeDir = yield* directory(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-")))
  const workspace = yield* directory(() =>
    fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "hf-work-")))
  )
  const codexHome = path.join(home, "codex")
  const tmp = path.join(home, "tmp")
  for (const made of [codexHome, tmp]) fs.mkdirSync(made, { mode: 0o700 })
  return { home, codexHome, tmp, runtimeDir, workspace }
})
