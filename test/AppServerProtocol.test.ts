import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  Envelope,
  type Frame,
  makeLineSplitter,
  mayDrop,
  parseFrame,
  ThreadOf,
  threadsOf
} from "../src/services/AppServerProtocol.ts"
import { random } from "./support/random.ts"

const bytes = (text: string) => new TextEncoder().encode(text)

/** What the schemas say, slowly. */
const decodeEnvelope = Schema.decodeUnknownOption(Schema.fromJsonString(Envelope))
const frameBySchema = (line: string): Frame => {
  const decoded = decodeEnvelope(line)
  if (Option.isNone(decoded)) return { _tag: "garbage" }
  const { id, method, params, result, error } = decoded.value
  if (method !== undefined)
    return id === undefined
      ? { _tag: "notification", method, params }
      : { _tag: "request", id, method, params }
  if (id === undefined) return { _tag: "garbage" }
  return error ? { _tag: "error", id, ...error } : { _tag: "response", id, result }
}
const decodeThreads = Schema.decodeUnknownOption(ThreadOf)
const threadsBySchema = (params: unknown) => {
  const decoded = decodeThreads(params)
  if (Option.isNone(decoded)) return { threadId: null, child: null }
  const { threadId, thread, item } = decoded.value
  return {
    threadId: threadId ?? thread?.id ?? null,
    child: item?.type === "subAgentActivity" ? (item.agentThreadId ?? null) : null
  }
}

/** Lines much like Codex's, with every field present, absent or of a wrong kind, in any order. */
const makeLine = (next: () => number) => {
  const below = (n: number) => Math.floor(next() * n)
  const pick = <A>(...values: ReadonlyArray<A>): A => values[below(values.length)]!
  const odd = () => pick<unknown>(null, true, 0, -1.5, "", "a", [], ["a"], {}, { id: "a" }, 1e300)
  const fields = (all: Record<string, () => unknown>): object => {
    const names = Object.keys(all).filter(() => below(3) > 0)
    for (let n = names.length - 1; n > 0; n--) {
      const m = below(n + 1)
      ;[names[n], names[m]] = [names[m]!, names[n]!]
    }
    return Object.fromEntries(names.map((name) => [name, below(12) === 0 ? odd() : all[name]!()]))
  }
  const params = () =>
    fields({
      threadId: () => pick("mine", "other", 'q"uote', "back\\slash"),
      thread: () => fields({ id: () => pick("mine", "other") }),
      item: () =>
        fields({
          type: () => pick("subAgentActivity", "agentMessage"),
          id: () => "i",
          agentThreadId: () => pick("child", null)
        }),
      delta: () => pick("text", '{"id":1}', "\u001b[0m", "}", '"id":1')
    })
  const frame = fields({
    id: () => pick<unknown>(0, 7, "s"),
    method: () => pick("item/agentMessage/delta", "turn/completed", "ask"),
    params,
    result: () => odd(),
    error: () => fields({ code: () => -32600, message: () => "no", data: odd }),
    emittedAtMs: () => 1
  })
  const usual = {
    method: "item/agentMessage/delta",
    params: { threadId: pick("mine", "other"), ...params() }
  }
  const line = JSON.stringify(
    below(3) === 0 ? { ...usual, ...fields({ id: () => 3, emittedAtMs: () => 1 }) } : frame
  )
  return below(15) === 0 ? line.slice(0, below(line.length)) : line
}

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

  it("reading by hand agrees with the schemas, whatever a line holds", () => {
    const next = random(3)
    const kinds = new Map<string, number>()
    for (let n = 0; n < 20_000; n++) {
      const line = makeLine(next)
      const frame = parseFrame(line)
      assert.deepStrictEqual(frame, frameBySchema(line), line)
      kinds.set(frame._tag, (kinds.get(frame._tag) ?? 0) + 1)
      if ("params" in frame)
        assert.deepStrictEqual(threadsOf(frame.params), threadsBySchema(frame.params), line)
    }
    for (const kind of ["response", "error", "notification", "request", "garbage"])
      assert.isAbove(kinds.get(kind) ?? 0, 100, kind)
  })

  it("what may be dropped unparsed is always a notification about one thread of nobody's", () => {
    const next = random(4)
    let dropped = 0
    for (let n = 0; n < 50_000; n++) {
      const line = makeLine(next)
      if (!mayDrop(line, (threadId) => threadId === "mine")) continue
      dropped++
      const frame = parseFrame(line)
      if (frame._tag === "garbage") continue
      assert.strictEqual(frame._tag, "notification", line)
      const { threadId, child } = threadsOf("params" in frame ? frame.params : null)
      assert.notStrictEqual(threadId, "mine", line)
      assert.isNull(child, line)
    }
    assert.isAbove(dropped, 300)
  })

  it("a request is never dropped, wherever its id stands and however it is spelt", () => {
    const stranger = (rest: string) => `{"method":"m","params":{"threadId":"x"${rest}`
    const isDropped = (line: string) => mayDrop(line, () => false)
    assert.deepStrictEqual(
      [
        stranger(',"delta":"{\\"id\\":1}"},"emittedAtMs":1}'),
        stranger('},"id":1}'),
        stranger('},"id" : "s","x":{}}'),
        stranger('},"\\u0069d":1,"x":{}}'),
        stranger('},"i\\u0064":1,"x":{}}'),
        '{"id":1,"method":"m","params":{"threadId":"x"}}',
        '{"method":"m","id":1,"params":{"threadId":"x"}}',
        stranger(',"item":{"type":"subAgentActivity","agentThreadId":"y"}}}'),
        stranger(',"delta":"cut'),
        '{"method":"m","params":{"threadId":"a\\"b"}}'
      ].map(isDropped),
      [true, false, false, false, false, false, false, false, false, false]
    )
    assert.isFalse(mayDrop(stranger("}}"), (threadId) => threadId === "x"))
  })
})
