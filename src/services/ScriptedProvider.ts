/**
 * ScriptedProvider: a model provider that says what a script tells it to, for demonstrations and tests without a key.
 *
 * It speaks as much of the OpenAI Responses stream as Codex reads. Nothing is remembered between requests: a request
 * carries the whole conversation, and the newest message that names a script, with the answers given since, decides the step.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"

/** An hour outlasts every deadline a script could want to miss. */
export const maxDelayMs = 3_600_000
/** A script is written by a person. */
export const maxSteps = 200
export const maxCallsPerStep = 32

const Timing = {
  /** Waited before the first byte of the answer. */
  delayMs: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: maxDelayMs })))
}

/** A tool with JSON arguments; `namespace` is `collaboration` for sub-agents, absent for most. */
const FunctionCall = Schema.Struct({
  fn: Schema.NonEmptyString,
  args: Schema.Record(Schema.String, Schema.Json),
  namespace: Schema.optionalKey(Schema.NonEmptyString)
})
/** A freeform tool: `apply_patch`, and `exec` of the models that only write code. */
const CustomCall = Schema.Struct({ custom: Schema.NonEmptyString, input: Schema.String })
export const Call = Schema.Union([FunctionCall, CustomCall])
export type Call = typeof Call.Type

export const Step = Schema.Union([
  /** Words, which end the turn. */
  Schema.Struct({ say: Schema.String, ...Timing }),
  /** Tool calls of one answer, with words before them if there are any. */
  Schema.Struct({
    say: Schema.optionalKey(Schema.String),
    calls: Schema.NonEmptyArray(Call).check(Schema.isMaxLength(maxCallsPerStep)),
    ...Timing
  }),
  /** One call needs no list. */
  Schema.Struct({ ...FunctionCall.fields, ...Timing }),
  Schema.Struct({ ...CustomCall.fields, ...Timing }),
  /** A refusal of the request; `body` is an OpenAI error unless given. */
  Schema.Struct({
    status: Schema.Int.check(Schema.isBetween({ minimum: 400, maximum: 599 })),
    body: Schema.optionalKey(Schema.Json),
    ...Timing
  }),
  /** The stream opens and never goes on. */
  Schema.Struct({ hang: Schema.Literal(true), ...Timing }),
  /** The stream opens and the connection breaks. */
  Schema.Struct({ cut: Schema.Literal(true), ...Timing })
])
export type Step = typeof Step.Type

export const Script = Schema.NonEmptyArray(Step).check(Schema.isMaxLength(maxSteps))
export type Script = ReadonlyArray<Step>

const readInlineScript = Schema.decodeUnknownResult(Schema.fromJsonString(Script), {
  onExcessProperty: "error"
})

/** What is read of a request. The rest, and whatever a later Codex adds, is not looked at. */
export const ResponsesRequest = Schema.Struct({
  model: Schema.optionalKey(Schema.String),
  input: Schema.Array(Schema.Record(Schema.String, Schema.Unknown))
})
export type ResponsesRequest = typeof ResponsesRequest.Type
type Item = ResponsesRequest["input"][number]

/** `content` and `output` of an item are a string, or parts with `text` (a sub-agent's task is in `encrypted_content`). */
const textOf = (value: unknown): string => {
  if (typeof value === "string") return value
  if (!Array.isArray(value)) return ""
  return value
    .map((part: unknown) => {
      if (typeof part !== "object" || part === null) return ""
      const { text, encrypted_content } = part as { text?: unknown; encrypted_content?: unknown }
      return typeof text === "string" ? text : typeof encrypted_content === "string" ? encrypted_content : ""
    })
    .join("\n")
}

const isOutput = (item: Item): boolean =>
  typeof item["type"] === "string" && item["type"].endsWith("_call_output")

/** A message a script can be named in, from a person or from the agent that gave this one its task. */
const asksSomething = (item: Item): boolean =>
  item["role"] === "user" ? item["type"] === undefined || item["type"] === "message" : isTask(item)

/** A child sees its parent's history before its own task; its parent sees the child's answer, which asks for nothing. */
const isTask = (item: Item): boolean =>
  item["type"] === "agent_message" && !textOf(item["content"]).startsWith("Message Type: FINAL_ANSWER")

export interface Chosen {
  readonly step: Step
  /** The registered name, `inline`, or null when nothing was named. */
  readonly script: string | null
  readonly index: number
}

export const nothingScripted: Step = { say: "No script matches this message." }
export const scriptEnded: Step = { say: "The script has ended." }
const unusable = (problem: string): Script => [
  { status: 400, body: { error: { message: problem, type: "invalid_request_error", code: "bad_script" } } }
]

/** `@@RUN:name@@`, then `@@SCRIPT[...]@@`, then the longest registered name that the text contains. */
const scriptIn = (
  text: string,
  scripts: ReadonlyMap<string, Script>
): Option.Option<readonly [name: string, script: Script]> => {
  const named = /@@RUN:([\w.-]+)@@/.exec(text)?.[1]
  if (named !== undefined) {
    return Option.some([named, scripts.get(named) ?? unusable(`No script is registered as "${named}".`)])
  }
  const inline = /@@SCRIPT(\[[\s\S]*?\])@@/.exec(text)?.[1]
  if (inline !== undefined) {
    const script = readInlineScript(inline)
    return Option.some([
      "inline",
      Result.isSuccess(script)
        ? script.success
        : unusable(`The script in the message cannot be read: ${script.failure.message}`)
    ])
  }
  let longest: readonly [string, Script] | undefined
  for (const entry of scripts) {
    if (text.includes(entry[0]) && entry[0].length > (longest?.[0].length ?? 0)) longest = entry
  }
  return Option.fromUndefinedOr(longest)
}

/** The step a call belongs to is written in its id, so answers that come back in any order still count once. */
export const callId = (responseId: string, index: number, position: number): string =>
  `call_${responseId}_${index}_${position}`
const stepOf = (callId: unknown): number => {
  const index = typeof callId === "string" ? /^call_.+_(\d+)_\d+$/.exec(callId)?.[1] : undefined
  return index === undefined ? -1 : Number(index)
}

export const choose = (request: ResponsesRequest, scripts: ReadonlyMap<string, Script>): Chosen => {
  const { input } = request
  for (let at = input.length - 1; at >= 0; at--) {
    const item = input[at]!
    if (!asksSomething(item)) continue
    const found = scriptIn(textOf(item["content"]), scripts)
    if (Option.isNone(found)) {
      // A task without a script must not fall back to its parent's, whose next step may be to spawn this very child.
      if (isTask(item)) break
      continue
    }
    const [script, steps] = found.value
    const answered = input.slice(at + 1).filter(isOutput)
    const index = 1 + answered.reduce((last, output) => Math.max(last, stepOf(output["call_id"])), -1)
    return { step: steps[index] ?? scriptEnded, script, index }
  }
  return { step: nothingScripted, script: null, index: 0 }
}

/** Requests kept for whoever asks later; a demonstration makes some dozens. */
export const maxSnapshots = 128
/** Of each text in a snapshot. With `maxSnapshotOutputs` it bounds a snapshot to 72 kB at worst. */
export const maxSnapshotText = 4_096
export const maxSnapshotOutputs = 8

/** What one request for an answer was and what it got. */
export interface ProviderRequest {
  readonly seq: number
  /** The `thread-id` header: a sub-agent has its own. */
  readonly threadId: string | null
  readonly model: string | null
  readonly items: number
  /** The newest message of a person or of the agent that gave the task. */
  readonly prompt: string
  /** What the tools answered last, oldest first: how a test sees what the model was told about a denied call. */
  readonly outputs: ReadonlyArray<{ readonly callId: string; readonly text: string }>
  readonly script: string | null
  readonly index: number
  readonly step: Step
}

const cut = (text: string): string => text.slice(0, maxSnapshotText)

export const snapshot = (
  seq: number,
  threadId: string | null,
  request: ResponsesRequest,
  chosen: Chosen
): ProviderRequest => {
  const asked = request.input.findLast(asksSomething)
  const since = request.input.slice(request.input.findLastIndex((item) => asksSomething(item)) + 1)
  return {
    seq,
    threadId,
    model: request.model ?? null,
    items: request.input.length,
    prompt: cut(textOf(asked?.["content"])),
    outputs: since
      .filter(isOutput)
      .slice(-maxSnapshotOutputs)
      .map((item) => ({
        callId: typeof item["call_id"] === "string" ? cut(item["call_id"]) : "",
        text: cut(textOf(item["output"]))
      })),
    ...chosen
  }
}

/** Codex's thread configuration for this provider: no key, no retries of its own, no websocket. */
export const codexConfig = (url: string) =>
  ({
    model_provider: "scripted",
    model_providers: {
      scripted: {
        name: "Scripted",
        base_url: url,
        wire_api: "responses",
        request_max_retries: 0,
        stream_max_retries: 0,
        supports_websockets: false
      }
    }
  }) as const

export class ScriptedProviderUnavailable extends Schema.TaggedError<ScriptedProviderUnavailable>()(
  "ScriptedProviderUnavailable",
  { cause: Schema.Defect() }
) {
  override get message(): string {
    return "The scripted provider cannot listen on 127.0.0.1. Check that this machine has a loopback interface and free ports."
  }
}

/** Registered scripts; the one registered longest ago gives way. */
export const maxScripts = 256

export class ScriptedProvider extends Context.Service<
  ScriptedProvider,
  {
    /** `http://127.0.0.1:<port>/v1`; it answers nobody who comes by another name. */
    readonly url: string
    /** Answers every message that contains `name`, and `@@RUN:name@@`, with these steps. An empty name answers nothing. */
    readonly script: (name: string, steps: Script) => Effect.Effect<void>
    /** The requests so far, oldest first, the last `maxSnapshots` of them. */
    readonly log: Effect.Effect<ReadonlyArray<ProviderRequest>>
    /** The same, and then each one as it arrives. A reader that falls behind loses the oldest. */
    readonly requests: Stream.Stream<ProviderRequest>
  }
>()("holdfast/ScriptedProvider") {}

/** The same as `-c` overrides; a JSON string is a TOML string. */
export const overridesFor = (url: string): ReadonlyArray<string> => {
  const { model_provider, model_providers } = codexConfig(url)
  return [
    `model_provider=${JSON.stringify(model_provider)}`,
    ...Object.entries(model_providers.scripted).map(
      ([key, value]) => `model_providers.${model_provider}.${key}=${JSON.stringify(value)}`
    )
  ]
}
