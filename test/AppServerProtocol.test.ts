import { assert, describe, it } from "@effect/vitest"
import { makeLineSplitter, parseFrame, threadsOf } from "../src/services/AppServerProtocol.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

describe("AppServerProtocol", () => {
  it("lines come out whole however the bytes are cut, multi-byte characters too", () => {
    const text = '{"a":"ü€😀"}\n\n{"b":1}\r\n{"c"'
    const whole = makeLineSplitter()(bytes(text))
    assert.deepStrictEqual(whole, ['{"a":"ü€😀"}', '{"b":1}'])
    const split = makeLineSplitter()
    const lines = [...bytes(`${text}:2}\n`)].flatMap((byte) => split(Uint8Array.of(byte)) ?? ["too long"])
    assert.deepStrictEqual(lines, [...whole!, '{"c":2}'])
  })

  it("a line over the limit is told, ended or not", () => {
    assert.deepStrictEqual(makeLineSplitter(4)(bytes("1234\n")), ["1234"])
    assert.isNull(makeLineSplitter(4)(bytes("12345\n")))
    assert.isNull(makeLineSplitter(4)(bytes("12345")))
    const split = makeLineSplitter(4)
    assert.deepStrictEqual(split(bytes("123")), [])
    assert.isNull(split(bytes("45")))
  })

  it("a frame with a method is never an answer, although the server counts its ids like us", () => {
    assert.deepStrictEqual(
      [
        parseFrame('{"id":0,"method":"ask","params":{"x":1}}'),
        parseFrame('{"method":"tell","params":{},"emittedAtMs":1}'),
        parseFrame('{"id":0,"result":{"y":1}}'),
        parseFrame('{"id":"s","error":{"code":-32600,"message":"no","data":{}}}'),
        parseFrame('{"result":{}}'),
        parseFrame("not json"),
        parseFrame("[]"),
        parseFrame('{"id":{},"result":1}')
      ],
      [
        { _tag: "request", id: 0, method: "ask", params: { x: 1 } },
        { _tag: "notification", method: "tell", params: {} },
        { _tag: "response", id: 0, result: { y: 1 } },
        { _tag: "error", id: "s", code: -32600, message: "no" },
        { _tag: "garbage" },
        { _tag: "garbage" },
        { _tag: "garbage" },
        { _tag: "garbage" }
      ]
    )
  })

  it("a message tells its thread, and the sub-agent thread it introduces", () => {
    assert.deepStrictEqual(
      [
        threadsOf({ threadId: "a" }),
        threadsOf({ thread: { id: "b" } }),
        threadsOf({ threadId: "a", item: { type: "subAgentActivity", agentThreadId: "c" } }),
        threadsOf({ threadId: "a", item: { type: "agentMessage", agentThreadId: "c" } }),
        threadsOf(null),
        threadsOf({ threadId: 1 })
      ],
      [
        { threadId: "a", child: null },
        { threadId: "b", child: null },
        { threadId: "a", child: "c" },
        { threadId: "a", child: null },
        { threadId: null, child: null },
        { threadId: null, child: null }
      ]
    )
  })
})
