/** The board of approvals: what is chosen, what a key does, and what is drawn. */
import { assert, describe, it } from "@effect/vitest"
import {
  type Board,
  boardKeys,
  emptyBoard,
  guardMs,
  hourMs,
  onChange,
  onKey,
  render
} from "../src/services/ApprovalBoard.ts"
import type { Approval } from "../src/services/Approvals.ts"
import { approval, person } from "../src/testing/Approvals.ts"

const denied: Approval["state"] = { _tag: "denied", by: person, note: null, at: 0 }

const size = { cols: 100, rows: 20 }

const boardOf = (...ids: ReadonlyArray<string>): Board => ({
  ...ids.reduce((board, id) => onChange(board, approval(id), 0), emptyBoard),
  guardedUntil: 0
})

const chosen = (board: Board, key: "up" | "down"): Board => onKey(board, key, 0)[0]

describe("the board of approvals", () => {
  it("keys are arrows and letters, several at once, and nothing else", () => {
    assert.deepStrictEqual(boardKeys("\u001b[A\u001b[Byn"), ["up", "down", "once", "deny"])
    assert.deepStrictEqual(boardKeys("x\u001b[5~Y"), [])
    assert.deepStrictEqual(boardKeys("\u0003"), ["quit"])
  })

  it("a key answers what is chosen, in the words of the key", () => {
    const board = chosen(boardOf("a", "b", "c"), "down")
    assert.deepStrictEqual(
      (["once", "session", "hour", "deny"] as const).map((key) => onKey(board, key, 0)[1]),
      [
        { _tag: "Answer", id: "b", answer: { _tag: "allow-once" } },
        { _tag: "Answer", id: "b", answer: { _tag: "allow-session" } },
        { _tag: "Answer", id: "b", answer: { _tag: "allow-for", ms: hourMs } },
        { _tag: "Answer", id: "b", answer: { _tag: "deny" } }
      ]
    )
  })

  it("the choice stays within the list, and with its approval when others come and go", () => {
    const board = chosen(chosen(boardOf("b", "d"), "down"), "down")
    assert.strictEqual(board.selected, "d")
    const more = onChange(onChange(board, approval("a"), 5), approval("b", { state: denied }), 5)
    assert.deepStrictEqual(
      [more.selected, more.open.map(({ id }) => id), more.guardedUntil],
      ["d", ["a", "d"], 0]
    )
  })

  it("no key answers another approval than the one that was there when it was reached for", () => {
    const board = onChange(boardOf("a", "b"), approval("a", { state: denied }), 1_000)
    assert.strictEqual(board.selected, "b")
    const [hasty, nothing] = onKey(board, "once", 1_000 + guardMs - 1)
    assert.isNull(nothing)
    assert.include(hasty.message, "look again")
    assert.deepStrictEqual(onKey(board, "once", 1_000 + guardMs)[1], {
      _tag: "Answer",
      id: "b",
      answer: { _tag: "allow-once" }
    })
  })

  it("nothing waits: nothing is answered", () => {
    assert.isNull(onKey(emptyBoard, "once", 0)[1])
    assert.deepStrictEqual(render(emptyBoard, 0, size)[0], "No call waits for an approval.")
  })

  it("draws the list with what is left of each, and all of the chosen one", () => {
    const lines = render(boardOf("a", "b"), 60_500, size)
    assert.include(lines, "> a    9:00  Bash  echo a")
    assert.include(lines, "  b    9:00  Bash  echo b")
    assert.include(lines, "careful asks: a person decides")
    assert.include(lines, "  echo a")
  })

  it("fits any terminal, shows the chosen one among a hundred, and lets no call draw on it", () => {
    const ids = Array.from({ length: 100 }, (_, index) => `id-${String(index).padStart(3, "0")}`)
    let board = boardOf(...ids)
    for (let n = 0; n < 60; n++) board = chosen(board, "down")
    for (const rows of [1, 2, 5, 10, 40])
      for (const cols of [10, 40, 200]) {
        const lines = render(board, 0, { cols, rows })
        assert.isAtMost(lines.length, rows)
        for (const line of lines) assert.isAtMost(line.length, cols)
        if (rows >= 5)
          assert.isTrue(
            lines.some((line) => line.startsWith("> id-060")),
            `${rows} rows`
          )
      }
    const hostile = onChange(
      emptyBoard,
      approval("x", {
        call: { tool: "Bash", kind: "shell", subject: "echo \u001b[2J\u001b[H\nok", cwd: null }
      }),
      0
    )
    assert.notInclude(render(hostile, 0, size).join("\n"), "\u001b")
  })
})
