/** AppServerProcess against small programs in the place of Codex: what reaches a child, and how it goes. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import type { PoisonReason } from "../src/services/AppServerFailure.ts"
import { answer, appServerOf, epochOf, isAlive, type ScriptOptions, serverOf } from "./support/appServer.ts"
import { makeHome } from "./support/codex.ts"
import { eventually } from "./support/gateway.ts"

const told = (codexHome: string, file: string) => fs.readFileSync(path.join(codexHome, file), "utf8")

/** The child's environment, without what a shell adds to its own. The cookie names the epoch and the generation. */
const environmentOf = Effect.fnUntraced(function* (options: Omit<ScriptOptions, "script">) {
  const { codexHome } = options
  const { start } = yield* serverOf({
    script: `env > "$CODEX_HOME/env"\n${answer}cat > /dev/null\n`,
    ...options
  })
  yield* Effect.scoped(start)
  return Object.fromEntries(
    told(codexHome, "env")
      .trimEnd()
      .split("\n")
      .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)] as const)
      .filter(([name]) => !["PWD", "OLDPWD", "SHLVL", "_"].includes(name))
  )
})

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
const own = (home: string) => ({ CODEX_HOME: home, HOLDFAST_CHILD: `${epochOf(home)}.1` })
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
      const child = yield* environmentOf({ codexHome, environment: { ...listed, ...secrets } })
      assert.deepStrictEqual(child, { ...listed, ...own(codexHome) })
    })
  )

  it.live("passEnv adds exactly what it names", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const child = yield* environmentOf({
        codexHome,
        environment: { ...listed, ...secrets },
        codex: { passEnv: ["OPENAI_API_KEY", "NOT_SET"] }
      })
      assert.deepStrictEqual(child, { ...listed, OPENAI_API_KEY: "k", ...own(codexHome) })
    })
  )

  it.live(
    "a home below the temp dir gets a temp dir of its own, private; a home elsewhere keeps the outer",
    () =>
      Effect.gen(function* () {
        const { codexHome, home } = yield* makeHome
        const below = yield* environmentOf({ codexHome, environment: { ...listed, TMPDIR: home } })
        assert.strictEqual(below["TMPDIR"], `${codexHome}/tmp`)
        assert.strictEqual(fs.statSync(`${codexHome}/tmp`).mode & 0o777, 0o700)

        const other = path.join(home, "other")
        fs.mkdirSync(other, { mode: 0o700 })
        const beside = yield* environmentOf({
          codexHome: other,
          environment: { ...listed, TMPDIR: codexHome }
        })
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
      const child = yield* environmentOf({ codexHome: home, environment: { PATH: listed.PATH } })
      assert.deepStrictEqual(child, { PATH: listed.PATH, ...own(home), TMPDIR: `${home}/tmp` })
    })
  )

  it.live("a child is asked to leave by end of input before any signal", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start } = yield* serverOf({ codexHome, script: tellsHowItEnds })
      const { pid } = yield* Effect.scoped(start)
      assert.strictEqual(fs.readFileSync(path.join(codexHome, "end"), "utf8"), "eof\n")
      assert.isFalse(isAlive(pid!))
    })
  )

  it.live("a child that ignores end of input is told by SIGTERM", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const script = `trap 'echo term >> "$CODEX_HOME/end"; exit 0' TERM\n${answer}while :; do sleep 0.05; done\n`
      const { start } = yield* serverOf({ codexHome, script, lease: { exitGraceMs: 50 } })
      const { pid } = yield* Effect.scoped(start)
      assert.strictEqual(fs.readFileSync(path.join(codexHome, "end"), "utf8"), "term\n")
      assert.isFalse(isAlive(pid!))
    })
  )

  it.live("a child that ignores end of input and SIGTERM is killed", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const script = fs.readFileSync(path.join(import.meta.dirname, "fixtures/codex-never-leaves.sh"), "utf8")
      const { start } = yield* serverOf({ codexHome, script, lease: { exitGraceMs: 50 } })
      const { pid } = yield* Effect.scoped(start)
      const survived = isAlive(pid!)
      if (survived) process.kill(-pid!, "SIGKILL")
      assert.isFalse(survived)
    })
  )

  it.live("a poisoned child is told to leave and killed, without the time that a healthy one has", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const script = fs.readFileSync(path.join(import.meta.dirname, "fixtures/codex-never-leaves.sh"), "utf8")
      const { start, left } = yield* serverOf({ codexHome, script, lease: { poisonGraceMs: 50 } })
      const { gone } = yield* Effect.scoped(
        Effect.tap(start, ({ retire }) => retire({ _tag: "probes-missed", count: 3, silentMs: 30_000 }))
      )
      assert.deepStrictEqual(
        { gone: yield* gone, left: left() },
        { gone: { confirmed: true, code: null, signal: "SIGKILL" }, left: [] }
      )
    })
  )

  it.live("a child with much to say when it leaves is heard out", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start } = yield* serverOf({
        codexHome,
        script: `${answer}while read -r line; do :; done\nhead -c 1000000 /dev/zero\n: > "$CODEX_HOME/done"\n`
      })
      const { gone } = yield* Effect.scoped(start)
      assert.deepStrictEqual(
        { gone: yield* gone, done: fs.existsSync(path.join(codexHome, "done")) },
        { gone: { confirmed: true, code: 0, signal: null }, done: true }
      )
    })
  )

  interface Vice {
    readonly it: string
    /** Runs when the handshake is over, before the child starts one of its own, which inherits what it has. */
    readonly before?: string
    /** Runs after that. */
    readonly script: string
    readonly reason: PoisonReason
    /** How it ends; null where that depends on who is faster. */
    readonly gone: { readonly code: number | null; readonly signal: string | null } | null
  }
  const idle = "while read -r line; do :; done\n"
  const vices: ReadonlyArray<Vice> = [
    {
      it: "exits",
      script: "exit 7\n",
      reason: { _tag: "exited", code: 7 },
      gone: { code: 7, signal: null }
    },
    {
      it: "is killed",
      script: "kill -KILL $$\n",
      reason: { _tag: "signalled", signal: "SIGKILL" },
      gone: { code: null, signal: "SIGKILL" }
    },
    {
      it: "is stopped",
      script: `kill -STOP $$\n${idle}`,
      reason: { _tag: "stopped" },
      gone: { code: null, signal: "SIGKILL" }
    },
    {
      it: "closes its output and exits",
      script: "exec >&-; sleep 0.05; exit 7\n",
      reason: { _tag: "exited", code: 7 },
      gone: { code: 7, signal: null }
    },
    {
      it: "closes its output and lives",
      script: `exec >&-\n${idle}`,
      reason: { _tag: "stdio-closed" },
      gone: null
    },
    {
      it: "prints what is not JSON",
      script: `echo 'thread panicked at'; echo 'note: run with'; echo '  0: std'\n${idle}`,
      reason: { _tag: "unframeable", lines: 3 },
      gone: null
    },
    {
      it: "answers what nobody asked",
      script: `for id in 71 72 73 74 75 76 77 78 79; do echo '{"id":'$id',"result":{}}'; done\n${idle}`,
      reason: { _tag: "unknown-responses", count: 9 },
      gone: null
    },
    {
      it: "reads no more",
      before: "exec <&-\n",
      script: 'trap "" TERM; : > "$CODEX_HOME/deaf"; while :; do sleep 0.05; done\n',
      reason: { _tag: "write-failed", code: "EPIPE" },
      gone: { code: null, signal: "SIGKILL" }
    }
  ]
  for (const vice of vices)
    it.live(`a child that ${vice.it} is lost for that reason, and nothing of it is left`, () =>
      Effect.gen(function* () {
        const { codexHome } = yield* makeHome
        const { start, left } = yield* serverOf({
          codexHome,
          script: `${answer}read -r line\n${vice.before ?? ""}sleep 60 <&- >&- 2>&- &\n${vice.script}`,
          lease: { poisonGraceMs: 50, stateLookMs: 20 }
        })
        const seen = yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* start
            if (vice.script.includes("deaf"))
              yield* eventually("it reads no more", () => fs.existsSync(path.join(codexHome, "deaf")))
            const asked = yield* Effect.flip(connection.request("thread/start", {}, Schema.Unknown))
            return { asked, lost: yield* connection.lost, gone: connection.gone }
          })
        )
        const { confirmed, code, signal } = yield* seen.gone
        assert.deepStrictEqual(
          {
            asked: seen.asked._tag === "AppServerLost" ? seen.asked.reason : seen.asked,
            lost: seen.lost.reason,
            confirmed,
            gone: vice.gone === null ? null : { code, signal },
            left: left()
          },
          { asked: vice.reason, lost: vice.reason, confirmed: true, gone: vice.gone, left: [] }
        )
      })
    )

  it.live("a child that is stopped for moments, over and over, is not taken for one that stays stopped", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start, left } = yield* serverOf({
        codexHome,
        script: `${answer}${idle}`,
        lease: { poisonGraceMs: 50, stateLookMs: 250 }
      })
      const reason = yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* start
          const lost = yield* Effect.forkChild(connection.lost, { startImmediately: true })
          // As cpulimit does it, for the time of ten looks.
          for (let stop = 0; stop < 40; stop++) {
            process.kill(connection.pid!, "SIGSTOP")
            yield* Effect.sleep(60)
            process.kill(connection.pid!, "SIGCONT")
            yield* Effect.sleep(5)
            assert.isUndefined(lost.pollUnsafe(), `after ${stop} stops`)
          }
          process.kill(connection.pid!, "SIGSTOP")
          return (yield* Fiber.join(lost)).reason
        })
      )
      assert.deepStrictEqual({ reason, left: left() }, { reason: { _tag: "stopped" }, left: [] })
    })
  )

  it.live("an exit comes with the child's last words, and without their secrets", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start } = yield* serverOf({
        codexHome,
        script: `${answer}read -r line\necho 'cannot use OPENAI_API_KEY=sk-0123456789abcdef' >&2\nexit 3\n`
      })
      const lost = yield* Effect.scoped(Effect.flatMap(start, (connection) => connection.lost))
      assert.deepStrictEqual(
        { reason: lost.reason, stderrTail: lost.stderrTail },
        { reason: { _tag: "exited", code: 3 }, stderrTail: "cannot use OPENAI_API_KEY=[redacted]\n" }
      )
    })
  )

  it.live("the exit is told before what the child left running is ended", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start, left } = yield* serverOf({
        codexHome,
        script: `${answer}read -r line\nsetsid sh -c 'trap "" TERM; sleep 60 & wait; wait' <&- >&- 2>&- &\nexit 0\n`
      })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* start
          assert.deepStrictEqual(yield* connection.gone, { confirmed: true, code: 0, signal: null })
          assert.notDeepEqual(left(), [])
        })
      )
      assert.deepStrictEqual(left(), [])
    })
  )

  for (const [how, last] of [
    ["that is asked to leave", "while read -r line; do :; done\n"],
    ["that leaves by itself", "exit 0\n"]
  ] as const)
    it.live(`without a mark, whoever descends from a child ${how} is ended with it`, () =>
      Effect.gen(function* () {
        const { codexHome } = yield* makeHome
        const detached = last.startsWith("exit") ? "" : "setsid "
        const { start, left } = yield* serverOf({
          codexHome,
          script: `${answer}read -r line\n${detached}sleep 60 &\n: > "$CODEX_HOME/started"\n${last}`,
          marked: false
        })
        yield* Effect.scoped(
          Effect.gen(function* () {
            const connection = yield* start
            yield* eventually("it forked", () => fs.existsSync(path.join(codexHome, "started")))
            if (last.startsWith("exit")) yield* connection.gone
            assert.notDeepEqual(left(), [])
          })
        )
        assert.deepStrictEqual(left(), [])
      })
    )

  it.live("a machine without prlimit runs the child without a mark", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start, left } = yield* serverOf({
        codexHome,
        script: `${answer}while read -r line; do :; done\n`,
        environment: { PATH: codexHome }
      })
      const [limits, mine] = yield* Effect.scoped(
        Effect.map(start, ({ pid }) =>
          [pid!, process.pid].map(
            (of) => /^Max file locks.*$/m.exec(fs.readFileSync(`/proc/${of}/limits`, "utf8"))?.[0]
          )
        )
      )
      assert.strictEqual(limits, mine)
      assert.deepStrictEqual(left(), [])
    })
  )

  it.live("a program that cannot be run is named, with or without a mark", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const program = path.join(codexHome, "fake-codex")
      fs.writeFileSync(program, "", { mode: 0o600 })
      for (const marked of [true, false]) {
        const { start } = yield* appServerOf({ codexHome, program, marked })
        const { stage, problem } = yield* Effect.flip(Effect.scoped(start))
        assert.deepStrictEqual(
          { stage, problem },
          { stage: "spawn", problem: `${program} cannot be started (EACCES).` }
        )
      }
    })
  )

  it.live("a child that does not answer its handshake is given up on, and not asked to leave for long", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start, left } = yield* serverOf({
        codexHome,
        script: "trap '' TERM\nwhile :; do sleep 0.05; done\n",
        lease: { handshakeTimeoutMs: 50, poisonGraceMs: 50, exitGraceMs: 600_000 }
      })
      const { stage, problem } = yield* Effect.flip(Effect.scoped(start))
      assert.deepStrictEqual(
        { stage, problem, left: left() },
        { stage: "handshake", problem: "Codex did not answer initialize within 50 ms.", left: [] }
      )
    })
  )

  it.live("a start that is interrupted in the midst of its handshake leaves nobody", () =>
    Effect.gen(function* () {
      const { codexHome } = yield* makeHome
      const { start, left } = yield* serverOf({
        codexHome,
        script: `: > "$CODEX_HOME/started"\nwhile read -r line; do :; done\n`
      })
      const starting = yield* Effect.forkChild(Effect.scoped(start))
      yield* eventually("it runs", () => fs.existsSync(path.join(codexHome, "started")))
      yield* Fiber.interrupt(starting)
      assert.deepStrictEqual(left(), [])
    })
  )
})
