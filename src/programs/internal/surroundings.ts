/** What every program reads once at its start: environment, directories, the config file; as Settings or one clear line. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as fs from "node:fs"
import * as os from "node:os"
import { printable } from "../../services/Report.ts"
import { redact } from "../../services/Redaction.ts"
import { ConfigError } from "../../services/ConfigFile.ts"
import { resolve, resolvePaths, Settings, type SettingsShape } from "../../services/Settings.ts"

export const surroundings = {
  env: process.env,
  uid: process.getuid?.() ?? 0,
  homeDirectory: os.homedir(),
  tempDirectory: os.tmpdir(),
  clientDirectory: import.meta.dirname
}

const unreadable = (cause: unknown): ConfigError => {
  const { code } = cause as NodeJS.ErrnoException
  return new ConfigError({
    where: resolvePaths(surroundings).config,
    problem: `it cannot be read (${code ?? "unknown error"})`
  })
}

/** Null when there is no such file; any other failure must not pass for "no policies". */
const configText = Effect.try({
  try: () => {
    try {
      return fs.readFileSync(resolvePaths(surroundings).config, "utf8")
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null
      throw error
    }
  },
  catch: unreadable
})

const settings: Effect.Effect<SettingsShape, ConfigError> = Effect.flatMap(configText, (text) =>
  Effect.fromResult(resolve(surroundings, text))
)

export const settingsLayer = Layer.effect(Settings, settings)

const levels = { debug: "Debug", info: "Info", warn: "Warn", error: "Error" } as const

/** Structured lines on stderr, secrets masked; stdout belongs to answers. */
export const loggingOf = ({ logLevel }: Pick<SettingsShape, "logLevel">) =>
  Layer.mergeAll(
    Logger.layer([Logger.withConsoleError(Logger.map(Logger.formatJson, redact))]),
    Layer.succeed(References.MinimumLogLevel, levels[logLevel])
  )

export const logging = Layer.unwrap(Effect.map(settings, loggingOf))

/** The line a person gets for an exit: an error's own message, or for a defect where to look. */
export const problemOf = (exit: Exit.Failure<unknown, unknown>): string => {
  const error = Cause.squash(exit.cause)
  return printable(redact(error instanceof Error ? error.message : String(error)).replace(/\s*\n\s*/g, " "))
}
