/** A relay that is held open by hand, and what a hook of it comes to. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import type { OpenedRelay } from "../../src/services/Control.ts"
import { callerOf, type Place, run } from "./gateway.ts"

let calls = 0

/** What Codex says before it runs a command. */
export const payload = (command: string): string =>
  JSON.stringify({
    session_id: "s",
    cwd: "/",
    hook_event_name: "PreToolUse",
    tool_name: "Bash",
    tool_input: { command },
    tool_use_id: `call-${++calls}`
  })

/** The first word of each that a refusal may have, and how it is called here. */
const words = [
  ["cannot be reached", "cut off"],
  ["central", "central"],
  ["own", "own"]
] as const

const wordOf = (stdout: string): string =>
  stdout === "" ? "allowed" : (words.find(([said]) => stdout.includes(said))?.[1] ?? stdout)

/** Held until the scope closes; each hook is run as Codex runs it. */
export const openRelay = Effect.fnUntraced(function* (place: Place) {
  const opened = yield* Deferred.make<OpenedRelay>()
  yield* Effect.gen(function* () {
    const client = yield* ControlClient
    yield* Stream.runForEach(
      client.OpenRelay({ provider: "codex", sessionId: null, events: ["pre_tool_use"] }),
      (relay) => Deferred.succeed(opened, relay)
    )
  }).pipe(Effect.provide(callerOf(place)), Effect.forkScoped)
  const { commands } = yield* Deferred.await(opened)
  return (input: string) =>
    Effect.map(
      run("/bin/bash", ["-c", commands["pre_tool_use"]!], { env: place.env, input }),
      ({ stdout, stderr }) => wordOf(stdout === "" ? stderr : stdout)
    )
})
