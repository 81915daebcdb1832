/** CodexAuth, live: the login that Codex itself keeps in CODEX_HOME, looked at and hashed at each question. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import { AuthFile, CodexAuth, loginOf, TokenRefreshFailed } from "../services/CodexAuth.ts"
import { Settings } from "../services/Settings.ts"
import { errorCode } from "./internal/errorCode.ts"

export * from "../services/CodexAuth.ts"

/** A login with three tokens takes 5 KB. */
const maxFileBytes = 256 * 1024
/** Codex writes its file in place, so one that is no JSON may be half written: read so often, with so much time between. */
const reads = 4
const rereadMs = 25

const decode = Schema.decodeUnknownOption(AuthFile)

export const make = Effect.gen(function* () {
  const { codex, environment } = yield* Settings
  const file = `${codex.home}/auth.json`
  const passed = [...new Set(codex.passEnv)].toSorted().map((name) => [name, environment[name] ?? null])

  const look = (read: number): Effect.Effect<string> =>
    Effect.suspend(() => {
      const login = loginIn(file)
      return login === noJson && read < reads ? Effect.delay(look(read + 1), rereadMs) : Effect.succeed(login)
    })

  return CodexAuth.of({
    identity: Effect.map(look(1), (login) =>
      crypto
        .createHash("sha256")
        .update(JSON.stringify([login, passed]))
        .digest("hex")
    ).pipe(Effect.withSpan("CodexAuth.identity")),
    refresh: () => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" }))
  })
})

export const layer = Layer.effect(CodexAuth, make)

/** None of these is what `loginOf` gives. */
const unreadable = "unreadable"
const noJson = "no-json"

const loginIn = (file: string): string => {
  let text: string | null
  try {
    text = readBounded(file)
  } catch (error) {
    return errorCode(error) === "ENOENT" ? loginOf({}) : unreadable
  }
  if (text === null) return unreadable
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    return noJson
  }
  // Of a form we do not know every other content may be another login.
  return Option.match(decode(parsed), { onNone: () => `unknown:${text}`, onSome: loginOf })
}

/** Null for what is no file or too large. Opening does not wait, whatever it is. */
const readBounded = (file: string): string | null => {
  const fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY)
  try {
    if (!fs.fstatSync(fd).isFile()) return null
    const bytes = Buffer.alloc(maxFileBytes + 1)
    let length = 0
    while (length < bytes.length) {
      const read = fs.readSync(fd, bytes, length, bytes.length - length, null)
      if (read === 0) return bytes.toString("utf8", 0, length)
      length += read
    }
    return null
  } finally {
    fs.closeSync(fd)
  }
}
