/**
 * A child in the place of codex: it answers `initialize` and `echo`, and while it is told to it floods one thread with
 * messages as an agent's words come, at a steady rate. Everything goes through the one pipe, in order.
 */
import * as readline from "node:readline"

interface Line {
  readonly id?: number
  readonly method?: string
  readonly params?: { readonly threadId: string; readonly perSecond: number }
}

/** The finest step of a timer; a burst of so many milliseconds' messages is one write. */
const tickMs = 1
/** Of a pipe that its reader leaves full: beyond it the flood waits, as a program that writes would. */
const maxUnwritten = 65_536

/** As Codex 0.169.0 sends a word of an answer: some 300 bytes. */
export const delta = (threadId: string, text: string): string =>
  JSON.stringify({
    method: "item/agentMessage/delta",
    params: {
      threadId,
      turnId: "0199a213-81c1-7a10-9d5f-0a4d0b1f3c77",
      itemId: "msg_0f3b9c5e1d7a4c2e9b8d6f5a4c3b2a1908",
      delta: text
    },
    emittedAtMs: 1_763_600_000_000
  })

const isChild = process.argv[1] === import.meta.filename

if (isChild) {
  const write = (...lines: ReadonlyArray<string>): boolean => process.stdout.write(`${lines.join("\n")}\n`)
  let flood: { readonly line: string; readonly perSecond: number } | null = null
  let [sent, from, owed] = [0, 0, 0]

  setInterval(() => {
    if (flood === null || process.stdout.writableLength > maxUnwritten) return
    const due = Math.floor(((performance.now() - from) / 1000) * flood.perSecond) - owed
    if (due <= 0) return
    owed += due
    sent += due
    write(...Array.from({ length: due }, () => flood!.line))
  }, tickMs)

  readline.createInterface({ input: process.stdin }).on("line", (text) => {
    const { id, method, params } = JSON.parse(text) as Line
    switch (method) {
      case "initialize":
        return write(
          JSON.stringify({ id, result: { userAgent: "holdfast/0.169.0 (Linux)", codexHome: process.cwd() } })
        )
      case "echo":
        return write(delta(params!.threadId, "echo"), JSON.stringify({ id, result: {} }))
      case "flood": {
        const { threadId, perSecond } = params!
        const answer = JSON.stringify({ id, result: { sent } })
        ;[sent, from, owed] = [0, performance.now(), 0]
        flood = perSecond > 0 ? { line: delta(threadId, "word ".repeat(10)), perSecond } : null
        return write(answer)
      }
      default:
        return id === undefined ? undefined : write(JSON.stringify({ id, result: {} }))
    }
  })
  process.stdin.once("end", () => process.exit(0))
}
