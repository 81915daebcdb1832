/**
 * Claude Code as a governed run: the built programs, and a small host in its place that follows its documented payloads and
 * lets calls through where the real one does.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import type { ConfigFile } from "../src/services/ConfigFile.ts"
import { eventually, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"

/** Half of the host's start. */
const cache = path.resolve(import.meta.dirname, "../node_modules/.cache/compile")
const host = path.resolve(import.meta.dirname, "fixtures/claude.ts")

/** A program called claude on the PATH, as the user's own would be. */
const withClaude = Effect.fnUntraced(function* (
  config: ConfigFile,
  env: Readonly<Record<string, string>> = {}
) {
  const place = yield* makePlace(config)
  const bin = path.join(place.home, "bin")
  fs.mkdirSync(bin)
  fs.writeFileSync(
    path.join(bin, "claude"),
    `#!/bin/sh\nexport NODE_COMPILE_CACHE='${cache}'\nexec '${process.execPath}' --no-warnings '${host}' "$@"\n`,
    { mode: 0o755 }
  )
  const claude: Place = { ...place, env: { ...place.env, PATH: `${bin}:${place.env["PATH"]}`, ...env } }
  return claude
})

const noDelete: ConfigFile = {
  policy: {
    default: "allow",
    policies: [{ id: "no-delete", command: "^rm ", verdict: "deny", reason: "nothing is deleted here" }]
  }
}

const script = (...steps: ReadonlyArray<unknown>): string => JSON.stringify(steps)
const bash = (command: string) => ({ tool: "Bash", input: { command } })

/** Nothing but a hook stands before a call then. */
const bypass = ["--permission-mode", "bypassPermissions"]

const database = <A>(place: Place, query: string, read: (row: Record<string, unknown>) => A): A => {
  const db = new DatabaseSync(path.join(place.home, "state/holdfast.db"), { readOnly: true })
  const row = db.prepare(query).get()
  db.close()
  return read(row ?? {})
}
const incidents = (place: Place): number =>
  database(place, "SELECT count(*) AS n FROM audit WHERE source = 'incident'", ({ n }) => Number(n))
const pendingId = (place: Place): string | null =>
  database(place, "SELECT approval_id FROM approvals WHERE state = 'pending'", ({ approval_id: id }) =>
    typeof id === "string" ? id : null
  )
interface Row {
  readonly source: unknown
  readonly verdict: unknown
  readonly event: unknown
  readonly tool: unknown
  readonly provider: unknown
}

const rowsOf = (place: Place): ReadonlyArray<Row> => {
  const db = new DatabaseSync(path.join(place.home, "state/holdfast.db"), { readOnly: true })
  const rows = db.prepare("SELECT source, verdict, event, tool, provider FROM audit ORDER BY seq").all()
  db.close()
  return rows.map(({ source, verdict, event, tool, provider }) => ({
    source,
    verdict,
    event,
    tool,
    provider
  }))
}
const sessionsOf = (place: Place): number =>
  database(place, "SELECT count(*) AS n FROM claude_sessions", ({ n }) => Number(n))

const readable = (file: string): string => {
  try {
    return fs.readFileSync(file, "latin1")
  } catch {
    return ""
  }
}

const tokensOf = (place: Place): ReadonlyArray<string> => {
  const bridges = path.join(place.runtimeDir, "bridges")
  return fs
    .readdirSync(bridges)
    .flatMap((name) => /^token=(.+)$/m.exec(fs.readFileSync(path.join(bridges, name), "utf8"))?.[1] ?? [])
}

/** The host says FAKE_CLAUDE_... of its own environment, which a run gets by name only. */
const claude = (place: Place, args: ReadonlyArray<string>, env: ReadonlyArray<string> = []) =>
  holdfast(place, ["claude", ...env.flatMap((pair) => ["--env", pair]), "--", ...args])

describe("Claude Code, governed", () => {
  it.live("each call is decided, what is denied does not run, and its output and status are the run's", () =>
    Effect.gen(function* () {
      const place = yield* withClaude(noDelete)
      yield* startGateway(place)
      fs.writeFileSync(path.join(place.workspace, "ledger"), "the only copy")
      const { stdout, code } = yield* claude(place, [
        "-p",
        script(bash("rm ledger"), bash("echo hi > note"), { tool: "mcp__files__put", input: { a: 1 } })
      ])
      assert.deepStrictEqual(
        [code, stdout.trim().split("\n")],
        [0, ["Bash denied: nothing is deleted here", "Bash ran", "mcp__files__put ran", "done"]]
      )
      assert.isTrue(fs.existsSync(path.join(place.workspace, "ledger")))
      assert.isTrue(fs.existsSync(path.join(place.workspace, "note")))
      const rows = rowsOf(place)
      assert.deepStrictEqual(
        rows.filter(({ event }) => event === "pre_tool_use").map(({ verdict, tool }) => `${verdict} ${tool}`),
        ["deny Bash", "allow Bash", "allow mcp__files__put"]
      )
      assert.includeMembers(
        rows.map(({ event }) => event),
        ["session_start", "user_prompt_submit", "permission_request", "post_tool_use", "stop", "session_end"]
      )
      const all = yield* holdfast(place, ["ps", "-a"])
      assert.match(all.stdout, /exited with status 0/)
      assert.notInclude(all.stdout, "disableAllHooks")
      // One that goes on is not blamed for what was done before it was governed.
      const projects = path.join(place.home, ".claude/projects", place.workspace.replaceAll("/", "-"))
      const before = { type: "tool_result", tool_use_id: "toolu_before", content: "ok", is_error: false }
      fs.writeFileSync(
        path.join(projects, "resumed.jsonl"),
        `${JSON.stringify({ type: "user", timestamp: "2026-01-01T00:00:00.000Z", message: { role: "user", content: [before] } })}\n`
      )
      const resumed = yield* claude(place, ["-p", script(bash("echo hi"))], ["FAKE_CLAUDE_SESSION=resumed"])
      assert.include(resumed.stdout, "Bash ran")
      yield* eventually("it is over", () => sessionsOf(place) === 0)
      assert.strictEqual(incidents(place), 0)
      const status = yield* holdfast(place, ["status"])
      assert.match(status.stdout, /guard of claude\s+PROVEN/)
    })
  )

  it.live("a session whose hooks do not answer is ended, and says so everywhere", () =>
    Effect.gen(function* () {
      const place = yield* withClaude({ ...noDelete, claude: { canarySeconds: 1 } })
      yield* startGateway(place)
      const { stderr, code } = yield* claude(
        place,
        [...bypass, "-p", script(bash("sleep 30"), bash("touch ran"))],
        ["FAKE_CLAUDE_NO_HOOKS=1"]
      )
      assert.notStrictEqual(code, 0)
      assert.include(stderr, "none of its hooks answered")
      assert.isFalse(fs.existsSync(path.join(place.workspace, "ran")))
      assert.deepStrictEqual(
        rowsOf(place).map(({ source, provider }) => `${source} ${provider}`),
        ["incident claude"]
      )
      const status = yield* holdfast(place, ["status"])
      assert.match(status.stdout, /guard of claude\s+BROKEN/)
      // One that would end before anybody could miss its hooks is not begun; one that starts no session needs none.
      const quick = yield* claude(
        place,
        [...bypass, "-p", script(bash("touch quick"))],
        ["FAKE_CLAUDE_NO_HOOKS=1"]
      )
      assert.notStrictEqual(quick.code, 0)
      assert.isFalse(fs.existsSync(path.join(place.workspace, "quick")))
      assert.strictEqual(incidents(place), 2)
      const version = yield* claude(place, ["--version"], ["FAKE_CLAUDE_NO_HOOKS=1"])
      assert.include(version.stdout, "Claude Code")
      yield* eventually("it is over", () => sessionsOf(place) === 0)
      assert.strictEqual(incidents(place), 2)
    })
  )

  it.live("hooks that answered before and do not any more are an incident, however short the session", () =>
    Effect.gen(function* () {
      const place = yield* withClaude({ ...noDelete, claude: { canarySeconds: 1 } })
      yield* startGateway(place)
      assert.strictEqual((yield* claude(place, [...bypass, "-p", script(bash("true"))])).code, 0)
      assert.strictEqual(incidents(place), 0)
      const { stdout } = yield* claude(
        place,
        [...bypass, "-p", script(bash("touch quick"))],
        ["FAKE_CLAUDE_NO_HOOKS=1"]
      )
      assert.include(stdout, "Bash ran")
      yield* eventually("the incident is in the log", () => incidents(place) === 1)
    })
  )

  it.live(
    "a call that ran after its hooks had died is found in what Claude wrote down, failed ones too",
    () =>
      Effect.gen(function* () {
        const place = yield* withClaude(noDelete)
        yield* startGateway(place)
        let expected = 0
        for (const command of ["touch ran", "touch ran; false"]) {
          expected++
          yield* claude(
            place,
            [...bypass, "-p", script(bash("true"), bash(command))],
            ["FAKE_CLAUDE_HOOKS_UNTIL=1"]
          )
          assert.isTrue(fs.existsSync(path.join(place.workspace, "ran")))
          yield* eventually("the incident is in the log", () => incidents(place) === expected)
        }
        const rows = rowsOf(place)
        assert.strictEqual(rows.filter(({ source }) => source === "incident").length, 2)
        assert.match((yield* holdfast(place, ["status"])).stdout, /guard of claude\s+BROKEN/)
        assert.include((yield* holdfast(place, ["audit", "verify"])).stdout, "UNDECIDED: 2 incidents")
      })
  )

  it.live(
    "a project cannot switch the hooks off, and a gateway that is gone lets no call through, in old versions too",
    () =>
      Effect.gen(function* () {
        const place = yield* withClaude({ ...noDelete, hook: { timeoutSeconds: 2 } })
        const gateway = yield* startGateway(place)
        fs.mkdirSync(path.join(place.workspace, ".claude"))
        fs.writeFileSync(path.join(place.workspace, ".claude/settings.json"), '{"disableAllHooks":true}')
        const off = yield* claude(place, ["-p", script(bash("rm x"))])
        assert.include(off.stdout, "Bash denied: nothing is deleted here")
        const file = (name: string) => path.join(place.workspace, name)
        yield* Effect.forkChild(
          claude(
            place,
            [
              ...bypass,
              "-p",
              script(bash("touch begun; while [ ! -e go ]; do sleep 0.05; done"), bash("touch undecided"))
            ],
            ["FAKE_CLAUDE_VERSION=2.1.197"]
          )
        )
        yield* eventually("it has begun", () => fs.existsSync(file("begun")))
        yield* gateway.end("SIGKILL")
        fs.writeFileSync(file("go"), "")
        const spool = path.join(place.runtimeDir, "undecided.log")
        const projects = path.join(place.home, ".claude/projects")
        const written = () =>
          fs
            .readdirSync(projects, { recursive: true, encoding: "utf8" })
            .filter((name) => name.endsWith(".jsonl"))
            .map((name) => fs.readFileSync(path.join(projects, name), "utf8"))
            .join("")
        yield* eventually("the call was refused", () => written().includes("[timeout]"))
        assert.include(fs.readFileSync(spool, "utf8"), " pre_tool_use closed timeout ")
        assert.isFalse(fs.existsSync(file("undecided")))
      })
  )

  it.live("it outlives its gateway: the next one answers its hooks, and its end is its own", () =>
    Effect.gen(function* () {
      const place = yield* withClaude(noDelete)
      const first = yield* startGateway(place)
      const file = (name: string) => path.join(place.workspace, name)
      const running = yield* Effect.forkChild(
        claude(place, [
          "-p",
          script(
            bash("touch begun; while [ ! -e go ]; do sleep 0.05; done"),
            bash("rm begun"),
            bash("touch after")
          )
        ])
      )
      yield* eventually("it has begun", () => fs.existsSync(file("begun")))
      yield* first.end("SIGKILL")
      yield* startGateway(place)
      fs.writeFileSync(file("go"), "")
      const exit = yield* Fiber.await(running)
      assert.strictEqual(exit._tag, "Success")
      yield* eventually("its last call was made", () => fs.existsSync(file("after")))
      assert.isTrue(fs.existsSync(file("begun")))
      const rows = rowsOf(place).filter(({ event }) => event === "pre_tool_use")
      assert.deepStrictEqual(
        rows.map(({ verdict }) => verdict),
        ["allow", "deny", "allow"]
      )
    })
  )

  it.live(
    "a rewrite is made, of any tool; an ask is held open for a person, never handed to Claude's own",
    () =>
      Effect.gen(function* () {
        const place = yield* withClaude({
          policy: {
            default: "allow",
            policies: [
              { module: "rewriter.mjs" },
              { id: "ask", command: "^touch asked", verdict: "ask", reason: "may it?" }
            ]
          }
        })
        fs.writeFileSync(
          path.join(place.home, "rewriter.mjs"),
          `export default { decide: ({ event, call }) => event === "pre_tool_use" && call.tool === "Write"
           ? { _tag: "rewrite", input: { ...call.input, content: "rewritten" } } : { _tag: "abstain" } }`,
          { mode: 0o600 }
        )
        yield* startGateway(place)
        const running = yield* Effect.forkChild(
          claude(place, [
            "-p",
            script({ tool: "Write", input: { file_path: "w", content: "original" } }, bash("touch asked"))
          ])
        )
        yield* eventually("somebody is asked", () => pendingId(place) !== null)
        const id = pendingId(place) ?? ""
        // While a hook is held its client lives: no process has a token of ours where others see it.
        const found = tokensOf(place).flatMap((token) =>
          fs
            .readdirSync("/proc")
            .filter((name) => /^\d+$/.test(name))
            .flatMap((pid) => ["cmdline", "environ"].map((name) => `/proc/${pid}/${name}`))
            .filter((file) => readable(file).includes(token))
        )
        assert.deepStrictEqual([tokensOf(place).length > 0, found], [true, []])
        assert.isFalse(fs.existsSync(path.join(place.workspace, "asked")))
        yield* holdfast(place, ["approvals", "approve", id])
        yield* Fiber.await(running)
        assert.strictEqual(fs.readFileSync(path.join(place.workspace, "w"), "utf8"), "rewritten")
        assert.isTrue(fs.existsSync(path.join(place.workspace, "asked")))
      })
  )

  it.live("what is not there, not allowed or not understood is one clear line, and nothing is started", () =>
    Effect.gen(function* () {
      const place = yield* makePlace({ claude: { command: "/nonexistent/claude" } })
      yield* startGateway(place)
      const missing = yield* holdfast(place, ["claude", "--", "-p", "x"])
      assert.include(missing.stderr, "Claude Code was not found (/nonexistent/claude)")
      const refused = yield* holdfast(place, ["claude", "-p", "x", "--settings", "{}"])
      assert.include(refused.stderr, "claude --settings is refused")
      const called = yield* holdfast(place, ["claude", "--name", "a b", "--", "-p", "x"])
      assert.match(called.stderr, /^holdfast: "a b" cannot be a run's name/)
      const all = yield* holdfast(place, ["ps", "-a"])
      assert.include(all.stdout, "there is no run")
    })
  )
})
