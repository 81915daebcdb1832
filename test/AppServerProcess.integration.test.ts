/** AppServerProcess against small programs in the place of Codex: what reaches a child, and how it goes. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { AppServerProcess, describePoison, layer } from "../src/layers/AppServerProcess.ts"
import { CodexBinary } from "../src/services/CodexBinary.ts"
import { Settings, type SettingsShape } from "../src/services/Settings.ts"
import { makeHome } from "./support/codex.ts"
import { eventually } from "./support/gateway.ts"

const answer = `read -r line
echo '{"id":1,"result":{"userAgent":"holdfast/0.169.0 (Linux)","codexHome":"/"}}'
`

interface Options {
  readonly script: string
  readonly codex?: Partial<SettingsShape["codex"]>
  readonly environment?: SettingsShape["environment"]
  readonly exitGraceMs?: number
}

/** The layer with `script` as codex; the script's directory is its CODEX_HOME, where it may leave files. */
const serverOf = Effect.fnUntraced(function* (home: string, options: Options) {
  const settings = yield* Settings
  const program = path.join(home, "fake-codex")
  fs.writeFileSync(program, `#!/bin/sh\n${options.script}`, { mode: 0o755 })
  return layer.pipe(
    Layer.provide(
      Layer.mergeAll(
        Layer.succeed(CodexBinary, { path: Effect.succeed(program), version: Effect.succeed("0.169.0") }),
        Layer.succeed(Settings, {
          ...settings,
          environment: options.environment ?? { PATH: process.env["PATH"] },
          codex: { ...settings.codex, home, ...options.codex },
          lease: { ...settings.lease, exitGraceMs: options.exitGraceMs ?? settings.lease.exitGraceMs }
        })
      )
    )
  )
})

const start = Effect.flatMap(AppServerProcess, (server) => server.start(1)).pipe(
  Effect.provideService(References.MinimumLogLevel, "Warn")
)

/** The child's environment, without what a shell adds to its own. */
const environmentOf = Effect.fnUntraced(function* (home: string, options: Omit<Options, "script">) {
  const server = yield* serverOf(home, {
    script: `env > "$CODEX_HOME/env"\n${answer}cat > /dev/null\n`,
    ...options
  })
  yield* Effect.scoped(Effect.provide(start, server))
  const lines = fs.readFileSync(path.join(home, "env"), "utf8").trimEnd().split("\n")
  return Object.fromEntries(
    lines
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)] as const)
      .filter(([name]) => !["PWD", "OLDPWD", "SHLVL", "_"].includes(name))
  )
})

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Says what it saw last: the end of its input, or a signal. */
const tellsHowItEnds = `trap 'echo term >> "$CODEX_HOME/end"; exit 0' TERM
trap 'echo hup >> "$CODEX_HOME/end"; exit 0' HUP INT
${answer}while read -r line; do :; done
echo eof >> "$CODEX_HOME/end"
`

const listed = {
  PATH: process.env["PATH"] ?? "",
  HOME: "/home/somebody",
  USER: "somebody",
  LOGNAME: "somebody",
  SHELL: "/bin/sh",
  LANG: "C",
  LC_ALL: "C",
  LC_CTYPE: "C",
  TERM: "dumb",
  TZ: "UTC",
  TMPDIR: "/outer",
  SSL_CERT_FILE: "/certs/file",
  SSL_CERT_DIR: "/certs"
}
const secrets = {
  AWS_SECRET: "s",
  OPENAI_API_KEY: "k",
  HOLDFAST_HOME: "/h",
  LD_PRELOAD: "",
  NODE_OPTIONS: ""
}

describe("AppServerProcess", () => {
  it.live("a child gets the listed variables and no other", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const child = yield* environmentOf(codexHome, { environment: { ...listed, ...secrets } })
      assert.deepStrictEqual(child, { ...listed, CODEX_HOME: codexHome })
    })
  )

  it.live("passEnv adds exactly what it names", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const child = yield* environmentOf(codexHome, {
        environment: { ...listed, ...secrets },
        codex: { passEnv: ["OPENAI_API_KEY", "NOT_SET"] }
      })
      assert.deepStrictEqual(child, { ...listed, OPENAI_API_KEY: "k", CODEX_HOME: codexHome })
    })
  )

  it.live(
    "a home below the temp dir gets a temp dir of its own, private; a home elsewhere keeps the outer",
    () =>
      Effect.gen(function* () {
        const { codexHome, home } = yield* makeHome
        const below = yield* environmentOf(codexHome, { environment: { ...listed, TMPDIR: home } })
        assert.strictEqual(below["TMPDIR"], `${codexHome}/tmp`)
        assert.strictEqual(fs.statSync(`${codexHome}/tmp`).mode & 0o777, 0o700)

        const other = path.join(home, "other")
        fs.mkdirSync(other, { mode: 0o700 })
        const beside = yield* environmentOf(other, { environment: { ...listed, TMPDIR: codexHome } })
        assert.strictEqual(beside["TMPDIR"], codexHome)
        assert.isFalse(fs.existsSync(`${other}/tmp`))
      })
  )

  it.live("without TMPDIR the system's temp dir counts", () =>
    Effect.gen(function* () {
      const home = yield* Effect.acquireRelease(
        Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hf-app-"))),
        (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true }))
      )
      const child = yield* environmentOf(home, { environment: { PATH: listed.PATH } })
      assert.deepStrictEqual(child, { PATH: listed.PATH, CODEX_HOME: home, TMPDIR: `${home}/tmp` })
    })
  )

  it.live("a child is asked to leave by end of input before any signal", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const server = yield* serverOf(codexHome, { script: tellsHowItEnds })
      const { pid } = yield* Effect.scoped(Effect.provide(start, server))
      assert.strictEqual(fs.readFileSync(path.join(codexHome, "end"), "utf8"), "eof\n")
      assert.isFalse(isAlive(pid))
    })
  )

  it.live("a child that ignores end of input is told by SIGTERM", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const script = `trap 'echo term >> "$CODEX_HOME/end"; exit 0' TERM\n${answer}while :; do sleep 0.05; done\n`
      const server = yield* serverOf(codexHome, { script, exitGraceMs: 50 })
      const { pid } = yield* Effect.scoped(Effect.provide(start, server))
      assert.strictEqual(fs.readFileSync(path.join(codexHome, "end"), "utf8"), "term\n")
      assert.isFalse(isAlive(pid))
    })
  )

  it.live("a child that ignores end of input and SIGTERM is killed", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const script = fs.readFileSync(path.join(import.meta.dirname, "fixtures/codex-never-leaves.sh"), "utf8")
      const server = yield* serverOf(codexHome, { script, exitGraceMs: 50 })
      const { pid } = yield* Effect.scoped(Effect.provide(start, server))
      const survived = isAlive(pid)
      if (survived) process.kill(-pid, "SIGKILL")
      assert.isFalse(survived)
    })
  )

  const ends: ReadonlyArray<readonly [string, string]> = [
    ["its exit", "read -r line; exit 7\n"],
    ["the end of its output", "read -r line; exec >&-; sleep 0.05; exit 7\n"],
    ["a broken pipe to it", 'read -r line; exec <&-; : > "$CODEX_HOME/deaf"; sleep 0.1; exit 7\n']
  ]
  for (const [what, script] of ends)
    it.live(`a child that is lost by ${what} is named by its exit status`, () =>
      Effect.gen(function* () {
        const { codexHome } = yield* makeHome
        const server = yield* serverOf(codexHome, { script: `${answer}${script}` })
        const lost = yield* Effect.gen(function* () {
          const connection = yield* start
          if (script.includes("deaf"))
            yield* eventually("it reads no more", () => fs.existsSync(path.join(codexHome, "deaf")))
          const asked = yield* Effect.flip(connection.request("thread/start", {}, Schema.Unknown))
          return [asked, yield* connection.lost]
        }).pipe(Effect.provide(server), Effect.scoped)
        assert.deepStrictEqual(
          lost.map((error) => (error._tag === "AppServerLost" ? describePoison(error.reason) : error._tag)),
          ["it exited with status 7", "it exited with status 7"]
        )
      })
    )
})
