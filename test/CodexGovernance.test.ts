import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import type { HookListing, ItemEvent } from "../src/services/AppServerProtocol.ts"
import {
  approvalAnswer,
  approvalOf,
  checkOverrides,
  flatten,
  hookProblems,
  splitWords,
  threadConfig,
  unwrapShell
} from "../src/services/CodexGovernance.ts"
import { parseOverrides } from "../src/layers/internal/codexThread.ts"
import type { Decision } from "../src/services/Policy.ts"

const decision = (tag: "allow" | "deny" | "rewrite"): Decision => ({
  verdict: tag === "rewrite" ? { _tag: tag, input: {} } : { _tag: tag },
  policy: "p",
  reason: "r",
  votes: []
})

const check = (
  key: string,
  value: unknown,
  sandbox: "read-only" | "workspace-write" | "danger-full-access"
) => {
  const checked = checkOverrides(flatten(key, value), sandbox)
  return Result.isSuccess(checked) ? checked.success : `${checked.failure.key}: ${checked.failure.why}`
}

describe("CodexGovernance", () => {
  it("an override of several lines is malformed, so that it cannot carry a second key", () => {
    const refused = (text: string) => {
      const parsed = parseOverrides([text])
      return Result.isFailure(parsed) ? parsed.failure.why : parsed.success
    }
    assert.deepStrictEqual(
      [refused('model="a"\nsandbox_mode="x"'), refused("model=a b"), refused("=x"), refused("model")],
      ["malformed", [["model", "a b"]], "malformed", "malformed"]
    )
  })

  it("overrides pass by their flattened key, and none that governs does", () => {
    assert.deepStrictEqual(
      {
        model: check("model", "m", "workspace-write"),
        provider: check("model_providers", { x: { name: "X", base_url: "http://h" } }, "workspace-write"),
        hidden: check("model_providers", { x: { name: "X", auth: { command: "sh" } } }, "workspace-write"),
        header: check("model_providers.x.http_headers.authorization", "Bearer", "workspace-write"),
        policy: check("approval_policy", "never", "workspace-write"),
        features: check("features", { hooks: false }, "workspace-write"),
        projects: check("projects", { "/w": { trust_level: "trusted" } }, "workspace-write"),
        empty: check("hooks", {}, "workspace-write"),
        list: check("model", ["a"], "workspace-write"),
        prototype: check("__proto__.polluted", true, "workspace-write")
      },
      {
        model: { config: { model: "m" }, sandbox: "workspace-write" },
        provider: {
          config: { "model_providers.x.name": "X", "model_providers.x.base_url": "http://h" },
          sandbox: "workspace-write"
        },
        hidden: "model_providers.x.auth.command: not-allowed",
        header: "model_providers.x.http_headers.authorization: not-allowed",
        policy: "approval_policy: not-allowed",
        features: "features.hooks: not-allowed",
        projects: "projects./w.trust_level: not-allowed",
        empty: "hooks: not-allowed",
        list: "model: malformed",
        prototype: "__proto__.polluted: not-allowed"
      }
    )
  })

  it("the sandbox may only become stricter", () => {
    assert.deepStrictEqual(
      [
        check("sandbox_mode", "read-only", "workspace-write"),
        check("sandbox_mode", "workspace-write", "workspace-write"),
        check("sandbox_mode", "danger-full-access", "workspace-write"),
        check("sandbox_mode", "read-only", "danger-full-access"),
        check("sandbox_mode", "no-such", "danger-full-access")
      ],
      [
        { config: {}, sandbox: "read-only" },
        { config: {}, sandbox: "workspace-write" },
        "sandbox_mode: not-stricter",
        { config: {}, sandbox: "read-only" },
        "sandbox_mode: not-stricter"
      ]
    )
    const twice = checkOverrides(
      [
        ["sandbox_mode", "read-only"],
        ["sandbox_mode", "workspace-write"]
      ],
      "danger-full-access"
    )
    assert.strictEqual(Result.getOrThrow(twice).sandbox, "read-only")
  })

  it("what governs comes last, whatever an override would say; every server is asked about, no project trusted", () => {
    assert.deepStrictEqual(
      threadConfig({
        cwd: "/home/me/repo",
        overrides: { features: { hooks: false }, web_search: "live", mcp_servers: {}, model: "m" },
        hooks: { PreToolUse: [] },
        mcpServers: ["toy", "other"]
      }),
      {
        model: "m",
        features: {
          hooks: true,
          unified_exec_tty: false,
          goals: false,
          unbounded_connection_retries: false,
          view_image: false,
          image_generation: false,
          browser_use: false,
          computer_use: false,
          skill_mcp_dependency_install: false
        },
        hooks: { PreToolUse: [] },
        web_search: "disabled",
        mcp_servers: {
          toy: { default_tools_approval_mode: "prompt" },
          other: { default_tools_approval_mode: "prompt" }
        },
        projects: {
          "/": { trust_level: "untrusted" },
          "/home": { trust_level: "untrusted" },
          "/home/me": { trust_level: "untrusted" },
          "/home/me/repo": { trust_level: "untrusted" }
        }
      }
    )
  })

  it("a hook is in force only when installed, enabled, trusted and exactly ours", () => {
    const ours = { key: "k", hash: "sha256:1", command: "c" }
    const listing = (over: Partial<HookListing["data"][number]["hooks"][number]>): HookListing => ({
      data: [
        {
          hooks: [
            {
              key: "k",
              eventName: "preToolUse",
              command: "c",
              source: "sessionFlags",
              enabled: true,
              currentHash: "sha256:1",
              trustStatus: "trusted",
              ...over
            }
          ]
        }
      ]
    })
    assert.deepStrictEqual(
      [
        hookProblems(listing({}), [ours]),
        hookProblems({ data: [] }, [ours]),
        hookProblems(listing({ source: "project" }), [ours]),
        hookProblems(listing({ enabled: false }), [ours]),
        hookProblems(listing({ trustStatus: "modified" }), [ours]),
        hookProblems(listing({ currentHash: "sha256:2" }), [ours]),
        hookProblems(listing({ command: "other" }), [ours])
      ],
      [
        [],
        ["k is not installed"],
        ["k is not installed"],
        ["k is disabled"],
        ["k is modified, not trusted"],
        ["k is not the one we sent"],
        ["k is not the one we sent"]
      ]
    )
  })

  it("Codex's shell line gives back the command, in every quoting its joiner uses", () => {
    const cases: ReadonlyArray<readonly [string, string]> = [
      ["/bin/bash -lc ls", "ls"],
      ["/bin/bash -lc 'touch M2'", "touch M2"],
      [String.raw`/bin/bash -lc "echo 'it''s' \"a b\" > M1"`, `echo 'it''s' "a b" > M1`],
      [`/bin/bash -lc "it's "'$HOME \`id\`'`, "it's $HOME `id`"],
      [`/bin/bash -lc a'^b'"'s"`, "a^b's"],
      ["/bin/bash -c 'x y'", "x y"],
      ["/usr/bin/sh -lc 'x y'", "x y"],
      ["/bin/zsh -lc 'a\nb'", "a\nb"],
      ["/bin/bash -lc ''", ""]
    ]
    for (const [line, command] of cases) assert.strictEqual(unwrapShell(line), command)
    // Anything else stays whole, matches no hook's decision, and is so decided anew.
    for (const line of ["/bin/bash -lc", "python -c 'x'", "/bin/bash -lc 'open", "/bin/bash -x -c y"])
      assert.strictEqual(unwrapShell(line), line)
    assert.deepStrictEqual(splitWords(""), [])
    assert.isNull(splitWords('"open'))
    assert.isNull(splitWords("trailing\\"))
  })

  const item = (id: string, over: Partial<ItemEvent["item"]>): readonly [string, ItemEvent] => [
    id,
    { threadId: "root", turnId: "t", item: { type: "mcpToolCall", id, ...over } }
  ]
  const elicitation = (server: string, tool: string, params: unknown) => ({
    threadId: "root",
    turnId: "t",
    serverName: server,
    _meta: { codex_approval_kind: "mcp_tool_call", tool_name: tool, tool_params: params }
  })

  it("an approval names its call by item id; a sub-agent's says which agent", () => {
    const request = approvalOf(
      "item/commandExecution/requestApproval",
      { threadId: "child", turnId: "t", itemId: "exec-1", command: "/bin/bash -lc 'touch x'", cwd: "/w" },
      new Map(),
      "root"
    )
    assert.deepStrictEqual(request, {
      kind: "command",
      threadId: "child",
      call: {
        callId: "exec-1",
        agentId: "child",
        sessionId: "root",
        turnId: "t",
        cwd: "/w",
        call: { tool: "Bash", kind: "shell", command: "touch x", paths: [], input: { command: "touch x" } }
      }
    })
  })

  it("a file change names its paths, from its item in progress", () => {
    const change = item("p1", { type: "fileChange", changes: [{ path: "/w/a" }, { path: "/w/b" }] })
    const params = { threadId: "root", turnId: "t", itemId: "p1" }
    assert.deepStrictEqual(
      approvalOf("item/fileChange/requestApproval", params, new Map([change]), "root")!.call.call.paths,
      ["/w/a", "/w/b"]
    )
  })

  it("an elicitation is the one item in progress with its server, tool and arguments; two alike are nobody's", () => {
    const idOf = (items: ReadonlyArray<readonly [string, ItemEvent]>, params: unknown) =>
      approvalOf("mcpServer/elicitation/request", elicitation("toy", "poke", params), new Map(items), "root")!
        .call.callId
    const poke = { server: "toy", tool: "poke", arguments: { what: "x" } }
    assert.deepStrictEqual(
      [
        idOf([item("a", poke)], { what: "x" }),
        idOf([item("a", poke), item("b", { ...poke, tool: "pat" })], { what: "x" }),
        idOf([item("a", poke)], { what: "y" }),
        idOf([item("a", poke), item("b", poke)], { what: "x" }),
        idOf([], { what: "x" }),
        idOf([["a", { ...item("a", poke)[1], threadId: "child" }]], { what: "x" })
      ],
      ["a", "a", null, null, null, null]
    )
  })

  it("a request that is no approval we know, or asks for more than its command, is none", () => {
    const plain = { threadId: "root", turnId: "t", itemId: "i", command: "ls" }
    assert.isNotNull(approvalOf("item/commandExecution/requestApproval", plain, new Map(), "root"))
    for (const [method, params] of [
      ["item/tool/requestUserInput", {}],
      ["item/commandExecution/requestApproval", { threadId: 1 }],
      ["item/commandExecution/requestApproval", { ...plain, command: null }],
      ["item/commandExecution/requestApproval", { ...plain, kind: "writeStdin" }],
      ["item/commandExecution/requestApproval", { ...plain, networkApprovalContext: { host: "x" } }],
      ["item/commandExecution/requestApproval", { ...plain, additionalPermissions: { write: ["/"] } }],
      [
        "mcpServer/elicitation/request",
        { threadId: "root", turnId: "t", serverName: "toy", mode: "form", _meta: {} }
      ]
    ] as const)
      assert.isNull(approvalOf(method, params, new Map(), "root"))
  })

  it("an answer is yes or no for this call alone; a rewrite stands only where the hook applied it", () => {
    assert.deepStrictEqual(
      [
        approvalAnswer("command", decision("allow"), true),
        approvalAnswer("command", decision("deny"), true),
        approvalAnswer("command", decision("rewrite"), true),
        approvalAnswer("command", decision("rewrite"), false),
        approvalAnswer("file-change", decision("allow"), false),
        approvalAnswer("mcp", decision("allow"), true),
        approvalAnswer("mcp", decision("deny"), true)
      ],
      [
        { decision: "accept" },
        { decision: "decline" },
        { decision: "accept" },
        { decision: "decline" },
        { decision: "accept" },
        { action: "accept", content: {}, _meta: null },
        { action: "decline", content: null, _meta: null }
      ]
    )
  })
})
