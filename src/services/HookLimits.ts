/**
 * HookLimits: how much a payload may hold, told from its bytes before anything is made of them.
 *
 * To parse 5 MB of brackets would hold up everybody else for a third of a second, and its result would take ten times its
 * size; to read its bytes once takes some milliseconds. Whatever is over a limit is refused in its event's direction.
 */

/** Objects and arrays in one another. A tool's input has five or six. */
export const maxDepth = 64
/** Values and keys. The largest input measured, a patch of many edits, has some hundreds. */
export const maxNodes = 20_000
/** Bytes between two quotes: one file's content. */
export const maxStringBytes = 1_000_000

export type LimitProblem = "depth" | "nodes" | "string"

const quote = 0x22
const backslash = 0x5c
const comma = 0x2c
const colon = 0x3a

const opens = (byte: number): boolean => byte === 0x7b || byte === 0x5b
const closes = (byte: number): boolean => byte === 0x7d || byte === 0x5d

/**
 * The first limit that a JSON text is over, or null. A text that is none is as good as any other here: its parser will say so.
 * Every value stands behind a bracket, a comma or a colon, so those are counted.
 */
export const limitProblem = (text: Uint8Array): LimitProblem | null => {
  let depth = 0
  let nodes = 1
  for (let at = 0; at < text.length; at++) {
    const byte = text[at]!
    if (byte === quote) {
      const end = stringEnd(text, at + 1)
      if (end - at > maxStringBytes) return "string"
      at = end
    } else if (opens(byte)) {
      if (++depth > maxDepth) return "depth"
      nodes++
    } else if (closes(byte)) depth--
    else if (byte === comma || byte === colon) nodes++
    if (nodes > maxNodes) return "nodes"
  }
  return null
}

/** Where the closing quote stands: not one behind an odd number of backslashes. */
const stringEnd = (text: Uint8Array, from: number): number => {
  let end = text.indexOf(quote, from)
  while (end >= 0 && text[end - 1] === backslash) {
    let before = end - 1
    while (before >= from && text[before] === backslash) before--
    if ((end - 1 - before) % 2 === 0) break
    end = text.indexOf(quote, end + 1)
  }
  return end < 0 ? text.length : end
}
