/** The live Policy over a config given as a value; its modules are files of a scratch directory. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { layer } from "../../src/layers/Policy.ts"
import { type PolicyConfig, PolicyLoadError } from "../../src/services/Policy.ts"
import { Settings } from "../../src/services/Settings.ts"

/** Why a policy could not be loaded, or `loaded`. */
export const loadProblem = <A, E>(decided: Effect.Effect<A, E>): Effect.Effect<string> =>
  Effect.map(
    Effect.exit(decided),
    Exit.match({
      onSuccess: () => "loaded",
      onFailure: (cause) =>
        cause.reasons
          .map((reason) => ("error" in reason ? reason.error : reason))
          .map((error) => (error instanceof PolicyLoadError ? error.problem : "another error"))
          .join()
    })
  )

/** `sources` are the modules' texts by file name; the config names them as it would beside a config file. */
export const layerOf = (policy: PolicyConfig, sources: Readonly<Record<string, string>> = {}, mode = 0o600) =>
  layer.pipe(
    Layer.provide(
      Layer.effect(
        Settings,
        Effect.gen(function* () {
          const settings = yield* Settings
          const directory = yield* Effect.acquireRelease(
            Effect.sync(() => mkdtempSync(join(tmpdir(), "holdfast-policy-"))),
            (directory) => Effect.sync(() => rmSync(directory, { recursive: true, force: true }))
          )
          for (const [name, text] of Object.entries(sources)) {
            writeFileSync(join(directory, name), text)
            chmodSync(join(directory, name), mode)
          }
          return { ...settings, policy, paths: { ...settings.paths, config: join(directory, "config.json") } }
        })
      )
    )
  )
