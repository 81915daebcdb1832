/** ClaudeTerms: what can be asked of a governed Claude Code, and what it gets of its caller's environment. */
import * as Schema from "effect/Schema"

/** Arguments of Claude Code that would undo what governs it, and why. */
const refusedArguments: ReadonlyArray<readonly [RegExp, string]> = [
  [
    /^--settings(?:=|$)/,
    "Holdfast's own settings are what governs it; put yours into a settings file that it reads anyway"
  ],
  [/^--(?:bare|safe-mode)$/, "it switches every hook off"],
  [/^--no-session-persistence$/, "what it ran could not be compared with what was decided"],
  [
    /^--(?:sdk-url|remote|remote-control|teleport|cloud|bg|background)(?:=|$)/,
    "tools would run where no hook of this run is asked"
  ]
]

/** Sub-commands that start sessions, go on with some, or serve tools, out of this run. */
const refusedCommands = /^(?:agents|attach|respawn|gateway|ultrareview|remote-control|daemon)$/

/** With it Claude Code knows no sub-command: the first word is a prompt then. */
const isPrint = (argument: string): boolean => argument === "-p" || argument === "--print"

export class ClaudeArgumentRefused extends Schema.TaggedError<ClaudeArgumentRefused>()(
  "ClaudeArgumentRefused",
  { argument: Schema.String, why: Schema.String }
) {
  override get message(): string {
    return `claude ${this.argument} is refused: ${this.why}.`
  }
}

/** Environment of Claude Code that would undo what governs it. */
export const refusedVariables: ReadonlyArray<string> = ["CLAUDE_CODE_SIMPLE", "CLAUDE_CODE_SAFE_MODE"]

/**
 * The first argument or variable that cannot be granted, if there is one. Behind `--` too: an option that takes a value takes
 * that for it, and reads on.
 */
export const refusedArgument = (
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
): ClaudeArgumentRefused | null => {
  for (const argument of args) {
    const found = refusedArguments.find(([pattern]) => pattern.test(argument))
    if (found !== undefined)
      return new ClaudeArgumentRefused({ argument: argument.split("=", 1)[0]!.slice(0, 40), why: found[1] })
  }
  // Behind options too, of which nobody here knows how many words each takes.
  const command = args.some(isPrint)
    ? undefined
    : args.find((word, at) => refusedCommands.test(word) || (word === "mcp" && args[at + 1] === "serve"))
  if (command !== undefined)
    return new ClaudeArgumentRefused({ argument: command, why: "its sessions would run out of this run" })
  const variable = refusedVariables.find((name) => (env[name] ?? "") !== "")
  return variable === undefined
    ? null
    : new ClaudeArgumentRefused({ argument: `with ${variable}`, why: "it switches every hook off" })
}

/** Sub-commands with which Claude Code starts no session, so that no hook has anything to say. */
const administrative = /^(?:mcp|plugins?|update|upgrade|doctor|install|setup-token|auth|auto-mode|purge)$/

export const startsSession = (args: ReadonlyArray<string>): boolean =>
  args.some(isPrint) ||
  (!administrative.test(args[0] ?? "") &&
    !(args.length === 1 && /^(?:-v|--version|-h|--help)$/.test(args[0]!)))

/** What Claude Code needs of its caller's environment beside what every run gets: by these beginnings, and by name. */
const passedNames =
  /^(?:ANTHROPIC_|CLAUDE_|AWS_|GOOGLE_|VERTEX_|CLOUD_ML_|AZURE_|OTEL_|DISABLE_|BASH_(?:DEFAULT|MAX)_|MCP_|MAX_(?:THINKING|MCP)_|(?:HTTP|HTTPS|NO|ALL)_PROXY$|(?:http|https|no|all)_proxy$|NODE_EXTRA_CA_CERTS$|API_TIMEOUT_MS$|EDITOR$|VISUAL$|COLORTERM$|SSH_AUTH_SOCK$|IS_SANDBOX$|DISPLAY$|WAYLAND_DISPLAY$|DBUS_SESSION_BUS_ADDRESS$|XDG_)/

export const claudeVariables = (
  caller: Readonly<Record<string, string | undefined>>
): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Object.entries(caller).flatMap(([name, value]) =>
      value !== undefined && passedNames.test(name) && !refusedVariables.includes(name)
        ? [[name, value] as const]
        : []
    )
  )
