/** The operator's command with wrong input: one clear line that says what to do, the designed code, and nothing changed. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { overridesFor, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { dist, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"

const seconds = 90_000

/** What the state directory holds: a refused command must not have made any of it. */
const stateOf = (place: Place): ReadonlyArray<string> => {
  const state = path.join(place.home, "state")
  return fs.existsSync(state) ? fs.readdirSync(state) : []
}

const scripted = (url: string): ReadonlyArray<string> =>
  [...overridesFor(url), 'model="gpt-5.5"'].flatMap((override) => ["-c", override])

const oneLine = /^holdfast: [^\n]+\n$/

describe("holdfast", () => {
  const cases: ReadonlyArray<readonly [string, ReadonlyArray<string>, number, RegExp]> = [
    ["an unknown flag", ["status", "--frobnicate"], 2, /--frobnicate.*See: holdfast status --help/],
    ["an unknown flag of up", ["up", "--frobnicate"], 2, /--frobnicate.*See: holdfast up --help/],
    ["an unknown flag of demo", ["demo", "--frobnicate"], 2, /--frobnicate.*See: holdfast demo --help/],
    ["an unknown verb", ["stauts"], 2, /stauts.*status/],
    ["a missing argument", ["codex"], 2, /prompt/],
    ["a wrong provider", ["relays", "open", "--provider", "frob"], 2, /provider/],
    [
      "a start timeout that is none",
      ["codex", "--start-timeout", "soon", "hello"],
      2,
      /start-timeout.*"soon".*500ms, 10s or 2m.*See: holdfast codex --help/
    ],
    ["a start timeout over an hour", ["codex", "--start-timeout", "61m", "hello"], 2, /start-timeout.*to 1h/],
    ["an on-lost that is none", ["codex", "--on-lost", "retry", "hello"], 2, /on-lost.*fail.*resume/],
    ["an empty parent", ["codex", "--parent", "", "hello"], 2, /parent.*active run/],
    ["no gateway to reset", ["leases", "reset"], 3, /No gateway answers on/],
    ["no gateway", ["status"], 3, /No gateway answers on .*holdfast up/],
    ["no gateway to stop", ["down"], 3, /No gateway answers on/]
  ]
  for (const [what, args, code, line] of cases)
    it.live(
      `${what}: one line, exit ${code}, nothing changed`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace()
          const ran = yield* holdfast(place, args)
          assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code, stdout: "" })
          assert.match(ran.stderr, oneLine)
          assert.match(ran.stderr, line)
          assert.deepStrictEqual(stateOf(place), [])
        }),
      seconds
    )

  const configs: ReadonlyArray<readonly [string, string, RegExp]> = [
    ["no JSON", "{", /config\.json cannot be used: it is not valid JSON/],
    ["an unknown key", '{"polices": {}}', /config\.json cannot be used: .*polices/],
    ["a wrong type", '{"hook": {"timeoutSeconds": "soon"}}', /config\.json cannot be used: .*timeoutSeconds/],
    [
      "an app-server address that is none",
      '{"appServer": {"connect": "tcp://somewhere"}}',
      /config\.json cannot be used: appServer\.connect: Expected unix:\/PATH/
    ],
    [
      "a token that would be sent nowhere",
      '{"appServer": {"tokenFile": "/t"}}',
      /config\.json cannot be used: appServer\.tokenFile: only an appServer\.connect/
    ],
    [
      "a rule whose pattern is none",
      '{"policy": {"default": "allow", "policies": [{"id": "bad", "command": "(", "verdict": "deny"}]}}',
      /Policy bad cannot be used/
    ],
    [
      "a policy module that is not there",
      '{"policy": {"default": "allow", "policies": [{"module": "./gone.mjs"}]}}',
      /gone\.mjs cannot be used/
    ]
  ]
  for (const [what, text, line] of configs)
    it.live(
      `a config file with ${what} stops up with one line`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace()
          fs.writeFileSync(path.join(place.home, "config.json"), text)
          const ran = yield* holdfast(place, ["up"])
          assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code: 1, stdout: "" })
          assert.match(ran.stderr.split("\n").at(-2)!, line)
        }),
      seconds
    )

  it.live(
    "a config file that cannot be read stops up with one line, and changes nothing",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const config = path.join(place.home, "config.json")
        fs.rmSync(config)
        fs.mkdirSync(config)
        const ran = yield* holdfast(place, ["up"])
        assert.strictEqual(ran.code, 1)
        assert.match(ran.stderr, oneLine)
        assert.match(ran.stderr, /config\.json cannot be used: it cannot be read \(EISDIR\)/)
        assert.deepStrictEqual(stateOf(place), [])
      }),
    seconds
  )

  it.live(
    "a second up for the same state says who is running, and leaves it running",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const ran = yield* holdfast(place, ["up"])
        assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code: 1, stdout: "" })
        assert.match(
          ran.stderr,
          new RegExp(`^holdfast: A gateway is already running for .* \\(pid ${gateway.pid}\\)`)
        )
        assert.strictEqual((yield* holdfast(place, ["status"])).code, 0)
      }),
    seconds
  )

  it.live(
    "a stale socket is no gateway to a caller, and not in the way of up",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        yield* gateway.end("SIGKILL")
        assert.isTrue(fs.readdirSync(place.runtimeDir).some((name) => name.startsWith("control-")))
        const ran = yield* holdfast(place, ["status"])
        assert.strictEqual(ran.code, 3)
        assert.match(ran.stderr, /^holdfast: No gateway answers on .*\n$/)
        yield* startGateway(place)
        assert.strictEqual((yield* holdfast(place, ["status"])).code, 0)
      }),
    seconds
  )

  it.live(
    "down ends the gateway and waits for it; a second down finds none",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const ran = yield* holdfast(place, ["down", "--json"])
        assert.deepStrictEqual(
          { code: ran.code, stdout: JSON.parse(ran.stdout) as unknown },
          { code: 0, stdout: { stopped: gateway.pid } }
        )
        assert.isFalse(
          fs.existsSync(`/proc/${gateway.pid}`) &&
            !/\) Z/.test(fs.readFileSync(`/proc/${gateway.pid}/stat`, "utf8"))
        )
        assert.strictEqual((yield* holdfast(place, ["down"])).code, 3)
      }),
    seconds
  )

  const answering = path.resolve(import.meta.dirname, "fixtures/codex-of-another-version.mjs")
  const oldCodex = `#!/bin/sh
exec "${process.execPath}" "${answering}" "$3" 0.101.0
`
  const codexCases: ReadonlyArray<readonly [string, string | null, RegExp]> = [
    ["missing", null, /No codex program was found .*Install it with/],
    ["too old", oldCodex, /is codex 0\.101\.0; .*Update it/],
    ["no codex at all", "#!/bin/sh\nexit 3\n", /did not come up: it exited with status 3 before it answered/]
  ]
  for (const [what, text, line] of codexCases)
    it.live(
      `a codex that is ${what}: the turn fails with one line and the gateway lives`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace()
          const program = path.join(place.home, "fake-codex")
          if (text !== null) fs.writeFileSync(program, text, { mode: 0o755 })
          const changed: Place = { ...place, env: { ...place.env, HOLDFAST_CODEX: program } }
          yield* startGateway(changed)
          const ran = yield* holdfast(changed, ["codex", "hello"])
          assert.strictEqual(ran.code, 1)
          assert.match(ran.stderr, oneLine)
          assert.match(ran.stderr, line)
          assert.strictEqual((yield* holdfast(changed, ["status"])).code, 0)
          assert.strictEqual((yield* holdfast(changed, ["doctor"])).code, 1)
        }),
      seconds
    )

  it.live(
    "a -c key that could loosen the thread is refused by name, in whatever form it comes",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const refused = Effect.fnUntraced(function* (override: string) {
          const ran = yield* holdfast(place, ["codex", "-c", override, "hello"])
          assert.match(ran.stderr, oneLine)
          return `${ran.code} ${/-c (\S+) is refused/.exec(ran.stderr)?.[1]}`
        })
        assert.deepStrictEqual(
          yield* Effect.forEach(
            [
              "features.hooks=false",
              "features={hooks=false}",
              "approval_policy=never",
              "model_providers={x={auth={command='touch /x'}}}",
              "model_providers.x.experimental_bearer_token=sk-1",
              "hooks.state={}",
              "mcp_servers.x.command=sh",
              "no-value"
            ],
            refused
          ),
          [
            "2 features.hooks",
            "2 features.hooks",
            "2 approval_policy",
            "2 model_providers.x.auth.command",
            "2 model_providers.x.experimental_bearer_token",
            "2 hooks.state",
            "2 mcp_servers.x.command",
            "2 no-value"
          ]
        )
      }),
    seconds
  )

  it.live(
    "a gateway that is stopped is not waited for for ever: one line, exit 124",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const { pid } = yield* startGateway(place)
        yield* Effect.acquireRelease(
          Effect.sync(() => process.kill(pid, "SIGSTOP")),
          () => Effect.sync(() => process.kill(pid, "SIGCONT"))
        )
        const ran = yield* holdfast(place, ["status"])
        assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code: 124, stdout: "" })
        assert.match(
          ran.stderr,
          /^holdfast: The gateway accepts connections but did not answer within 10 s\./
        )
      }),
    seconds
  )

  it.live(
    "codex prints what the agent does and each verdict, as text and as JSON lines",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const provider = yield* ScriptedProvider
        yield* provider.script("speak", [
          { fn: "exec_command", args: { cmd: "echo heard" } },
          { say: "all done" }
        ])
        const args = overridesFor(provider.url).flatMap((override) => ["-c", override])
        const text = yield* holdfast(place, ["codex", ...args, "-c", 'model="gpt-5.5"', "speak"])
        assert.strictEqual(text.code, 0)
        assert.match(
          text.stdout,
          /is governed: 1 hook trusted[^]*allow {3}Bash {2}echo heard[^]*exit 0\n {2}heard\nall done\nturn completed\n$/
        )
        const json = yield* holdfast(place, ["--json", "codex", ...args, "-c", "model=gpt-5.5", "speak"])
        assert.deepStrictEqual(
          json.stdout
            .trim()
            .split("\n")
            .map((line) => (JSON.parse(line) as { readonly _tag: string })._tag)
            .toSorted(),
          ["governed", "hook", "verdict", "command", "message", "ended"].toSorted()
        )
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  it.live(
    "a turn that does not complete is exit 1",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const provider = yield* ScriptedProvider
        yield* provider.script("be refused", [{ status: 401 }])
        const ran = yield* holdfast(place, ["codex", ...scripted(provider.url), "be refused"])
        assert.strictEqual(ran.code, 1)
        assert.match(
          ran.stdout,
          /turn failed: [^\n]*\(HTTP 401\)[^\n]*\[AuthRejected, caller\]\n( {2}codex: [^\n]*\n)?$/
        )
        const json = yield* holdfast(place, ["--json", "codex", ...scripted(provider.url), "be refused"])
        const ended = json.stdout
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line) as { readonly _tag: string; readonly failure?: unknown })
          .find(({ _tag }) => _tag === "ended")
        assert.deepStrictEqual(ended?.failure, { _tag: "AuthRejected", httpStatus: 401 })
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  it.live(
    "resume goes on with that thread, fork with a copy",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const provider = yield* ScriptedProvider
        yield* provider.script("speak", [{ say: "done" }])
        const threadOf = Effect.fnUntraced(function* (...flags: ReadonlyArray<string>) {
          const ran = yield* holdfast(place, [
            "codex",
            "--json",
            ...flags,
            ...scripted(provider.url),
            "speak"
          ])
          assert.strictEqual(ran.code, 0, ran.stderr)
          const events = ran.stdout
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line) as { readonly _tag: string; readonly threadId?: string })
          return events.find(({ _tag }) => _tag === "governed")?.threadId ?? ""
        })
        const first = yield* threadOf()
        assert.match(first, /^[0-9a-f-]{36}$/)
        assert.strictEqual(yield* threadOf("--resume", first), first)
        const forked = yield* threadOf("--fork", first)
        assert.match(forked, /^[0-9a-f-]{36}$/)
        assert.notStrictEqual(forked, first)
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  it.live(
    "a gateway that dies over a question is one clear line, exit 1",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        // Its first row says that it follows.
        assert.strictEqual((yield* holdfast(place, ["doctor"])).code, 0)
        const child = yield* Effect.acquireRelease(
          Effect.sync(() =>
            childProcess.spawn("/bin/sh", [path.join(dist, "holdfast.sh"), "audit", "tail", "-f"], {
              env: place.env
            })
          ),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        let stderr = ""
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
        const closed = yield* Effect.forkChild(
          Effect.callback<number | null>((resume) => {
            child.once("close", (code) => resume(Effect.succeed(code)))
          }),
          { startImmediately: true }
        )
        yield* Effect.callback<void>((resume) => {
          child.stdout.once("data", () => resume(Effect.void))
        })
        yield* gateway.end("SIGKILL")
        assert.strictEqual(yield* Fiber.join(closed), 1)
        assert.match(stderr, /^holdfast: The gateway closed the connection before it answered\.[^\n]*\n$/)
      }),
    seconds
  )

  it.live(
    "doctor sends one hook the whole way round",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const ran = yield* holdfast(place, ["doctor", "--json"])
        assert.strictEqual(ran.code, 0, ran.stdout)
        const checks = JSON.parse(ran.stdout) as ReadonlyArray<{
          readonly what: string
          readonly status: string
        }>
        assert.deepInclude(
          checks.map(({ what, status }) => `${what}: ${status}`),
          "hook round trip: ok"
        )
        const audit = yield* holdfast(place, ["audit", "tail", "--json"])
        assert.deepInclude(JSON.parse(audit.stdout), {
          callId: "doctor",
          source: "hook",
          subject: "true",
          verdict: "allow"
        })
      }),
    seconds
  )

  it.live(
    "`holdfast --json up` is `holdfast up --json`",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const readyOf = Effect.fnUntraced(function* (...args: ReadonlyArray<string>) {
          const child = yield* Effect.acquireRelease(
            Effect.sync(() =>
              childProcess.spawn("/bin/sh", [path.join(dist, "holdfast.sh"), ...args], { env: place.env })
            ),
            (child) =>
              Effect.callback<void>((resume) => {
                if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
                child.once("exit", () => resume(Effect.void))
                child.kill("SIGTERM")
              })
          )
          const line = yield* Effect.callback<string>((resume) => {
            child.stdout.setEncoding("utf8").once("data", (text: string) => resume(Effect.succeed(text)))
            child.once("exit", (code) => resume(Effect.succeed(`{"exited":${code}}`)))
          })
          const ready = JSON.parse(line) as Readonly<Record<string, unknown>>
          return { keys: Object.keys(ready), ready: ready["ready"], isChild: ready["pid"] === child.pid }
        })
        const expected = {
          keys: ["ready", "pid", "epoch", "control", "hooks"],
          ready: true,
          isChild: true
        }
        assert.deepStrictEqual(yield* Effect.scoped(readyOf("up", "--json")), expected)
        assert.deepStrictEqual(yield* Effect.scoped(readyOf("--json", "up")), expected)
      }),
    seconds
  )

  it.live(
    "an error line masks secrets",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace({}, { HOLDFAST_CODEX: "/x/sk-aaaaaaaaaaaaaaaaaaaaaaaa" })
        yield* startGateway(place)
        const ran = yield* holdfast(place, ["codex", "hello"])
        assert.strictEqual(ran.code, 1)
        assert.match(ran.stderr, /^holdfast: [^\n]*No codex program was found \(looked at \/x\/[^\n]*\n$/)
        assert.notInclude(ran.stderr + ran.stdout, "sk-aaaa")
      }),
    seconds
  )
})
