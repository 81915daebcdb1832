/** The gateway as a process: killed at bad moments, beside others, with its clients broken. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import {
  ask,
  callerOf,
  decisionsOf,
  dist,
  endOf,
  eventually,
  holdfast,
  makePlace,
  marked,
  type Place,
  run,
  runtimeFiles,
  startGateway,
  turn
} from "./support/gateway.ts"
import { leaseOf, serverRange } from "./support/leases.ts"

const seconds = 90_000

const live = <A, E>(promise: string, test: () => Effect.Effect<A, E, ScriptedProvider | Scope.Scope>) =>
  it.live(promise, () => Effect.provide(test(), providerLayer), seconds)

const shell = (cmd: string) => ({ fn: "exec_command", args: { cmd } }) as const

/** A policy module in the place that says which file it decides by: it hangs until `go` exists there. */
const slowPolicy = (place: Place, seen: string): string => {
  const file = path.join(place.home, "slow.mjs")
  fs.writeFileSync(
    file,
    `import fs from "node:fs"
export default {
  id: "slow",
  async decide(event) {
    if (event.event !== "pre_tool_use") return { _tag: "abstain" }
    fs.writeFileSync(${JSON.stringify(seen)}, "")
    for (;;) await new Promise((resume) => setTimeout(resume, 1000))
  }
}
`
  )
  return file
}

const hookPayload = JSON.stringify({
  session_id: "s",
  turn_id: "t",
  transcript_path: null,
  cwd: "/",
  hook_event_name: "PreToolUse",
  model: "m",
  permission_mode: "default",
  tool_name: "Bash",
  tool_input: { command: "true" },
  tool_use_id: "call_1"
})

/** Runs a hook command as Codex does. */
const hook = (place: Place, command: string) =>
  run("/bin/bash", ["-c", command], { env: place.env, input: hookPayload })

/** A relay held open by the operator's command; the scope's end interrupts it. */
const openRelay = Effect.fnUntraced(function* (place: Place, session = "") {
  const opened = yield* Deferred.make<{
    readonly relayId: string
    readonly commands: Record<string, string>
  }>()
  yield* Effect.gen(function* () {
    const client = yield* ControlClient
    yield* Stream.runForEach(
      client.OpenRelay({ provider: "codex", sessionId: session || null, events: ["pre_tool_use"] }),
      (relay) => Deferred.succeed(opened, relay)
    )
  }).pipe(Effect.provide(callerOf(place)), Effect.forkScoped)
  return yield* Deferred.await(opened)
})

const policyOf = (verdict: "allow" | "deny", reason: string) => ({
  default: "allow" as const,
  policies: [{ id: reason, verdict, reason }]
})

describe("gateway", () => {
  live(
    "killed in the middle of a hook: the next gateway has the turn and the call, and down ends all of it",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const asked = path.join(place.home, "asked")
        fs.writeFileSync(
          path.join(place.home, "config.json"),
          JSON.stringify({
            policy: {
              default: "allow",
              policies: [{ module: slowPolicy(place, asked), timeoutMs: 600_000 }]
            }
          })
        )
        const server = path.resolve(import.meta.dirname, "fixtures/mcp-detaches-a-helper.mjs")
        fs.writeFileSync(
          path.join(place.codexHome, "config.toml"),
          `[mcp_servers.toy]\ncommand = ${JSON.stringify(process.execPath)}\nargs = ${JSON.stringify([server, place.home])}\n`
        )
        const bystander = yield* Effect.acquireRelease(
          Effect.sync(() => childProcess.spawn("sleep", ["60"], { stdio: "ignore" })),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        const provider = yield* ScriptedProvider
        yield* provider.script("be slow", [shell("touch ran"), { say: "done" }])
        const gateway = yield* startGateway(place)
        const running = yield* ask(place, turn(place, { provider: provider.url, prompt: "be slow" })).pipe(
          Effect.exit,
          Effect.forkScoped
        )
        yield* eventually("the policy was asked", () => fs.existsSync(asked))
        const { pid } = yield* leaseOf(place)
        const range = yield* serverRange(place)
        const helper = fs.readFileSync(path.join(place.home, "helper.pid"), "utf8").trim()
        yield* gateway.end("SIGKILL")
        assert.strictEqual((yield* Fiber.join(running))._tag, "Failure")
        const records = () => fs.readdirSync(path.join(place.runtimeDir, "bridges"))
        assert.strictEqual(records().length, 1)
        assert.isTrue(marked(range).some((line) => line.startsWith(`${helper} `)))

        fs.rmSync(asked)
        yield* startGateway(place)
        assert.strictEqual((yield* leaseOf(place)).pid, pid)
        yield* eventually("the policy was asked again", () => fs.existsSync(asked))
        assert.deepStrictEqual(
          [
            records().length,
            fs.readdirSync(place.runtimeDir).filter((name) => name.startsWith("hooks-")).length
          ],
          [1, 1]
        )
        assert.strictEqual((yield* holdfast(place, ["down"])).code, 0)
        assert.deepStrictEqual([marked(range), runtimeFiles(place)], [[], ["bridges"]])
        assert.isFalse(fs.existsSync(path.join(place.workspace, "ran")))
        assert.isNull(bystander.exitCode ?? bystander.signalCode)
      })
  )

  live("a hook that waits while its gateway restarts is answered by the next one", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const asked = path.join(place.home, "asked")
      const config = path.join(place.home, "config.json")
      fs.writeFileSync(
        config,
        JSON.stringify({
          policy: {
            default: "allow",
            policies: [{ module: slowPolicy(place, asked), timeoutMs: 600_000 }]
          }
        })
      )
      const first = yield* startGateway(place)
      const relay = yield* openRelay(place, "")
      const waiting = yield* Effect.forkScoped(hook(place, relay.commands["pre_tool_use"]!))
      yield* eventually("the policy was asked", () => fs.existsSync(asked))
      yield* first.end("SIGKILL")
      // Whoever serves that relay next writes the same path; here a stand-in does, at once.
      fs.writeFileSync(config, JSON.stringify({ policy: policyOf("deny", "second") }))
      yield* startGateway(place)
      const again = yield* openRelay(place, "")
      const target = relay.commands["pre_tool_use"]!.match(/'([^']*bridges[^']*)'/)![1]!
      const source = again.commands["pre_tool_use"]!.match(/'([^']*bridges[^']*)'/)![1]!
      fs.copyFileSync(source, `${target}.next`)
      fs.renameSync(`${target}.next`, target)
      const ran = yield* Fiber.join(waiting)
      assert.deepInclude(JSON.parse(ran.stdout).hookSpecificOutput, {
        hookEventName: "PreToolUse",
        permissionDecision: "deny",
        permissionDecisionReason: "second"
      })
    })
  )

  live(
    "two gateways of one user share a bridge directory; each hook reaches its own, and neither ends the other",
    () =>
      Effect.gen(function* () {
        const one = yield* makePlace({ policy: policyOf("deny", "one") })
        const two = yield* makePlace(
          { policy: policyOf("deny", "two") },
          { HOLDFAST_RUNTIME_DIR: one.runtimeDir }
        )
        const first = yield* startGateway(one)
        yield* startGateway(two)
        const [a, b] = [yield* openRelay(one), yield* openRelay(two)]
        assert.strictEqual(fs.readdirSync(path.join(one.runtimeDir, "bridges")).length, 2)
        const reason = (command: string) =>
          Effect.map(
            hook(one, command),
            ({ stdout }) => JSON.parse(stdout).hookSpecificOutput.permissionDecisionReason as string
          )
        assert.strictEqual(yield* reason(a.commands["pre_tool_use"]!), "one")
        assert.strictEqual(yield* reason(b.commands["pre_tool_use"]!), "two")
        yield* first.end("SIGTERM")
        assert.strictEqual(yield* reason(b.commands["pre_tool_use"]!), "two")
        assert.strictEqual(fs.readdirSync(path.join(one.runtimeDir, "bridges")).length, 1)
        assert.match(yield* reason(a.commands["pre_tool_use"]!), /\[not-found\]$/)
      })
  )

  live("two concurrent runs of one session have two relays, each with its own command", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const [a, b] = [yield* openRelay(place, "S1"), yield* openRelay(place, "S1")]
      assert.notStrictEqual(a.relayId, b.relayId)
      assert.notStrictEqual(a.commands["pre_tool_use"], b.commands["pre_tool_use"])
      const list = yield* ask(
        place,
        Effect.gen(function* () {
          return yield* (yield* ControlClient).Relays()
        })
      )
      assert.deepStrictEqual(
        list.map(({ sessionId, state }) => ({ sessionId, state })),
        [
          { sessionId: "S1", state: "live" },
          { sessionId: "S1", state: "live" }
        ]
      )
    })
  )

  live("a run that is interrupted leaves no command running and closes its relay", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const started = path.join(place.workspace, "started")
      const provider = yield* ScriptedProvider
      yield* provider.script("take long", [shell(`touch ${started}; sleep 57; touch ended`), { say: "done" }])
      yield* startGateway(place)
      const running = yield* Effect.forkScoped(
        ask(place, turn(place, { provider: provider.url, prompt: "take long" }))
      )
      yield* eventually("the command runs", () => fs.existsSync(started))
      const liveRelays = ask(
        place,
        Effect.gen(function* () {
          const relays = yield* (yield* ControlClient).Relays()
          return relays.filter(({ state }) => state === "live").length
        })
      )
      assert.strictEqual(yield* liveRelays, 1)
      const range = yield* serverRange(place)
      yield* eventually("it sleeps", () => marked(range).some((line) => line.endsWith(" sleep")))
      yield* Fiber.interrupt(running)
      yield* eventually("the command is gone", () => !marked(range).some((line) => line.endsWith(" sleep")))
      // The relay is given back last, after what its run left behind.
      yield* Effect.repeat(liveRelays, { until: (count) => count === 0 }).pipe(Effect.timeout("10 seconds"))
    })
  )

  /** The wrapper refused by exit 2; Codex ran no hook's answer and asked to approve; Codex reported a failed hook. */
  const outcomes = {
    blocked: { end: "completed", asked: 2, rows: [] },
    approval: { end: "completed", asked: 2, rows: ["approval deny no-recursive-force-delete"] },
    incident: { end: "HookIncident", asked: 1, rows: ["incident deny incident"] }
  } as const

  /** Each is what the client does instead of answering; Codex would run the tool after all but the `blocked` ones. */
  const broken: ReadonlyArray<readonly [string, string | null, keyof typeof outcomes]> = [
    ["is missing", null, "blocked"],
    ["cannot be read as a program", "\u0000\u0001", "blocked"],
    ["exits 1", "exit 1;", "blocked"],
    ["is killed", 'kill "KILL", $$; sleep 5;', "blocked"],
    ["hangs past the provider's timeout", "sleep 30;", "incident"],
    ["says nothing", "exit 0;", "approval"],
    ["prints a log line first", 'print "hello\\n{}"; exit 0;', "approval"],
    ["allows in a form Codex does not honour", 'print q({"decision":"approve"}); exit 0;', "incident"],
    ["denies without a reason", 'print q({"decision":"block"}); exit 0;', "incident"]
  ]
  for (const [what, script, outcome] of broken)
    live(`a hook client that ${what} lets nothing through: ${outcome}`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace({ hook: { timeoutSeconds: 2, client: "perl" } })
        const copy = path.join(place.home, "dist")
        fs.cpSync(dist, copy, { recursive: true, filter: (source) => !source.includes("/library") })
        const provider = yield* ScriptedProvider
        yield* provider.script("destroy", [shell("rm -rf treasure"), { say: "done" }])
        const treasure = path.join(place.workspace, "treasure")
        fs.mkdirSync(treasure)
        yield* startGateway(place, copy)
        const client = path.join(copy, "hookRelay.pl")
        if (script === null) fs.rmSync(client)
        else fs.writeFileSync(client, script)
        const end = yield* ask(place, turn(place, { provider: provider.url, prompt: "destroy" })).pipe(
          Effect.match({ onSuccess: endOf, onFailure: ({ _tag }): string => _tag })
        )
        assert.isTrue(fs.existsSync(treasure))
        const rows = yield* ask(
          place,
          Effect.gen(function* () {
            const tail = (yield* ControlClient).AuditTail({ limit: 10, follow: false })
            return yield* Stream.runCollect(tail)
          })
        )
        // The model asked for the call, so there was something to let through.
        const log = yield* provider.log
        assert.include(JSON.stringify(log[0]?.step), "rm -rf treasure")
        assert.deepStrictEqual(
          {
            end,
            asked: log.length,
            rows: rows.map((row) => `${row.source} ${row.verdict} ${row.policy}`)
          },
          { ...outcomes[outcome], rows: [...outcomes[outcome].rows] }
        )
      })
    )

  live("a socket path over the system's limit is refused in one line that says what to do", () =>
    Effect.gen(function* () {
      const made = yield* makePlace()
      // Just too long for the gateway's sockets, and so long that not even a trial's would fit.
      for (const length of [94, 120]) {
        const runtimeDir = path.join(made.runtimeDir, "x".repeat(length - made.runtimeDir.length))
        const place: Place = { ...made, env: { ...made.env, HOLDFAST_RUNTIME_DIR: runtimeDir } }
        const { code, stderr, stdout } = yield* holdfast(place, ["up"])
        assert.deepStrictEqual({ code, stdout }, { code: 1, stdout: "" })
        assert.match(
          stderr,
          /^holdfast: The socket path .* bytes; this system allows 107\. Set HOLDFAST_RUNTIME_DIR to a shorter directory\.\n$/
        )
      }
    })
  )

  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    live(`${signal} ends it cleanly with 0; its sockets are its user's alone, and gone with it`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const sockets = () => fs.readdirSync(place.runtimeDir).filter((name) => name.endsWith(".sock"))
        assert.deepStrictEqual(
          sockets().map((name) => [
            name.replace(/-.*/, ""),
            fs.statSync(path.join(place.runtimeDir, name)).mode & 0o777
          ]),
          [
            ["control", 0o600],
            ["hooks", 0o600]
          ]
        )
        assert.deepStrictEqual(yield* gateway.end(signal), { code: 0, signal: null })
        assert.deepStrictEqual(sockets(), [])
      })
    )

  const words = "last words api_key=sk-aaaaaaaaaaaaaaaaaaaaaaaa"
  const answering = path.resolve(import.meta.dirname, "fixtures/codex-of-another-version.mjs")
  const greeted = `exec "${process.execPath}" "${answering}" "$3" 0.169.0 "${words}"`
  for (const [when, script, shown] of [
    // Whichever of the two is noticed first.
    [
      "after its handshake",
      greeted,
      /app-server \(generation 1\) is lost: (it exited with status 7|its socket was closed)/
    ],
    [
      "before its handshake",
      `echo "${words}" >&2; exit 7`,
      /it exited with status 7 before it answered\. Its last words: last words api_key=/
    ]
  ] as const)
    live(`no secret that codex says ${when} reaches the log or the caller`, () =>
      Effect.gen(function* () {
        const place = yield* makePlace({}, { HOLDFAST_LOG_LEVEL: "info" })
        const program = path.join(place.home, "fake-codex")
        fs.writeFileSync(program, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
        const changed: Place = { ...place, env: { ...place.env, HOLDFAST_CODEX: program } }
        const gateway = yield* startGateway(changed)
        const ran = yield* holdfast(changed, ["codex", "hello"])
        assert.strictEqual(ran.code, 1)
        yield* gateway.end("SIGTERM")
        const said = gateway.stderr() + ran.stderr + ran.stdout
        assert.match(said, shown)
        assert.notInclude(said, "sk-a")
      })
    )

  live("decisions are in the log of the operator's command", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const provider = yield* ScriptedProvider
      yield* provider.script("log it", [shell("true"), { say: "done" }])
      const events = yield* ask(place, turn(place, { provider: provider.url, prompt: "log it" }))
      assert.deepStrictEqual(decisionsOf(events), ["hook allow Bash: true"])
      const { code, stdout } = yield* holdfast(place, ["audit", "tail", "--json"])
      assert.strictEqual(code, 0)
      assert.deepInclude(JSON.parse(stdout), {
        verdict: "allow",
        subject: "true",
        source: "hook",
        tool: "Bash"
      })
    })
  )
})
