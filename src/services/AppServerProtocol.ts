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

const Envelope = Schema.Struct({
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

const decodeEnvelope = Schema.decodeUnknownOption(Schema.fromJsonString(Envelope))

/** The server's ids are its own; a frame with a method is never an answer, whatever its id. */
export const parseFrame = (line: string): Frame => {
  const decoded = decodeEnvelope(line)
  if (Option.isNone(decoded)) return { _tag: "garbage" }
  const { id, method, params, result, error } = decoded.value
  if (method !== undefined)
    return id === undefined
      ? { _tag: "notification", method, params }
      : { _tag: "request", id, method, params }
  if (id === undefined) return { _tag: "garbage" }
  return error
    ? { _tag: "error", id, code: error.code, message: error.message }
    : { _tag: "response", id, result }
}

/** Splits bytes into lines with a bound; `null` once a line has passed it. */
export const makeLineSplitter = (
  limit: number = maxFrameBytes
): ((chunk: Uint8Array) => ReadonlyArray<string> | null) => {
  let parts: Array<Uint8Array> = []
  let size = 0
  const join = (): string => {
    const whole = new Uint8Array(size)
    let offset = 0
    for (const part of parts) {
      whole.set(part, offset)
      offset += part.length
    }
    parts = []
    size = 0
    return new TextDecoder().decode(whole)
  }
  return (chunk) => {
    const lines: Array<string> = []
    let rest = chunk
    for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10)) {
      parts.push(rest.subarray(0, at))
      size += at
      if (size > limit) return null
      const line = join().trim()
      if (line !== "") lines.push(line)
      rest = rest.subarray(at + 1)
    }
    parts.push(rest)
    size += rest.length
    return size > limit ? null : lines
  }
}

const ThreadOf = Schema.Struct({
  threadId: Schema.optionalKey(Schema.String),
  thread: Schema.optionalKey(Schema.Struct({ id: Schema.String })),
  item: Schema.optionalKey(
    Schema.Struct({ type: Schema.String, agentThreadId: Schema.optionalKey(Schema.NullOr(Schema.String)) })
  )
})
const decodeThreadOf = Schema.decodeUnknownOption(ThreadOf)

/** Which thread a message is about, and the sub-agent thread it introduces, if any. */
export const threadsOf = (
  params: unknown
): { readonly threadId: string | null; readonly child: string | null } => {
  const decoded = decodeThreadOf(params)
  if (Option.isNone(decoded)) return { threadId: null, child: null }
  const { threadId, thread, item } = decoded.value
  return {
    threadId: threadId ?? thread?.id ?? null,
    child: item?.type === "subAgentActivity" ? (item.agentThreadId ?? null) : null
  }
}

/** `account/read`; with no account where one is needed, every turn ends in the provider's refusal. */
export const AccountResult = Schema.Struct({
  account: Schema.NullOr(Schema.Unknown),
  requiresOpenaiAuth: Schema.Boolean
})

export const InitializeResult = Schema.Struct({ userAgent: Schema.String, codexHome: Schema.String })
export const ThreadResult = Schema.Struct({
  thread: Schema.Struct({ id: Schema.String, sessionId: Schema.optionalKey(Schema.NullOr(Schema.String)) }),
  model: Schema.optionalKey(Schema.NullOr(Schema.String))
})
export const TurnResult = Schema.Struct({ turn: Schema.Struct({ id: Schema.String }) })

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
  error: Schema.optionalKey(Schema.NullOr(Schema.Struct({ message: Schema.String })))
})
/** `turn/started` and `turn/completed`, of the root thread or a sub-agent's. */
export const TurnChanged = Schema.Struct({ threadId: Schema.String, turn: Turn })

/** `error`; Codex goes on by itself when `willRetry`. */
export const ErrorNotification = Schema.Struct({
  threadId: Schema.String,
  willRetry: Schema.Boolean,
  error: Schema.Struct({ message: Schema.String })
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
export const ItemEvent = Schema.Struct({
  threadId: Schema.String,
  turnId: Schema.String,
  item: Schema.Struct({
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
})
export type ItemEvent = typeof ItemEvent.Type

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
