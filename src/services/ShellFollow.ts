/**
 * ShellFollow: what a command runs in turn: the words behind `sudo`, `env` or `xargs`, the script of `sh -c`, what a shell is
 * given to read.
 */
import {
  afterOptions,
  argumentsOf,
  commandOf,
  hereTextOf,
  type Follow,
  type Input,
  joined,
  type Options,
  programOf,
  scriptOf,
  type ShellCommand,
  unseen,
  isInput
} from "./ShellCommand.ts"
import { findActions } from "./ShellFind.ts"
import { followGit } from "./ShellGit.ts"
import { followOption, followSsh, optionFollowers } from "./ShellOptions.ts"
import { resolvePath, type Text } from "./ShellPath.ts"
import { isRuled } from "./ShellRules.ts"
import { type Interpreter, interpreterOf, isShell, runners, runWords } from "./ShellRunners.ts"

/** env takes any word with `=` for one, and so does sudo. */
const assignment = /^([^=]*)=([^]*)$/

const envOptions: Options = {
  short: "uCSa",
  long: ["unset", "chdir", "split-string", "argv0", "block-signal"]
}

const followEnv = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  const rest = afterOptions(words, envOptions)
  if (rest === null) return [unseen("what env runs")]
  if (rest[0] === "-") return followEnv({ ...from, words: ["env", ...rest.slice(1)] })
  const { all, values } = argumentsOf(words.slice(0, words.length - rest.length), envOptions)
  const [split] = all("S", "split-string")
  if (split !== undefined) return [scriptOf(split === null ? null : `${split} "$@"`, ["env", ...rest])]
  const variables: Record<string, Text> = { ...from.variables }
  let at = 0
  for (; at < rest.length; at++) {
    const named = rest[at] === null ? null : assignment.exec(rest[at]!)
    if (named === null) break
    variables[named[1]!] = named[2]!.includes("\u{E000}") ? null : named[2]!
  }
  const cwd = directoryOf(from, values["C"] ?? values["chdir"])
  return at >= rest.length ? [] : [commandOf({ ...from, variables, cwd }, rest.slice(at))]
}

/** Where a command runs that is told so by an option. */
const directoryOf = ({ cwd }: ShellCommand, given: Text | undefined): Text =>
  given === undefined ? cwd : resolvePath(given, { cwd })

const followSudo = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  const rest = afterOptions(words, runners["sudo"]!)
  if (rest === null) return [{ _tag: "raised" }, unseen("what sudo runs")]
  const { has, values } = argumentsOf(words.slice(0, words.length - rest.length), runners["sudo"])
  const begin = rest.findIndex((word) => word === null || !assignment.test(word))
  const run = begin < 0 ? [] : rest.slice(begin)
  const cwd = directoryOf(from, values["D"] ?? values["chdir"])
  if (run.length === 0) return [{ _tag: "raised" }, ...followInput(from)]
  // A shell is given the words as one text.
  if (has("s", "shell", "i", "login")) return [{ _tag: "raised" }, scriptOf(joined(run))]
  return [{ _tag: "raised" }, commandOf({ ...from, cwd }, run)]
}

const followRunner = (from: ShellCommand, name: string): ReadonlyArray<Follow> => {
  if (name === "command" && from.words.some((word) => word !== null && /^-[pvV]*[vV]/.test(word))) return []
  const options = runners[name]!
  const rest = afterOptions(from.words.slice(1), options)
  if (rest === null) return [unseen(`what ${name} runs`)]
  const words = rest.slice(options.before ?? 0)
  return words.length === 0 ? [] : [commandOf(from, words)]
}

const followShell = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!
    if (word === null) return [unseen("what a shell runs")]
    if (/^[+-]\w*c\w*$/.test(word)) {
      const rest = words.slice(index + 1 + (/[oO]/.test(word) ? 1 : 0))
      const at = rest.findIndex((next) => next === null || !/^[+-]./.test(next))
      return at < 0 ? [] : [scriptOf(rest[at]!, rest.slice(at + 1))]
    }
    if (/^--(?:rcfile|init-file)$/.test(word)) {
      if ((words[++index] ?? null) === null) return [unseen("what a shell reads at its start")]
    } else if (/^[+-]\w*[oO]$/.test(word) && !/^[+-]\w*c/.test(word)) index++
    else if (/^-\w*s\w*$/.test(word) || word === "-") return followInput(from)
    else if (!/^[+-]/.test(word)) return isInput(word) ? followInput(from) : []
  }
  return followInput(from)
}

const followInput = ({ input }: ShellCommand): ReadonlyArray<Follow> =>
  input._tag === "text" ? [scriptOf(input.text)] : []

const followInterpreter = (from: ShellCommand, { code, options }: Interpreter): ReadonlyArray<Follow> => {
  const what = "code of another language in the command line"
  const words = from.words.slice(1)
  const rest = afterOptions(words, options)
  if (rest === null) return [unseen(what)]
  const given = argumentsOf(words.slice(0, words.length - rest.length), options)
  if ([...code].some((letter) => given.has(letter))) return [unseen(what)]
  if (given.has("eval") || given.has("print")) return [unseen(what)]
  const loaded = [...given.all("r", "m"), ...given.all("require", "import", "loader")]
  if (loaded.some((one) => one !== null && /^(?:data:|https?:|timeit$)/.test(one))) return [unseen(what)]
  if (given.has("m") || given.has("version") || given.has("V")) return []
  const [file] = rest
  if (file === null || file === "eval") return [unseen(what)]
  const readsInput = file === undefined || file === "-" || isInput(file)
  return readsInput && from.input._tag === "text" ? [unseen(what)] : []
}

const ofProject: Options = {
  short: "wCFf",
  long: ["workspace", "prefix", "filter", "dir", "cwd", "registry", "directory", "project"]
}

/** `npm exec`: a command, or one text of it. */
const followRunWord = (from: ShellCommand, words: ReadonlyArray<Text>): ReadonlyArray<Follow> => {
  const options: Options = {
    short: "pc",
    long: ["with", "package", "python", "extra", "group", "env-file", "call"]
  }
  const rest = afterOptions(words, options)
  if (rest === null) return [unseen("what it runs")]
  const called = argumentsOf(words.slice(0, words.length - rest.length), options).all("c", "call")
  return [...called.map((text) => scriptOf(text)), ...(rest.length === 0 ? [] : [commandOf(from, rest)])]
}

const followXargs = (from: ShellCommand): ReadonlyArray<Follow> => {
  const options: Options = {
    short: "adEILnPs",
    long: ["arg-file", "delimiter", "max-args", "max-procs", "max-chars", "replace", "max-lines"]
  }
  const words = from.words.slice(1)
  const rest = afterOptions(words, options)
  if (rest === null) return [unseen("what xargs runs")]
  if (rest.length === 0) return []
  const { values, has } = argumentsOf(words.slice(0, words.length - rest.length), options)
  const replaced = values["I"] ?? values["replace"] ?? (has("i") || has("replace") ? "{}" : null)
  const given = values["d"] ?? values["delimiter"]
  const ends = has("0", "null")
    ? "\0"
    : given === undefined
      ? undefined
      : (given?.replace("\\n", "\n") ?? null)
  const known =
    from.input._tag === "text" && from.input.text !== null && ends !== null
      ? from.input.text
          .replace(/\n$/, "")
          .split(ends ?? (replaced === null ? /\s+/ : "\n"))
          .filter((word) => word !== "")
      : null
  const withOne = (one: Text): ReadonlyArray<Text> =>
    rest.map((word) =>
      word === null || replaced === null || !word.includes(replaced)
        ? word
        : one === null
          ? null
          : word.replaceAll(replaced, one)
    )
  const input: Input = { _tag: "inherited" }
  if (replaced === null) return [commandOf({ ...from, input }, [...rest, ...(known ?? [null])])]
  return (known ?? [null]).slice(0, maxFollowed).map((one) => commandOf({ ...from, input }, withOne(one)))
}

/** Lines of an input that are followed one by one. */
const maxFollowed = 16

const followSu = (from: ShellCommand): ReadonlyArray<Follow> => {
  const { values } = argumentsOf(from.words.slice(1), {
    short: "cgGsw",
    long: ["command", "session-command", "group", "shell"]
  })
  const text = values["c"] ?? values["command"] ?? values["session-command"]
  if (text !== undefined) return [{ _tag: "raised" }, scriptOf(text)]
  const end = from.words.indexOf("--")
  const run = end < 0 ? [] : from.words.slice(end + 1)
  return [{ _tag: "raised" }, ...(run.length === 0 ? followInput(from) : [commandOf(from, run)])]
}

const followFlock = (from: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(from.words.slice(1), {
    short: "wE",
    long: ["timeout", "wait", "conflict-exit-code"]
  })
  if (rest === null) return [unseen("what flock runs")]
  const run = rest.slice(rest[1] === "--" ? 2 : 1)
  if (run[0] === "-c" || run[0] === "--command") return [scriptOf(run[1] ?? null)]
  return run.length === 0 ? [] : [commandOf(from, run)]
}

const raising: ReadonlySet<string> = new Set(["pkexec", "run0", "gosu", "su-exec"])

/** Programs with a rule of their own. */
const followers: Readonly<Record<string, (from: ShellCommand) => ReadonlyArray<Follow>>> = {
  env: followEnv,
  sudo: followSudo,
  doas: (from) => [{ _tag: "raised" }, ...followRunner(from, "doas")],
  su: followSu,
  runuser: followSu,
  xargs: followXargs,
  git: followGit,
  find: (from) => findActions(from).runs,
  ssh: followSsh,
  flock: followFlock,
  eval: ({ words }) => (words.length > 1 ? [scriptOf(joined(words.slice(1)), [], true)] : []),
  trap: ({ words }) => {
    const [text] = words.slice(words[1] === "--" ? 2 : 1)
    return text === undefined || (text !== null && /^(?:-.*|)$/.test(text)) ? [] : [scriptOf(text, [], true)]
  },
  alias: ({ words }) =>
    words.slice(1).flatMap((word) => {
      const at = word?.indexOf("=") ?? 0
      const text = word?.includes("\u{E000}") === false ? word.slice(at + 1) : null
      return word === null || at > 0 ? [scriptOf(text)] : []
    }),
  watch: ({ words }) => {
    const rest = afterOptions(words.slice(1), { short: "nq", long: ["interval", "equexit"] })
    return rest?.length === 0 ? [] : [scriptOf(rest === null ? null : joined(rest))]
  },
  mapfile: followCallback,
  readarray: followCallback,
  complete: followCallback,
  compgen: followCallback,
  fc: ({ words }) =>
    argumentsOf(words.slice(1), { short: "e" })
      .all("e")
      .map((text) => scriptOf(text)),
  sudoedit: () => [{ _tag: "raised" }],
  source: followSource,
  ".": followSource,
  npx: (from) => followRunWord(from, from.words.slice(1)),
  bunx: (from) => followRunWord(from, from.words.slice(1)),
  ...optionFollowers
}

function followCallback({ words }: ShellCommand): ReadonlyArray<Follow> {
  const { all } = argumentsOf(words.slice(1), { short: "CdnOsucWFAGPSX" })
  return [
    ...all("C", "F").map((text) => scriptOf(text, [], true)),
    // A list of words is expanded when it is asked for.
    ...all("W").map((text) => scriptOf(text === null ? null : hereTextOf(text), [], true))
  ]
}

/** A file is a program like another; what another command prints is not one that anybody has seen. */
function followSource({ words, input }: ShellCommand): ReadonlyArray<Follow> {
  const [file] = words.slice(1)
  if (file === undefined) return []
  if (file === null) return [unseen("a script that is not known before it runs")]
  return isInput(file) && input._tag === "text" ? [scriptOf(input.text, [], true)] : []
}

/** Variables whose value somebody runs. */
const runVariables =
  /^(?:GIT_(?:SSH|SSH_COMMAND|PAGER|EDITOR|SEQUENCE_EDITOR|EXTERNAL_DIFF|ASKPASS|PROXY_COMMAND)|PAGER|MANPAGER|EDITOR|VISUAL|BROWSER|SSH_ASKPASS|SUDO_ASKPASS|PROMPT_COMMAND|LESSOPEN|LESSCLOSE|FCEDIT|npm_config_script_shell)$/i

const followVariables = ({ variables }: ShellCommand): ReadonlyArray<Follow> =>
  Object.entries(variables).flatMap(([name, value]) => {
    if (/^GIT_CONFIG_(?:COUNT|KEY_\d+|VALUE_\d+|PARAMETERS|GLOBAL|SYSTEM)$/.test(name))
      return [unseen("git is told to take more from its environment")]
    if (/^PS[0-4]$/.test(name))
      return value === null
        ? [unseen("a prompt that may run what it holds")]
        : /[`$\\]/.test(value)
          ? [scriptOf(hereTextOf(value))]
          : []
    return runVariables.test(name) ? [scriptOf(value === null ? null : value.replace(/^\|/, ""))] : []
  })

/** git-SUB is git SUB. */
const plainly = (from: ShellCommand, name: string): ShellCommand =>
  name.startsWith("git-") ? { ...from, words: ["git", name.slice(4), ...from.words.slice(1)] } : from

/** What a command runs in turn; empty where it is only what it says. */
export const follow = (from: ShellCommand): ReadonlyArray<Follow> => {
  const name = programOf(from)
  return [...followVariables(from), ...followProgram(name === null ? from : plainly(from, name))]
}

/** The part of it that is the program's doing, and not that of a variable. */
const followProgram = (from: ShellCommand): ReadonlyArray<Follow> => {
  const name = programOf(from)
  // A pattern is any file that it meets, and a process's own program is the shell.
  if (name === null || /[*?]|\[./.test(name) || /^\/proc\/.*\/exe$/.test(from.words[0] ?? ""))
    return [unseen("a program whose name is not known before it runs")]
  const own = Object.hasOwn(followers, name) ? followers[name] : undefined
  if (own !== undefined) return own(from)
  if (raising.has(name)) return [{ _tag: "raised" }, ...followRunner(from, name)]
  if (Object.hasOwn(runners, name)) return followRunner(from, name)
  // The loader starts what it is given.
  if (/^ld-(?:linux|musl).*\.so/.test(name))
    return followRunner({ ...from, words: ["nohup", ...from.words.slice(1)] }, "nohup")
  if (isShell(name)) return followShell(from)
  const interpreter = interpreterOf(name)
  if (interpreter !== undefined) return followInterpreter(from, interpreter)
  const runWord = Object.hasOwn(runWords, name) ? runWords[name]! : []
  const [second, ...behind] = afterOptions(from.words.slice(1), ofProject) ?? []
  if (typeof second === "string" && runWord.includes(second)) return followRunWord(from, behind)
  return followOption(from, name)
}

/** Programs to which a command is a text: they say it, look for it or explain it. */
const readers: ReadonlySet<string> = new Set(
  "echo printf : true false test [ grep egrep fgrep zgrep rg ag ack which type whereis man whatis apropos tldr help logger say export declare local readonly typeset set unset shift return exit cd pushd popd read".split(
    " "
  )
)

/** Of a command that may be one: more would cost more than they say. */
const maxWords = 64

/**
 * What a program may run that nobody here knows: its words from each on that names a program which could destroy something,
 * as `wrapper -n 5 rm -rf /`. What would be refused there says something about it, and of a shell what would be asked about.
 */
export const perhapsRun = (from: ShellCommand): ReadonlyArray<ShellCommand> => {
  const name = programOf(from)
  if (name === null || readers.has(name) || isRuled(name)) return []
  return from.words.flatMap((word, index) => {
    const given = word === null || index === 0 || index > maxFollowed ? null : programOf({ words: [word] })
    const isRun =
      given !== null &&
      (isRuled(given) || isShell(given) || given === "env" || Object.hasOwn(followers, given))
    return isRun ? [{ ...from, words: from.words.slice(index, index + maxWords), redirects: [] }] : []
  })
}
