/**
 * What goes into a Codex thread's configuration that needs a parser, a hash or a look at the disk: overrides from text,
 * hooks with their trust, the real working directory, the user's MCP servers.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import { parse as parseToml } from "smol-toml"
import { WorkingDirectoryUnusable } from "../../services/AgentDriver.ts"
import { ConfigKeyRefused, type ExpectedHook, flatten } from "../../services/CodexGovernance.ts"
import { hooksTable } from "../../services/HookProviderCodex.ts"
import type { Relay } from "../../services/RelayRegistry.ts"

const parseOverride = (text: string) => {
  const at = text.indexOf("=")
  const key = text.slice(0, Math.max(at, 0)).trim()
  const value = text.slice(at + 1).trim()
  if (at < 1 || !/^[\w.-]+$/.test(key))
    return Result.fail(new ConfigKeyRefused({ key: key || text.slice(0, 40), why: "malformed" }))
  if (value.includes("\n")) return Result.fail(new ConfigKeyRefused({ key, why: "malformed" }))
  // Codex's own rule: a value that is no TOML is plain text.
  const parsed = Result.try(() => parseToml(`value = ${value}`)["value"] as unknown)
  return Result.succeed(
    flatten(
      key,
      Result.getOrElse(parsed, () => value)
    )
  )
}

export const parseOverrides = (
  overrides: ReadonlyArray<string>
): Result.Result<ReadonlyArray<readonly [string, unknown]>, ConfigKeyRefused> => {
  const entries: Array<readonly [string, unknown]> = []
  for (const text of overrides) {
    const parsed = parseOverride(text)
    if (Result.isFailure(parsed)) return Result.fail(parsed.failure)
    entries.push(...parsed.success)
  }
  return Result.succeed(entries)
}

const sha256 = (text: string): string => `sha256:${crypto.createHash("sha256").update(text).digest("hex")}`

export const governedHooks = (commands: Relay["commands"], timeoutMs: number) => {
  const { table, trust } = hooksTable(commands, timeoutMs)
  const state = Object.fromEntries(
    trust.map(({ key, subject }) => [key, { enabled: true, trusted_hash: sha256(subject) }])
  )
  const sent = Object.values(table).flatMap((groups) => groups.flatMap((group) => group.hooks))
  const expected = trust.map(({ key, subject }, index): ExpectedHook => ({
    key,
    hash: sha256(subject),
    command: sent[index]!.command
  }))
  return { hooks: { ...table, state }, expected }
}

/** Without links, dots and slashes at its end: Codex compares the names of trusted projects as they are. */
export const workingDirectory = (path: string): Effect.Effect<string, WorkingDirectoryUnusable> =>
  Effect.try({
    try: () => {
      const real = fs.realpathSync(path)
      if (!fs.statSync(real).isDirectory()) throw new Error("not a directory")
      return real
    },
    catch: () => new WorkingDirectoryUnusable({ path })
  })

/** The servers of CODEX_HOME's own config; a repository's are never started. What cannot be read is Codex's to complain of. */
export const mcpServerNames = (codexHome: string): Effect.Effect<ReadonlyArray<string>> =>
  Effect.try(() => {
    const { mcp_servers } = parseToml(fs.readFileSync(`${codexHome}/config.toml`, "utf8"))
    return typeof mcp_servers === "object" ? Object.keys(mcp_servers) : []
  }).pipe(Effect.orElseSucceed(() => []))
