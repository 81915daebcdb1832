import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { layer } from "../src/layers/CodexAuth.ts"
import { CodexAuth, TokenRefreshFailed } from "../src/services/CodexAuth.ts"
import { Settings } from "../src/services/Settings.ts"

const secret = "sk-this-must-not-be-seen"

const temporaryHome = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "holdfast-auth-"))),
  (home) => Effect.sync(() => fs.rmSync(home, { recursive: true, force: true }))
)

const identityIn = (
  home: string,
  environment: Readonly<Record<string, string | undefined>> = {},
  passEnv: ReadonlyArray<string> = []
) =>
  Effect.flatMap(Settings, (settings) =>
    CodexAuth.use(({ identity }) => identity).pipe(
      Effect.provide(layer, { local: true }),
      Effect.provideService(Settings, {
        ...settings,
        environment,
        codex: { ...settings.codex, home, passEnv }
      })
    )
  )

const chatgpt = (account: string, token: string) => ({
  auth_mode: "chatgpt",
  OPENAI_API_KEY: null,
  tokens: { id_token: token, access_token: token, refresh_token: token, account_id: account },
  last_refresh: `2026-11-21T00:00:0${token.length}Z`
})

/** Logins and states of the file that have to be told apart, each from each. */
const different: Readonly<Record<string, string | null>> = {
  none: null,
  "one account": JSON.stringify(chatgpt("a", "t")),
  "another account": JSON.stringify(chatgpt("b", "t")),
  "an account beside a key": JSON.stringify({ ...chatgpt("a", "t"), OPENAI_API_KEY: secret }),
  "an account without a name": JSON.stringify({ tokens: { access_token: "t" } }),
  "a key": JSON.stringify({ OPENAI_API_KEY: secret }),
  "another key": JSON.stringify({ OPENAI_API_KEY: `${secret}2` }),
  "a login of a kind we do not know": JSON.stringify({ auth_mode: "later", personal_access_token: "p" }),
  "another of that kind": JSON.stringify({ auth_mode: "later", personal_access_token: "q" }),
  "a form we do not know": JSON.stringify({ tokens: [1] }),
  "another such form": JSON.stringify({ tokens: [2] }),
  "no JSON": `{"OPENAI_API_KEY":"${secret}`,
  "too large": JSON.stringify({ OPENAI_API_KEY: "x".repeat(300_000) })
}

const write = (home: string, content: string | null) => {
  const file = path.join(home, "auth.json")
  if (content === null) fs.rmSync(file, { force: true })
  else fs.writeFileSync(file, content, { mode: 0o600 })
}

describe("CodexAuth", () => {
  it.live("different logins have different identities, and none shows what it is of", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      const seen = new Map<string, string>()
      for (const [name, content] of Object.entries(different)) {
        write(home, content)
        const identity = yield* identityIn(home)
        assert.match(identity, /^[0-9a-f]{64}$/)
        assert.isUndefined(seen.get(identity), `${name} and ${seen.get(identity)}`)
        seen.set(identity, name)
        assert.strictEqual(yield* identityIn(home), identity, `${name}, asked again`)
      }
    }).pipe(Effect.scoped)
  )

  it.live("renewed tokens and the order of the file's keys change nothing", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      write(home, JSON.stringify(chatgpt("a", "old")))
      const before = yield* identityIn(home)
      const { tokens, ...others } = chatgpt("a", "newer")
      write(home, JSON.stringify({ tokens, ...others }))
      assert.strictEqual(yield* identityIn(home), before)
    }).pipe(Effect.scoped)
  )

  it.live("an empty file is no login that anybody else has, and a missing home is none", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      const none = yield* identityIn(home)
      assert.strictEqual(yield* identityIn(path.join(home, "missing")), none)
      write(home, "")
      assert.notStrictEqual(yield* identityIn(home), none)
    }).pipe(Effect.scoped)
  )

  it.live("what is no file is unreadable, and nobody waits for it", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      const file = path.join(home, "auth.json")
      const none = yield* identityIn(home)
      fs.mkdirSync(file)
      const directory = yield* identityIn(home)
      fs.rmdirSync(file)
      childProcess.execFileSync("mkfifo", [file])
      const fifo = yield* identityIn(home)
      fs.rmSync(file)
      fs.symlinkSync(file, file)
      const loop = yield* identityIn(home)
      assert.strictEqual(directory, fifo)
      assert.strictEqual(directory, loop)
      assert.notStrictEqual(directory, none)
    }).pipe(Effect.scoped, Effect.timeout("5 seconds"))
  )

  it.live("a file that is being written is read again until it is whole", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      const whole = JSON.stringify(chatgpt("a", "t"))
      write(home, whole)
      const expected = yield* identityIn(home)
      write(home, whole.slice(0, 40))
      const asked = yield* Effect.forkChild(identityIn(home), { startImmediately: true })
      write(home, whole)
      assert.strictEqual(yield* Fiber.join(asked), expected)
    }).pipe(Effect.scoped)
  )

  it.live("the variables handed to the child are part of it, by name and value", () =>
    Effect.gen(function* () {
      const home = yield* temporaryHome
      const environment = { KEY: secret, OTHER: "o", UNUSED: "u" }
      const identities = yield* Effect.all([
        identityIn(home),
        identityIn(home, environment, ["KEY"]),
        identityIn(home, { ...environment, KEY: "k" }, ["KEY"]),
        identityIn(home, environment, ["OTHER"]),
        identityIn(home, environment, ["KEY", "OTHER"]),
        identityIn(home, {}, ["KEY"])
      ])
      assert.strictEqual(new Set(identities).size, identities.length)
      assert.strictEqual(
        yield* identityIn(home, { ...environment, UNUSED: "changed" }, ["OTHER", "KEY", "OTHER"]),
        identities[4]
      )
    }).pipe(Effect.scoped)
  )

  it.live("new tokens are refused, since the gateway keeps none", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(CodexAuth.use(({ refresh }) => refresh(secret)))
      assert.deepStrictEqual(error, new TokenRefreshFailed({ problem: "not-ours" }))
      assert.notInclude(JSON.stringify(error) + error.message, secret)
    }).pipe(Effect.provide(layer))
  )
})
