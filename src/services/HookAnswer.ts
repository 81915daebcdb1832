/**
 * HookAnswer: what a hook's payload and its answer have in common at every provider with Claude Code's forms, Codex among them.
 *
 * An unknown field, a missing reason or a word before the JSON lets a call run, so an answer has one of these exact forms.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { HookEvent, HookEventName } from "./HookEvent.ts"
import { maxAnswerBytes } from "./HookWire.ts"
import type { Decision, Judgement } from "./Policy.ts"

export class HookPayloadMalformed extends Schema.TaggedError<HookPayloadMalformed>()("HookPayloadMalformed", {
  agent: Schema.String,
  problem: Schema.Literals(["json", "shape", "event", "tool"])
}) {
  override get message(): string {
    const what = {
      json: "it is not JSON",
      shape: "a field is missing or has another type",
      event: "it is of another event than the one it was sent for",
      tool: "it does not say what the tool would do"
    }
    return `${this.agent}'s hook payload cannot be read: ${what[this.problem]}. Check that this version of it is supported (\`holdfast doctor\`).`
  }
}

/** Reads a payload's text; `raw` is all of it, with the fields that nobody here knows. */
export const payloadReader = <P>(agent: string, payload: Schema.Decoder<P>) => {
  const decode = Schema.decodeUnknownResult(payload)
  const malformed = (problem: HookPayloadMalformed["problem"]) =>
    Result.fail(new HookPayloadMalformed({ agent, problem }))
  return (text: string) => {
    let raw: unknown
    try {
      raw = JSON.parse(text)
    } catch {
      return malformed("json")
    }
    const decoded = decode(raw)
    return Result.isFailure(decoded)
      ? malformed("shape")
      : Result.succeed({ payload: decoded.success, raw, malformed })
  }
}

/** Who calls what, in the fields that all of them have. `synthesizedId` names a call that was given no id. */
export const callerOf = (
  payload: {
    readonly session_id: string
    readonly agent_id?: string | null
    readonly cwd?: string | null
    readonly tool_use_id?: string | null
  },
  synthesizedId: () => string
): Pick<HookEvent, "callId" | "sessionId" | "agentId" | "spawnedBy" | "cwd"> => ({
  callId: payload.tool_use_id
    ? { _tag: "native", id: payload.tool_use_id }
    : { _tag: "synthesized", id: synthesizedId() },
  sessionId: payload.session_id,
  agentId: payload.agent_id ?? null,
  spawnedBy: null,
  cwd: payload.cwd ?? null
})

/** A reason is shown to the model; more than this is no reason any more. */
export const maxReasonLength = 4000

export const reasonOf = ({ reason, policy }: Decision): string => {
  const said = reason.trim() || `refused by the policy ${policy}`
  return said.length > maxReasonLength ? `${said.slice(0, maxReasonLength)}...` : said
}

/** Upper bound without encoding: a UTF-16 unit takes three bytes at most. */
export const fits = (text: string): boolean => text.length * 3 <= maxAnswerBytes

export const allowPermission = JSON.stringify({
  hookSpecificOutput: { hookEventName: "PermissionRequest", decision: { behavior: "allow" } }
})

/** A rewrite that cannot be made as a refusal that says so; `problem` goes on from "rewrote this call". */
export const refusedRewrite = <J extends Judgement>(decision: J, problem: string): Decision => ({
  ...decision,
  verdict: { _tag: "deny" },
  reason: `Holdfast: the policy ${decision.policy} rewrote this call ${problem}, so it is refused`
})

/** Events about a call that is going to be made, is asked about, or was made. */
export const toolEvents: ReadonlySet<HookEventName> = new Set([
  "pre_tool_use",
  "permission_request",
  "post_tool_use"
])
