/**
 * What Claude Code itself wrote down of a session: the calls that it made, read on from where the last look ended.
 *
 * The file is named by the agent and could be anything: it is read in slices, with a deadline, and never in the way of a hook.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"

/** A slice of one look; a longer line is passed over. */
const sliceBytes = 1024 * 1024
/** Slices of one look; the rest is read at the next. */
const maxSlices = 64
/** A file system that does not answer holds up nothing but this look. */
const lookTimeoutMs = 10_000
/** As Claude gives them: `toolu_` and some twenty letters. */
const maxIdLength = 256

const Block = Schema.Struct({
  type: Schema.Literal("tool_result"),
  tool_use_id: Schema.String.check(Schema.isMaxLength(maxIdLength)),
  is_error: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  content: Schema.optionalKey(Schema.Unknown)
})
const Line = Schema.Struct({
  type: Schema.Literal("user"),
  timestamp: Schema.optionalKey(Schema.String),
  message: Schema.Struct({ content: Schema.Array(Schema.Unknown) })
})
const isLine = Schema.is(Line)
const isBlock = Schema.is(Block)

/** A command that ran and ended with a status says so; whatever else is an error did not run, or was refused. */
const hasRun = ({ is_error: failed, content }: typeof Block.Type): boolean =>
  failed !== true || (typeof content === "string" && /^Exit code \d/.test(content))

/** Ids of calls that were made since, of one line. What a session goes on with, or was forked from, keeps its times. */
const callsIn = (line: string, sinceMs: number): ReadonlyArray<string> => {
  let parsed: unknown
  try {
    parsed = JSON.parse(line)
  } catch {
    return []
  }
  if (!isLine(parsed) || Date.parse(parsed.timestamp ?? "") < sinceMs) return []
  return parsed.message.content
    .filter(isBlock)
    .filter(hasRun)
    .map((block) => block.tool_use_id)
}

const sizeOf = async (file: string): Promise<number> => {
  const stats = await fs.promises.stat(file).catch(() => null)
  return stats?.isFile() === true ? stats.size : 0
}

const bounded = <A>(work: () => Promise<A>, otherwise: A): Effect.Effect<A> =>
  Effect.tryPromise(work).pipe(
    Effect.timeoutOrElse({ duration: lookTimeoutMs, orElse: () => Effect.succeed(otherwise) }),
    Effect.orElseSucceed(() => otherwise)
  )

interface Slice {
  readonly calls: ReadonlyArray<string>
  /** Behind the last whole line. */
  readonly offset: number
}

const readSlice = async (file: string, offset: number, sinceMs: number): Promise<Slice | null> => {
  const handle = await fs.promises.open(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  try {
    const stats = await handle.stat()
    if (!stats.isFile() || stats.size <= offset) return null
    const buffer = Buffer.alloc(Math.min(sliceBytes, stats.size - offset))
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset)
    const end = buffer.lastIndexOf(10, bytesRead - 1)
    if (end < 0) return bytesRead < sliceBytes ? null : { calls: [], offset: offset + bytesRead }
    const calls = buffer
      .toString("utf8", 0, end)
      .split("\n")
      .flatMap((line) => callsIn(line, sinceMs))
    return { calls: [...new Set(calls)], offset: offset + end + 1 }
  } finally {
    await handle.close()
  }
}

/** Tells each call behind `from` that was made since; gives where the next look begins. It moves only past what was taken. */
export const readTranscript = Effect.fnUntraced(function* <E>(
  file: string,
  from: number,
  sinceMs: number,
  take: (callId: string) => Effect.Effect<void, E>
) {
  // One that is shorter now is another file.
  let offset = from <= (yield* bounded(() => sizeOf(file), 0)) ? from : 0
  for (let slices = 0; slices < maxSlices; slices++) {
    const slice = yield* bounded(() => readSlice(file, offset, sinceMs), null)
    if (slice === null) break
    yield* Effect.forEach(slice.calls, take, { discard: true })
    offset = slice.offset
    yield* Effect.yieldNow
  }
  return offset
})
