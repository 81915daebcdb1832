/** Replaces this process by another of our bundles, with the arguments behind the verb. */
import * as Effect from "effect/Effect"
import * as path from "node:path"

/** The launcher starts these programs itself; this way is for a verb behind other flags. */
export const handOver = (program: "gateway" | "demo"): Effect.Effect<never> =>
  Effect.sync(() => {
    const flags = process.argv.slice(2).filter((word) => word.startsWith("--"))
    const file = path.join(import.meta.dirname, `${program}.mjs`)
    return process.execve!(process.execPath, [process.execPath, "--no-warnings", file, ...flags], process.env)
  })
