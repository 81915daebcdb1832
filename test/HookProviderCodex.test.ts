/** HookProviderCodex: what we read of Codex's payloads, and the exact texts and hashes that Codex honours. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import { maxReasonLength } from "../src/services/HookAnswer.ts"
import { type HookEvent, HookEventName } from "../src/services/HookEvent.ts"
import {
  CodexEventName,
  codexEventName,
  decodeEvent,
  encodeDecision,
  failureAnswer,
  hooksTable,
  patchPaths,
  timeoutSeconds,
  trustKey,
  trustSubject
} from "../src/services/HookProviderCodex.ts"
import { denyText, maxAnswerBytes } from "../src/services/HookWire.ts"
import type { Decision } from "../src/services/Policy.ts"

const common = {
  session_id: "root-thread",
  turn_id: "turn-1",
  transcript_path: null,
  cwd: "/w",
  model: "gpt-5.5",
  permission_mode: "default"
}
const bash = {
  ...common,
  hook_event_name: "PreToolUse",
  tool_name: "Bash",
  tool_input: { command: "printf ok" },
  tool_use_id: "call_1"
}

const decode = (event: HookEventName, payload: unknown) =>
  decodeEvent(event, typeof payload === "string" ? payload : JSON.stringify(payload), () => "made-up")

const decoded = (event: HookEventName, payload: unknown): HookEvent =>
  Result.getOrThrow(decode(event, payload))

const problem = (event: HookEventName, payload: unknown): string =>
  Result.match(decode(event, payload), { onFailure: (error) => error.problem, onSuccess: () => "none" })

const decision = (verdict: Decision["verdict"], reason = "because"): Decision => ({
  verdict,
  policy: "p1",
  reason,
  votes: []
})

const sha256 = (text: string): string => crypto.createHash("sha256").update(text).digest("hex")

describe("HookProviderCodex reads", () => {
  it("a shell call, whole", () => {
    assert.deepStrictEqual(decoded("pre_tool_use", { ...bash, later_field: [1] }), {
      event: "pre_tool_use",
      provider: "codex",
      callId: { _tag: "native", id: "call_1" },
      sessionId: "root-thread",
      agentId: null,
      spawnedBy: null,
      turnId: "turn-1",
      cwd: "/w",
      call: { tool: "Bash", kind: "shell", command: "printf ok", paths: [], input: { command: "printf ok" } },
      raw: { ...bash, later_field: [1] }
    })
  })

  it("a sub-agent's request for permission, which has no id of its own", () => {
    const payload = {
      ...common,
      hook_event_name: "PermissionRequest",
      agent_id: "child-thread",
      agent_type: "worker",
      tool_name: "Bash",
      tool_input: { command: "ls", description: "to look" }
    }
    const { callId, agentId, sessionId, call } = decoded("permission_request", payload)
    assert.deepStrictEqual(
      { callId, agentId, sessionId, call },
      {
        callId: { _tag: "synthesized", id: "made-up" },
        agentId: "child-thread",
        sessionId: "root-thread",
        call: { tool: "Bash", kind: "shell", command: "ls", paths: [], input: payload.tool_input }
      }
    )
  })

  it("the kind of a tool from its name alone", () => {
    const kinds = ["mcp__files__write", "view_image", "collaborationspawn_agent", "bash"].map(
      (tool_name) => decoded("pre_tool_use", { ...bash, tool_name, tool_input: "anything" }).call!.kind
    )
    assert.deepStrictEqual(kinds, ["mcp", "other", "other", "other"])
  })

  it("every file that a patch names, and the text of none", () => {
    const patch = [
      "*** Begin Patch",
      "*** Add File: src/new file.ts",
      "+*** Delete File: only text",
      "  *** Update File: a/../b.ts  ",
      "*** Move to: /etc/passwd\r",
      "@@ def",
      "-old",
      "+new",
      "*** delete file: gone.ts",
      "*** Update File: a/../b.ts",
      "*** End Patch"
    ].join("\n")
    assert.deepStrictEqual(patchPaths(patch), ["src/new file.ts", "a/../b.ts", "/etc/passwd", "gone.ts"])
    const call = decoded("pre_tool_use", {
      ...bash,
      tool_name: "apply_patch",
      tool_input: { command: patch }
    }).call!
    assert.deepStrictEqual([call.kind, call.command, call.paths.length], ["patch", null, 4])
  })

  it("events without a tool, and no call in them", () => {
    const payload = {
      ...common,
      hook_event_name: "Stop",
      stop_hook_active: false,
      last_assistant_message: "done"
    }
    assert.deepStrictEqual(decoded("stop", payload), {
      event: "stop",
      provider: "codex",
      callId: { _tag: "synthesized", id: "made-up" },
      sessionId: "root-thread",
      agentId: null,
      spawnedBy: null,
      turnId: "turn-1",
      cwd: "/w",
      call: null,
      raw: payload
    })
  })

  it("nothing that a policy could not look into", () => {
    const { tool_name: _, ...nameless } = bash
    assert.deepStrictEqual(
      [
        problem("pre_tool_use", "{"),
        problem("pre_tool_use", "null"),
        problem("pre_tool_use", { ...bash, session_id: 7 }),
        problem("pre_tool_use", { ...bash, hook_event_name: "preToolUse" }),
        problem("post_tool_use", bash),
        problem("pre_tool_use", nameless),
        problem("pre_tool_use", { ...bash, tool_input: { command: ["rm", "-rf"] } }),
        problem("pre_tool_use", { ...bash, tool_input: "rm -rf" }),
        problem("pre_tool_use", { ...bash, tool_name: "apply_patch", tool_input: null })
      ],
      ["json", "shape", "shape", "shape", "event", "tool", "tool", "tool", "tool"]
    )
  })

  it.effect.prop("any event name there and back", { event: HookEventName }, ({ event }) =>
    Effect.gen(function* () {
      const name = yield* Schema.encodeEffect(CodexEventName)(event)
      assert.strictEqual(name, codexEventName[event])
      assert.strictEqual(yield* Schema.decodeEffect(CodexEventName)(name), event)
    })
  )
})

describe("HookProviderCodex answers", () => {
  const event = decoded("pre_tool_use", bash)
  const permission = decoded("permission_request", { ...bash, hook_event_name: "PermissionRequest" })

  it("an allowed call with silence, and an allowed permission in words", () => {
    const allow = decision({ _tag: "allow" })
    assert.strictEqual(encodeDecision(event, allow), "")
    assert.strictEqual(
      encodeDecision(permission, allow),
      `{"hookSpecificOutput":{"hookEventName":"PermissionRequest","decision":{"behavior":"allow"}}}`
    )
  })

  it("a denied call with its reason, which is never empty and never endless", () => {
    const deny = (reason: string) => encodeDecision(event, decision({ _tag: "deny" }, reason))
    assert.strictEqual(
      deny('no "rm"\n'),
      `{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny","permissionDecisionReason":"no \\"rm\\""}}`
    )
    assert.strictEqual(deny(" "), denyText("pre_tool_use", "refused by the policy p1"))
    assert.strictEqual(
      deny("x".repeat(maxReasonLength + 1)),
      denyText("pre_tool_use", `${"x".repeat(maxReasonLength)}...`)
    )
    assert.strictEqual(
      encodeDecision(permission, decision({ _tag: "deny" })),
      `{"hookSpecificOutput":{"hookEventName":"PermissionRequest","decision":{"behavior":"deny","message":"because"}}}`
    )
  })

  it("a rewritten shell line or patch with its new input", () => {
    const rewrite = decision({ _tag: "rewrite", input: { command: "ls" } })
    const text = `{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"allow","updatedInput":{"command":"ls"}}}`
    const patch = decoded("pre_tool_use", { ...bash, tool_name: "apply_patch" })
    assert.deepStrictEqual([encodeDecision(event, rewrite), encodeDecision(patch, rewrite)], [text, text])
  })

  it("a rewrite that Codex cannot apply with a deny that says so", () => {
    const cannot = (of: HookEvent, input: unknown) =>
      encodeDecision(of, decision({ _tag: "rewrite", input })) ===
      denyText(
        of.event as "pre_tool_use",
        "Holdfast: the policy p1 rewrote this call in a way that Codex cannot apply, so it is refused"
      )
    const mcp = decoded("pre_tool_use", { ...bash, tool_name: "mcp__a__b" })
    assert.deepStrictEqual(
      [
        cannot(mcp, { command: "ls" }),
        cannot(permission, { command: "ls" }),
        cannot(event, { command: "ls", workdir: "/" }),
        cannot(event, { command: ["ls"] }),
        cannot(event, "ls"),
        cannot(event, undefined)
      ],
      Array(6).fill(true)
    )
    assert.include(
      encodeDecision(event, decision({ _tag: "rewrite", input: { command: "x".repeat(maxAnswerBytes) } })),
      "too long to be sent"
    )
  })

  it("events that only report with silence, whatever was decided", () => {
    const stop = decoded("stop", { ...common, hook_event_name: "Stop" })
    assert.strictEqual(encodeDecision(stop, decision({ _tag: "deny" })), "")
  })

  it("a failure in the same form as a decision", () => {
    assert.strictEqual(
      failureAnswer("pre_tool_use", "closed", "timeout").stdout,
      encodeDecision(
        event,
        decision(
          { _tag: "deny" },
          "Holdfast: no answer came before the deadline; look at `holdfast status` [timeout]"
        )
      )
    )
  })
})

describe("HookProviderCodex points a thread's hooks at a relay", () => {
  const command = "'/usr/bin/perl' '/opt/hookRelay.pl' '/run/r' 'EVENT' 'closed' '29000' || exit 0"
  const hook = (timeout: number) => ({ type: "command", command, timeout, async: false }) as const

  it("by a table of Codex's own event names, every tool matched", () => {
    const { table, trust } = hooksTable({ pre_tool_use: command, session_end: command }, 30_000)
    assert.deepStrictEqual(table, {
      PreToolUse: [{ hooks: [hook(30)] }],
      SessionEnd: [{ hooks: [hook(3)] }]
    })
    assert.deepStrictEqual(trust, [
      {
        key: "/<session-flags>/config.toml:pre_tool_use:0:0",
        subject: trustSubject("pre_tool_use", null, hook(30))
      },
      {
        key: "/<session-flags>/config.toml:session_end:0:0",
        subject: trustSubject("session_end", null, hook(3))
      }
    ])
    assert.strictEqual(trustKey("stop", 1, 2), "/<session-flags>/config.toml:stop:1:2")
  })

  it("with the hashes that Codex 0.169.0 computes for the same hooks", () => {
    assert.deepStrictEqual(
      [
        trustSubject("pre_tool_use", null, hook(30)),
        trustSubject("pre_tool_use", "*", hook(30)),
        trustSubject("stop", "*", hook(30)),
        trustSubject("session_end", null, hook(3)),
        trustSubject("user_prompt_submit", null, hook(30)),
        trustSubject("permission_request", null, hook(30))
      ].map(sha256),
      [
        "c320ddf2d164b1fe40ee1a3792f4863824e46602ecc6a2540451e20388c1c6ee",
        "7e8ce2d7f1fc9e1efa6bccc10093e2ff82158c1fb0699c57b3194942ffa77f77",
        "3e99cc61f10a0c64486960f547ed0ee1cdaa1d9ce094277f1531ab256cb8ac7b",
        "7a77b591eeeecc920b6992acaeb19ff0f990dd65d48e148fe0706136b2641161",
        "d1571ece09f75cf66824579432e9a64c8c147c47c13fbf4df2c7ca2e5255b7de",
        "27c58643d7e0cc4d853f97147bf8f9c5d5cb4f3943fb2d18acd78f3e17a3064e"
      ]
    )
  })

  it("with a timeout that Codex will not cut", () => {
    const seconds = (["pre_tool_use", "session_end", "interrupt"] as const).map((event) =>
      [500, 2000, 30_000].map((ms) => timeoutSeconds(event, ms))
    )
    assert.deepStrictEqual(seconds, [
      [1, 2, 30],
      [1, 2, 3],
      [1, 2, 3]
    ])
  })
})
