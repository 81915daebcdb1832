/** Doctor: what must be true of this machine for the two promises to hold, looked at and not assumed. */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { LeaseInfo } from "./AppServerLease.ts"

/** `warn`: works, with less than promised. `fail`: something asked for will not work. */
export const Check = Schema.Struct({
  what: Schema.String,
  status: Schema.Literals(["ok", "warn", "fail"]),
  detail: Schema.String,
  remedy: Schema.NullOr(Schema.String)
})
export type Check = typeof Check.Type

export const passed = (what: string, detail: string): Check => ({ what, status: "ok", detail, remedy: null })

export const warned = (what: string, detail: string, remedy: string): Check => ({
  what,
  status: "warn",
  detail,
  remedy
})

export const failed = (what: string, detail: string, remedy: string | null): Check => ({
  what,
  status: "fail",
  detail,
  remedy
})

/** What one hook command did when it was run as a provider runs it. */
export interface HookTrial {
  readonly exitCode: number | null
  readonly stdout: string
  readonly tookMs: number
}

/** The payload of a trial: Codex's own form, with a command that every shell has and no rule minds. */
export const trialPayload = JSON.stringify({
  session_id: "doctor",
  turn_id: "doctor",
  transcript_path: null,
  cwd: "/",
  hook_event_name: "PreToolUse",
  model: "doctor",
  permission_mode: "default",
  tool_name: "Bash",
  tool_input: { command: "true" },
  tool_use_id: "doctor"
})

/** A decided hook says nothing (allow) or a JSON refusal; a client that could not ask names its cause in brackets. */
export const trialCheck = (trial: HookTrial): Check => {
  const what = "hook round trip"
  const cause = /\[([a-z-]+)\]/.exec(trial.stdout)?.[1]
  if (trial.exitCode !== 0)
    return failed(
      what,
      `the hook command ended with ${trial.exitCode ?? "a signal"}`,
      "look at the gateway's log"
    )
  return cause === undefined
    ? passed(what, `decided in ${trial.tookMs.toFixed(1)} ms, whole process`)
    : failed(what, `the hook got no decision: ${cause}`, "look at the gateway's log")
}

/** What an app-server that we did not start gives less of. */
export const adoptedNote =
  "the app-server was adopted: what it runs does not carry our mark and is not ended by us"

export const circuitRemedy = "when the cause is gone, `holdfast leases reset` tries at once"

/** What a gateway's leases say that an operator must know before the next run; nothing where all is well. */
export const leaseChecks = (leases: ReadonlyArray<LeaseInfo>): ReadonlyArray<Check> =>
  leases.flatMap(({ circuit, origin }) => [
    ...(circuit === null
      ? []
      : [
          failed(
            "app-server",
            `circuit open until ${new Date(circuit.until).toISOString()}: ${circuit.problem}`,
            circuitRemedy
          )
        ]),
    ...(origin === "adopted"
      ? [warned("app-server", adoptedNote, "unset appServer.connect to have a child of its own")]
      : [])
  ])

export class Doctor extends Context.Service<
  Doctor,
  {
    /** Everything that can be seen without a gateway. */
    readonly checks: Effect.Effect<ReadonlyArray<Check>>
    /** Runs a hook command with the trial payload, as a provider would. */
    readonly tryHook: (command: string) => Effect.Effect<HookTrial>
  }
>()("holdfast/Doctor") {}
