import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { formatPin, isPinned, parsePin, pinsOf } from "../src/services/TlsPin.ts"

const hex = "0a".repeat(32)
const base64 = `${"+/aB".repeat(10)}abc=`

const parsed = (text: string): string =>
  Result.match(parsePin(text), { onSuccess: formatPin, onFailure: ({ message }) => message })

describe("TlsPin", () => {
  it("reads what people paste, and writes it in one spelling", () => {
    const leaf = `sha256:${hex}`
    const spki = `spki-sha256:${base64}`
    assert.deepStrictEqual(
      [
        leaf,
        ` ${leaf.toUpperCase().replace("SHA256", "sha256")}\n`,
        `SHA256:${hex.replace(/..(?=.)/g, "$&:").toUpperCase()}`,
        spki,
        `spki-sha256:${"-_aB".repeat(10)}abc`
      ].map(parsed),
      [leaf, leaf, leaf, spki, spki]
    )
  })

  it("refuses everything else, and says what it wants", () => {
    for (const text of [
      "",
      hex,
      `sha256:${hex}0`,
      `sha256:${hex.slice(1)}`,
      `sha1:${hex}`,
      `spki-sha256:${hex}`,
      `spki-sha256:${base64}=`,
      `sha256:${"g".repeat(64)}`,
      `sha256:${hex} x`
    ])
      assert.match(parsed(text), /is no pin\. Give sha256:/, text)
    assert.isBelow(parsed("x".repeat(100_000)).length, 400)
  })

  it("any of several pins is enough, and another certificate has none of them", () => {
    const seen = { leaf: hex, spki: base64 }
    const [leaf, spki] = pinsOf(seen)
    const others = pinsOf({ leaf: "0b".repeat(32), spki: `${"A".repeat(43)}=` })
    assert.deepStrictEqual(
      [[leaf], [spki], [...others, spki], others, []].map((pins) => isPinned(pins, seen)),
      [true, true, true, false, false]
    )
  })
})
