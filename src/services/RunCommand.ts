/**
 * RunCommand: what a person types to start a run, as what is asked of the gateway.
 *
 * A run finds its command and speaks its language as its caller's shell does: some variables of the caller go with it, as
 * do those named with `--env`; everything else comes from what every run gets.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { RunName, RunSpec, runDefaults, type WindowSize } from "./Run.ts"
import { cookieVariable } from "./RunLedger.ts"

/** What differs from one shell to the next, and what a command needs to be the same in both. */
export const shellVariables = [
  "PATH",
  "HOME",
  "SHELL",
  "LANG",
  "LC_ALL",
  "LC_CTYPE",
  "TZ",
  "TMPDIR",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR"
]

/** What a run's request takes of any length of time: a year. */
export const longestMs = 31_536_000_000

type Environment = Readonly<Record<string, string | undefined>>

/** Those that its caller has. */
export const shellsOwn = (caller: Environment): Readonly<Record<string, string>> =>
  Object.fromEntries(
    shellVariables.flatMap((name) => {
      const value = caller[name]
      return value === undefined ? [] : [[name, value] as const]
    })
  )

export class RunSpecRefused extends Schema.TaggedError<RunSpecRefused>()("RunSpecRefused", {
  problem: Schema.String
}) {
  override get message(): string {
    return this.problem
  }
}

export interface RunOptions {
  /** The command and its arguments. */
  readonly words: ReadonlyArray<string>
  readonly name: string | null
  readonly scope: string | null
  readonly replace: boolean
  readonly pty: WindowSize | null
  readonly timeoutMs: number | null
  readonly startTimeoutMs: number | null
  readonly idleTimeoutMs: number | null
  readonly killGraceMs: number | null
  readonly onGatewayLoss: RunSpec["onGatewayLoss"]
  readonly adoptGraceMs: number | null
  readonly restart: RunSpec["restart"]
  /** Absolute. */
  readonly cwd: string
  /** `NAME=VALUE`, or `NAME` for the caller's own. */
  readonly env: ReadonlyArray<string>
}

export interface RunCommand {
  readonly spec: RunSpec
  readonly variables: Readonly<Record<string, string>>
}

const refuse = (problem: string) => Result.fail(new RunSpecRefused({ problem }))

/** A variable as `--env` has it; none where the caller does not have it either, as with docker. */
export const parseVariable = (
  text: string,
  caller: Environment
): Result.Result<Option.Option<readonly [string, string]>, RunSpecRefused> => {
  const at = text.indexOf("=")
  const name = at === -1 ? text : text.slice(0, at)
  if (name === "") return refuse(`--env ${JSON.stringify(text)} has no name. Write NAME=VALUE, or NAME.`)
  const value = at === -1 ? caller[name] : text.slice(at + 1)
  return Result.succeed(value === undefined ? Option.none() : Option.some([name, value] as const))
}

const isName = (text: string): boolean => Schema.is(RunName)(text)

/** How a run is to be called, as `--name` has it. */
export const parseName = (text: string): Result.Result<string, RunSpecRefused> =>
  isName(text)
    ? Result.succeed(text)
    : refuse(
        `${JSON.stringify(text.slice(0, 80))} cannot be a run's name: letters, digits, ., _ and - only, at most 64, a letter or digit first.`
      )

const decodeSpec = Schema.decodeUnknownResult(RunSpec)

export const commandOf = (
  options: RunOptions,
  caller: Environment
): Result.Result<RunCommand, RunSpecRefused> => {
  const { words, name, scope, killGraceMs, adoptGraceMs, env: given, ...plain } = options
  const [command, ...args] = words
  if (command === undefined || command === "")
    return refuse("There is no command to run. Write it behind the options: holdfast run -- CMD ARGS")
  const called = name === null ? Result.succeed(name) : parseName(name)
  if (Result.isFailure(called)) return Result.fail(called.failure)
  if (scope === "") return refuse("A scope key cannot be empty.")
  if (plain.replace && scope === null) return refuse("--replace needs --scope: it says which run to replace.")
  return Result.flatMap(Result.all(given.map((text) => parseVariable(text, caller))), (parsed) => {
    const env = Object.fromEntries(parsed.flatMap(Option.toArray))
    const taken = Object.entries(shellsOwn(caller)).filter(([variable]) => !(variable in env))
    const spec: RunSpec = {
      ...runDefaults,
      ...plain,
      command,
      args,
      name,
      scope,
      env,
      killGraceMs: killGraceMs ?? runDefaults.killGraceMs,
      adoptGraceMs: adoptGraceMs ?? runDefaults.adoptGraceMs,
      spawnedBy: caller[cookieVariable] ?? null
    }
    return Result.mapBoth(decodeSpec(spec), {
      onFailure: (error) =>
        new RunSpecRefused({
          problem: `The run cannot be asked for: ${error.message.replaceAll(/\s*\n\s*/g, " ")}.`
        }),
      onSuccess: (spec): RunCommand => ({ spec, variables: Object.fromEntries(taken) })
    })
  })
}

/** Flags that take no value; every other one takes the next word where it has no `=`. */
const switches = /^(?:-[dhv]+|--(?:detach|replace|pty|no-pty|json|help|version))$/

/**
 * The words of a command line with `--` before the command of a `run`, where nobody wrote it: what follows the command
 * belongs to the command. Behind `claude` what is none of our few options belongs to Claude Code.
 */
export const separated = (words: ReadonlyArray<string>): ReadonlyArray<string> => {
  let verb = 0
  while (words[verb]?.startsWith("-") === true && switches.test(words[verb]!)) verb++
  if (words[verb] === "claude") return behindClaude(words, verb + 1)
  if (words[verb] !== "run") return words
  for (let at = verb + 1; at < words.length; at++) {
    const word = words[at]!
    if (word === "--") return words
    if (!word.startsWith("-") || word === "-") return [...words.slice(0, at), "--", ...words.slice(at)]
    if (!switches.test(word) && !word.includes("=")) at++
  }
  return words
}

/** Everything else is Claude Code's. */
const ownOfClaude = /^--?(?:name|env|e|json|help|h|version|completions|log-level)(?:=|$)/

const behindClaude = (words: ReadonlyArray<string>, from: number): ReadonlyArray<string> => {
  let at = from
  while (at < words.length && ownOfClaude.test(words[at]!))
    at += /^--?(?:name|env|e)$/.test(words[at]!) ? 2 : 1
  return at >= words.length || words[at] === "--" ? words : [...words.slice(0, at), "--", ...words.slice(at)]
}
