/** `holdfast doctor --guard`: a canary by the installed path of each agent: a call that is refused always, and must be. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ControlClient } from "../../layers/ControlClient.ts"
import * as ScriptedProvider from "../../layers/ScriptedProvider.ts"
import type { AgentEvent } from "../../services/AgentDriver.ts"
import { type Check, failed, passed, warned } from "../../services/Doctor.ts"
import { canaryCall, canaryPolicy } from "../../services/Guard.ts"
import { shellsOwn } from "../../services/RunCommand.ts"
import { overridesFor } from "../../services/ScriptedProvider.ts"
import { answered, oneGateway } from "./operator.ts"

/** A start of Codex, one turn and one hook take some two seconds. */
const proofTimeoutMs = 120_000

const prompt = "holdfast guard canary"

/** One turn whose model is a script on this machine: it calls the canary, and the hook has to refuse it. */
const provenByCodex = (events: ReadonlyArray<AgentEvent>): Check => {
  const what = "guard of codex"
  const refused = events.some((event) => event._tag === "verdict" && event.row.policy === canaryPolicy)
  const ran = events.some(
    (event) => event._tag === "command" && (event.status === "completed" || event.status === "failed")
  )
  return refused && !ran
    ? passed(what, "PROVEN: its hook asked about the canary, and Codex did not run what was refused")
    : failed(
        what,
        ran ? "BROKEN: the canary ran although it is refused" : "BROKEN: no hook asked about the canary",
        "run no agent under this gateway; look at its log"
      )
}

const codexCheck = Effect.gen(function* () {
  const provider = yield* ScriptedProvider.ScriptedProvider
  const client = yield* ControlClient
  const { nonce } = yield* answered(client.ArmCanary())
  yield* provider.script(prompt, [{ fn: "exec_command", args: { cmd: canaryCall(nonce) } }, { say: "done" }])
  const events = yield* client
    .RunCodex({
      prompt,
      cwd: process.cwd(),
      overrides: ['model="gpt-5.5"', ...overridesFor(provider.url)],
      thread: { _tag: "start" },
      spawnedBy: null,
      onLost: "fail",
      startTimeoutMs: null
    })
    .pipe(Stream.runCollect)
  return provenByCodex(events)
}).pipe(Effect.provide(ScriptedProvider.layer))

const claudeCheck = Effect.gen(function* () {
  const what = "guard of claude"
  const client = yield* ControlClient
  // Nothing of what leads to a model.
  const { proven } = yield* client.ProveClaude({ variables: shellsOwn(process.env) })
  return proven
    ? passed(what, "PROVEN: the hooks of a session answered before it did anything")
    : failed(
        what,
        "BROKEN: a session started and no hook of it answered",
        "run it under no gateway before this is clear"
      )
}).pipe(
  Effect.catchTag("ClaudeNotFound", (error) =>
    Effect.succeed(warned("guard of claude", "UNPROVEN: it is not installed here", error.message))
  )
)

const bounded = <E extends { readonly message: string }, R>(
  what: string,
  check: Effect.Effect<Check, E, R>
) =>
  check.pipe(
    Effect.timeoutOrElse({
      duration: proofTimeoutMs,
      orElse: () =>
        Effect.succeed(failed(what, "BROKEN: the canary came to no end", "look at `holdfast status`"))
    }),
    Effect.catch((error) => Effect.succeed(failed(what, `UNPROVEN: ${error.message}`, null)))
  )

export const guardChecks = oneGateway(
  Effect.gen(function* () {
    yield* answered((yield* ControlClient).Status())
    return [yield* bounded("guard of codex", codexCheck), yield* bounded("guard of claude", claudeCheck)]
  })
)
