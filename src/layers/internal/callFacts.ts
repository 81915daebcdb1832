/**
 * What a call is, in digests, so that an approval can tell later whether it is still the same: its input, and the content of
 * the files that its command names.
 *
 * Which words of a command are files is asked of the disk, not of a shell: a word that names none changes nothing, and one
 * that names a file which the command does not use makes it ask once too often.
 */
import * as Effect from "effect/Effect"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { pipeline } from "node:stream/promises"
import type { CallFacts } from "../../services/Approvals.ts"
import type { HookEvent, ToolCall } from "../../services/HookEvent.ts"
import { canonical } from "../../services/RelayRegistry.ts"
import { errorCode } from "./errorCode.ts"

/** Words of one command that are looked for on the disk: a longer one is a program of its own. */
const maxWords = 256
const maxWordLength = 4_096
/** Files of one command whose content counts. */
const maxFiles = 32
/** A larger file counts by its size, time and number: nobody approves half a gigabyte by reading it. */
const maxHashedBytes = 16 * 1024 * 1024
/** A network file system that does not answer must not hold an approval up. */
const lookTimeoutMs = 2_000

const hash = (text: string): string => crypto.hash("sha256", text, "base64url")

const wordsOf = (command: string): ReadonlyArray<string> => [
  ...new Set(
    command
      .slice(0, maxWords * maxWordLength)
      .split(/[\s;&|<>()`$"'={}]+/)
      .filter((word) => word !== "" && word.length <= maxWordLength && !word.startsWith("-"))
  )
]

/** Of a file; null where it cannot be read, undefined where the name is none's. */
const contentOf = async (file: string, signal: AbortSignal): Promise<string | null | undefined> => {
  let handle: fs.promises.FileHandle
  try {
    // A pipe under the name, whenever it was put there, would hold one of Node's four threads for files for ever.
    handle = await fs.promises.open(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
  } catch (error) {
    return errorCode(error) === "EACCES" ? null : undefined
  }
  try {
    const stats = await handle.stat({ bigint: true })
    if (!stats.isFile()) return undefined
    if (stats.size > maxHashedBytes) return `${stats.size}-${stats.mtimeNs}-${stats.ino}`
    const digest = crypto.createHash("sha256")
    // One that grows faster than it is read ends here, too.
    await pipeline(handle.createReadStream({ autoClose: false, end: maxHashedBytes }), digest, { signal })
    return digest.digest("base64url")
  } catch {
    return null
  } finally {
    await handle.close()
  }
}

const filesOf = async ({ command }: ToolCall, cwd: string | null, signal: AbortSignal) => {
  const files = new Map<string, string | null>()
  for (const word of wordsOf(command ?? "").slice(0, maxWords)) {
    if (signal.aborted || files.size >= maxFiles) break
    if (cwd === null && !path.isAbsolute(word)) continue
    const content = await contentOf(path.resolve(cwd ?? "/", word), signal)
    // A record would lose this one name.
    if (content !== undefined) files.set(word === "__proto__" ? "./__proto__" : word, content)
  }
  return Object.fromEntries(files)
}

export const factsOf = (event: HookEvent, call: ToolCall, policy: string): Effect.Effect<CallFacts> =>
  Effect.promise((signal) => filesOf(call, event.cwd, signal)).pipe(
    // Different from every look that was answered: what cannot be compared has changed.
    Effect.timeoutOrElse({
      duration: lookTimeoutMs,
      orElse: () => Effect.succeed({ "(files that do not answer)": crypto.randomUUID() })
    }),
    Effect.map((files): CallFacts => ({
      provider: event.provider,
      tool: call.tool,
      input: hash(canonical(call.input)),
      cwd: event.cwd === null ? null : hash(event.cwd),
      policy,
      files
    }))
  )
