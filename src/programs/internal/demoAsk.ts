/** The part of the demo in which a person is asked: one terminal runs the agent, another one answers. */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../../layers/ControlClient.ts"
import type { Rule } from "../../services/Policy.ts"
import type { Script } from "../../services/ScriptedProvider.ts"
import { callerOf, DemoFailed, type World } from "./demoWorld.ts"

export const askRule: Rule = {
  id: "ask-before-publishing",
  command: String.raw`\bpublished\b`,
  verdict: "ask",
  reason: "publishing is for a person to decide"
}

export const askPrompt = "Publish version 1.0.0."
export const liveAskPrompt =
  "Run exactly this shell command, once, and then stop: `echo 1.0.0 > published.txt`."

export const askScript: Script = [
  { fn: "exec_command", args: { cmd: "echo 1.0.0 > published.txt" } },
  { say: "Version 1.0.0 is published." }
]

interface Terminal {
  readonly code: number | null
  readonly lines: ReadonlyArray<string>
}

/** The operator's command in a terminal of its own, to its end. */
export const terminal = (world: World, args: ReadonlyArray<string>): Effect.Effect<Terminal> =>
  Effect.callback<Terminal>((resume) => {
    const child = childProcess.spawn(
      process.execPath,
      ["--no-warnings", path.join(import.meta.dirname, "cli.mjs"), ...args],
      { cwd: world.work, env: { ...process.env, ...world.env }, stdio: ["ignore", "pipe", "inherit"] }
    )
    let text = ""
    child.stdout.setEncoding("utf8").on("data", (more: string) => (text += more))
    child.once("close", (code) =>
      resume(Effect.succeed({ code, lines: text.split("\n").filter((line) => line !== "") }))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** An agent asks within seconds; a live model takes its time to think. */
const askTimeoutMs = 120_000
const askPollMs = 20

/** The approval that waits, by way of a connection of its own each time: gateways come and go. */
const waiting = (world: World) =>
  Effect.gen(function* () {
    const { approvals } = yield* (yield* ControlClient).ListApprovals({ live: true })
    return approvals.find(({ state }) => state._tag === "pending") ?? null
  }).pipe(Effect.scoped, Effect.provide(callerOf(world)))

export const asked = (world: World) =>
  Effect.gen(function* () {
    for (;;) {
      const one = yield* waiting(world)
      if (one !== null) return one
      yield* Effect.sleep(askPollMs)
    }
  }).pipe(
    Effect.timeoutOrElse({
      duration: askTimeoutMs,
      orElse: () => Effect.fail(new DemoFailed({ problem: "the agent did not ask to publish." }))
    })
  )

export const isPublished = ({ work }: World): boolean => fs.existsSync(path.join(work, "published.txt"))
