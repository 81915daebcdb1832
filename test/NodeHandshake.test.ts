/** NodeHandshake: the exact bytes that are signed, what is refused without a key, and what anybody may say. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import {
  type Challenge,
  checkHello,
  Hello,
  isTerminal,
  maxFrameBytes,
  maxSkewMs,
  negotiate,
  NodeRefused,
  parseGatewayFrame,
  parseHello,
  RefusalReason,
  type SignedFacts,
  signedText
} from "../src/services/NodeHandshake.ts"

const nonce = "A".repeat(43)
const otherNonce = `${"B".repeat(42)}A`
const challenge: Challenge = {
  type: "challenge",
  nonce,
  at: 1_000_000,
  protocol: { min: 2, max: 4 },
  gateway: "01JC"
}
const hello: Hello = {
  type: "hello",
  protocol: 3,
  publicKey: `${"k".repeat(42)}A`,
  name: "builder",
  at: 1_000_000,
  nonce,
  signature: `${"s".repeat(85)}A`,
  code: null
}
const facts: SignedFacts = {
  protocol: 3,
  nonce,
  channel: "0f".repeat(32),
  at: 1_000_000,
  publicKey: hello.publicKey,
  name: "builder",
  codeDigest: null
}

/** Lone surrogates have no UTF-8; the schemas of a Hello let none through. */
const Text = Schema.String.check(Schema.makeFilter((text: string) => text.isWellFormed()))
/** Few and alike, so that what is generated for two of them meets at the seams. */
const Seam = Schema.Literals(["", "a", "aa", "a\0", "\0\0\0\u0001a", "=", "=a"])
const FactsOf = <S extends Schema.Schema<string>>(text: S) =>
  Schema.Struct({
    protocol: Schema.Literals([1, 11]),
    nonce: text,
    channel: text,
    at: Schema.Literals([1, 11, 111]),
    publicKey: text,
    name: text,
    codeDigest: Schema.NullOr(text)
  })

const isSame = (a: SignedFacts, b: SignedFacts): boolean =>
  (Object.keys(facts) as ReadonlyArray<keyof SignedFacts>).every((key) => a[key] === b[key])

const isSameText = (a: SignedFacts, b: SignedFacts): boolean =>
  Buffer.from(signedText(a)).equals(signedText(b))

/** What anybody who was given the bytes can take them apart into. */
const readBack = (text: Uint8Array): SignedFacts => {
  const fields: Array<string> = []
  for (let at = 0; at < text.length;) {
    const length = Buffer.from(text).readUInt32BE(at)
    fields.push(Buffer.from(text.subarray(at + 4, at + 4 + length)).toString("utf8"))
    at += 4 + length
  }
  const [domain, protocol, nonce, channel, at, publicKey, name, code] = fields as [string, ...Array<string>]
  assert.strictEqual(domain, "holdfast-node-v1")
  assert.strictEqual(fields.length, 8)
  return {
    protocol: Number(protocol),
    nonce: nonce!,
    channel: channel!,
    at: Number(at),
    publicKey: publicKey!,
    name: name!,
    codeDigest: code === "" ? null : code!.slice(1)
  }
}

describe("NodeHandshake", () => {
  it("the signed text is this and will not change: nodes and gateways of different versions meet", () => {
    const field = (text: string) => Buffer.concat([Buffer.from([0, 0, 0, text.length]), Buffer.from(text)])
    const expected = (code: string) =>
      Buffer.concat(
        ["holdfast-node-v1", "3", nonce, facts.channel, "1000000", facts.publicKey, "builder", code].map(
          field
        )
      )
    assert.deepStrictEqual(Buffer.from(signedText(facts)), expected(""))
    assert.deepStrictEqual(Buffer.from(signedText({ ...facts, codeDigest: "ab" })), expected("=ab"))
  })

  it.effect.prop(
    "the signed text says its facts and no others",
    { one: FactsOf(Text) },
    ({ one }) => Effect.sync(() => assert.deepStrictEqual(readBack(signedText(one)), one)),
    { arbitrary: { runs: 1_000, seed: 11 } }
  )

  it.effect.prop(
    "two facts have one text only if they are the same, where fields run into each other too",
    { one: FactsOf(Seam), other: FactsOf(Seam) },
    ({ one, other }) => Effect.sync(() => assert.strictEqual(isSameText(one, other), isSame(one, other))),
    { arbitrary: { runs: 5_000, seed: 12 } }
  )

  it("each field is signed", () => {
    const others: ReadonlyArray<Partial<SignedFacts>> = [
      { protocol: 4 },
      { nonce: otherNonce },
      { channel: "f0".repeat(32) },
      { at: 1_000_001 },
      { publicKey: `${"l".repeat(42)}A` },
      { name: "builder2" },
      { codeDigest: "" },
      { codeDigest: "ab" }
    ]
    const texts = [facts, ...others.map((other) => ({ ...facts, ...other }))].map((one) =>
      Buffer.from(signedText(one)).toString("hex")
    )
    assert.strictEqual(new Set(texts).size, others.length + 1)
  })

  it("the highest version of both is spoken, or none", () => {
    const of = (ours: readonly [number, number], theirs: readonly [number, number]) =>
      negotiate({ min: ours[0], max: ours[1] }, { min: theirs[0], max: theirs[1] })
    assert.deepStrictEqual(
      [
        of([1, 1], [1, 1]),
        of([1, 3], [2, 5]),
        of([2, 5], [1, 3]),
        of([1, 2], [3, 4]),
        of([3, 4], [1, 2]),
        of([1, 9], [5, 2])
      ],
      [1, 3, 3, null, null, null]
    )
  })

  it("a greeting for this challenge is in order, at both ends of the skew", () => {
    for (const now of [hello.at, hello.at + maxSkewMs, hello.at - maxSkewMs])
      assert.isNull(checkHello(hello, challenge, now))
  })

  it("the first problem of a greeting is told", () => {
    const check = (over: Partial<Hello>, now = hello.at) => checkHello({ ...hello, ...over }, challenge, now)
    assert.deepStrictEqual(
      [
        check({ protocol: 1 }),
        check({ protocol: 5, nonce: otherNonce }, 0),
        check({}, hello.at + maxSkewMs + 1),
        check({ nonce: otherNonce }, hello.at - maxSkewMs - 1),
        check({ nonce: otherNonce })
      ],
      ["protocol", "protocol", "clock-skew", "clock-skew", "replayed"]
    )
  })

  it("three refusals pass by themselves, and every one says what to do", () => {
    assert.deepStrictEqual(
      RefusalReason.literals.filter((reason) => !isTerminal(reason)),
      ["rate-limited", "clock-skew", "busy"]
    )
    const messages = RefusalReason.literals.map((reason) => new NodeRefused({ reason }).message)
    assert.strictEqual(new Set(messages).size, RefusalReason.literals.length)
    for (const message of messages)
      assert.match(
        message,
        /Run `holdfast|Wait|Set both|connect to|Update|Check|Connect with|revoke/,
        message
      )
  })

  it("what is said is understood as it is meant, and nothing else is", () => {
    assert.deepStrictEqual(parseHello(JSON.stringify(hello)), Option.some(hello))
    for (const frame of [
      challenge,
      { type: "welcome", protocol: 3, nodeId: "n-0123456789abcdef", name: "builder" },
      { type: "refused", reason: "busy" }
    ])
      assert.deepStrictEqual<unknown>(parseGatewayFrame(JSON.stringify(frame)), Option.some(frame))

    const bad: ReadonlyArray<object> = [
      { type: "welcome" },
      { protocol: 0 },
      { protocol: 1.5 },
      { publicKey: `${"k".repeat(42)}B` },
      { publicKey: `${"k".repeat(43)}=` },
      { publicKey: "k".repeat(42) },
      { name: "-x" },
      { name: "a/b" },
      { name: "x".repeat(65) },
      { at: null },
      { at: 0.5 },
      { nonce: `${"A".repeat(42)}B` },
      { signature: "s".repeat(86) },
      { code: "x".repeat(65) },
      { code: 7 },
      { code: undefined }
    ]
    for (const over of bad)
      assert.isTrue(Option.isNone(parseHello(JSON.stringify({ ...hello, ...over }))), JSON.stringify(over))
    for (const text of ["", "null", "[]", "{", `"hello"`, JSON.stringify(challenge)])
      assert.isTrue(Option.isNone(parseHello(text)), text)
    for (const text of ["", JSON.stringify(hello), JSON.stringify({ type: "refused", reason: "mood" })])
      assert.isTrue(Option.isNone(parseGatewayFrame(text)), text)
  })

  it("a message of anybody has its bound in bytes, not in characters", () => {
    const padded = (filling: string, bytes: number) => {
      const text = JSON.stringify({ ...hello, filling: "" })
      const room = bytes - text.length
      return JSON.stringify({
        ...hello,
        filling: filling.repeat(Math.floor(room / Buffer.byteLength(filling)))
      })
    }
    assert.strictEqual(Buffer.byteLength(padded("x", maxFrameBytes)), maxFrameBytes)
    assert.isTrue(Option.isSome(parseHello(padded("x", maxFrameBytes))))
    assert.isTrue(Option.isNone(parseHello(padded("x", maxFrameBytes + 1))))
    assert.isTrue(Option.isNone(parseHello(padded("ü", maxFrameBytes + 64))))
  })
})
