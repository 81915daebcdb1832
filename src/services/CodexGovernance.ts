/**
 * CodexGovernance: what makes a Codex thread a governed one, as pure rules.
 *
 * Three layers at once, all per thread and none in a user's file: our hooks with their trusted hash, approval policy
 * `untrusted` answered by the gateway, and features that close what neither sees. They are sent on every start, resume and
 * fork, because Codex keeps none of them. The repository's own `.codex` has no say: the project is declared untrusted.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import {
  CommandApproval,
  FileChangeApproval,
  type HookListing,
  type ItemEvent,
  McpElicitation,
  type ThreadResult
} from "./AppServerProtocol.ts"
import type { Decision } from "./Policy.ts"
import type { ApprovalCall } from "./RelayRegistry.ts"
import { type SandboxMode, sandboxModes } from "./ConfigFile.ts"

/**
 * `hooks`: a trusted repository could switch them off. `unified_exec_tty`: with a terminal, `write_stdin` types commands
 * into a shell unseen by hook and approval. `goals`: the server would start turns by itself.
 * `unbounded_connection_retries`: a provider that refuses connections would hang the turn for ever. The others are tools
 * that no approval guards: when Codex cannot start the hook (an agent can move its own working directory away), they ran.
 */
export const governedFeatures = {
  hooks: true,
  unified_exec_tty: false,
  goals: false,
  unbounded_connection_retries: false,
  view_image: false,
  image_generation: false,
  browser_use: false,
  computer_use: false,
  skill_mcp_dependency_install: false
} as const

export const approvalPolicy = "untrusted"
/** Whom Codex asks: us, and not a model of its own. */
export const approvalsReviewer = "user"

/** Keys of `-c` that cannot loosen what governs the thread. Provider headers and tokens stay out: argv is public. */
const allowedKeys: ReadonlyArray<RegExp> = [
  /^model$/,
  /^model_provider$/,
  /^model_(reasoning_effort|reasoning_summary|verbosity|context_window|auto_compact_token_limit|supports_reasoning_summaries)$/,
  /^model_providers\.[A-Za-z0-9_-]+\.(name|base_url|env_key|wire_api|request_max_retries|stream_max_retries|stream_idle_timeout_ms|supports_websockets|requires_openai_auth)$/,
  /^sandbox_mode$/
]

export class ConfigKeyRefused extends Schema.TaggedError<ConfigKeyRefused>()("ConfigKeyRefused", {
  key: Schema.String,
  why: Schema.Literals(["not-allowed", "not-stricter", "malformed"])
}) {
  override get message(): string {
    const why = {
      "not-allowed":
        "it is not one of model, model_provider, model_reasoning_*, model_verbosity, model_providers.NAME.*, sandbox_mode",
      "not-stricter": "it may only make the sandbox stricter than codex.sandbox of the config file",
      malformed: "it is not KEY=VALUE with a value that TOML or plain text allows"
    }
    return `-c ${this.key} is refused: ${why[this.why]}.`
  }
}

/** Nested tables become dotted keys, so that an inline table cannot hide one; an empty one stands for itself. */
export const flatten = (key: string, value: unknown): ReadonlyArray<readonly [string, unknown]> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length > 0
    ? Object.entries(value).flatMap(([name, inner]) => flatten(`${key}.${name}`, inner))
    : [[key, value]]

const isScalar = (value: unknown): boolean =>
  typeof value === "string" || typeof value === "number" || typeof value === "boolean"

/** Checks flattened overrides; the result is the thread's `config` overlay plus the sandbox to ask for. */
export const checkOverrides = (
  entries: ReadonlyArray<readonly [string, unknown]>,
  sandbox: SandboxMode
): Result.Result<
  { readonly config: Readonly<Record<string, unknown>>; readonly sandbox: SandboxMode },
  ConfigKeyRefused
> => {
  const config: Record<string, unknown> = {}
  let strictest = sandbox
  for (const [key, value] of entries) {
    if (!allowedKeys.some((allowed) => allowed.test(key)))
      return Result.fail(new ConfigKeyRefused({ key, why: "not-allowed" }))
    if (!isScalar(value)) return Result.fail(new ConfigKeyRefused({ key, why: "malformed" }))
    if (key === "sandbox_mode") {
      const asked = sandboxModes.indexOf(value as SandboxMode)
      if (asked < 0 || asked > sandboxModes.indexOf(sandbox))
        return Result.fail(new ConfigKeyRefused({ key, why: "not-stricter" }))
      strictest = sandboxModes[Math.min(asked, sandboxModes.indexOf(strictest))]!
    } else config[key] = value
  }
  return Result.succeed({ config, sandbox: strictest })
}

/** The directory itself and everything above it: Codex looks for a trusted project at each. */
const withAncestors = (cwd: string): ReadonlyArray<string> => {
  const parts = cwd.split("/").filter((part) => part !== "")
  return ["/", ...parts.map((_, index) => `/${parts.slice(0, index + 1).join("/")}`)]
}

/**
 * The `config` of thread/start, resume and fork. What governs comes last, so that nothing before it can loosen it.
 *
 * `cwd` is a real path: Codex compares the names. An MCP server that calls its tools read-only would not be asked about,
 * and a hosted search runs at the provider, so both are set for every server and thread.
 */
export const threadConfig = (options: {
  readonly cwd: string
  readonly overrides: Readonly<Record<string, unknown>>
  readonly hooks: Readonly<Record<string, unknown>>
  readonly mcpServers: ReadonlyArray<string>
}): Readonly<Record<string, unknown>> => ({
  ...options.overrides,
  features: governedFeatures,
  hooks: options.hooks,
  web_search: "disabled",
  mcp_servers: Object.fromEntries(
    options.mcpServers.map((name) => [name, { default_tools_approval_mode: "prompt" }])
  ),
  // Neither the repository's hooks, rules and MCP servers nor Codex's habit of trusting every project it starts in.
  projects: Object.fromEntries(
    withAncestors(options.cwd).map((directory) => [directory, { trust_level: "untrusted" }])
  )
})

/** Codex's name for each sandbox in its answers. */
const sandboxTypes: Readonly<Record<SandboxMode, string>> = {
  "read-only": "readOnly",
  "workspace-write": "workspaceWrite",
  "danger-full-access": "dangerFullAccess"
}

/** What a thread was asked to run under. */
export interface ThreadTerms {
  readonly cwd: string
  readonly sandbox: SandboxMode
  readonly model: string | null
  readonly modelProvider: string | null
}

const said = (value: unknown): string => (typeof value === "string" ? value.slice(0, 60) : "unknown")

/**
 * Where a thread's answer differs from what was sent. Codex ignores the terms of a resume when the thread is still loaded,
 * for a caller that vanished say or for another client: then it would run under the terms of that one.
 */
export const threadProblems = (result: ThreadResult, terms: ThreadTerms): ReadonlyArray<string> => {
  const type = result.sandbox?.type
  const checks: ReadonlyArray<readonly [string, unknown, string | null]> = [
    ["approval policy", result.approvalPolicy, approvalPolicy],
    ["approvals reviewer", result.approvalsReviewer, approvalsReviewer],
    ["sandbox", type, sandboxTypes[terms.sandbox]],
    ["directory", result.cwd, terms.cwd],
    ["model", result.model, terms.model],
    ["provider", result.modelProvider, terms.modelProvider]
  ]
  return checks.flatMap(([what, is, wanted]) =>
    wanted === null || is === wanted ? [] : [`its ${what} is ${said(is)}, not ${wanted}`]
  )
}

/** One of our handlers, as it must appear in `hooks/list`. */
export interface ExpectedHook {
  readonly key: string
  readonly hash: string
  readonly command: string
}

/** What is wrong with a thread's hooks; empty when every one of ours is in force exactly as sent. */
export const hookProblems = (
  listing: HookListing,
  expected: ReadonlyArray<ExpectedHook>
): ReadonlyArray<string> => {
  const listed = new Map(
    listing.data.flatMap((entry) =>
      entry.hooks.filter((hook) => hook.source === "sessionFlags").map((hook) => [hook.key, hook] as const)
    )
  )
  return expected.flatMap(({ key, hash, command }) => {
    const hook = listed.get(key)
    if (!hook) return [`${key} is not installed`]
    return [
      ...(hook.enabled ? [] : [`${key} is disabled`]),
      ...(hook.trustStatus === "trusted" ? [] : [`${key} is ${hook.trustStatus}, not trusted`]),
      ...(hook.currentHash === hash && hook.command === command ? [] : [`${key} is not the one we sent`])
    ]
  })
}

/** Splits a line as POSIX sh would into words, without any expansion; null when a quote stays open. */
export const splitWords = (line: string): ReadonlyArray<string> | null => {
  const words: Array<string> = []
  let word: string | null = null
  for (let i = 0; i < line.length; i++) {
    const c = line[i]!
    if (c === "'") {
      const end = line.indexOf("'", i + 1)
      if (end < 0) return null
      word = (word ?? "") + line.slice(i + 1, end)
      i = end
    } else if (c === '"') {
      word ??= ""
      for (i++; line[i] !== '"'; i++) {
        if (i >= line.length) return null
        if (line[i] === "\\" && '"\\$`\n'.includes(line[i + 1] ?? "")) i++
        word += line[i]!
      }
    } else if (c === "\\") {
      if (i + 1 >= line.length) return null
      word = (word ?? "") + line[++i]!
    } else if (/\s/.test(c)) {
      if (word !== null) words.push(word)
      word = null
    } else word = (word ?? "") + c
  }
  if (word !== null) words.push(word)
  return words
}

/** The command inside Codex's `/bin/bash -lc '...'`; the whole line when it has another form. */
export const unwrapShell = (line: string): string => {
  const words = splitWords(line)
  return words?.length === 3 && /^-l?c$/.test(words[1]!) && /(^|\/)(ba|z|da|k|fi)?sh$/.test(words[0]!)
    ? words[2]!
    : line
}

/** A request for network access, wider permissions or typed input is about more than the command a policy would see. */
const isPlainCommand = ({ kind, networkApprovalContext, additionalPermissions }: CommandApproval): boolean =>
  (kind ?? "command") === "command" &&
  (networkApprovalContext ?? null) === null &&
  (additionalPermissions ?? null) === null

export type ApprovalKind = "command" | "file-change" | "mcp"

export interface ApprovalRequest {
  readonly kind: ApprovalKind
  readonly threadId: string
  readonly call: ApprovalCall
}

const decodeCommand = Schema.decodeUnknownOption(CommandApproval)
const decodeFileChange = Schema.decodeUnknownOption(FileChangeApproval)
const decodeElicitation = Schema.decodeUnknownOption(McpElicitation)

/** Items in progress, by id: they tell which call an MCP elicitation means and which files a change touches. */
export type ItemsInProgress = ReadonlyMap<string, ItemEvent>

const sameJson = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)

/**
 * What an approval request of the app-server asks for; null for a request that is none, or none we know: it is refused.
 * Measured on 0.169.0: `itemId` equals the hook's `tool_use_id`, also for code mode's `exec-<uuid>`. An MCP elicitation
 * has no id; it is the item in progress of the same thread, server, tool and arguments, if there is exactly one.
 */
export const approvalOf = (
  method: string,
  params: unknown,
  items: ItemsInProgress,
  rootThreadId: string
): ApprovalRequest | null => {
  const about = (
    kind: ApprovalKind,
    threadId: string,
    call: Omit<ApprovalCall, "agentId" | "sessionId">
  ): ApprovalRequest => ({
    kind,
    threadId,
    call: { ...call, agentId: threadId === rootThreadId ? null : threadId, sessionId: rootThreadId }
  })
  if (method === "item/commandExecution/requestApproval")
    return Option.getOrNull(
      Option.map(
        Option.filter(decodeCommand(params), isPlainCommand),
        ({ threadId, turnId, itemId, command, cwd }) => {
          const line = unwrapShell(command)
          return about("command", threadId, {
            callId: itemId,
            turnId,
            cwd: cwd ?? null,
            call: { tool: "Bash", kind: "shell", command: line, paths: [], input: { command: line } }
          })
        }
      )
    )
  if (method === "item/fileChange/requestApproval")
    return Option.getOrNull(
      Option.map(decodeFileChange(params), ({ threadId, turnId, itemId }) => {
        const paths = items.get(itemId)?.item.changes?.map((change) => change.path) ?? []
        return about("file-change", threadId, {
          callId: itemId,
          turnId,
          cwd: null,
          call: { tool: "apply_patch", kind: "patch", command: null, paths, input: { paths } }
        })
      })
    )
  if (method === "mcpServer/elicitation/request")
    return Option.getOrNull(
      Option.map(decodeElicitation(params), ({ threadId, turnId, serverName, _meta }) => {
        const input = _meta.tool_params ?? {}
        const matches = [...items.values()].filter(
          (entry) =>
            entry.threadId === threadId &&
            entry.item.type === "mcpToolCall" &&
            entry.item.server === serverName &&
            entry.item.tool === _meta.tool_name &&
            sameJson(entry.item.arguments ?? {}, input)
        )
        const tool = `mcp__${serverName}__${_meta.tool_name}`
        return about("mcp", threadId, {
          callId: matches.length === 1 ? matches[0]!.item.id : null,
          turnId,
          cwd: null,
          call: { tool, kind: "mcp", command: null, paths: [], input }
        })
      })
    )
  return null
}

/**
 * The answer to an approval. A rewrite stands only when the hook already applied it; Codex cannot apply one here. Never a
 * form that Codex remembers (`acceptForSession`, an exec policy amendment, `persist`): it would leak to other calls.
 */
export const approvalAnswer = (kind: ApprovalKind, decision: Decision, fromHook: boolean): unknown => {
  const yes = decision.verdict._tag === "allow" || (decision.verdict._tag === "rewrite" && fromHook)
  return kind === "mcp"
    ? { action: yes ? "accept" : "decline", content: yes ? {} : null, _meta: null }
    : { decision: yes ? "accept" : "decline" }
}
