/** A tmux server of the bench's own, where the machine has tmux; it ends with the scope. */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { BenchFailed } from "./helper.ts"

export const hasTmux = childProcess.spawnSync("tmux", ["-V"], { stdio: "ignore" }).status === 0

/** Started, with one session that does nothing, so that a next one costs a client and a terminal. */
export const openTmux = Effect.fnUntraced(function* (variables: Readonly<Record<string, string>>) {
  const directory = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-tmux-"))),
    (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
  )
  const env = { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: directory, TERM: "xterm-256color" }
  const run = (own: Readonly<Record<string, string>>, args: ReadonlyArray<string>) => {
    const ran = childProcess.spawnSync(
      "tmux",
      ["-S", path.join(directory, "s"), "-f", "/dev/null", ...args],
      {
        env: { ...env, ...own },
        encoding: "utf8"
      }
    )
    if (ran.status !== 0) throw new BenchFailed({ problem: `tmux ${args[0]}: ${ran.stderr}` })
    return ran.stdout
  }
  const tmux = (...args: ReadonlyArray<string>): string => run(variables, args)
  yield* Effect.acquireRelease(
    Effect.sync(() => tmux("new-session", "-d", "env", "-i", "/bin/sleep", "300")),
    () => Effect.ignore(Effect.try(() => tmux("kill-server")))
  )
  return { tmux }
})
