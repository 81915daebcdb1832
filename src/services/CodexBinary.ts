/**
 * CodexBinary: which codex is run. Always the native program: the launcher of the npm package stays as a parent on older
 * Node, costs 44 MB and 70 ms, and would be one more thing to own.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Hook trust by hash, `hooks/list` and `unified_exec_tty` were measured on this version; older ones are refused. */
export const minimumVersion = "0.169.0"

export class CodexNotFound extends Schema.TaggedError<CodexNotFound>()("CodexNotFound", {
  looked: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `No codex program was found (looked at ${this.looked.join(", ")}). Install it with \`npm i -g @openai/codex\`, or set codex.command (HOLDFAST_CODEX) to its path.`
  }
}

export class CodexTooOld extends Schema.TaggedError<CodexTooOld>()("CodexTooOld", {
  path: Schema.String,
  version: Schema.String
}) {
  override get message(): string {
    return `${this.path} is codex ${this.version}; its hooks cannot be trusted before ${minimumVersion}. Update it, or set codex.command (HOLDFAST_CODEX) to a newer one.`
  }
}

export class CodexUnusable extends Schema.TaggedError<CodexUnusable>()("CodexUnusable", {
  path: Schema.String,
  problem: Schema.String
}) {
  override get message(): string {
    return `${this.path} cannot be used as codex: ${this.problem}. Set codex.command (HOLDFAST_CODEX) to a working one.`
  }
}

const triples: Readonly<Record<string, string>> = {
  "linux-x64": "x86_64-unknown-linux-musl",
  "linux-arm64": "aarch64-unknown-linux-musl",
  "darwin-x64": "x86_64-apple-darwin",
  "darwin-arm64": "aarch64-apple-darwin"
}

const parent = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")))

/** Where the native program lies for a resolved `.../@openai/codex/bin/codex.js`; the path itself when it is no launcher. */
export const nativeCandidates = (resolved: string, platform: string, arch: string): ReadonlyArray<string> => {
  if (!resolved.endsWith("/bin/codex.js")) return [resolved]
  const triple = triples[`${platform}-${arch}`]
  if (triple === undefined) return []
  const packageRoot = parent(parent(resolved))
  const inside = `codex-${platform}-${arch}/vendor/${triple}/bin/codex`
  return [
    `${packageRoot}/node_modules/@openai/${inside}`,
    `${parent(packageRoot)}/${inside}`,
    `${packageRoot}/vendor/${triple}/bin/codex`
  ]
}

/** The version in `codex-cli 0.169.0` or in a user agent `name/0.169.0 (...)`. */
export const parseVersion = (text: string): string | null =>
  /(?:^|[/\s])v?(\d+\.\d+\.\d+)(?=[\s+-]|$)/.exec(text)?.[1] ?? null

export const isOlder = (version: string, than: string): boolean => {
  const [a, b] = [version.split(".").map(Number), than.split(".").map(Number)]
  for (let i = 0; i < 3; i++) if (a[i] !== b[i]) return (a[i] ?? 0) < (b[i] ?? 0)
  return false
}

/**
 * The arguments of a run's command, so that a codex there keeps to itself. On a terminal it would start a background daemon
 * that all share: with the first one's environment, and alive when they have ended. Whoever names the feature, or says
 * `--no-daemon`, is left alone.
 */
export const withoutDaemon = (command: string, args: ReadonlyArray<string>): ReadonlyArray<string> => {
  const options = args.slice(0, args.includes("--") ? args.indexOf("--") : args.length)
  const isCodex = command.slice(command.lastIndexOf("/") + 1) === "codex"
  if (!isCodex || options.some((word) => word === "--no-daemon" || word.includes(daemonFeature))) return args
  return ["-c", `features.${daemonFeature}=false`, ...args]
}

const daemonFeature = "daemon_auto_start"

export class CodexBinary extends Context.Service<
  CodexBinary,
  {
    /** The absolute path of the native program. */
    readonly path: Effect.Effect<string, CodexNotFound>
    /** Runs `codex --version`. */
    readonly version: Effect.Effect<string, CodexNotFound | CodexTooOld | CodexUnusable>
  }
>()("holdfast/CodexBinary") {}
