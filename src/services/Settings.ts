/**
 * Settings: every knob of the gateway with its default. A program reads its surroundings once and provides them; layers
 * only look.
 */
import * as Context from "effect/Context"
import * as Hash from "effect/Hash"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import type { Intensity } from "./AppServerLease.ts"
import { defaultRules } from "./DefaultRules.ts"
import { Direction, HookEventName } from "./HookEvent.ts"
import { ModulePolicy, PolicyConfig, Rule } from "./Policy.ts"

/** Of the package; the architecture test compares it with package.json. */
export const version = "0.1.0"

/** The sandboxes of Codex, loosest last; `-c` may only tighten. */
export const sandboxModes = ["read-only", "workspace-write", "danger-full-access"] as const
export const SandboxMode = Schema.Literals(sandboxModes)
export type SandboxMode = typeof SandboxMode.Type

/** A token must not cross a network in the clear, so plain `ws` is for this machine only. */
export const AppServerAddress = Schema.String.check(
  Schema.isPattern(/^(unix:\/.+|ws:\/\/(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(\/.*)?|wss:\/\/[^\s@]+)$/, {
    expected: "unix:/PATH, ws:// of this machine, or wss://HOST"
  })
)

/** Whoever starts the gateway may be anywhere. */
const AbsolutePath = Schema.String.check(Schema.isPattern(/^\//, { expected: "an absolute path" }))

const LogLevel = Schema.Literals(["debug", "info", "warn", "error"])

/** `config.json`. Every key is optional; an unknown one is an error, because a misspelt guard is no guard. */
export const ConfigFile = Schema.Struct({
  codex: Schema.optionalKey(
    Schema.Struct({
      /** The codex program: a path, or a name looked up on PATH. */
      command: Schema.optionalKey(Schema.NonEmptyString),
      /** CODEX_HOME of the shared app-server; absent = `<state>/codex`. */
      home: Schema.optionalKey(Schema.NonEmptyString),
      sandbox: Schema.optionalKey(SandboxMode),
      /** Names of environment variables handed to the app-server beside the built-in list; a provider's `env_key`, say. */
      passEnv: Schema.optionalKey(Schema.Array(Schema.NonEmptyString))
    })
  ),
  appServer: Schema.optionalKey(
    Schema.Struct({
      /** An app-server that runs already, used instead of a child: `unix:/PATH`, `ws://LOOPBACK:PORT` or `wss://HOST`. */
      connect: Schema.optionalKey(AppServerAddress),
      /** A file with the bearer token of a `ws` or `wss` one; 0600, ours. */
      tokenFile: Schema.optionalKey(AbsolutePath)
    })
  ),
  hook: Schema.optionalKey(
    Schema.Struct({
      /** Seconds the provider gives a hook; ours answers before. */
      timeoutSeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 2, maximum: 86_400 }))),
      client: Schema.optionalKey(Schema.Literals(["perl", "nc", "curl", "node"]))
    })
  ),
  turn: Schema.optionalKey(
    Schema.Struct({
      timeoutSeconds: Schema.optionalKey(
        Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 604_800 }))
      ),
      /** How long Codex may try in vain to reach its provider before the turn fails. */
      providerTimeoutSeconds: Schema.optionalKey(
        Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3_600 }))
      )
    })
  ),
  policy: Schema.optionalKey(PolicyConfig),
  /** Which way an event falls when nobody can decide; absent = closed for pre_tool_use and permission_request. */
  directions: Schema.optionalKey(Schema.Record(HookEventName, Schema.optionalKey(Direction))),
  logLevel: Schema.optionalKey(LogLevel)
})
export type ConfigFile = typeof ConfigFile.Type

/** The environment variable of each key; those that are not plain text or numbers take JSON. */
export const environmentOf = {
  "codex.command": "HOLDFAST_CODEX",
  "codex.home": "HOLDFAST_CODEX_HOME",
  "codex.sandbox": "HOLDFAST_CODEX_SANDBOX",
  "codex.passEnv": "HOLDFAST_CODEX_PASS_ENV",
  "appServer.connect": "HOLDFAST_APP_SERVER_CONNECT",
  "appServer.tokenFile": "HOLDFAST_APP_SERVER_TOKEN_FILE",
  "hook.timeoutSeconds": "HOLDFAST_HOOK_TIMEOUT_SECONDS",
  "hook.client": "HOLDFAST_HOOK_CLIENT",
  "turn.timeoutSeconds": "HOLDFAST_TURN_TIMEOUT_SECONDS",
  "turn.providerTimeoutSeconds": "HOLDFAST_TURN_PROVIDER_TIMEOUT_SECONDS",
  policy: "HOLDFAST_POLICY",
  directions: "HOLDFAST_DIRECTIONS",
  logLevel: "HOLDFAST_LOG_LEVEL"
} as const

export class ConfigError extends Schema.TaggedError<ConfigError>()("ConfigError", {
  where: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `The configuration in ${this.where} cannot be used: ${this.problem}. Correct it and try again.`
  }
}

export interface Paths {
  readonly state: string
  readonly runtime: string
  readonly bridges: string
  readonly config: string
  readonly database: string
  /** One per state directory, so that two gateways can share a runtime directory. */
  readonly controlSocket: string
  /** One per epoch: a stale file is never in the way of a new gateway. */
  readonly hookSocket: (epoch: string) => string
}

/** What a program knows of its surroundings before any file is read. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly uid: number
  readonly homeDirectory: string
  readonly tempDirectory: string
  /** The directory of the running program's own files. */
  readonly clientDirectory: string
}

const trimSlash = (path: string): string => path.replace(/\/+$/, "") || "/"

export const resolvePaths = ({
  env,
  uid,
  homeDirectory,
  tempDirectory
}: Omit<Surroundings, "clientDirectory">): Paths => {
  // The XDG specification has relative paths ignored; `resolve` refuses ours.
  const get = (name: string): string | undefined =>
    env[name]?.startsWith("/") ? trimSlash(env[name]) : undefined
  const home = get("HOLDFAST_HOME")
  const state = home
    ? `${home}/state`
    : `${get("XDG_STATE_HOME") ?? `${trimSlash(homeDirectory)}/.local/state`}/holdfast`
  const runtime =
    get("HOLDFAST_RUNTIME_DIR") ??
    (home
      ? `${home}/run`
      : get("XDG_RUNTIME_DIR")
        ? `${get("XDG_RUNTIME_DIR")}/holdfast`
        : `${trimSlash(tempDirectory)}/holdfast-${uid}`)
  const config = home
    ? `${home}/config.json`
    : `${get("XDG_CONFIG_HOME") ?? `${trimSlash(homeDirectory)}/.config`}/holdfast/config.json`
  const instance = (Hash.string(state) >>> 0).toString(16).padStart(8, "0")
  return {
    state,
    runtime,
    bridges: `${runtime}/bridges`,
    config,
    database: `${state}/holdfast.db`,
    controlSocket: `${runtime}/control-${instance}.sock`,
    hookSocket: (epoch) => `${runtime}/hooks-${epoch.slice(-12)}.sock`
  }
}

/** sun_path of sockaddr_un with its terminating NUL: 108 bytes on Linux, 104 on macOS. */
export const maxSocketPathBytes = (platform: string): number => (platform === "darwin" ? 103 : 107)

export class SocketPathTooLong extends Schema.TaggedError<SocketPathTooLong>()("SocketPathTooLong", {
  path: Schema.String,
  bytes: Schema.Int,
  limit: Schema.Int
}) {
  override get message(): string {
    return `The socket path ${this.path} has ${this.bytes} bytes; this system allows ${this.limit}. Set HOLDFAST_RUNTIME_DIR to a shorter directory.`
  }
}

export interface SettingsShape {
  readonly paths: Paths
  /** The program's own environment; what reaches a child is chosen from it by name. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly codex: {
    readonly command: string | null
    readonly home: string
    readonly sandbox: SandboxMode
    readonly passEnv: ReadonlyArray<string>
  }
  readonly hook: {
    readonly timeoutMs: number
    readonly client: "perl" | "nc" | "curl" | "node" | null
    /** Where hookRelay.pl, hookRelay.sh and hookRelay.cjs lie: the package's dist directory. */
    readonly clientDirectory: string
    /** How long late hooks are still answered after their relay's scope has closed. */
    readonly lateGraceMs: number
    /** Requests over this many bytes are refused unread. */
    readonly maxBodyBytes: number
  }
  readonly relay: {
    /** Life of a record without renewal; renewed at a third of it. */
    readonly ttlMs: number
    /** Hook decisions kept for their approvals, which follow within milliseconds; far more than an agent calls at once. */
    readonly decisionsKept: number
  }
  readonly turn: {
    readonly timeoutMs: number
    /** A provider that Codex keeps trying to reach for so long, without a word in between, fails the turn. */
    readonly providerTimeoutMs: number
    /** An interrupt takes 10 ms, measured; one that is not confirmed in this time is poison. */
    readonly interruptTimeoutMs: number
  }
  readonly appServer: { readonly connect: string | null; readonly tokenFile: string | null }
  readonly lease: {
    readonly idleGraceMs: number
    readonly handshakeTimeoutMs: number
    readonly requestTimeoutMs: number
    /** A Codex that waits for its provider takes 5.0 s to leave after EOF, measured; killed after this. */
    readonly exitGraceMs: number
    /** A poisoned child is told to leave at once, and killed after this. */
    readonly poisonGraceMs: number
    /** How often a child is asked for a sign of life when it has given none by itself. */
    readonly probeIntervalMs: number
    readonly probeTimeoutMs: number
    /** Without an answer, a frame or CPU time of its own for so long, a child is dead; slow is not. */
    readonly silentLimitMs: number
    /** How often /proc is asked whether somebody stopped the child. */
    readonly stateLookMs: number
    readonly intensity: Intensity
  }
  readonly mark: { readonly killGraceMs: number; readonly sweepTimeoutMs: number }
  readonly policy: PolicyConfig
  readonly directions: NonNullable<ConfigFile["directions"]>
  readonly logLevel: typeof LogLevel.Type
}

const number = (text: string): unknown => (text.trim() === "" ? text : Number(text))
const json = (text: string): unknown => JSON.parse(text)
const text = (text: string): unknown => text

const environmentParsers: Record<keyof typeof environmentOf, (text: string) => unknown> = {
  "codex.command": text,
  "codex.home": text,
  "codex.sandbox": text,
  "codex.passEnv": (text) => text.split(",").filter((name) => name !== ""),
  "appServer.connect": text,
  "appServer.tokenFile": text,
  "hook.timeoutSeconds": number,
  "hook.client": text,
  "turn.timeoutSeconds": number,
  "turn.providerTimeoutSeconds": number,
  policy: json,
  directions: json,
  logLevel: text
}

const strict = { errors: "all", onExcessProperty: "error" } as const
const decodeConfig = Schema.decodeUnknownResult(ConfigFile, strict)
const decodeRule = Schema.decodeUnknownResult(Rule, strict)
const decodeModule = Schema.decodeUnknownResult(ModulePolicy, strict)
const issues = SchemaIssue.makeFormatterStandardSchemaV1()

type Path = ReadonlyArray<PropertyKey>

const keyOf = (path: Path): string =>
  path
    .map((key, index) => (typeof key === "number" ? `[${key}]` : `${index > 0 ? "." : ""}${String(key)}`))
    .join("")

/** One `key: what is wrong` each; never a value, which may be a secret in the wrong place. */
const problemsOf = (error: Schema.SchemaError, base: Path = []): ReadonlyArray<string> =>
  issues(error.issue).issues.map(({ path = [], message }) => {
    const key = keyOf([...base, ...path.map((part) => (typeof part === "object" ? part.key : part))])
    const problem = excess.test(message) ? "unknown key" : message.replace(/\s*\n\s*/g, " ")
    return key === "" ? problem : `${key}: ${problem}`
  })

const excess = /excess property/

/** A policy is a rule or a module: told apart here, since the union complains about what each of the two lacks. */
const policyProblems = (value: unknown): ReadonlyArray<string> => {
  const policies = at(at(value, "policy"), "policies")
  return (Array.isArray(policies) ? policies : []).flatMap((policy: unknown, index) => {
    const decoded: Result.Result<unknown, Schema.SchemaError> =
      at(policy, "module") === undefined ? decodeRule(policy) : decodeModule(policy)
    return Result.isFailure(decoded) ? problemsOf(decoded.failure, ["policy", "policies", index]) : []
  })
}

const at = (value: unknown, key: string): unknown =>
  typeof value === "object" && value !== null && Object.hasOwn(value, key)
    ? (value as Readonly<Record<string, unknown>>)[key]
    : undefined

const decode = (where: string, value: unknown): Result.Result<ConfigFile, ConfigError> =>
  Result.mapError(decodeConfig(value), (error) => {
    const outside = problemsOf(error).filter((problem) => !problem.startsWith("policy.policies["))
    return new ConfigError({ where, problem: [...outside, ...policyProblems(value)].join("; ") })
  })

const parseJson = (where: string, content: string): Result.Result<unknown, ConfigError> =>
  Result.try({
    try: () => JSON.parse(content) as unknown,
    catch: () => new ConfigError({ where, problem: "it is not valid JSON" })
  })

const fromEnvironment = (
  env: Surroundings["env"],
  base: ConfigFile
): Result.Result<ConfigFile, ConfigError> => {
  let merged: ConfigFile = base
  for (const [key, variable] of Object.entries(environmentOf)) {
    const raw = env[variable]
    if (raw === undefined || raw === "") continue
    const parsed = Result.try(() => environmentParsers[key as keyof typeof environmentOf](raw))
    if (Result.isFailure(parsed))
      return Result.fail(new ConfigError({ where: variable, problem: "it is not valid JSON" }))
    const [section, field] = key.split(".") as [string, string | undefined]
    const value = field
      ? { ...(at(merged, section) as object | undefined), [field]: parsed.success }
      : parsed.success
    const next = { ...merged, [section]: value }
    const checked = decode(variable, next)
    if (Result.isFailure(checked)) return checked
    merged = checked.success
  }
  return Result.succeed(merged)
}

/** A token that is sent nowhere is a mistake in the address. */
const withUseForToken = (
  env: Surroundings["env"],
  paths: Paths,
  config: ConfigFile
): Result.Result<ConfigFile, ConfigError> =>
  config.appServer?.tokenFile === undefined || config.appServer.connect?.startsWith("ws")
    ? Result.succeed(config)
    : Result.fail(
        new ConfigError({
          where: env[environmentOf["appServer.tokenFile"]]
            ? environmentOf["appServer.tokenFile"]
            : paths.config,
          problem: "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
        })
      )

/** Everything a program hands to its layers: the config file's text (null when there is none), the environment over it. */
export const resolve = (
  surroundings: Surroundings,
  configText: string | null
): Result.Result<SettingsShape, ConfigError> => {
  for (const variable of ["HOLDFAST_HOME", "HOLDFAST_RUNTIME_DIR"]) {
    if (!(surroundings.env[variable] || "/").startsWith("/"))
      return Result.fail(new ConfigError({ where: variable, problem: "it is not an absolute path" }))
  }
  const paths = resolvePaths(surroundings)
  const file =
    configText === null
      ? Result.succeed<ConfigFile>({})
      : Result.flatMap(parseJson(paths.config, configText), (value) => decode(paths.config, value))
  return Result.map(
    file.pipe(
      Result.flatMap((base) => fromEnvironment(surroundings.env, base)),
      Result.flatMap((config) => withUseForToken(surroundings.env, paths, config))
    ),
    (config): SettingsShape => ({
      ...defaults(paths),
      environment: surroundings.env,
      codex: {
        command: config.codex?.command ?? null,
        home: config.codex?.home ?? `${paths.state}/codex`,
        sandbox: config.codex?.sandbox ?? "workspace-write",
        passEnv: config.codex?.passEnv ?? []
      },
      hook: {
        ...defaults(paths).hook,
        clientDirectory: surroundings.clientDirectory,
        timeoutMs: (config.hook?.timeoutSeconds ?? 30) * 1000,
        client: config.hook?.client ?? null
      },
      appServer: {
        connect: config.appServer?.connect ?? null,
        tokenFile: config.appServer?.tokenFile ?? null
      },
      turn: {
        ...defaults(paths).turn,
        timeoutMs: (config.turn?.timeoutSeconds ?? 3600) * 1000,
        providerTimeoutMs: (config.turn?.providerTimeoutSeconds ?? 60) * 1000
      },
      policy: config.policy ?? { default: "allow", policies: defaultRules },
      directions: config.directions ?? {},
      logLevel: config.logLevel ?? "info"
    })
  )
}

const defaults = (paths: Paths): SettingsShape => ({
  paths,
  environment: {},
  codex: { command: null, home: `${paths.state}/codex`, sandbox: "workspace-write", passEnv: [] },
  hook: {
    timeoutMs: 30_000,
    client: null,
    clientDirectory: "/nonexistent",
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
  mark: { killGraceMs: 500, sweepTimeoutMs: 10_000 },
  policy: { default: "allow", policies: defaultRules },
  directions: {},
  logLevel: "info"
})

/** Embedders provide their own; the default keeps to a private directory below the temp dir and is meant for tests. */
export class Settings extends Context.Reference<SettingsShape>("holdfast/Settings", {
  defaultValue: () =>
    defaults(resolvePaths({ env: {}, uid: 0, homeDirectory: "/nonexistent", tempDirectory: "/nonexistent" }))
}) {}
