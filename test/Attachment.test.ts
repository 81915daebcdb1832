/** A person's terminal at a run: the keys that leave it, and what is undone of what the run did to the terminal. */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import {
  belowScreen,
  defaultDetachKeys,
  emptyTerminal,
  isReport,
  makeDetachMatcher,
  makeResidue,
  parseDetachKeys
} from "../src/services/Attachment.ts"
import { random } from "./support/random.ts"

const bytes = (text: string): Uint8Array => Buffer.from(text, "latin1")
const text = (of: Uint8Array): string => Buffer.from(of).toString("latin1")

const matcher = (keys = defaultDetachKeys) => makeDetachMatcher(Result.getOrThrow(parseDetachKeys(keys)))

/** What reaches the run of these pieces, and `!` where they left it. */
const typed = (keys: string, ...pieces: ReadonlyArray<string>): string => {
  const { feed } = matcher(keys)
  return pieces
    .map((piece) => {
      const { forward, detached } = feed(bytes(piece))
      return `${text(forward)}${detached ? "!" : ""}`
    })
    .join("|")
}

const ctrlP = "\x10"
const ctrlQ = "\x11"

describe("the detach keys", () => {
  const cases: ReadonlyArray<readonly [string, string, ReadonlyArray<string>, string]> = [
    ["leave, and what was typed before goes on", "C-p C-q", [`ab${ctrlP}${ctrlQ}`], "ab!"],
    ["leave in two pieces; the first key is held meanwhile", "C-p C-q", [`a${ctrlP}`, ctrlQ], "a|!"],
    ["what follows them is nobody's", "C-p C-q", [`${ctrlP}${ctrlQ}rm`], "!"],
    ["begun and not ended go on as they were typed", "C-p C-q", [`${ctrlP}x`, "y"], `${ctrlP}x|y`],
    ["may be begun twice", "C-p C-q", [`${ctrlP}${ctrlP}${ctrlQ}`], `${ctrlP}!`],
    ["the second alone is a key like others", "C-p C-q", [ctrlQ], ctrlQ],
    ["as docker writes them", "ctrl-a,d", ["\x01d"], "!"],
    ["one is enough", "C-]", ["a\x1db"], "a!"],
    ["none: nothing leaves", "none", [`${ctrlP}${ctrlQ}`], `${ctrlP}${ctrlQ}`],
    ["as kitty's protocol spells them", "C-p C-q", ["\x1b[112;5u\x1b[113;5u"], "!"],
    [
      "as kitty's protocol spells them, with keys let go between",
      "C-p C-q",
      ["\x1b[112;5u", "\x1b[112;5:3u", "\x1b[113;5:1u"],
      "||!"
    ],
    ["as xterm's modifyOtherKeys spells them", "C-p C-q", ["\x1b[27;5;112~", "\x1b[27;5;113~"], "|!"],
    ["another modifier is another key", "C-p C-q", ["\x1b[112;6u\x1b[113;5u"], "\x1b[112;6u\x1b[113;5u"],
    ["not in the midst of another sequence", "C-p C-q", [`${ctrlP}\x1b[A${ctrlQ}`], `${ctrlP}\x1b[A${ctrlQ}`],
    ["a key with a sequence of its own", "F12 q", ["\x1b[24~q"], "!"],
    ["bytes that are no text pass as they are", "C-p C-q", ["\xff\x00\xe2\x82\xac"], "\xff\x00\xe2\x82\xac"]
  ]
  for (const [what, keys, pieces, seen] of cases)
    it(what, () => assert.strictEqual(typed(keys, ...pieces), seen))

  it("what is held is given up on demand, once", () => {
    const { feed, flush, isHolding } = matcher()
    feed(bytes(ctrlP))
    assert.deepStrictEqual(
      [isHolding(), text(flush()), isHolding(), text(flush()), text(feed(bytes(ctrlQ)).forward)],
      [true, ctrlP, false, "", ctrlQ]
    )
  })

  it("no byte is lost or changed on the way, however it is cut up", () => {
    const next = random(7)
    const alphabet = `${ctrlP}\x1b[112;5uabc\x1b[A\xff`
    for (let round = 0; round < 200; round++) {
      const sent = Array.from({ length: 30 }, () => alphabet[Math.floor(next() * alphabet.length)]).join("")
      const { feed, flush } = matcher()
      let got = ""
      for (let at = 0; at < sent.length;) {
        const end = at + 1 + Math.floor(next() * 5)
        got += text(feed(bytes(sent.slice(at, end))).forward)
        at = end
      }
      assert.strictEqual(got + text(flush()), sent)
    }
  })

  it("are refused where they are none", () => {
    for (const keys of ["", "Frob", "ctrl-", "é"])
      assert.isTrue(Result.isFailure(parseDetachKeys(keys)), keys)
  })
})

describe("what a terminal says by itself", () => {
  it("is told from what a person types", () => {
    const said = [
      "\x1b[?62;22c\x1b[>0;276;0c",
      "\x1b[12;40R",
      "\x1b]11;rgb:0000/0000/0000\x1b\\",
      "\x1b]11;rgb:0/0/0\x07",
      "\x1bP1$r0m\x1b\\",
      "\x1b[?2026;2$y",
      "\x1b[?1u",
      "\x1b[I",
      "\x1b[<0;3;4M\x1b[<0;3;4m",
      "\x1b[M !!"
    ]
    const typed = ["", "a", "\x1b", "\x1b[A", "\x1b[112;5u", "\x1b[200~a\x1b[201~", "\x1b[Ia", "\x1b[M "]
    assert.deepStrictEqual(
      [said, typed].map((all) => all.filter((one) => isReport(bytes(one)))),
      [said, []]
    )
  })
})

const undone = (...pieces: ReadonlyArray<string>): string => {
  const residue = makeResidue()
  for (const piece of pieces) residue.feed(bytes(piece))
  return residue.undo()
}
const plain = "\x1b[m\x1b(B\x0f"

describe("what a run did to the terminal", () => {
  const cases: ReadonlyArray<readonly [string, ReadonlyArray<string>, string]> = [
    ["nothing: nothing is undone", [], ""],
    ["text: colours and character set are as before", ["hello"], plain],
    ["a mode that is on is put off", ["\x1b[?2004h"], `\x1b[?2004l${plain}`],
    ["a mode that is off by the run is put on", ["\x1b[?25l\x1b[?7l"], `\x1b[?25h\x1b[?7h${plain}`],
    ["a mode that the run put back itself stays", ["\x1b[?2004h\x1b[?25l", "\x1b[?25h\x1b[?2004l"], plain],
    [
      "the alternate screen is left last",
      ["\x1b[?1049h\x1b[?1000;1006h"],
      `\x1b[?1000l\x1b[?1006l\x1b[?1049l${plain}`
    ],
    ["a sequence in two pieces counts", ["\x1b[?10", "49h"], `\x1b[?1049l${plain}`],
    ["one that is cut off at the end is cancelled", ["\x1b[?10"], `\x18${plain}`],
    ["kitty's keyboard is popped as often as it was pushed", ["\x1b[>1u\x1b[>5u\x1b[<u"], `\x1b[<1u${plain}`],
    ["kitty's keyboard that was set is cleared", ["\x1b[=1u"], `\x1b[=0u${plain}`],
    ["modifyOtherKeys is off", ["\x1b[>4;2m"], `\x1b[>4m${plain}`],
    [
      "the keypad, the cursor's shape and the region are as before",
      ["\x1b=\x1b[5 q\x1b[2;5r"],
      `\x1b>\x1b[0 q\x1b7\x1b[r\x1b8${plain}`
    ],
    ["a full reset undoes everything", ["\x1b[?1049h\x1b[>1u\x1b=\x1bc"], plain]
  ]
  for (const [what, pieces, undo] of cases) it(what, () => assert.strictEqual(undone(...pieces), undo))

  it("a run that turns on every mode there may be takes a bounded memory", () => {
    const all = Array.from({ length: 5_000 }, (_, mode) => `\x1b[?${mode + 3000}h`)
    assert.strictEqual(undone(...all).split("\x1b[?").length - 1, 64)
  })
})

describe("the screen of a person who attaches", () => {
  it("is emptied by moving what stood there up, and is left below what is shown", () => {
    assert.strictEqual(emptyTerminal(3), "\x1b[!p\x1b[r\x1b[m\x1b(B\x0f\x1b[3;1H\n\n\n\x1b[H\x1b[2J")
    assert.strictEqual(belowScreen(3), "\x1b[3;1H\r\n")
  })
})
