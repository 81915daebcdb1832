import { assert, describe, it } from "@effect/vitest"
import { encodeEvents, type Envelope, errorBody, eventsOf } from "../src/services/ResponsesStream.ts"
import {
  choose,
  type Chosen,
  maxSnapshotOutputs,
  maxSnapshotText,
  nothingScripted,
  type ResponsesRequest,
  type Script,
  scriptEnded,
  snapshot,
  type Step
} from "../src/services/ScriptedProvider.ts"

type Item = ResponsesRequest["input"][number]

const user = (text: string): Item => ({
  type: "message",
  role: "user",
  content: [{ type: "input_text", text }]
})
const task = (text: string): Item => ({
  type: "agent_message",
  author: "/root",
  recipient: "/root/kid",
  content: [
    { type: "input_text", text: "Message Type: NEW_TASK\nSender: /root\nPayload:\n" },
    { type: "encrypted_content", encrypted_content: text }
  ]
})
const finalAnswer = (text: string): Item => ({
  type: "agent_message",
  author: "/root/kid",
  content: [{ type: "input_text", text: `Message Type: FINAL_ANSWER\nPayload:\n${text}` }]
})
const call = (step: number, position = 0): Item => ({
  type: "function_call",
  call_id: `call_r1_${step}_${position}`
})
const output = (step: number, position = 0, text = "ok"): Item => ({
  type: "function_call_output",
  call_id: `call_r1_${step}_${position}`,
  output: text
})

const touch = (name: string): Step => ({ fn: "exec_command", args: { cmd: `touch ${name}` } })
const scripts: ReadonlyMap<string, Script> = new Map<string, Script>([
  ["clean up", [touch("short"), { say: "short" }]],
  ["clean up the build directory", [touch("a"), touch("b"), { say: "Done." }]],
  ["child", [touch("child"), { say: "child done" }]]
])
const chosen = (...input: ReadonlyArray<Item>): Chosen => choose({ input }, scripts)

const envelope: Envelope = { responseId: "r7", model: "gpt-5.5", createdAtSeconds: 12, index: 3 }

describe("ScriptedProvider", () => {
  it("a person's sentence names the script with the longest name it contains", () => {
    assert.deepStrictEqual(chosen(user("Please clean up the build directory, then stop.")), {
      step: touch("a"),
      script: "clean up the build directory",
      index: 0
    })
    assert.deepStrictEqual(chosen(user("Please clean up.")), {
      step: touch("short"),
      script: "clean up",
      index: 0
    })
  })

  it("the newest message that names a script decides, and later words without one change nothing", () => {
    assert.deepStrictEqual(
      chosen(user("clean up"), call(0), output(0), user("@@RUN:child@@"), user("and hurry")),
      {
        step: touch("child"),
        script: "child",
        index: 0
      }
    )
  })

  it("each answered step leads to the next, and a script that is through says so", () => {
    const asked = user("clean up the build directory")
    const indexes = [
      chosen(asked, call(0), output(0)),
      chosen(asked, call(0), output(0), call(1), output(1)),
      chosen(asked, call(0), output(0), call(1), output(1), call(2), output(2))
    ]
    assert.deepStrictEqual(indexes, [
      { step: touch("b"), script: "clean up the build directory", index: 1 },
      { step: { say: "Done." }, script: "clean up the build directory", index: 2 },
      { step: scriptEnded, script: "clean up the build directory", index: 3 }
    ])
  })

  it("several calls of one step count once, in whatever order they are answered", () => {
    const asked = user("clean up the build directory")
    for (const answers of [
      [call(0, 0), call(0, 1), output(0, 1), output(0, 0)],
      [call(0, 0), output(0, 0), user("and hurry"), call(0, 1), output(0, 1)]
    ]) {
      assert.strictEqual(chosen(asked, ...answers).index, 1)
    }
  })

  it("a sub-agent follows its own task, not the history of its parent that it also sees", () => {
    const parent = [user("clean up"), call(0), output(0)]
    assert.deepStrictEqual(chosen(...parent, task("please @@RUN:child@@")), {
      step: touch("child"),
      script: "child",
      index: 0
    })
    assert.deepStrictEqual(chosen(...parent, task("do as you like")), {
      step: nothingScripted,
      script: null,
      index: 0
    })
  })

  it("a sub-agent's final answer does not restart its parent's script", () => {
    assert.deepStrictEqual(chosen(user("clean up"), call(0), output(0), finalAnswer("clean up: done")), {
      step: { say: "short" },
      script: "clean up",
      index: 1
    })
  })

  it("a script travels in the message itself", () => {
    const first: Step = {
      say: "first",
      calls: [{ custom: "apply_patch", input: "*** Begin Patch" }],
      delayMs: 5
    }
    const steps: Script = [first, { status: 429 }]
    assert.deepStrictEqual(chosen(user(`go @@SCRIPT${JSON.stringify(steps)}@@ now`)), {
      step: first,
      script: "inline",
      index: 0
    })
  })

  it("a script nobody registered and one that cannot be read are refusals that say which", () => {
    const messages = [
      "@@RUN:nosuch@@",
      '@@SCRIPT[{"say":1}]@@',
      '@@SCRIPT[{"say":"x","cals":[]}]@@',
      "@@SCRIPT[]@@",
      "@@SCRIPT[oops]@@"
    ].map((text) => {
      const { step } = chosen(user(text))
      return "status" in step ? [step.status, JSON.stringify(step.body).includes("bad_script")] : step
    })
    assert.deepStrictEqual(
      messages,
      Array.from({ length: 5 }, () => [400, true])
    )
  })

  it("a conversation without a script is told so", () => {
    assert.deepStrictEqual(chosen(user("hello")), { step: nothingScripted, script: null, index: 0 })
    assert.deepStrictEqual(chosen(), { step: nothingScripted, script: null, index: 0 })
  })

  it("items of an unknown shape are passed over", () => {
    const strange: ReadonlyArray<Item> = [
      { type: "reasoning", content: null },
      { role: "user", content: [null, 1, { text: 2 }] },
      { type: "function_call_output", call_id: 7 },
      { type: 3 }
    ]
    assert.strictEqual(chosen(user("clean up"), ...strange).script, "clean up")
  })

  it("words stream as deltas that add up to the message", () => {
    const events = eventsOf({ say: "  All  well.\nBye " }, envelope)
    assert.deepStrictEqual(
      events.map(({ type }) => type),
      [
        "response.created",
        "response.output_item.added",
        ...Array.from({ length: 3 }, () => "response.output_text.delta"),
        "response.output_item.done",
        "response.completed"
      ]
    )
    assert.strictEqual(events.map((event) => event["delta"] ?? "").join(""), "  All  well.\nBye ")
  })

  it("calls come in order behind the words, with ids that carry their step", () => {
    const items = eventsOf(
      {
        say: "Working.",
        calls: [
          { fn: "spawn_agent", namespace: "collaboration", args: { message: "m" } },
          { custom: "exec", input: "text(1)" }
        ]
      },
      envelope
    ).flatMap((event) =>
      event.type === "response.output_item.done" ? [[event["output_index"], event["item"]]] : []
    )
    assert.deepStrictEqual(items, [
      [
        0,
        {
          type: "message",
          id: "msg_r7",
          role: "assistant",
          status: "completed",
          content: [{ type: "output_text", text: "Working.", annotations: [] }]
        }
      ],
      [
        1,
        {
          type: "function_call",
          id: "fc_call_r7_3_0",
          call_id: "call_r7_3_0",
          name: "spawn_agent",
          namespace: "collaboration",
          arguments: '{"message":"m"}',
          status: "completed"
        }
      ],
      [
        2,
        {
          type: "custom_tool_call",
          id: "ctc_call_r7_3_1",
          call_id: "call_r7_3_1",
          name: "exec",
          input: "text(1)",
          status: "completed"
        }
      ]
    ])
  })

  it("a hanging and a cut answer have only begun", () => {
    const types = [{ hang: true } as const, { cut: true } as const].map((step) =>
      eventsOf(step, envelope).map(({ type }) => type)
    )
    assert.deepStrictEqual(types, [["response.created"], ["response.created"]])
  })

  it("an event is two lines and a blank one, numbered", () => {
    assert.strictEqual(
      encodeEvents([{ type: "a", text: "x\ny" }, { type: "b" }]),
      'event: a\ndata: {"sequence_number":0,"type":"a","text":"x\\ny"}\n\n' +
        'event: b\ndata: {"sequence_number":1,"type":"b"}\n\n'
    )
  })

  it("a refusal has the body it was given, or an error in OpenAI's shape", () => {
    assert.deepStrictEqual(errorBody(401, { error: 1 }), { error: 1 })
    assert.deepStrictEqual(errorBody(503), {
      error: { message: "The script answers with status 503.", type: "scripted", code: null }
    })
  })

  it("a snapshot shows what the model was told, cut to its bounds", () => {
    const request: ResponsesRequest = {
      model: "gpt-5.5",
      input: [
        user("clean up"),
        output(0, 9, "an older turn"),
        user("clean up again"),
        ...Array.from({ length: maxSnapshotOutputs + 1 }, (_, at) =>
          output(0, at, `${at}`.repeat(maxSnapshotText + 1))
        )
      ]
    }
    assert.deepStrictEqual(snapshot(4, "t1", request, choose(request, scripts)), {
      seq: 4,
      threadId: "t1",
      model: "gpt-5.5",
      items: 12,
      prompt: "clean up again",
      outputs: Array.from({ length: maxSnapshotOutputs }, (_, at) => ({
        callId: `call_r1_0_${at + 1}`,
        text: `${at + 1}`.repeat(maxSnapshotText)
      })),
      script: "clean up",
      index: 1,
      step: { say: "short" }
    })
  })
})
