/** NodeStore, the rules: what a code is, how many wrong ones are borne, how a node is called and who is meant. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import {
  chooseName,
  codeOf,
  matchingNodes,
  maxWrongCodes,
  NodeAmbiguous,
  type NodeInfo,
  NodeName,
  NodeNameMalformed,
  nextWrongCodes,
  normalizeCode,
  PairingRefused,
  type WrongCodes,
  wrongWindowMs
} from "../src/services/NodeStore.ts"
import { random } from "./support/random.ts"

const node = (nodeId: string, name: string, revokedAt: number | null = null): NodeInfo => ({
  nodeId,
  name,
  publicKey: "A".repeat(43),
  pairedAt: 0,
  lastSeenAt: null,
  revokedAt
})

describe("NodeStore, the rules", () => {
  it("a code is the 40 bits that were drawn, in Crockford's base32", () => {
    assert.deepStrictEqual(
      [
        [0, 0, 0, 0, 0],
        [255, 255, 255, 255, 255],
        [0, 0, 0, 0, 1],
        [128, 0, 0, 0, 0],
        // 00000 00001 00010 00011 00100 00101 00110 00111
        [0x00, 0x44, 0x32, 0x14, 0xc7]
      ].map((bytes) => codeOf(Uint8Array.from(bytes))),
      ["0000-0000", "ZZZZ-ZZZZ", "0000-0001", "G000-0000", "0123-4567"]
    )
  })

  it("every code is read back as drawn, however it is typed", () => {
    const draw = random(3)
    for (let n = 0; n < 2_000; n++) {
      const code = codeOf(Uint8Array.from({ length: 5 }, () => Math.floor(draw() * 256)))
      assert.match(code, /^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$/)
      const typed = [
        code,
        code.toLowerCase(),
        code.replace("-", ""),
        ` ${code.replace("-", " - ")}\n`,
        code.replaceAll("0", "O").replaceAll("1", "I"),
        code.toLowerCase().replaceAll("0", "o").replaceAll("1", "l")
      ]
      assert.deepStrictEqual(
        typed.map(normalizeCode),
        typed.map(() => code)
      )
    }
  })

  it("what cannot be a code is none", () => {
    for (const typed of [
      "",
      "-",
      "1234567",
      "123456789",
      "1234-567U",
      "1234-567!",
      "1234-567ä",
      "1".repeat(65)
    ])
      assert.isNull(normalizeCode(typed), typed)
  })

  it.effect.prop(
    "nothing that a person types is read as what was never drawn",
    { typed: Schema.String },
    ({ typed }) =>
      Effect.sync(() => {
        const code = normalizeCode(typed)
        if (code !== null) assert.strictEqual(normalizeCode(code), code)
      }),
    { arbitrary: { runs: 500, seed: 5 } }
  )

  it("in no window of a minute more than five wrong codes are looked at", () => {
    const draw = random(4)
    const lookedAt: Array<number> = []
    let wrong: WrongCodes = []
    let now = 0
    for (let n = 0; n < 5_000; n++) {
      now += Math.floor(draw() * 15_000)
      const look = nextWrongCodes(wrong, "attempt", now)
      wrong = look.wrong
      if (look.limited) continue
      lookedAt.push(now)
      wrong = nextWrongCodes(wrong, "wrong", now).wrong
      assert.isAtMost(wrong.length, maxWrongCodes)
    }
    for (const [index, at] of lookedAt.entries()) {
      const sixth = lookedAt[index + maxWrongCodes]
      if (sixth !== undefined) assert.isAtLeast(sixth - at, wrongWindowMs)
    }
    assert.isAbove(lookedAt.length, 1_000)
  })

  it("the window ends to the millisecond, and a clock that is set back makes it no longer", () => {
    const full: WrongCodes = [0, 10, 20, 30, 40]
    const limitedAt = (now: number, wrong = full) => nextWrongCodes(wrong, "attempt", now).limited
    assert.deepStrictEqual([limitedAt(40), limitedAt(59_999), limitedAt(60_000)], [true, true, false])
    const back = nextWrongCodes([1e9, 1e9, 1e9, 1e9, 1e9], "attempt", 5)
    assert.deepStrictEqual(
      [back.limited, limitedAt(60_004, back.wrong), limitedAt(60_005, back.wrong)],
      [true, true, false]
    )
  })

  it("a name that is taken gets the next number, and stays a name", () => {
    const long = "x".repeat(64)
    const isName = Schema.is(NodeName)
    const names = [
      chooseName("web", new Set()),
      chooseName("web", new Set(["web"])),
      chooseName("web", new Set(["web", "web-2", "web-4"])),
      chooseName("web-2", new Set(["web-2"])),
      chooseName(long, new Set([long, `${"x".repeat(62)}-2`]))
    ]
    assert.deepStrictEqual(names, ["web", "web-2", "web-3", "web-2-2", `${"x".repeat(62)}-3`])
    assert.isTrue(names.every((name) => isName(name)))
  })

  it("whom a reference means: the whole id, then names and beginnings of ids alike", () => {
    const victim = node("n-00aa000000000000", "web")
    const nodes = [
      victim,
      node("n-00ab000000000000", "db"),
      node("n-1c00000000000000", "n-00aa000000000000"),
      node("n-1d00000000000000", "n-00aa"),
      node("n-2e00000000000000", "old", 5),
      node("n-2f00000000000000", "n")
    ]
    const ids = (ref: string) => matchingNodes(nodes, ref).map(({ nodeId }) => nodeId.slice(0, 6))
    assert.deepStrictEqual(
      Object.fromEntries(
        [
          "web",
          victim.nodeId,
          "n-00aa",
          "n-00",
          "n-1c",
          "old",
          "n-2e",
          "n",
          "n-",
          "",
          "WEB",
          "n-00aa0000000000000"
        ].map((ref) => [ref, ids(ref)])
      ),
      {
        web: ["n-00aa"],
        [victim.nodeId]: ["n-00aa"],
        "n-00aa": ["n-00aa", "n-1d00"],
        "n-00": ["n-00aa", "n-00ab"],
        "n-1c": ["n-1c00"],
        // Its name is free again; its id is not.
        old: [],
        "n-2e": ["n-2e00"],
        n: ["n-2f00"],
        "n-": [],
        "": [],
        WEB: [],
        "n-00aa0000000000000": []
      }
    )
  })

  it("errors say what to do, and show no more of what was typed than fits a line", () => {
    const reasons = ["unknown", "expired", "used", "rate-limited"] as const
    for (const reason of reasons)
      assert.match(new PairingRefused({ reason }).message, /holdfast nodes pair|Wait a minute/)
    assert.include(new NodeAmbiguous({ ref: "n-0", count: 2 }).message, "whole id")
    assert.isBelow(new NodeNameMalformed({ name: "/".repeat(10_000) }).message.length, 250)
  })
})
