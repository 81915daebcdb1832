/**
 * ConfigFile: `config.json` and the environment over it, decoded strictly: whatever is not understood is an error that names
 * the key and never shows a value.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { DirectionOverride, HookEventName } from "./HookEvent.ts"
import { BuiltinPolicy, ModulePolicy, PluginPolicy, PolicyConfig, Rule } from "./Policy.ts"

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

export const LogLevel = Schema.Literals(["debug", "info", "warn", "error"])

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
  claude: Schema.optionalKey(
    Schema.Struct({
      /** The claude program: a path, or a name looked up on the caller's PATH. */
      command: Schema.optionalKey(Schema.NonEmptyString),
      /** How long a session has until its first hook answers; else it is ended. Absent = 30, on a terminal 60. */
      canarySeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3_600 })))
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
  approvals: Schema.optionalKey(
    Schema.Struct({
      /** How long an approval can be answered; then it is a deny. */
      expireSeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 86_400 }))),
      /** How long a hook waits for a person, where a policy may ask. */
      holdSeconds: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 86_400 })))
    })
  ),
  nodes: Schema.optionalKey(
    Schema.Struct({
      /** What is shown to nodes instead of a certificate of our own, as PEM; its chain behind it. */
      certificate: Schema.optionalKey(AbsolutePath),
      /** Its key, as PEM without a password; nobody else's to read. */
      key: Schema.optionalKey(AbsolutePath)
    })
  ),
  policy: Schema.optionalKey(PolicyConfig),
  /** Which way an event falls when nobody can decide, by cause where that is given; absent = closed for pre_tool_use and permission_request. */
  directions: Schema.optionalKey(Schema.Record(HookEventName, Schema.optionalKey(DirectionOverride))),
  logLevel: Schema.optionalKey(LogLevel)
})
export type ConfigFile = typeof ConfigFile.Type

/** The environment variable of each key; those that are not plain text or numbers take JSON. */
export const environmentOf = {
  "codex.command": "HOLDFAST_CODEX",
  "codex.home": "HOLDFAST_CODEX_HOME",
  "codex.sandbox": "HOLDFAST_CODEX_SANDBOX",
  "codex.passEnv": "HOLDFAST_CODEX_PASS_ENV",
  "claude.command": "HOLDFAST_CLAUDE",
  "claude.canarySeconds": "HOLDFAST_CLAUDE_CANARY_SECONDS",
  "appServer.connect": "HOLDFAST_APP_SERVER_CONNECT",
  "appServer.tokenFile": "HOLDFAST_APP_SERVER_TOKEN_FILE",
  "hook.timeoutSeconds": "HOLDFAST_HOOK_TIMEOUT_SECONDS",
  "hook.client": "HOLDFAST_HOOK_CLIENT",
  "turn.timeoutSeconds": "HOLDFAST_TURN_TIMEOUT_SECONDS",
  "turn.providerTimeoutSeconds": "HOLDFAST_TURN_PROVIDER_TIMEOUT_SECONDS",
  "approvals.expireSeconds": "HOLDFAST_APPROVALS_EXPIRE_SECONDS",
  "approvals.holdSeconds": "HOLDFAST_APPROVALS_HOLD_SECONDS",
  "nodes.certificate": "HOLDFAST_NODES_CERTIFICATE",
  "nodes.key": "HOLDFAST_NODES_KEY",
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

type Environment = Readonly<Record<string, string | undefined>>

const number = (text: string): unknown => (text.trim() === "" ? text : Number(text))
const json = (text: string): unknown => JSON.parse(text)
const text = (text: string): unknown => text

const environmentParsers: Record<keyof typeof environmentOf, (text: string) => unknown> = {
  "codex.command": text,
  "codex.home": text,
  "codex.sandbox": text,
  "codex.passEnv": (text) => text.split(",").filter((name) => name !== ""),
  "claude.command": text,
  "claude.canarySeconds": number,
  "appServer.connect": text,
  "appServer.tokenFile": text,
  "hook.timeoutSeconds": number,
  "hook.client": text,
  "turn.timeoutSeconds": number,
  "turn.providerTimeoutSeconds": number,
  "approvals.expireSeconds": number,
  "approvals.holdSeconds": number,
  "nodes.certificate": text,
  "nodes.key": text,
  policy: json,
  directions: json,
  logLevel: text
}

const strict = { errors: "all", onExcessProperty: "error" } as const
const decodeConfig = Schema.decodeUnknownResult(ConfigFile, strict)
const decodeRule = Schema.decodeUnknownResult(Rule, strict)
const decodeModule = Schema.decodeUnknownResult(ModulePolicy, strict)
const decodeBuiltin = Schema.decodeUnknownResult(BuiltinPolicy, strict)
const decodePlugin = Schema.decodeUnknownResult(PluginPolicy, strict)
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

/** A policy is one of four: told apart here, since the union complains about what each of them lacks. */
const policyProblems = (value: unknown): ReadonlyArray<string> => {
  const policies = at(at(value, "policy"), "policies")
  return (Array.isArray(policies) ? policies : []).flatMap((policy: unknown, index) => {
    const decoded: Result.Result<unknown, Schema.SchemaError> =
      at(policy, "builtin") !== undefined
        ? decodeBuiltin(policy)
        : at(policy, "plugin") !== undefined
          ? decodePlugin(policy)
          : at(policy, "module") === undefined
            ? decodeRule(policy)
            : decodeModule(policy)
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

const fromEnvironment = (env: Environment, base: ConfigFile): Result.Result<ConfigFile, ConfigError> => {
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
  env: Environment,
  path: string,
  config: ConfigFile
): Result.Result<ConfigFile, ConfigError> =>
  config.appServer?.tokenFile === undefined || config.appServer.connect?.startsWith("ws")
    ? Result.succeed(config)
    : Result.fail(
        new ConfigError({
          where: env[environmentOf["appServer.tokenFile"]] ? environmentOf["appServer.tokenFile"] : path,
          problem: "appServer.tokenFile: only an appServer.connect of ws:// or wss:// takes a token"
        })
      )

/** One without the other could only be joined with what is not its own. */
const withBothOfNodes = (
  env: Environment,
  path: string,
  config: ConfigFile
): Result.Result<ConfigFile, ConfigError> => {
  const { certificate, key } = config.nodes ?? {}
  if ((certificate === undefined) === (key === undefined)) return Result.succeed(config)
  const [there, missing] =
    key === undefined
      ? (["nodes.certificate", "nodes.key"] as const)
      : (["nodes.key", "nodes.certificate"] as const)
  return Result.fail(
    new ConfigError({
      where: env[environmentOf[there]] ? environmentOf[there] : path,
      problem: `${there}: it needs ${missing} as well`
    })
  )
}

/** The file's text (null when there is none), and what the environment says instead. */
export const readConfig = (
  path: string,
  text: string | null,
  env: Environment
): Result.Result<ConfigFile, ConfigError> =>
  (text === null
    ? Result.succeed<ConfigFile>({})
    : Result.flatMap(parseJson(path, text), (value) => decode(path, value))
  ).pipe(
    Result.flatMap((base) => fromEnvironment(env, base)),
    Result.flatMap((config) => withUseForToken(env, path, config)),
    Result.flatMap((config) => withBothOfNodes(env, path, config))
  )
