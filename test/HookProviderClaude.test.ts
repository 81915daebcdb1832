import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import type { HookEventName } from "../src/services/HookEvent.ts"
import { claudeVariables, refusedArgument, startsSession } from "../src/services/ClaudeTerms.ts"
import {
  decodeEvent,
  encodeDecision,
  rewritten,
  settingsOf,
  settle,
  timeoutSeconds
} from "../src/services/HookProviderClaude.ts"
import type { Decision } from "../src/services/Policy.ts"

const payload = (name: string, more: object = {}) =>
  JSON.stringify({
    session_id: "s-1",
    transcript_path: "/h/t.jsonl",
    cwd: "/w",
    prompt_id: "p-1",
    permission_mode: "default",
    effort: { level: "medium" },
    hook_event_name: name,
    ...more
  })

const bash = { tool_name: "Bash", tool_input: { command: "ls", description: "look" }, tool_use_id: "toolu_1" }

const decoded = (event: HookEventName, text: string) =>
  Result.match(
    decodeEvent(event, text, () => "made-up"),
    {
      onSuccess: (event) => event,
      onFailure: ({ problem }) => problem
    }
  )

const event = (name: HookEventName, text: string) =>
  Result.getOrThrow(decodeEvent(name, text, () => "made-up"))

const decision = (verdict: Decision["verdict"], policy = "p", reason = "because"): Decision => ({
  verdict,
  policy,
  reason,
  votes: []
})

const output = (name: HookEventName, text: string, given: Decision): unknown => {
  const said = encodeDecision(event(name, text), given)
  return said === "" ? "" : JSON.parse(said).hookSpecificOutput
}

describe("HookProviderClaude", () => {
  it("a tool event in our words", () => {
    assert.deepStrictEqual(event("pre_tool_use", payload("PreToolUse", bash)), {
      event: "pre_tool_use",
      provider: "claude",
      callId: { _tag: "native", id: "toolu_1" },
      sessionId: "s-1",
      agentId: null,
      spawnedBy: null,
      turnId: "p-1",
      cwd: "/w",
      call: { tool: "Bash", kind: "shell", command: "ls", paths: [], input: bash.tool_input },
      raw: JSON.parse(payload("PreToolUse", bash))
    })
  })

  it("each tool says what it touches", () => {
    const call = (tool_name: string, tool_input: object) => {
      const { call } = event("pre_tool_use", payload("PreToolUse", { tool_name, tool_input }))
      return [call?.kind, call?.paths]
    }
    assert.deepStrictEqual(
      [
        call("Write", { file_path: "/w/a", content: "x" }),
        call("Edit", { file_path: "/w/b", old_string: "", new_string: "" }),
        call("NotebookEdit", { notebook_path: "/w/n.ipynb" }),
        call("Read", { file_path: "/w/c" }),
        call("mcp__files__put", { path: "/w/d" }),
        call("WebFetch", { url: "https://x" }),
        call("Monitor", { command: "tail -f log" })
      ],
      [
        ["patch", ["/w/a"]],
        ["patch", ["/w/b"]],
        ["patch", ["/w/n.ipynb"]],
        ["other", ["/w/c"]],
        ["mcp", []],
        ["other", []],
        ["shell", []]
      ]
    )
  })

  it("a permission request has no id of its own; a failed call is a call that was made", () => {
    const { tool_use_id: _, ...anonymous } = bash
    assert.deepStrictEqual(event("permission_request", payload("PermissionRequest", anonymous)).callId, {
      _tag: "synthesized",
      id: "made-up"
    })
    const failed = { ...bash, error: "Exit code 1", duration_ms: 12, is_interrupt: false }
    assert.deepStrictEqual(event("post_tool_use", payload("PostToolUseFailure", failed)).outcome, {
      result: undefined,
      error: "Exit code 1",
      durationMs: 12
    })
    const done = { ...bash, tool_response: { stdout: "x" }, duration_ms: 3 }
    assert.deepStrictEqual(event("post_tool_use", payload("PostToolUse", done)).outcome, {
      result: { stdout: "x" },
      error: null,
      durationMs: 3
    })
  })

  it("what cannot be judged is malformed", () => {
    assert.deepStrictEqual(
      [
        decoded("pre_tool_use", "{"),
        decoded("pre_tool_use", payload("PreToolUse")),
        decoded("pre_tool_use", payload("PostToolUse", bash)),
        decoded("interrupt", payload("Interrupt")),
        decoded("pre_tool_use", payload("PreToolUse", { ...bash, tool_input: { command: 7 } })),
        decoded("pre_tool_use", payload("PreToolUse", { tool_name: "Write", tool_input: {} })),
        decoded("stop", JSON.stringify({ hook_event_name: "Stop" }))
      ],
      ["json", "tool", "event", "event", "tool", "tool", "shape"]
    )
  })

  it("a refusal is JSON with a reason, and never anything else", () => {
    assert.deepStrictEqual(
      output("pre_tool_use", payload("PreToolUse", bash), decision({ _tag: "deny" }, "p", " ")),
      {
        hookEventName: "PreToolUse",
        permissionDecision: "deny",
        permissionDecisionReason: "refused by the policy p"
      }
    )
    assert.deepStrictEqual(
      output("permission_request", payload("PermissionRequest", bash), decision({ _tag: "deny" })),
      { hookEventName: "PermissionRequest", decision: { behavior: "deny", message: "because" } }
    )
  })

  it("an allow by name is one, the default leaves it to Claude's own permissions; both settle a request", () => {
    const text = payload("PreToolUse", bash)
    assert.deepStrictEqual(output("pre_tool_use", text, decision({ _tag: "allow" })), {
      hookEventName: "PreToolUse",
      permissionDecision: "allow"
    })
    assert.strictEqual(output("pre_tool_use", text, decision({ _tag: "allow" }, "default")), "")
    assert.deepStrictEqual(
      output(
        "permission_request",
        payload("PermissionRequest", bash),
        decision({ _tag: "allow" }, "default")
      ),
      { hookEventName: "PermissionRequest", decision: { behavior: "allow" } }
    )
    assert.strictEqual(
      encodeDecision(
        event("permission_request", payload("PermissionRequest", bash)),
        decision({ _tag: "allow" }, "default"),
        true
      ),
      ""
    )
    assert.strictEqual(output("stop", payload("Stop"), decision({ _tag: "deny" })), "")
  })

  it("a rewrite replaces the whole input of any tool; what no tool takes, or is too long, is a refusal that says so", () => {
    const call = event("pre_tool_use", payload("PreToolUse", bash))
    const rewrite = (input: unknown) => settle(call, decision({ _tag: "rewrite", input }))
    const whole = { command: "ls -l", description: "look" }
    assert.deepStrictEqual(output("pre_tool_use", payload("PreToolUse", bash), rewrite(whole)), {
      hookEventName: "PreToolUse",
      permissionDecision: "allow",
      updatedInput: whole
    })
    assert.deepStrictEqual(
      [rewrite("ls"), rewrite({ description: "no command" }), rewrite({ command: "x".repeat(400_000) })].map(
        ({ verdict }) => verdict._tag
      ),
      ["deny", "deny", "deny"]
    )
    assert.strictEqual(rewritten(call, { command: "pwd" })?.call?.command, "pwd")
    assert.isNull(rewritten(call, null))
  })

  it("the settings hold nothing but handlers that Claude knows, blocking where it waits to act", () => {
    const settings = JSON.parse(
      settingsOf(
        { pre_tool_use: "pre", post_tool_use: "post", session_start: "start", interrupt: "never" },
        (event) => timeoutSeconds(event, 30_000)
      )
    )
    const handler = (command: string) => ({ type: "command", command, timeout: 30 })
    assert.deepStrictEqual(settings, {
      disableAllHooks: false,
      env: { CLAUDE_CODE_SIMPLE: "", CLAUDE_CODE_SAFE_MODE: "" },
      hooks: {
        PreToolUse: [{ matcher: "*", hooks: [{ ...handler("pre"), onFailure: "block" }] }],
        PostToolUse: [{ matcher: "*", hooks: [handler("post")] }],
        PostToolUseFailure: [{ matcher: "*", hooks: [handler("post")] }],
        SessionStart: [{ hooks: [handler("start")] }]
      }
    })
    assert.strictEqual(timeoutSeconds("session_end", 30_000), 1)
  })

  it("arguments that would undo it are refused, behind `--` too", () => {
    assert.deepStrictEqual(
      [
        ["-p", "x"],
        ["--settings", "{}"],
        ["--settings={}"],
        ["--bare"],
        ["--safe-mode"],
        ["--append-system-prompt", "--", "--settings", "{}"],
        ["agents"],
        ["--model", "sonnet", "respawn", "--all"],
        ["-p", "agents"],
        ["mcp", "serve"],
        ["mcp", "list"],
        ["--permission-mode", "bypassPermissions"]
      ].map((args) => refusedArgument(args)?.argument ?? null),
      [
        null,
        "--settings",
        "--settings",
        "--bare",
        "--safe-mode",
        "--settings",
        "agents",
        "respawn",
        null,
        "mcp",
        null,
        null
      ]
    )
    assert.strictEqual(refusedArgument([], { CLAUDE_CODE_SIMPLE: "1" })?.argument, "with CLAUDE_CODE_SIMPLE")
    assert.deepStrictEqual(
      [
        ["-p", "x"],
        ["--version"],
        ["-p", "x", "--", "--help"],
        ["mcp", "list"],
        ["auth", "-p"],
        ["login"]
      ].map(startsSession),
      [true, false, true, false, true, true]
    )
  })

  it("it gets its own variables of its caller, and none that would switch its hooks off", () => {
    assert.deepStrictEqual(
      claudeVariables({
        ANTHROPIC_API_KEY: "k",
        CLAUDE_CONFIG_DIR: "/c",
        CLAUDE_CODE_SIMPLE: "1",
        https_proxy: "http://p",
        DATABASE_PASSWORD: "secret",
        HOME: "/h"
      }),
      { ANTHROPIC_API_KEY: "k", CLAUDE_CONFIG_DIR: "/c", https_proxy: "http://p" }
    )
  })
})
