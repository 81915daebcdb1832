/** Replaces this process by another of our bundles, with the arguments behind the verb. */
import * as Effect from "effect/Effect"
import * as path from "node:path"

/** The launcher starts these programs itself, and says why the gateway gets what; this way is for a verb behind other flags. */
export const handOver = (
  program: "gateway" | "demo",
  first: ReadonlyArray<string> = []
): Effect.Effect<never> =>
  Effect.sync(() => {
    const flags = process.argv.slice(2).filter((word) => word.startsWith("--"))
    const file = path.join(import.meta.dirname, `${program}.mjs`)
    const own = program === "gateway" ? ["--max-semi-space-size=2"] : []
    const env = program === "gateway" ? { ...process.env, MALLOC_MMAP_THRESHOLD_: "131072" } : process.env
    return process.execve!(
      process.execPath,
      [process.execPath, "--no-warnings", ...own, file, ...first, ...flags],
      env
    )
  })
