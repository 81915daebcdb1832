/**
 * ResponsesStream: one scripted step as the server-sent events of an OpenAI Responses stream, as few as Codex needs.
 */
import type * as Schema from "effect/Schema"
import { type Call, callId, type Step } from "./ScriptedProvider.ts"

/** One server-sent event of a Responses stream. */
export interface ResponseEvent {
  readonly type: string
  readonly [field: string]: Schema.Json
}

/** One `event:` and one `data:` line each; JSON has no line breaks of its own. */
export const encodeEvents = (events: ReadonlyArray<ResponseEvent>): string =>
  events
    .map((event, position) => {
      const data = JSON.stringify({ sequence_number: position, ...event })
      return `event: ${event.type}\ndata: ${data}\n\n`
    })
    .join("")

export interface Envelope {
  /** Unique for as long as any thread remembers: call ids are made of it, and approvals are told apart by those. */
  readonly responseId: string
  readonly model: string
  readonly createdAtSeconds: number
  readonly index: number
}

const callsOf = (step: Step): ReadonlyArray<Call> =>
  "calls" in step ? step.calls : "fn" in step || "custom" in step ? [step] : []

/** Codex shows usage and compacts by it; small constants keep a scripted thread from ever being compacted. */
const usage = {
  input_tokens: 100,
  input_tokens_details: { cached_tokens: 0 },
  output_tokens: 10,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: 110
}

/** The events of a step that streams. Of `hang` and `cut` this is all there is: the response has begun. */
export const eventsOf = (step: Step, envelope: Envelope): ReadonlyArray<ResponseEvent> => {
  const response = {
    id: `resp_${envelope.responseId}`,
    object: "response",
    created_at: envelope.createdAtSeconds,
    model: envelope.model,
    output: []
  }
  const created: ResponseEvent = {
    type: "response.created",
    response: { ...response, status: "in_progress" }
  }
  if ("hang" in step || "cut" in step || "status" in step) return [created]
  const said = "say" in step && step.say !== undefined ? [step.say] : []
  const spoken = said.map((text) => speech(text, envelope.responseId))
  const called = callsOf(step).map((call, position) =>
    invocation(call, callId(envelope.responseId, envelope.index, position), said.length + position)
  )
  const output = [...spoken, ...called]
  return [
    created,
    ...output.flatMap(({ events }) => events),
    {
      type: "response.completed",
      response: { ...response, status: "completed", output: output.map(({ item }) => item), usage }
    }
  ]
}

interface OutputItem {
  readonly item: Schema.JsonObject
  readonly events: ReadonlyArray<ResponseEvent>
}

const speech = (text: string, responseId: string): OutputItem => {
  const message = { type: "message", id: `msg_${responseId}`, role: "assistant" }
  const item = {
    ...message,
    status: "completed",
    content: [{ type: "output_text", text, annotations: [] }]
  }
  return {
    item,
    events: [
      {
        type: "response.output_item.added",
        output_index: 0,
        item: { ...message, status: "in_progress", content: [] }
      },
      ...(text.match(/\s*\S+\s*/g) ?? []).map((delta) => ({
        type: "response.output_text.delta",
        output_index: 0,
        item_id: message.id,
        content_index: 0,
        delta
      })),
      { type: "response.output_item.done", output_index: 0, item }
    ]
  }
}

const invocation = (call: Call, id: string, position: number): OutputItem => {
  const [begun, item]: readonly [Schema.JsonObject, Schema.JsonObject] =
    "custom" in call
      ? both(
          { type: "custom_tool_call", id: `ctc_${id}`, call_id: id, name: call.custom },
          "input",
          call.input
        )
      : both(
          {
            type: "function_call",
            id: `fc_${id}`,
            call_id: id,
            name: call.fn,
            ...(call.namespace === undefined ? {} : { namespace: call.namespace })
          },
          "arguments",
          JSON.stringify(call.args)
        )
  return {
    item,
    events: [
      { type: "response.output_item.added", output_index: position, item: begun },
      { type: "response.output_item.done", output_index: position, item }
    ]
  }
}

const both = (head: Schema.JsonObject, field: string, value: string) =>
  [
    { ...head, [field]: "", status: "in_progress" },
    { ...head, [field]: value, status: "completed" }
  ] as const

/** The body of a refusal: what the script gave, or an error in OpenAI's shape. */
export const errorBody = (status: number, body?: Schema.Json): Schema.Json =>
  body ?? { error: { message: `The script answers with status ${status}.`, type: "scripted", code: null } }
