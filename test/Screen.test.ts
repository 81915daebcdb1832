/** What a key or a paste sends, and where a stream of bytes stands in the terminal's language. */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { makeEscapeState } from "../src/layers/internal/escapeState.ts"
import { encodeKey, encodeKeys, encodePaste } from "../src/services/Screen.ts"

const normal = { applicationCursor: false }
const application = { applicationCursor: true }

const sent = (key: string, modes = normal): string | null =>
  Result.getOrNull(Result.map(encodeKey(key, modes), (bytes) => Buffer.from(bytes).toString()))

const table: Readonly<Record<string, string>> = {
  Enter: "\r",
  return: "\r",
  Tab: "\t",
  "S-Tab": "\x1b[Z",
  Escape: "\x1b",
  Backspace: "\x7f",
  "C-Backspace": "\b",
  Space: " ",
  "C-Space": "\0",
  Up: "\x1b[A",
  Down: "\x1b[B",
  Right: "\x1b[C",
  Left: "\x1b[D",
  "C-Left": "\x1b[1;5D",
  "M-S-Up": "\x1b[1;4A",
  Home: "\x1b[H",
  End: "\x1b[F",
  PageUp: "\x1b[5~",
  PageDown: "\x1b[6~",
  "C-PageDown": "\x1b[6;5~",
  Insert: "\x1b[2~",
  Delete: "\x1b[3~",
  F1: "\x1bOP",
  F4: "\x1bOS",
  "S-F1": "\x1b[1;2P",
  F5: "\x1b[15~",
  F12: "\x1b[24~",
  "C-a": "\x01",
  "C-C": "\x03",
  "c-z": "\x1a",
  "C-[": "\x1b",
  "C-\\": "\x1c",
  "C-]": "\x1d",
  "C-^": "\x1e",
  "C-_": "\x1f",
  "C-@": "\0",
  "C-?": "\x7f",
  "^C": "\x03",
  "^[": "\x1b",
  "^?": "\x7f",
  "M-x": "\x1bx",
  "M-C-c": "\x1b\x03",
  "M-Enter": "\x1b\r",
  "M-Backspace": "\x1b\x7f",
  x: "x",
  X: "X",
  "^": "^",
  "-": "-",
  é: "é",
  "😀": "😀"
}

describe("Screen", () => {
  it("each key sends what xterm sends", () => {
    assert.deepStrictEqual(
      Object.fromEntries(Object.keys(table).map((key) => [key, sent(key)])),
      table as Record<string, string | null>
    )
  })

  it("application cursor mode changes the cursor keys alone", () => {
    assert.deepStrictEqual(
      ["Up", "Left", "Home", "End", "C-Up", "F1", "PageUp", "Enter"].map((key) => sent(key, application)),
      ["\x1bOA", "\x1bOD", "\x1bOH", "\x1bOF", "\x1b[1;5A", "\x1bOP", "\x1b[5~", "\r"]
    )
  })

  it("what is no key is refused with the names of those that are", () => {
    const none = ["", "Entr", "C-", "C-é", "C-C-a", "S-x", "F13", "\x1b", "ab", "C-Enter", "M-M-x"]
    assert.deepStrictEqual(
      none.map((key) => sent(key)),
      none.map(() => null)
    )
    const error = Result.getOrThrow(Result.flip(encodeKeys(["C-a", "Entr", "Ups"], normal)))
    assert.deepStrictEqual([error._tag, error.key], ["UnknownKey", "Entr"])
    assert.match(error.message, /"Entr" is no key\. Known are Enter Tab .* F12/)
  })

  it("several keys send their bytes one after the other", () => {
    const bytes = Result.getOrThrow(encodeKeys(["C-a", "x", "Up", "Enter"], normal))
    assert.strictEqual(Buffer.from(bytes).toString(), "\x01x\x1b[A\r")
  })

  it("a paste is bracketed only where the program asked for it", () => {
    const paste = (text: string, bracketedPaste: boolean) =>
      Buffer.from(encodePaste(text, { bracketedPaste })).toString()
    assert.deepStrictEqual(
      [paste("a\nb\r\nc", false), paste("a\nb\r\nc", true)],
      ["a\rb\rc", "\x1b[200~a\rb\rc\x1b[201~"]
    )
  })

  it("no paste ends itself, however often the end marker is nested in it", () => {
    const paste = (text: string) => Buffer.from(encodePaste(text, { bracketedPaste: true })).toString()
    assert.deepStrictEqual(
      ["x\x1b[201~rm -rf", "\x1b[20\x1b[201~1~rm", "\x1b[\x1b[20\x1b[200~1~201~rm", "\u009b201~rm"].map(
        paste
      ),
      ["\x1b[200~xrm -rf\x1b[201~", ...Array(3).fill("\x1b[200~rm\x1b[201~")]
    )
  })

  it("a stream knows what it is in the midst of, in whatever pieces it came", () => {
    const partialOf = (bytes: string | Uint8Array, step: number): string => {
      const state = makeEscapeState()
      const all = Buffer.from(bytes)
      for (let at = 0; at < all.length; at += step) state.feed(all.subarray(at, at + step))
      return Buffer.from(state.partial()).toString("latin1")
    }
    const cases: ReadonlyArray<readonly [string | Uint8Array, string]> = [
      ["plain text\r\n", ""],
      ["x\x1b[1mx", ""],
      ["x\x1b", "\x1b"],
      ["x\x1b[38;5", "\x1b[38;5"],
      ["x\x1b[3\n1", "\x1b[31"],
      ["x\x1b[3\x1b[4", "\x1b[4"],
      ["x\x1b[31\x18y", ""],
      ["x\x1b]0;title", "\x1b]0;title"],
      ["x\x1b]0;title\x1b", "\x1b"],
      ["x\x1b]0;title\x07", ""],
      ["x\x1b]0;title\x1b\\", ""],
      ["x\x1bP1;2qabc", "\x1bP1;2qabc"],
      ["x\x1b_abc", "\x1b_abc"],
      ["x\x1b(", "\x1b("],
      ["x\x1b(0", ""],
      [Uint8Array.from([0x61, 0xe6, 0x97]), "\xe6\x97"],
      [Uint8Array.from([0x61, 0xe6, 0x97, 0xa5]), ""],
      [Uint8Array.from([0x61, 0xe6, 0x61]), ""],
      [Uint8Array.from([0x61, 0xe6, 0x1b, 0x5b]), "\x1b["],
      [Uint8Array.from([0xc2, 0x9b, 0x31]), "\xc2\x9b1"]
    ]
    for (const step of [1, 2, 3, 100])
      assert.deepStrictEqual(
        cases.map(([bytes]) => partialOf(bytes, step)),
        cases.map(([, partial]) => partial)
      )
  })

  it("of an endless string only its opening is kept", () => {
    const state = makeEscapeState()
    state.feed(Buffer.from(`\x1b]52;c;${"A".repeat(1_000_000)}`))
    assert.strictEqual(Buffer.from(state.partial()).toString(), "\x1b]")
    state.feed(Buffer.from("\x07done"))
    assert.strictEqual(state.partial().length, 0)
  })
})
