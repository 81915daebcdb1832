/**
 * HookAnswer: what an answer to a hook is made of at every provider that takes Claude Code's forms, Codex among them.
 *
 * An unknown field, a missing reason or a word before the JSON lets a call run, so an answer has one of these exact forms.
 */
import type { HookEventName } from "./HookEvent.ts"
import { maxAnswerBytes } from "./HookWire.ts"
import type { Decision, Judgement } from "./Policy.ts"

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
