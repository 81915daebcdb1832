/** CodexBinary, live: the configured program, else the first codex on PATH, else the one beside our own package. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import {
  CodexBinary,
  CodexNotFound,
  CodexTooOld,
  CodexUnusable,
  isOlder,
  minimumVersion,
  nativeCandidates,
  parseVersion
} from "../services/CodexBinary.ts"
import { Settings } from "../services/Settings.ts"
import { isExecutable } from "./internal/programFile.ts"

export * from "../services/CodexBinary.ts"

/** `codex --version` takes 14 ms; one that takes this long hangs. */
const versionTimeoutMs = 10_000

const resolve = (file: string): string | null => {
  try {
    const real = fs.realpathSync(file)
    return nativeCandidates(real, process.platform, process.arch).find(isExecutable) ?? null
  } catch {
    return null
  }
}

const runVersion = (file: string, home: string) =>
  Effect.callback<string, CodexUnusable>((resume) => {
    const child = childProcess.execFile(
      file,
      ["--version"],
      { timeout: versionTimeoutMs, killSignal: "SIGKILL", env: { CODEX_HOME: home }, maxBuffer: 64 * 1024 },
      (error, stdout) =>
        resume(
          error
            ? Effect.fail(new CodexUnusable({ path: file, problem: "`--version` failed" }))
            : Effect.succeed(stdout)
        )
    )
    // A program that reads its input first must not wait for ours.
    child.stdin?.on("error", () => undefined).end()
    return Effect.sync(() => child.kill("SIGKILL"))
  })

export const make = Effect.gen(function* () {
  const { codex, environment, hook } = yield* Settings
  const name = codex.command ?? "codex"
  const places = name.includes("/")
    ? [path.resolve(name)]
    : [
        ...(environment["PATH"] ?? "")
          .split(":")
          .filter((dir) => dir.startsWith("/"))
          .map((dir) => `${dir}/${name}`),
        ...(codex.command === null ? [path.join(hook.clientDirectory, "../node_modules/.bin/codex")] : [])
      ]
  const find = Effect.suspend(() => {
    for (const place of places) {
      const native = resolve(place)
      if (native !== null) return Effect.succeed(native)
    }
    const looked = name.includes("/") ? places : [`${name} on PATH`]
    return Effect.fail(new CodexNotFound({ looked }))
  })
  return CodexBinary.of({
    path: find,
    version: Effect.gen(function* () {
      const file = yield* find
      const version = parseVersion(yield* runVersion(file, codex.home))
      if (version === null)
        return yield* new CodexUnusable({ path: file, problem: "it does not tell its version" })
      if (isOlder(version, minimumVersion)) return yield* new CodexTooOld({ path: file, version })
      return version
    })
  })
})

export const layer = Layer.effect(CodexBinary, make)
