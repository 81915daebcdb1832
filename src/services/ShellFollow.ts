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
  unseen
} from "./ShellCommand.ts"
import { findActions } from "./ShellFind.ts"
import { followGit } from "./ShellGit.ts"
import type { Text } from "./ShellPath.ts"

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
  unshare: { short: "SG", long: ["setuid", "setgid", "root", "wd"] },
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
  doas: { short: "uC" }
}

/** Of these the second word is `run` or `exec`, and the rest a command. */
const runWords: Readonly<Record<string, ReadonlyArray<string>>> = {
  poetry: ["run"],
  pipenv: ["run"],
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
  [/^Rscript$/, { code: "e", options: { short: "e" } }]
]

const assignment = /^([A-Za-z_]\w*)=([^]*)$/

const followEnv = (from: ShellCommand): ReadonlyArray<Follow> => {
  const variables: Record<string, Text> = { ...from.variables }
  const rest = from.words.slice(1)
  while (rest.length > 0) {
    const word = rest[0]!
    if (word === null) return [unseen("what env runs")]
    const split = /^(?:-S|--split-string=?)([^]*)$/.exec(word)
    if (split !== null) {
      const text = split[1] === "" ? (rest[1] ?? null) : split[1]!
      return [
        scriptOf(text === null ? null : [text, joined(rest.slice(split[1] === "" ? 2 : 1)) ?? ""].join(" "))
      ]
    }
    if (/^(?:-u|-C|--unset|--chdir)$/.test(word)) rest.splice(0, 2)
    else if (word.startsWith("-")) rest.shift()
    else {
      const named = assignment.exec(word)
      if (named === null) break
      variables[named[1]!] = named[2]!
      rest.shift()
    }
  }
  return rest.length === 0 ? [] : [commandOf({ ...from, variables }, rest)]
}

const followSudo = (from: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(from.words.slice(1), runners["sudo"]!)
  if (rest === null) return [{ _tag: "raised" }, unseen("what sudo runs")]
  const words = rest.slice(rest.findIndex((word) => word === null || !assignment.test(word)))
  return rest.length === 0 ? [{ _tag: "raised" }] : [{ _tag: "raised" }, commandOf(from, words)]
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
      const rest = words.slice(index + 1)
      const at = rest.findIndex((next) => next === null || !/^[+-]./.test(next))
      return at < 0 ? [] : [scriptOf(rest[at]!, rest.slice(at + 1))]
    }
    if (/^(?:[+-][oO]|--rcfile|--init-file)$/.test(word)) index++
    else if (/^-\w*s\w*$/.test(word) || word === "-") return followInput(from)
    else if (!/^[+-]/.test(word)) return /^\/dev\/(?:stdin|fd\/\d+)$/.test(word) ? followInput(from) : []
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
  const given = argumentsOf(rest === null ? words : words.slice(0, words.length - rest.length), options)
  if ([...code].some((letter) => given.flags.has(letter))) return [unseen(what)]
  if (given.flags.has("eval") || given.flags.has("print")) return [unseen(what)]
  if (given.flags.has("m") || given.flags.has("version") || given.flags.has("V")) return []
  const [file] = rest ?? []
  if (file === "eval" || (file === null && rest !== null)) return [unseen(what)]
  const readsInput =
    rest !== null && (file === undefined || file === "-" || /^\/dev\/(?:stdin|fd\/)/.test(file ?? ""))
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
  const { values, flags } = argumentsOf(words.slice(0, words.length - rest.length), options)
  const replaced = values["I"] ?? values["replace"] ?? (flags.has("i") || flags.has("replace") ? "{}" : null)
  const known =
    from.input._tag === "text" && from.input.text !== null
      ? from.input.text.split(/\s+/).filter((word) => word !== "")
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

/** Options of other programs that hold a command. */
const commandOptions: Readonly<Record<string, RegExp>> = {
  tar: /^--(?:checkpoint-action=exec=|to-command=|use-compress-program=|rsh-command=)([^]*)$/,
  rsync: /^--rsh=([^]*)$/,
  ssh: /^-oProxyCommand=([^]*)$/i
}

const followSsh = (from: ShellCommand): ReadonlyArray<Follow> => {
  const options: Options = { short: "BbcDEeFIiJLlmOopQRSWw" }
  const words = from.words.slice(1)
  const proxy = words.flatMap((word, index) => {
    const set = words[index - 1] === "-o" ? word : undefined
    const found = set?.match(/^ProxyCommand[= ]([^]*)$/i)
    return found ? [scriptOf(found[1]!)] : []
  })
  const rest = afterOptions(words, options)
  if (rest === null) return proxy
  const run = rest.slice(1)
  return run.length === 0 ? proxy : [...proxy, scriptOf(joined(run))]
}

const followOption = (from: ShellCommand, name: string): ReadonlyArray<Follow> => {
  const pattern = commandOptions[name]
  return pattern === undefined
    ? []
    : from.words.flatMap((word) => {
        const found = word?.match(pattern)
        return found ? [scriptOf(found[1]!)] : []
      })
}

const followSu = (from: ShellCommand): ReadonlyArray<Follow> => {
  const { values } = argumentsOf(from.words.slice(1), {
    short: "cgGsw",
    long: ["command", "session-command", "group", "shell"]
  })
  const text = values["c"] ?? values["command"] ?? values["session-command"]
  return text === undefined ? [{ _tag: "raised" }] : [{ _tag: "raised" }, scriptOf(text)]
}

const followFlock = (from: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(from.words.slice(1), {
    short: "wE",
    long: ["timeout", "wait", "conflict-exit-code"]
  })
  if (rest === null) return [unseen("what flock runs")]
  const run = rest.slice(1)
  if (run[0] === "-c" || run[0] === "--command") return [scriptOf(run[1] ?? null)]
  return run.length === 0 ? [] : [commandOf(from, run)]
}

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
    const [text] = words.slice(1)
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
  source: followSource,
  ".": followSource,
  parallel: ({ words }) => {
    const rest = afterOptions(words.slice(1), { short: "jIaNnLd", long: ["jobs", "arg-file"] })
    if (rest === null) return [unseen("what parallel runs")]
    const end = rest.findIndex((word) => word?.startsWith(":::") === true)
    const run = end < 0 ? rest : rest.slice(0, end)
    return run.length === 0 ? [] : [scriptOf(joined([...run, '"$unknown"']))]
  }
}

/** A file is a program like another; what another command prints is not one that anybody has seen. */
function followSource({ words, input }: ShellCommand): ReadonlyArray<Follow> {
  const [file] = words.slice(1)
  if (file === undefined) return []
  if (file === null) return [unseen("a script that is not known before it runs")]
  return /^\/dev\/(?:stdin|fd\/\d+)$/.test(file) && input._tag === "text"
    ? [scriptOf(input.text, [], true)]
    : []
}

/** What a command runs in turn; empty where it is only what it says. */
export const follow = (from: ShellCommand): ReadonlyArray<Follow> => {
  const name = programOf(from)
  if (name === null) return [unseen("a program whose name is not known before it runs")]
  const own = Object.hasOwn(followers, name) ? followers[name] : undefined
  if (own !== undefined) return own(from)
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
    const rest = afterOptions(from.words.slice(2), {})
    return rest === null || rest.length === 0 ? [] : [commandOf(from, rest)]
  }
  return followOption(from, name)
}
