/**
 * ShellFollow: what a command runs in turn: the words behind `sudo`, `env` or `xargs`, the script of `sh -c`, what a shell is
 * given to read.
 */
import {
  afterOptions,
  argumentsOf,
  commandOf,
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
import { followOption, followSsh } from "./ShellOptions.ts"
import { resolvePath, type Text } from "./ShellPath.ts"

/** Programs that run the rest of their words. */
const runners: Readonly<Record<string, Options>> = {
  nohup: {},
  setsid: {},
  builtin: {},
  command: {},
  exec: { short: "a" },
  time: { short: "fo", long: ["format", "output"] },
  nice: { short: "n", long: ["adjustment"] },
  ionice: { short: "cnpPu", long: ["class", "classdata"] },
  stdbuf: { short: "ioe", long: ["input", "output", "error"] },
  timeout: { short: "sk", long: ["signal", "kill-after"], before: 1 },
  gtimeout: { short: "sk", long: ["signal", "kill-after"], before: 1 },
  chrt: { short: "pTPD", before: 1 },
  taskset: { short: "", before: 1 },
  chroot: { long: ["userspec", "groups"], before: 1 },
  unshare: {
    short: "SGR",
    long: ["setuid", "setgid", "root", "wd", "map-user", "map-group", "map-users", "map-groups"]
  },
  nsenter: { short: "tSG", long: ["target", "setuid", "setgid", "wd"] },
  strace: { short: "aeEIoOpPsSuX", long: ["output", "trace"] },
  ltrace: { short: "aDeFlnopsSuwx" },
  busybox: {},
  toybox: {},
  fakeroot: { short: "ls" },
  caffeinate: { short: "tw" },
  "xvfb-run": { short: "efnps" },
  "dbus-run-session": {},
  firejail: {},
  entr: {},
  env: {},
  sudo: {
    short: "ugCDhpRrTtU",
    long: ["user", "group", "chdir", "chroot", "close-from", "host", "prompt", "role", "type", "other-user"]
  },
  doas: { short: "uC" },
  pkexec: { long: ["user"] },
  run0: { long: ["user", "unit", "property", "chdir"] },
  gosu: { before: 1 },
  "su-exec": { before: 1 },
  setpriv: { long: ["reuid", "regid", "groups"] },
  "systemd-run": { short: "pu", long: ["unit", "property", "uid", "gid", "working-directory"] },
  unbuffer: {},
  winpty: {},
  npx: { short: "pc", long: ["package"] },
  bunx: { short: "p", long: ["package"] }
}

/** Of these the second word is `run` or `exec`, and the rest a command. */
const runWords: Readonly<Record<string, ReadonlyArray<string>>> = {
  poetry: ["run"],
  pipenv: ["run"],
  npm: ["exec", "x"],
  pnpm: ["exec", "dlx"],
  yarn: ["exec", "dlx"],
  uv: ["run"],
  rye: ["run"],
  pdm: ["run"],
  bundle: ["exec"],
  mise: ["exec", "x"],
  asdf: ["exec"],
  dotenv: ["run"]
}

const shells: ReadonlySet<string> = new Set(["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "rbash"])

/** Letters after which one of these takes code of its own language. */
const interpreters: ReadonlyArray<readonly [RegExp, { readonly code: string; readonly options: Options }]> = [
  [/^(?:python|pypy)[\d.]*$/, { code: "c", options: { short: "cmWXQ" } }],
  [
    /^(?:node|nodejs|bun|tsx|ts-node)$/,
    {
      code: "ep",
      options: { short: "eprC", long: ["eval", "print", "require", "import", "loader", "conditions"] }
    }
  ],
  [/^perl[\d.]*$/, { code: "eE", options: { short: "eEIMm" } }],
  [/^ruby[\d.]*$/, { code: "e", options: { short: "eIrCEx" } }],
  [/^php[\d.]*$/, { code: "rBRE", options: { short: "rBREcdfFtz" } }],
  [/^lua[\d.]*$/, { code: "e", options: { short: "el" } }],
  [/^osascript$/, { code: "e", options: { short: "el" } }],
  [/^(?:fish|t?csh|pwsh)$/, { code: "c", options: { short: "c" } }],
  [/^emacs(?:client)?$/, { code: "", options: { short: "l", long: ["eval", "load"] } }],
  [/^expect$/, { code: "c", options: { short: "c" } }],
  [/^Rscript$/, { code: "e", options: { short: "e" } }]
]

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
  const { all, values } = argumentsOf(words.slice(0, words.length - rest.length), envOptions)
  const [split] = all("S", "split-string")
  if (split !== undefined) return [scriptOf(split === null ? null : [split, joined(rest) ?? ""].join(" "))]
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
  if (run.length === 0) return [{ _tag: "raised" }]
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

const followInterpreter = (
  from: ShellCommand,
  { code, options }: { readonly code: string; readonly options: Options }
): ReadonlyArray<Follow> => {
  const what = "code of another language in the command line"
  const words = from.words.slice(1)
  const rest = afterOptions(words, options)
  if (rest === null) return [unseen(what)]
  const given = argumentsOf(rest === null ? words : words.slice(0, words.length - rest.length), options)
  if ([...code].some((letter) => given.has(letter))) return [unseen(what)]
  if (given.has("eval") || given.has("print")) return [unseen(what)]
  if (given.has("m") || given.has("version") || given.has("V")) return []
  const [file] = rest ?? []
  if (file === "eval" || rest?.[0] === null) return [unseen(what)]
  const readsInput = rest !== null && (file === undefined || file === "-" || isInput(file ?? ""))
  return readsInput && from.input._tag === "text" ? [unseen(what)] : []
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
  const known =
    from.input._tag === "text" && from.input.text !== null
      ? from.input.text.split(replaced === null ? /\s+/ : "\n").filter((word) => word !== "")
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
  return run.length === 0 ? [{ _tag: "raised" }] : [{ _tag: "raised" }, commandOf(from, run)]
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
      return word === null || at > 0 ? [scriptOf(word === null ? null : word.slice(at + 1))] : []
    }),
  watch: ({ words }) => {
    const rest = afterOptions(words.slice(1), { short: "nq", long: ["interval", "equexit"] })
    return rest?.length === 0 ? [] : [scriptOf(rest === null ? null : joined(rest))]
  },
  script: ({ words }) => {
    const { values } = argumentsOf(words.slice(1), { short: "cEIBOTm", long: ["command"] })
    const text = values["c"] ?? values["command"]
    return text === undefined ? [] : [scriptOf(text)]
  },
  mapfile: followCallback,
  readarray: followCallback,
  tmux: ({ words }) => {
    const { operands } = argumentsOf(words.slice(1), { short: "LSfcsntxyFe" })
    return /^(?:new|new-session|neww|new-window|splitw|split-window|respawn-pane|run|run-shell)$/.test(
      operands[0] ?? ""
    ) && operands.length > 1
      ? [scriptOf(joined(operands.slice(1)))]
      : []
  },
  screen: (from) => {
    const rest = afterOptions(from.words.slice(1), { short: "cehLprSsTtX" })
    return rest === null || rest.length === 0 ? [] : [commandOf(from, rest)]
  },
  make: ({ words }) =>
    argumentsOf(words.slice(1), { long: ["eval"] }).has("eval")
      ? [unseen("a rule of make in the command line")]
      : [],
  sudoedit: () => [{ _tag: "raised" }],
  source: followSource,
  ".": followSource,
  parallel: ({ words }) => {
    const rest = afterOptions(words.slice(1), { short: "jIaNnLd", long: ["jobs", "arg-file"] })
    if (rest === null) return [unseen("what parallel runs")]
    const end = rest.findIndex((word) => word?.startsWith(":::") === true)
    const run = end < 0 ? rest : rest.slice(0, end)
    if (run.length === 0) return rest.slice(end + 1).map((text) => scriptOf(text))
    return [scriptOf(joined([...run, '"$unknown"']))]
  }
}

function followCallback({ words }: ShellCommand): ReadonlyArray<Follow> {
  return argumentsOf(words.slice(1), { short: "CdnOsuc" })
    .all("C")
    .map((text) => scriptOf(text, [], true))
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
  /^(?:GIT_(?:SSH|SSH_COMMAND|PAGER|EDITOR|SEQUENCE_EDITOR|EXTERNAL_DIFF|ASKPASS|PROXY_COMMAND)|PAGER|MANPAGER|EDITOR|VISUAL|BROWSER|SSH_ASKPASS|PROMPT_COMMAND|LESSOPEN)$/

const followVariables = ({ variables }: ShellCommand): ReadonlyArray<Follow> =>
  Object.entries(variables).flatMap(([name, value]) => {
    if (/^GIT_CONFIG_(?:COUNT|KEY_\d+|VALUE_\d+|PARAMETERS|GLOBAL|SYSTEM)$/.test(name))
      return [unseen("git is told to take more from its environment")]
    return value === null || !runVariables.test(name) ? [] : [scriptOf(value.replace(/^\|/, ""))]
  })

/** git-SUB is git SUB. */
const plainly = (from: ShellCommand, name: string): ShellCommand =>
  name.startsWith("git-") ? { ...from, words: ["git", name.slice(4), ...from.words.slice(1)] } : from

/** What a command runs in turn, its variables' values included; empty where it is only what it says. */
export const follow = (from: ShellCommand): ReadonlyArray<Follow> => {
  const name = programOf(from)
  return [...followVariables(from), ...followProgram(name === null ? from : plainly(from, name))]
}

/** What a command runs in turn; empty where it is only what it says. */
const followProgram = (from: ShellCommand): ReadonlyArray<Follow> => {
  const name = programOf(from)
  if (name === null) return [unseen("a program whose name is not known before it runs")]
  const own = Object.hasOwn(followers, name) ? followers[name] : undefined
  if (own !== undefined) return own(from)
  if (raising.has(name)) return [{ _tag: "raised" }, ...followRunner(from, name)]
  if (Object.hasOwn(runners, name)) return followRunner(from, name)
  // The loader starts what it is given.
  if (/^ld-(?:linux|musl).*\.so/.test(name))
    return followRunner({ ...from, words: ["nohup", ...from.words.slice(1)] }, "nohup")
  if (shells.has(name)) return followShell(from)
  const interpreter = interpreters.find(([pattern]) => pattern.test(name))
  if (interpreter !== undefined) return followInterpreter(from, interpreter[1])
  const runWord = Object.hasOwn(runWords, name) ? runWords[name]! : []
  const [second] = from.words.slice(1)
  if (typeof second === "string" && runWord.includes(second)) {
    const rest = afterOptions(from.words.slice(2), {
      short: "pc",
      long: ["with", "package", "python", "extra", "group", "env-file"]
    })
    return rest === null || rest.length === 0 ? [] : [commandOf(from, rest)]
  }
  return followOption(from, name)
}
