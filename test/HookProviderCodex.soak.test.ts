/** Codex payloads bent at random. Small and seeded here; in full by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { decodeEvent, encodeDecision } from "../src/services/HookProviderCodex.ts"
import type { Decision } from "../src/services/Policy.ts"
import { random } from "./support/random.ts"

const payloads = process.env["HOLDFAST_SOAK"] ? 300_000 : 5_000

const good = JSON.stringify({
  session_id: "01a1",
  turn_id: "t",
  transcript_path: null,
  cwd: "/w",
  hook_event_name: "PreToolUse",
  model: "m",
  permission_mode: "default",
  tool_name: "Bash",
  tool_input: { command: 'rm -rf / # ü€😀 \u0000\u001b \\"' },
  tool_use_id: "call_1_0"
})

const bend = (next: () => number): string => {
  const pick = (n: number) => Math.floor(next() * n)
  let text = good
  for (let bends = 1 + pick(4); bends > 0; bends--) {
    const at = pick(text.length)
    const kind = pick(6)
    if (kind === 0) text = text.slice(0, at)
    else if (kind === 1) text = text.slice(0, at) + String.fromCharCode(pick(256)) + text.slice(at + 1)
    else if (kind === 2) text = text.slice(0, at) + text.slice(at + 1 + pick(8))
    else if (kind === 3) text = text.slice(0, at) + text.slice(pick(at + 1), at) + text.slice(at)
    else if (kind === 4)
      text = text.replace(/"(Bash|PreToolUse|call_1_0|01a1)"/, ["null", "1", "[]", "{}", '""'][pick(5)]!)
    else text = text.replace('"tool_input"', ['"__proto__"', '"tool_input","x"', '"Tool_input"'][pick(3)]!)
  }
  return text
}

const decisions: ReadonlyArray<Decision> = [
  { verdict: { _tag: "allow" }, policy: "p", reason: "", votes: [] },
  { verdict: { _tag: "deny" }, policy: "p", reason: "", votes: [] },
  { verdict: { _tag: "deny" }, policy: "p", reason: '"\n\u0000', votes: [] },
  { verdict: { _tag: "rewrite", input: { command: "x" } }, policy: "p", reason: "", votes: [] },
  { verdict: { _tag: "rewrite", input: { command: 1, __proto__: 2 } }, policy: "p", reason: "", votes: [] }
]

/** The full hunt takes about twenty seconds; a loop that hangs is still told from one that works. */
const soakTimeoutMs = 300_000

describe("HookProviderCodex, by payloads", () => {
  it(
    `${payloads} bent payloads are refused or read; what is said to Codex is nothing or one of its three forms`,
    () => {
      const next = random(7)
      let read = 0
      for (let i = 0; i < payloads; i++) {
        const text = bend(next)
        const event = decodeEvent("pre_tool_use", text, () => "made-up")
        if (Result.isFailure(event)) continue
        read++
        const { call, callId } = event.success
        assert.isNotNull(call, text)
        assert.isTrue(callId.id.length > 0, text)
        if (call!.kind === "shell") assert.isString(call!.command, text)
        for (const decision of decisions) {
          const said = encodeDecision(event.success, decision)
          if (decision.verdict._tag === "allow") assert.strictEqual(said, "")
          else {
            const output = (JSON.parse(said) as { readonly hookSpecificOutput: Record<string, unknown> })
              .hookSpecificOutput
            assert.strictEqual(output["hookEventName"], "PreToolUse")
            if (output["permissionDecision"] === "deny")
              assert.isTrue(String(output["permissionDecisionReason"]).trim().length > 0, said)
            else
              assert.deepStrictEqual(Object.keys(output).toSorted(), [
                "hookEventName",
                "permissionDecision",
                "updatedInput"
              ])
          }
        }
      }
      assert.isAbove(read, 0)
      assert.isBelow(read, payloads)
    },
    soakTimeoutMs
  )
})
