/**
 * What Claude Code itself wrote down of a session: the tools that it ran, read on from where the last look ended.
 *
 * The file is the agent's own and could be anything: it is read in bounds, and a line that is none is passed over.
 */
import * as Schema from "effect/Schema"
import * as fs from "node:fs"

/** Of one look; what is beyond is read at the next. */
const maxBytes = 32 * 1024 * 1024

const Block = Schema.Struct({
  type: Schema.String,
  tool_use_id: Schema.optionalKey(Schema.String),
  is_error: Schema.optionalKey(Schema.NullOr(Schema.Boolean))
})
const Line = Schema.Struct({
  type: Schema.Literal("user"),
  isSidechain: Schema.optionalKey(Schema.Boolean),
  message: Schema.Struct({ content: Schema.Array(Schema.Unknown) })
})
const isLine = Schema.is(Line)
const isBlock = Schema.is(Block)

/** Ids of calls of which a result came back that is no refusal. */
const ranOf = (line: string): ReadonlyArray<string> => {
  let parsed: unknown
  try {
    parsed = JSON.parse(line)
  } catch {
    return []
  }
  if (!isLine(parsed) || parsed.isSidechain === true) return []
  return parsed.message.content
    .filter(isBlock)
    .flatMap(({ type, tool_use_id: id, is_error: failed }) =>
      type === "tool_result" && id !== undefined && failed !== true ? [id] : []
    )
}

export interface TranscriptLook {
  readonly ran: ReadonlyArray<string>
  /** Where the next look begins: behind the last whole line. */
  readonly offset: number
}

export const readTranscript = (file: string, offset: number): TranscriptLook => {
  let descriptor: number
  try {
    descriptor = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  } catch {
    return { ran: [], offset }
  }
  try {
    const stats = fs.fstatSync(descriptor)
    if (!stats.isFile() || stats.size <= offset) return { ran: [], offset }
    const buffer = Buffer.alloc(Math.min(maxBytes, stats.size - offset))
    const size = fs.readSync(descriptor, buffer, 0, buffer.length, offset)
    const end = buffer.lastIndexOf(10, size - 1)
    // A line longer than a look is passed over: a tool's result is a line of its own, and ids come with it.
    if (end < 0) return { ran: [], offset: size === maxBytes ? offset + size : offset }
    const lines = buffer.toString("utf8", 0, end).split("\n")
    return { ran: [...new Set(lines.flatMap(ranOf))], offset: offset + end + 1 }
  } catch {
    return { ran: [], offset }
  } finally {
    fs.closeSync(descriptor)
  }
}
