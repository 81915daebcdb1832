/** ShellGit: what git runs in turn, by its configuration and its sub-commands, and what it does that cannot be taken back. */
import {
  afterOptions,
  argumentsOf,
  commandOf,
  type Follow,
  joined,
  type Options,
  scriptOf,
  type ShellCommand,
  unseen
} from "./ShellCommand.ts"
import { ask, askIf, deny, none, type Rule } from "./ShellFinding.ts"
import type { Text } from "./ShellPath.ts"

/** Keys of git's configuration whose value git runs. */
const runByGit =
  /^(?:core\.(?:sshcommand|pager|editor|fsmonitor|askpass|gitproxy)|sequence\.editor|diff\.external|gpg\.(?:\w+\.)?program|pager\.\w+|(?:diff|difftool|mergetool|merge|filter|browser|man)\..*\.(?:cmd|command|textconv|driver|clean|smudge|process))$/i

const gitGlobal: Options = {
  short: "Cc",
  long: ["git-dir", "work-tree", "namespace", "super-prefix", "exec-path", "config-env"]
}

/** git without its own options: the sub-command first. Null: what it does is not known. */
const gitWords = (words: ReadonlyArray<Text>): ReadonlyArray<Text> | null => {
  const rest = afterOptions(words.slice(1), gitGlobal)
  if (rest === null || rest[0] === null) return null
  const settings = gitSettings(words.slice(1, words.length - rest.length))
  const alias = settings.find(([key]) => key === `alias.${rest[0]}`)?.[1]
  if (alias === undefined) return rest
  return alias === null || alias.startsWith("!") ? [] : [...alias.trim().split(/\s+/), ...rest.slice(1)]
}

const gitSettings = (words: ReadonlyArray<Text>): ReadonlyArray<readonly [string, Text]> =>
  words.flatMap((word, index): ReadonlyArray<readonly [string, Text]> => {
    const text =
      words[index - 1] === "-c" ? word : word?.startsWith("-c") && word.length > 2 ? word.slice(2) : undefined
    if (text === undefined) return []
    if (text === null) return [["alias.?", null] as const]
    const at = text.indexOf("=")
    return at < 0 ? [] : [[text.slice(0, at).toLowerCase(), text.slice(at + 1)] as const]
  })

const followSetting = ([key, value]: readonly [string, Text]): ReadonlyArray<Follow> => {
  if (value === null) return [unseen("what git is told to run")]
  if (key.startsWith("alias.") || key === "credential.helper")
    return value.startsWith("!") ? [scriptOf(value.slice(1))] : []
  return runByGit.test(key) ? [scriptOf(value)] : []
}

export const followGit = (from: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(from.words.slice(1), gitGlobal) ?? []
  const settings = gitSettings(from.words.slice(1, from.words.length - rest.length)).flatMap(followSetting)
  const [sub, ...words] = rest
  const more = ((): ReadonlyArray<Follow> => {
    switch (sub) {
      case "bisect":
        return words[0] === "run" ? [commandOf(from, words.slice(1))] : []
      case "rebase": {
        const { values } = argumentsOf(words, { short: "xCs", long: ["exec", "onto", "strategy"] })
        return ["x", "exec"].flatMap((name) => (name in values ? [scriptOf(values[name]!)] : []))
      }
      case "submodule": {
        const at = words.indexOf("foreach")
        if (at < 0) return []
        const run = words
          .slice(at + 1)
          .filter((word) => word !== "--recursive" && word !== "--quiet" && word !== "-q")
        return [scriptOf(joined(run))]
      }
      case "difftool": {
        const { values } = argumentsOf(words, { short: "xt", long: ["extcmd", "tool"] })
        return ["x", "extcmd"].flatMap((name) => (name in values ? [scriptOf(values[name]!)] : []))
      }
      case "config": {
        const [key, value] = words.filter((word) => word === null || !word.startsWith("-"))
        return typeof key === "string" && value !== undefined ? followSetting([key.toLowerCase(), value]) : []
      }
      default:
        return []
    }
  })()
  return [...settings, ...more]
}

const force = "a forced push rewrites other people's history"
const work = "it throws away work that is in no commit"
const history = "it throws away commits"

const gitPush: Rule = (words) => {
  const { flags, operands } = argumentsOf(words, {
    short: "o",
    long: ["push-option", "repo", "receive-pack", "exec"]
  })
  const forced = [...flags].some(
    (flag) => flag === "f" || flag === "mirror" || (flag.length > 2 && "force".startsWith(flag))
  )
  if (forced || operands.slice(1).some((ref) => ref?.startsWith("+") === true)) return deny(force)
  return [
    ...askIf(flags.has("force-with-lease") || flags.has("force-if-includes"), force),
    ...askIf(
      flags.has("d") ||
        flags.has("delete") ||
        flags.has("prune") ||
        operands.slice(1).some((ref) => ref?.startsWith(":") === true),
      "it deletes a branch or tag that others may use"
    )
  ]
}

const all = new Set([".", "./", "*", ":/", ":", "./*", "..", "/"])

const gitRestore: Rule = (words) => {
  const { flags, operands } = argumentsOf(words, { short: "sbB", long: ["source", "branch"] })
  const staged = (flags.has("staged") || flags.has("S")) && !flags.has("worktree") && !flags.has("W")
  return askIf(!staged && operands.some((path) => path !== null && all.has(path)), work)
}

const gitRules: Readonly<Record<string, Rule>> = {
  push: gitPush,
  reset: (words) => askIf(words.includes("--hard"), work),
  clean: (words) => {
    const { flags } = argumentsOf(words, { short: "e", long: ["exclude"] })
    return askIf((flags.has("f") || flags.has("force")) && !flags.has("n") && !flags.has("dry-run"), work)
  },
  checkout: (words, at, command) => [
    ...gitRestore(words, at, command),
    ...askIf(argumentsOf(words).flags.has("f") || argumentsOf(words).flags.has("force"), work)
  ],
  switch: (words) =>
    askIf(words.includes("--discard-changes") || words.includes("-f") || words.includes("--force"), work),
  restore: gitRestore,
  branch: (words) => {
    const { flags } = argumentsOf(words, { short: "u" })
    return askIf(
      flags.has("D") || ((flags.has("d") || flags.has("delete")) && (flags.has("f") || flags.has("force"))),
      history
    )
  },
  stash: (words) => askIf(words[0] === "drop" || words[0] === "clear", work),
  "filter-branch": () => ask(history),
  "filter-repo": () => ask(history),
  reflog: (words) => askIf(words[0] === "expire" || words[0] === "delete", history),
  "update-ref": (words) => askIf(words.includes("-d") || words.includes("--stdin"), history),
  worktree: (words) =>
    askIf(words[0] === "remove" && (words.includes("--force") || words.includes("-f")), work),
  gc: (words) =>
    askIf(
      words.some((word) => /^--prune=(?:now|all)/.test(word ?? "")),
      history
    )
}

export const git: Rule = (_words, at, command) => {
  const words = gitWords(command.words)
  if (words === null) return ask("what git does is not known before it runs")
  const [name, ...rest] = words
  return typeof name === "string" && Object.hasOwn(gitRules, name) ? gitRules[name]!(rest, at, command) : none
}
