/**
 * AppServerProtocol: the lines that Codex's app-server and we exchange: newline-delimited JSON-RPC without its `jsonrpc`
 * field. Only what is used has a schema; unknown fields are ignored on purpose, because Codex adds some in every release.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** A line longer than this is not framing any more. A patch or a command's whole output fits many times. */
export const maxFrameBytes = 16 * 1024 * 1024

const RpcId = Schema.Union([Schema.Finite, Schema.String])
export type RpcId = typeof RpcId.Type

/** What `parseFrame` holds a line to, by hand, because it sees every line: a decoder takes four times as long. */
export const Envelope = Schema.Struct({
  id: Schema.optionalKey(RpcId),
  method: Schema.optionalKey(Schema.String),
  params: Schema.optionalKey(Schema.Unknown),
  result: Schema.optionalKey(Schema.Unknown),
  error: Schema.optionalKey(Schema.Struct({ code: Schema.Finite, message: Schema.String }))
})

export type Frame =
  | { readonly _tag: "response"; readonly id: RpcId; readonly result: unknown }
  | { readonly _tag: "error"; readonly id: RpcId; readonly code: number; readonly message: string }
  | { readonly _tag: "notification"; readonly method: string; readonly params: unknown }
  | { readonly _tag: "request"; readonly id: RpcId; readonly method: string; readonly params: unknown }
  | { readonly _tag: "garbage" }

type Fields = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value)
const isId = (value: unknown): value is RpcId => typeof value === "string" || Number.isFinite(value)

const garbage: Frame = { _tag: "garbage" }

/** The server's ids are its own; a frame with a method is never an answer, whatever its id. */
export const parseFrame = (line: string): Frame => {
  let frame: unknown
  try {
    frame = JSON.parse(line)
  } catch {
    return garbage
  }
  if (!isObject(frame)) return garbage
  const { id, method, params, result, error } = frame
  if (id !== undefined && !isId(id)) return garbage
  let refused: { readonly code: number; readonly message: string } | null = null
  if (error !== undefined) {
    if (!isObject(error)) return garbage
    const { code, message } = error
    if (typeof code !== "number" || !Number.isFinite(code) || typeof message !== "string") return garbage
    refused = { code, message }
  }
  if (method !== undefined) {
    if (typeof method !== "string") return garbage
    return id === undefined
      ? { _tag: "notification", method, params }
      : { _tag: "request", id, method, params }
  }
  if (id === undefined) return garbage
  return refused
    ? { _tag: "error", id, code: refused.code, message: refused.message }
    : { _tag: "response", id, result }
}

const opening = '{"method":"'
const threadFirst = '","params":{"threadId":"'

/**
 * Whether a line, unparsed, is surely a notification about one thread of nobody's, and so may be dropped. It is when its
 * thread comes first, as Codex writes it, and the word `id` is nowhere in it as a key: so it is no request, which somebody
 * waits for. One that may introduce a sub-agent is not dropped either.
 */
export const mayDrop = (line: string, hasOwner: (threadId: string) => boolean): boolean => {
  if (!line.startsWith(opening)) return false
  const end = line.indexOf('"', opening.length)
  if (!line.startsWith(threadFirst, end)) return false
  const from = end + threadFirst.length
  const to = line.indexOf('"', from)
  const threadId = line.slice(from, to)
  return (
    to > 0 &&
    !hasOwner(threadId) &&
    !threadId.includes("\\") &&
    line.endsWith("}") &&
    !line.includes('"id"', to) &&
    !line.includes('"agentThreadId"', to) &&
    // The letters of `id`, escaped.
    !line.includes("\\u0069", to) &&
    !line.includes("\\u0064", to)
  )
}

const newline = 10

/** Splits bytes into lines with a bound; `null` once a line has passed it. */
export const makeLineSplitter = (
  limit: number = maxFrameBytes
): ((chunk: Uint8Array) => ReadonlyArray<string> | null) => {
  const decoder = new TextDecoder()
  /** The bytes of the line that has not ended yet. */
  let parts: Array<Uint8Array> = []
  let size = 0
  const isTooLong = (chunk: Uint8Array): boolean => {
    let start = -size
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, start)) {
      if (at - start > limit) return true
      start = at + 1
    }
    return chunk.length - start > limit
  }
  return (chunk) => {
    if (size + chunk.length > limit && isTooLong(chunk)) return null
    const end = chunk.lastIndexOf(newline)
    if (end < 0) {
      parts.push(chunk)
      size += chunk.length
      return []
    }
    let whole = chunk.subarray(0, end)
    if (size > 0) {
      whole = new Uint8Array(size + end)
      let offset = 0
      for (const part of parts) {
        whole.set(part, offset)
        offset += part.length
      }
      whole.set(chunk.subarray(0, end), offset)
    }
    // A line break is never inside a character, so whole lines decode like each alone.
    const lines: Array<string> = []
    for (const text of decoder.decode(whole).split("\n")) {
      const line = text.startsWith("{") && text.endsWith("}") ? text : text.trim()
      if (line !== "") lines.push(line)
    }
    const rest = chunk.subarray(end + 1)
    parts = rest.length > 0 ? [rest] : []
    size = rest.length
    return lines
  }
}

/** What `threadsOf` reads of any message's parameters, by hand for the same reason. */
export const ThreadOf = Schema.Struct({
  threadId: Schema.optionalKey(Schema.String),
  thread: Schema.optionalKey(Schema.Struct({ id: Schema.String })),
  item: Schema.optionalKey(
    Schema.Struct({ type: Schema.String, agentThreadId: Schema.optionalKey(Schema.NullOr(Schema.String)) })
  )
})

interface Threads {
  readonly threadId: string | null
  readonly child: string | null
}
const noThreads: Threads = { threadId: null, child: null }

/** Which thread a message is about, and the sub-agent thread it introduces, if any. */
export const threadsOf = (params: unknown): Threads => {
  if (!isObject(params)) return noThreads
  const { threadId, thread, item } = params
  if (threadId !== undefined && typeof threadId !== "string") return noThreads
  let id = threadId
  if (thread !== undefined) {
    if (!isObject(thread) || typeof thread["id"] !== "string") return noThreads
    id ??= thread["id"]
  }
  let child: string | null = null
  if (item !== undefined) {
    if (!isObject(item) || typeof item["type"] !== "string") return noThreads
    const { type, agentThreadId = null } = item
    if (agentThreadId !== null && typeof agentThreadId !== "string") return noThreads
    if (type === "subAgentActivity") child = agentThreadId
  }
  return { threadId: id ?? null, child }
}

/** `account/read`; with no account where one is needed, every turn ends in the provider's refusal. */
export const AccountResult = Schema.Struct({
  account: Schema.NullOr(Schema.Unknown),
  requiresOpenaiAuth: Schema.Boolean
})

export const InitializeResult = Schema.Struct({ userAgent: Schema.String, codexHome: Schema.String })
/** The thread, and under what it really runs: a resume of one that is loaded already ignores what was asked for. */
export const ThreadResult = Schema.Struct({
  thread: Schema.Struct({ id: Schema.String, sessionId: Schema.optionalKey(Schema.NullOr(Schema.String)) }),
  model: Schema.optionalKey(Schema.NullOr(Schema.String)),
  modelProvider: Schema.optionalKey(Schema.NullOr(Schema.String)),
  cwd: Schema.optionalKey(Schema.NullOr(Schema.String)),
  approvalPolicy: Schema.optionalKey(Schema.Unknown),
  approvalsReviewer: Schema.optionalKey(Schema.Unknown),
  sandbox: Schema.optionalKey(Schema.NullOr(Schema.Struct({ type: Schema.String })))
})
export type ThreadResult = typeof ThreadResult.Type
export const TurnResult = Schema.Struct({ turn: Schema.Struct({ id: Schema.String }) })

const decodeOpened = Schema.decodeUnknownOption(ThreadResult)
const decodeTurnStarted = Schema.decodeUnknownOption(TurnResult)
const decodeThreadIn = Schema.decodeUnknownOption(Schema.Struct({ threadId: Schema.String }))

/** Requests that leave something behind in the server when nobody waits for their answer any more. */
export const leavesSomething = (method: string): boolean => method === "turn/start" || opensThread(method)

export const opensThread = (method: string): boolean => /^thread\/(start|resume|fork)$/.test(method)

/** What takes back such a request once its late answer has come; null when there is nothing to take back. */
export const undoing = (
  method: string,
  params: unknown,
  result: unknown
): { readonly method: string; readonly params: unknown } | null =>
  opensThread(method)
    ? Option.getOrNull(
        Option.map(decodeOpened(result), ({ thread }) => ({
          method: "thread/unsubscribe",
          params: { threadId: thread.id }
        }))
      )
    : Option.getOrNull(
        Option.map(
          Option.all([decodeThreadIn(params), decodeTurnStarted(result)]),
          ([{ threadId }, { turn }]) => ({ method: "turn/interrupt", params: { threadId, turnId: turn.id } })
        )
      )

export const HookListing = Schema.Struct({
  data: Schema.Array(
    Schema.Struct({
      hooks: Schema.Array(
        Schema.Struct({
          key: Schema.String,
          eventName: Schema.String,
          command: Schema.optionalKey(Schema.NullOr(Schema.String)),
          source: Schema.String,
          enabled: Schema.Boolean,
          currentHash: Schema.String,
          trustStatus: Schema.String
        })
      )
    })
  )
})
export type HookListing = typeof HookListing.Type

const Turn = Schema.Struct({
  id: Schema.String,
  status: Schema.String,
  error: Schema.optionalKey(
    Schema.NullOr(
      Schema.Struct({ message: Schema.String, codexErrorInfo: Schema.optionalKey(Schema.Unknown) })
    )
  )
})
/** `turn/started` and `turn/completed`, of the root thread or a sub-agent's. */
export const TurnChanged = Schema.Struct({ threadId: Schema.String, turn: Turn })

/** `error`; Codex goes on by itself when `willRetry`. */
export const ErrorNotification = Schema.Struct({
  threadId: Schema.String,
  willRetry: Schema.Boolean,
  error: Schema.Struct({
    message: Schema.String,
    codexErrorInfo: Schema.optionalKey(Schema.Unknown),
    additionalDetails: Schema.optionalKey(Schema.NullOr(Schema.String))
  })
})

export const HookCompleted = Schema.Struct({
  threadId: Schema.String,
  turnId: Schema.NullOr(Schema.String),
  run: Schema.Struct({
    id: Schema.String,
    eventName: Schema.String,
    source: Schema.String,
    status: Schema.String,
    durationMs: Schema.optionalKey(Schema.NullOr(Schema.Finite)),
    entries: Schema.optionalKey(Schema.Array(Schema.Struct({ kind: Schema.String, text: Schema.String })))
  })
})

const FileChange = Schema.Struct({ path: Schema.String })
const Item = Schema.Struct({
  type: Schema.String,
  id: Schema.String,
  text: Schema.optionalKey(Schema.String),
  command: Schema.optionalKey(Schema.String),
  cwd: Schema.optionalKey(Schema.NullOr(Schema.String)),
  status: Schema.optionalKey(Schema.String),
  exitCode: Schema.optionalKey(Schema.NullOr(Schema.Finite)),
  aggregatedOutput: Schema.optionalKey(Schema.NullOr(Schema.String)),
  changes: Schema.optionalKey(Schema.Array(FileChange)),
  server: Schema.optionalKey(Schema.String),
  tool: Schema.optionalKey(Schema.String),
  arguments: Schema.optionalKey(Schema.Unknown)
})
export const ItemEvent = Schema.Struct({ threadId: Schema.String, turnId: Schema.String, item: Item })
export type ItemEvent = typeof ItemEvent.Type

/** `thread/read` with `includeTurns`: every turn of a thread, and of each the items that have begun. */
export const ThreadHistory = Schema.Struct({
  thread: Schema.Struct({
    turns: Schema.Array(
      Schema.Struct({
        ...Turn.fields,
        /** Seconds since the epoch. */
        startedAt: Schema.optionalKey(Schema.NullOr(Schema.Finite)),
        items: Schema.Array(
          Schema.Struct({
            ...Item.fields,
            /** Null while it is in progress. */
            completedAtMs: Schema.optionalKey(Schema.NullOr(Schema.Finite))
          })
        )
      })
    )
  })
})
export type ThreadHistory = typeof ThreadHistory.Type

/** Without a command there is nothing a policy could judge, and the request is refused. */
export const CommandApproval = Schema.Struct({
  threadId: Schema.String,
  turnId: Schema.String,
  itemId: Schema.String,
  command: Schema.String,
  cwd: Schema.optionalKey(Schema.NullOr(Schema.String)),
  kind: Schema.optionalKey(Schema.NullOr(Schema.String)),
  networkApprovalContext: Schema.optionalKey(Schema.Unknown),
  additionalPermissions: Schema.optionalKey(Schema.Unknown)
})
export type CommandApproval = typeof CommandApproval.Type

export const FileChangeApproval = Schema.Struct({
  threadId: Schema.String,
  turnId: Schema.String,
  itemId: Schema.String
})
export const McpElicitation = Schema.Struct({
  threadId: Schema.String,
  turnId: Schema.NullOr(Schema.String),
  serverName: Schema.String,
  _meta: Schema.Struct({
    codex_approval_kind: Schema.Literal("mcp_tool_call"),
    tool_name: Schema.String,
    tool_params: Schema.optionalKey(Schema.Unknown)
  })
})
