/**
 * Settings: every knob of the gateway with its default. A program reads its surroundings once and provides them; layers
 * only look.
 */
import * as Context from "effect/Context"
import * as Hash from "effect/Hash"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Intensity } from "./AppServerLease.ts"
import { ConfigError, type ConfigFile, type LogLevel, readConfig, type SandboxMode } from "./ConfigFile.ts"
import { defaultRules } from "./DefaultRules.ts"
import { answerMarginMs, providerTimeoutFor } from "./HookRelay.ts"
import type { TlsPin } from "./TlsPin.ts"
import type { TlsTrust } from "./TlsTarget.ts"
import type { PolicyConfig } from "./Policy.ts"

/** Of the package; the architecture test compares it with package.json. */
export const version = "0.1.0"

export interface Paths {
  readonly state: string
  readonly runtime: string
  readonly bridges: string
  readonly config: string
  readonly database: string
  /** Where the audit log ends, kept apart from it. */
  readonly auditHead: string
  /** One per state directory, so that two gateways can share a runtime directory. */
  readonly controlSocket: string
  /** One per epoch: a stale file is never in the way of a new gateway. */
  readonly hookSocket: (epoch: string) => string
  /** One per app-server that a keeper holds; the name is drawn, and of the state directory by its beginning. */
  readonly codexSocket: (name: string) => string
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
  return pathsIn({ state, runtime, config })
}

export const pathsIn = ({ state, runtime, config }: Pick<Paths, "state" | "runtime" | "config">): Paths => {
  const instance = (Hash.string(state) >>> 0).toString(16).padStart(8, "0")
  return {
    state,
    runtime,
    bridges: `${runtime}/bridges`,
    config,
    database: `${state}/holdfast.db`,
    auditHead: `${state}/audit.head`,
    controlSocket: `${runtime}/control-${instance}.sock`,
    hookSocket: (epoch) => `${runtime}/hooks-${epoch.slice(-12)}.sock`,
    codexSocket: (name) => `${runtime}/codex-${instance}-${name}.sock`
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
  readonly claude: {
    readonly command: string | null
    /** By then a session's hooks must have answered once; the real one takes half a second to its first. */
    readonly canaryMs: number
    /** On a terminal a person may first have to say that they trust the directory. */
    readonly terminalCanaryMs: number
  }
  readonly hook: {
    readonly timeoutMs: number
    /** Of the events before which an agent waits: a person may have to answer them. */
    readonly decisionTimeoutMs: number
    /** How long a hook waits for a person. */
    readonly askHoldMs: number
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
  readonly approvals: { readonly expireMs: number }
  /** Both null: a certificate of our own. */
  readonly nodes: {
    readonly certificate: string | null
    readonly key: string | null
    /** Where other machines may dial in; null: nowhere. */
    readonly listen: { readonly host: string; readonly port: number } | null
  }
  readonly mark: { readonly killGraceMs: number; readonly sweepTimeoutMs: number }
  /** The gateway that this machine is a node of; null: of none. */
  readonly node: {
    readonly gateway: string
    readonly pins: ReadonlyArray<TlsPin>
    readonly trust: TlsTrust
    readonly proxy: string | null
    readonly name: string
    readonly code: string | null
    /** What becomes of a hook while the gateway cannot be asked. */
    readonly cutOff: "deny" | "local"
  } | null
  readonly policy: PolicyConfig
  readonly directions: NonNullable<ConfigFile["directions"]>
  readonly logLevel: typeof LogLevel.Type
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
  return Result.map(readConfig(paths.config, configText, surroundings.env), (config): SettingsShape => ({
    ...defaults(paths),
    approvals: { expireMs: (config.approvals?.expireSeconds ?? 900) * 1000 },
    environment: surroundings.env,
    codex: {
      command: config.codex?.command ?? null,
      home: config.codex?.home ?? `${paths.state}/codex`,
      sandbox: config.codex?.sandbox ?? "workspace-write",
      passEnv: config.codex?.passEnv ?? []
    },
    claude: {
      ...defaults(paths).claude,
      command: config.claude?.command ?? null,
      ...(config.claude?.canarySeconds === undefined
        ? {}
        : {
            canaryMs: config.claude.canarySeconds * 1000,
            terminalCanaryMs: config.claude.canarySeconds * 1000
          })
    },
    hook: {
      ...defaults(paths).hook,
      clientDirectory: surroundings.clientDirectory,
      ...hookTimeouts(config),
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
    nodes: {
      listen: null,
      certificate: config.nodes?.certificate ?? null,
      key: config.nodes?.key ?? null
    },
    policy: config.policy ?? { default: "allow", policies: defaultRules },
    directions: config.directions ?? {},
    logLevel: config.logLevel ?? "info"
  }))
}

/** A rule that asks is in the config; what a module says, nobody knows before. */
const mayAsk = ({ policy }: ConfigFile): boolean =>
  (policy?.policies ?? []).some(
    (one) => "module" in one || "plugin" in one || "builtin" in one || one.verdict === "ask"
  )

/** Where nobody is ever asked, a gateway that hangs costs an agent no more than an answer may take. */
const hookTimeouts = (
  config: ConfigFile
): Pick<SettingsShape["hook"], "timeoutMs" | "decisionTimeoutMs" | "askHoldMs"> => {
  const timeoutMs = (config.hook?.timeoutSeconds ?? 30) * 1000
  const holdMs = (config.approvals?.holdSeconds ?? 300) * 1000
  return {
    timeoutMs,
    askHoldMs: holdMs,
    decisionTimeoutMs: mayAsk(config)
      ? Math.max(timeoutMs, providerTimeoutFor(holdMs + answerMarginMs))
      : timeoutMs
  }
}

const defaults = (paths: Paths): SettingsShape => ({
  paths,
  environment: {},
  codex: { command: null, home: `${paths.state}/codex`, sandbox: "workspace-write", passEnv: [] },
  claude: { command: null, canaryMs: 30_000, terminalCanaryMs: 60_000 },
  hook: {
    timeoutMs: 30_000,
    decisionTimeoutMs: 30_000,
    askHoldMs: 300_000,
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
  approvals: { expireMs: 900_000 },
  nodes: { listen: null, certificate: null, key: null },
  mark: { killGraceMs: 500, sweepTimeoutMs: 10_000 },
  node: null,
  policy: { default: "allow", policies: defaultRules },
  directions: {},
  logLevel: "info"
})

/** Embedders provide their own; the default keeps to a private directory below the temp dir and is meant for tests. */
export class Settings extends Context.Reference<SettingsShape>("holdfast/Settings", {
  defaultValue: () =>
    defaults(resolvePaths({ env: {}, uid: 0, homeDirectory: "/nonexistent", tempDirectory: "/nonexistent" }))
}) {}
