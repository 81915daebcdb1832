import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { defaultRules } from "../src/services/DefaultRules.ts"
import { environmentOf } from "../src/services/ConfigFile.ts"
import { type Paths, resolve, resolvePaths, type SettingsShape } from "../src/services/Settings.ts"

type Environment = Readonly<Record<string, string>>

const machine = { uid: 1000, homeDirectory: "/home/u", tempDirectory: "/tmp", clientDirectory: "/dist" }

const settled = (config: unknown, env: Environment = {}): SettingsShape =>
  Result.getOrThrow(resolve({ ...machine, env }, config === null ? null : JSON.stringify(config)))

const refusal = (text: string | null, env: Environment = {}) =>
  Result.match(resolve({ ...machine, env }, text), {
    onSuccess: () => null,
    onFailure: ({ where, problem }) => ({ where, problem })
  })

const configPath = "/home/u/.config/holdfast/config.json"

const directories = (env: Environment) => {
  const { state, runtime, config }: Paths = resolvePaths({ ...machine, env })
  return { state, runtime, config }
}

const socket = (home: string) =>
  resolvePaths({ ...machine, env: { HOLDFAST_HOME: home, HOLDFAST_RUNTIME_DIR: "/r" } }).controlSocket

describe("Settings", () => {
  it("without a file and an environment everything has its default", () => {
    const { paths, ...rest } = settled(null)
    assert.deepStrictEqual(rest, {
      environment: {},
      codex: {
        command: null,
        home: "/home/u/.local/state/holdfast/codex",
        sandbox: "workspace-write",
        passEnv: []
      },
      claude: { command: null, canaryMs: 30_000, terminalCanaryMs: 60_000 },
      hook: {
        timeoutMs: 30_000,
        decisionTimeoutMs: 30_000,
        askHoldMs: 300_000,
        client: null,
        clientDirectory: "/dist",
        lateGraceMs: 10_000,
        maxBodyBytes: 5_000_000
      },
      relay: { ttlMs: 120_000, decisionsKept: 128 },
      turn: { timeoutMs: 3_600_000, providerTimeoutMs: 60_000, interruptTimeoutMs: 10_000 },
      appServer: { connect: null, tokenFile: null },
      lease: {
        idleGraceMs: 30_000,
        handshakeTimeoutMs: 15_000,
        requestTimeoutMs: 60_000,
        exitGraceMs: 8_000,
        poisonGraceMs: 500,
        probeIntervalMs: 10_000,
        probeTimeoutMs: 10_000,
        silentLimitMs: 30_000,
        stateLookMs: 250,
        intensity: { faults: 5, periodMs: 60_000, cooldownMs: 60_000 }
      },
      approvals: { expireMs: 900_000 },
      nodes: { listen: null, certificate: null, key: null },
      node: null,
      mark: { killGraceMs: 500, sweepTimeoutMs: 10_000 },
      policy: { default: "allow", policies: defaultRules },
      directions: {},
      logLevel: "info"
    })
    assert.deepStrictEqual(
      {
        ...paths,
        controlSocket: "",
        hookSocket: paths.hookSocket("01JC0000000000ABCDEFGHIJKL"),
        codexSocket: paths.codexSocket("NAME").replace(/-[0-9a-f]{8}-/, "-INSTANCE-")
      },
      {
        state: "/home/u/.local/state/holdfast",
        runtime: "/tmp/holdfast-1000",
        bridges: "/tmp/holdfast-1000/bridges",
        config: configPath,
        database: "/home/u/.local/state/holdfast/holdfast.db",
        auditHead: "/home/u/.local/state/holdfast/audit.head",
        controlSocket: "",
        hookSocket: "/tmp/holdfast-1000/hooks-ABCDEFGHIJKL.sock",
        codexSocket: "/tmp/holdfast-1000/codex-INSTANCE-NAME.sock"
      }
    )
  })

  it("XDG moves each directory, HOLDFAST_HOME all of them, HOLDFAST_RUNTIME_DIR the runtime alone", () => {
    const xdg = { XDG_STATE_HOME: "/s", XDG_RUNTIME_DIR: "/r/", XDG_CONFIG_HOME: "/c" }
    const home = { HOLDFAST_HOME: "/h//" }
    const runtime = { HOLDFAST_RUNTIME_DIR: "/run/x" }
    const [byXdg, byHome] = [
      { state: "/s/holdfast", runtime: "/r/holdfast", config: "/c/holdfast/config.json" },
      { state: "/h/state", runtime: "/h/run", config: "/h/config.json" }
    ]
    assert.deepStrictEqual(
      [
        xdg,
        home,
        { ...xdg, ...home },
        { ...xdg, ...runtime },
        { ...home, ...runtime },
        { ...xdg, ...home, ...runtime }
      ].map(directories),
      [
        byXdg,
        byHome,
        byHome,
        { ...byXdg, runtime: "/run/x" },
        { ...byHome, runtime: "/run/x" },
        { ...byHome, runtime: "/run/x" }
      ]
    )
  })

  it("an empty variable is as none, and a relative XDG directory is ignored as its specification says", () => {
    const none = directories({})
    assert.deepStrictEqual(
      [
        directories({ HOLDFAST_HOME: "", XDG_STATE_HOME: "", HOLDFAST_RUNTIME_DIR: "" }),
        directories({ XDG_STATE_HOME: "s", XDG_RUNTIME_DIR: "./r", XDG_CONFIG_HOME: "c" })
      ],
      [none, none]
    )
  })

  it("our own directories have to be absolute", () => {
    const problem = "it is not an absolute path"
    assert.deepStrictEqual(
      [refusal(null, { HOLDFAST_HOME: "h" }), refusal(null, { HOLDFAST_RUNTIME_DIR: "../r" })],
      [
        { where: "HOLDFAST_HOME", problem },
        { where: "HOLDFAST_RUNTIME_DIR", problem }
      ]
    )
  })

  it("two state directories that share a runtime directory have two control sockets, each always the same", () => {
    assert.notStrictEqual(socket("/a"), socket("/b"))
    assert.strictEqual(socket("/a"), socket("/a/"))
  })

  it("every key of the file is honoured", () => {
    const policies = [{ id: "mine", verdict: "ask" }, { module: "./x.mjs" }] as const
    const settings = settled({
      codex: { command: "/bin/codex", home: "/ch", sandbox: "read-only", passEnv: ["A"] },
      hook: { timeoutSeconds: 60, client: "nc" },
      appServer: { connect: "wss://codex.example", tokenFile: "/t" },
      turn: { timeoutSeconds: 5, providerTimeoutSeconds: 7 },
      nodes: { certificate: "/c", key: "/k" },
      policy: { default: "deny", policies },
      logLevel: "debug"
    })
    assert.deepStrictEqual(
      {
        codex: settings.codex,
        hook: [settings.hook.timeoutMs, settings.hook.client],
        appServer: settings.appServer,
        turn: [settings.turn.timeoutMs, settings.turn.providerTimeoutMs],
        nodes: settings.nodes,
        policy: settings.policy,
        logLevel: settings.logLevel
      },
      {
        codex: { command: "/bin/codex", home: "/ch", sandbox: "read-only", passEnv: ["A"] },
        hook: [60_000, "nc"],
        appServer: { connect: "wss://codex.example", tokenFile: "/t" },
        turn: [5_000, 7_000],
        nodes: { listen: null, certificate: "/c", key: "/k" },
        policy: { default: "deny", policies },
        logLevel: "debug"
      }
    )
  })

  it("the environment has the last word, key by key", () => {
    const file = {
      codex: { command: "a", sandbox: "read-only" },
      hook: { timeoutSeconds: 60 },
      logLevel: "warn"
    }
    const env = {
      HOLDFAST_CODEX: "b",
      HOLDFAST_CODEX_PASS_ENV: "X,,Y",
      HOLDFAST_HOOK_TIMEOUT_SECONDS: "90",
      HOLDFAST_POLICY: `{"default":"deny","policies":[]}`,
      HOLDFAST_LOG_LEVEL: ""
    }
    const { codex, hook, policy, logLevel, environment } = settled(file, env)
    assert.deepStrictEqual(
      { codex, timeoutMs: hook.timeoutMs, policy, logLevel, environment },
      {
        codex: {
          command: "b",
          home: "/home/u/.local/state/holdfast/codex",
          sandbox: "read-only",
          passEnv: ["X", "Y"]
        },
        timeoutMs: 90_000,
        policy: { default: "deny", policies: [] },
        logLevel: "warn",
        environment: env
      }
    )
  })

  it.each([
    ["{", "it is not valid JSON"],
    ["", "it is not valid JSON"],
    ["[]", "Expected object"],
    [`{"codx":{}}`, "codx: unknown key"],
    [`{"codex":{"comand":"x"}}`, "codex.comand: unknown key"],
    [`{"codex":{"command":5}}`, "codex.command: Expected string"],
    [`{"codex":{"home":""}}`, "codex.home: Expected a value with a length of at least 1"],
    [`{"hook":{"timeoutSeconds":1}}`, "hook.timeoutSeconds: Expected a value between 2 and 86400"],
    [`{"hook":{"timeoutSeconds":"30"}}`, "hook.timeoutSeconds: Expected number"],
    [`{"hook":{"client":"bash"}}`, `hook.client: Expected "perl" | "nc" | "curl" | "node"`],
    [
      `{"appServer":{"connect":"ws://10.0.0.1:80"}}`,
      "appServer.connect: Expected unix:/PATH, ws:// of this machine, or wss://HOST"
    ],
    [`{"appServer":{"connect":"wss://h","tokenFile":"t"}}`, "appServer.tokenFile: Expected an absolute path"],
    [
      `{"appServer":{"tokenFile":"/t"}}`,
      "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
    ],
    [
      `{"appServer":{"connect":"unix:/s","tokenFile":"/t"}}`,
      "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
    ],
    [`{"appServer":{"conect":"unix:/s"}}`, "appServer.conect: unknown key"],
    [
      `{"turn":{"providerTimeoutSeconds":0}}`,
      "turn.providerTimeoutSeconds: Expected a value between 1 and 3600"
    ],
    [`{"nodes":{"certificate":"c","key":"/k"}}`, "nodes.certificate: Expected an absolute path"],
    [`{"nodes":{"certificate":"/c"}}`, "nodes.certificate: it needs nodes.key as well"],
    [`{"nodes":{"key":"/k"}}`, "nodes.key: it needs nodes.certificate as well"],
    [`{"policy":{"policies":[]}}`, "policy.default: Missing key"],
    [
      `{"policy":{"default":"deny","policies":[{"id":"a","verdict":"deny"},{"id":"b","verdit":"deny"}]}}`,
      "policy.policies[1].verdit: unknown key; policy.policies[1].verdict: Missing key"
    ],
    [
      `{"policy":{"default":"deny","policies":[{"module":"a","timeoutMs":0}]}}`,
      "policy.policies[0].timeoutMs: Expected a value between 1 and 600000"
    ],
    [`{"directions":{"pre_tool_us":"open"}}`, "directions.pre_tool_us: unknown key"],
    [`{"approvals":{"holdSeconds":0}}`, "approvals.holdSeconds: Expected a value between 1 and 86400"],
    [`{"a":1,"b":2}`, "a: unknown key; b: unknown key"],
    [`{"__proto__":{"logLevel":"debug"}}`, "__proto__: unknown key"]
  ])("the file %s is refused: %s", (text, problem) => {
    assert.deepStrictEqual(refusal(text), { where: configPath, problem })
  })

  it.each([
    [
      "HOLDFAST_CODEX_SANDBOX",
      "none",
      `codex.sandbox: Expected "read-only" | "workspace-write" | "danger-full-access"`
    ],
    ["HOLDFAST_HOOK_TIMEOUT_SECONDS", " ", "hook.timeoutSeconds: Expected number"],
    ["HOLDFAST_TURN_TIMEOUT_SECONDS", "0", "turn.timeoutSeconds: Expected a value between 1 and 604800"],
    [
      "HOLDFAST_APP_SERVER_CONNECT",
      "tcp://h",
      "appServer.connect: Expected unix:/PATH, ws:// of this machine, or wss://HOST"
    ],
    [
      "HOLDFAST_APP_SERVER_TOKEN_FILE",
      "/t",
      "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
    ],
    [
      "HOLDFAST_TURN_PROVIDER_TIMEOUT_SECONDS",
      "0",
      "turn.providerTimeoutSeconds: Expected a value between 1 and 3600"
    ],
    ["HOLDFAST_NODES_KEY", "k", "nodes.key: Expected an absolute path"],
    ["HOLDFAST_NODES_CERTIFICATE", "/c", "nodes.certificate: it needs nodes.key as well"],
    ["HOLDFAST_POLICY", "{", "it is not valid JSON"],
    ["HOLDFAST_POLICY", "{}", "policy.default: Missing key; policy.policies: Missing key"],
    ["HOLDFAST_LOG_LEVEL", "loud", `logLevel: Expected "debug" | "info" | "warn" | "error"`]
  ])("%s=%s is refused by its name: %s", (variable, value, problem) => {
    assert.deepStrictEqual(refusal(null, { [variable]: value }), { where: variable, problem })
  })

  it("an app-server is reached over a socket file, this machine's own addresses, or TLS, and no other way", () => {
    const taken = (connect: string) => refusal(JSON.stringify({ appServer: { connect } })) === null
    assert.deepStrictEqual(
      [
        "unix:/run/codex.sock",
        "unix:///run/codex.sock",
        "ws://127.0.0.1:9000",
        "ws://localhost:9000/",
        "ws://[::1]:9000/rpc",
        "wss://codex.example:443/rpc"
      ].filter((connect) => !taken(connect)),
      []
    )
    assert.deepStrictEqual(
      [
        "",
        "unix:",
        "unix:run/codex.sock",
        "/run/codex.sock",
        "ws://codex.example",
        "ws://127.0.0.1.example.org",
        "ws://127.0.0.1:9000@codex.example",
        "ws://user@127.0.0.1:9000",
        "ws://0.0.0.0:9000",
        "wss://user:secret@codex.example",
        "wss://",
        "http://127.0.0.1:9000"
      ].filter(taken),
      []
    )
  })

  it("a token file of the file serves an address of the environment", () => {
    const file = { appServer: { connect: "ws://127.0.0.1:1", tokenFile: "/t" } }
    const env = { HOLDFAST_APP_SERVER_CONNECT: "wss://codex.example" }
    assert.deepStrictEqual(settled(file, env).appServer, { connect: "wss://codex.example", tokenFile: "/t" })
    assert.deepStrictEqual(refusal(JSON.stringify(file), { HOLDFAST_APP_SERVER_CONNECT: "unix:/s" }), {
      where: configPath,
      problem: "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
    })
  })

  it("a refused value is never repeated, since it may be a secret in the wrong place", () => {
    const secret = "sk-not-for-the-log"
    const texts = [
      refusal(JSON.stringify({ codex: { sandbox: secret, passEnv: secret }, logLevel: secret })),
      refusal(`{"codex": ${secret}`),
      ...Object.values(environmentOf)
        .filter((variable) => !/CODEX$|CLAUDE$|CODEX_HOME|PASS_ENV/.test(variable))
        .map((variable) => refusal(null, { [variable]: secret }))
    ].map((problem) => JSON.stringify(problem))
    assert.deepStrictEqual(
      texts.filter((text) => text === "null" || text.includes(secret) || text.includes("\\n")),
      []
    )
  })
})
