/**
 * Settings: every knob of the gateway with its default. A program reads its surroundings once and provides them; layers
 * only look.
 */
import * as Context from "effect/Context"
import * as Hash from "effect/Hash"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { Direction, HookEventName } from "./HookEvent.ts"
import { ModulePolicy, PolicyConfig, Rule } from "./Policy.ts"

/** Of the package; the architecture test compares it with package.json. */
export const version = "0.1.0"

/** The sandboxes of Codex, loosest last; `-c` may only tighten. */
export const sandboxModes = ["read-only", "workspace-write", "danger-full-access"] as const
export const SandboxMode = Schema.Literals(sandboxModes)
export type SandboxMode = typeof SandboxMode.Type

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
  hook: Schema.optionalKey(
    Schema.Struct({
      /** Seconds the provider gives a hook; ours answers before. */
      timeoutSeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 2, maximum: 86_400 }))),
      client: Schema.optionalKey(Schema.Literals(["perl", "nc", "curl", "node"]))
    })
  ),
  turn: Schema.optionalKey(
    Schema.Struct({
      timeoutSeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 604_800 })))
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
  "hook.timeoutSeconds": "HOLDFAST_HOOK_TIMEOUT_SECONDS",
  "hook.client": "HOLDFAST_HOOK_CLIENT",
  "turn.timeoutSeconds": "HOLDFAST_TURN_TIMEOUT_SECONDS",
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

/** `name` as a word: after a path, a quote, `sudo`, `xargs` or `$(`, but not as part of another word. */
const word = (name: string): string => String.raw`(?<![\w.-])${name}(?=["'\s\\])`

/**
 * What follows up to the command's end. 512 characters: flags stand near their command, and a search that went further
 * from every `rm` of a long line would take quadratic time.
 */
const onward = String.raw`(?:[^;&|\n\\]|\\[^]){0,512}?`

/** An argument that starts like this somewhere in the command. */
const having = (...starts: ReadonlyArray<string>): string =>
  String.raw`(?=${onward}(?<=[\s"'])(?:${starts.join("|")}))`

/** A short flag, alone or among others: -r, -vr. */
const flag = (letters: string): string => String.raw`-[\w"'\\]{0,32}?[${letters}]`

/** Commands that destroy what no sandbox brings back; in force when the config names no policy of its own. */
export const defaultRules: ReadonlyArray<Rule> = [
  {
    id: "no-recursive-force-delete",
    command: word("rm") + having(flag("rR"), "--r") + having(flag("f"), "--f"),
    verdict: "deny",
    reason: "recursive forced deletion"
  },
  {
    id: "no-force-push",
    command:
      word("git") +
      having(String.raw`push(?![\w-])`) +
      having(flag("f"), "--force", "--mirror", String.raw`\+\w`),
    verdict: "deny",
    reason: "a forced push rewrites other people's history"
  },
  {
    id: "no-raw-disk-write",
    command: [
      word(String.raw`mkfs(?:\.\w+)?`),
      word("dd") + having(String.raw`of=["']?/dev/(?!null|zero|full|std|tty|fd/|shm/)`),
      String.raw`>\s{0,8}["']?/dev/(?:sd|hd|vd|xvd|nvme|mmcblk|disk|mapper|dm-|loop)`
    ].join("|"),
    verdict: "deny",
    reason: "writing to a raw device"
  }
]

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
  readonly turn: { readonly timeoutMs: number }
  readonly lease: {
    readonly idleGraceMs: number
    readonly handshakeTimeoutMs: number
    readonly requestTimeoutMs: number
    /** A Codex that waits for its provider takes 5.0 s to leave after EOF, measured; killed after this. */
    readonly exitGraceMs: number
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
  "hook.timeoutSeconds": number,
  "hook.client": text,
  "turn.timeoutSeconds": number,
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
    Result.flatMap(file, (base) => fromEnvironment(surroundings.env, base)),
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
      turn: { timeoutMs: (config.turn?.timeoutSeconds ?? 3600) * 1000 },
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
  turn: { timeoutMs: 3_600_000 },
  lease: { idleGraceMs: 30_000, handshakeTimeoutMs: 15_000, requestTimeoutMs: 60_000, exitGraceMs: 8_000 },
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
