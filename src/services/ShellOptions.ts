/** ShellOptions: programs that run what one of their options holds, or words in a place that only they know, as ssh does. */
import {
  afterOptions,
  argumentsOf,
  commandOf,
  type Follow,
  isInput,
  joined,
  type Options,
  scriptOf,
  type ShellCommand,
  unseen
} from "./ShellCommand.ts"
import type { Text } from "./ShellPath.ts"

/** Options of other programs that hold a command. */
const commandValues: Readonly<
  Record<string, { readonly options: Options; readonly names: ReadonlyArray<string> }>
> = {
  tar: {
    options: {
      short: "fCITXgKLbHVF",
      long: [
        "use-compress-program",
        "to-command",
        "info-script",
        "new-volume-script",
        "rsh-command",
        "rmt-command"
      ]
    },
    names: [
      "I",
      "F",
      "use-compress-program",
      "to-command",
      "info-script",
      "new-volume-script",
      "rsh-command",
      "rmt-command"
    ]
  },
  bsdtar: {
    options: { short: "fCITXgKLbHVF", long: ["use-compress-program"] },
    names: ["use-compress-program"]
  },
  rsync: { options: { short: "efBTM", long: ["rsh", "rsync-path"] }, names: ["e", "rsh", "rsync-path"] },
  scp: { options: { short: "ScFiJloPX" }, names: ["S"] },
  split: { options: { short: "abCnl", long: ["filter"] }, names: ["filter"] },
  sort: { options: { short: "kSotT", long: ["compress-program"] }, names: ["compress-program"] },
  man: { options: { short: "PHrMLSCeEpR", long: ["pager", "html"] }, names: ["P", "H", "pager", "html"] },
  sftp: { options: { short: "SoBbcDFiJlPRsX" }, names: ["S"] },
  nano: { options: { short: "sCQrTYopw", long: ["speller"] }, names: ["s", "speller"] },
  wget: { options: { short: "OoaPUtTQ", long: ["use-askpass"] }, names: ["use-askpass"] },
  nodemon: { options: { short: "xewidV", long: ["exec", "ext", "watch", "ignore"] }, names: ["x", "exec"] },
  "nix-shell": { options: { short: "pA", long: ["run", "command"] }, names: ["run", "command"] }
}

const commandOptions: Readonly<Record<string, RegExp>> = {
  tar: /^(?:--checkpoint-action=)?exec=([^]*)$/
}

const sshOptions: Options = { short: "BbcDEeFIiJLlmOopQRSWw" }

/** Commands that another program runs beside what it is for. */
const proxiesOf = (words: ReadonlyArray<Text>): ReadonlyArray<Follow> =>
  argumentsOf(words, sshOptions)
    .all("o")
    .flatMap((set) => {
      const found = set?.match(/^(?:ProxyCommand|LocalCommand|KnownHostsCommand)\s*[= ]\s*([^]*)$/i)
      return found ? [scriptOf(found[1]!)] : []
    })

/** Whatever reads its input as a script. */
const readsScript = /(?:^|[\s/;|&(])(?:[bdakz]?a?sh|python[\d.]*|perl|ruby|node|php)(?:\s|$)/

export const followSsh = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  const proxies = proxiesOf(words)
  // The host may be unknown; what runs there is what comes behind it, and options may stand there too.
  const host = words.findIndex(
    (word, index) => word === null || (!word.startsWith("-") && !takesValue(words[index - 1]))
  )
  if (host < 0) return proxies
  const rest = afterOptions(words.slice(host + 1), sshOptions) ?? words.slice(host + 1)
  const text = joined(rest)
  const isScript =
    from.input._tag === "text" && (rest.length === 0 || (text !== null && readsScript.test(text)))
  return [
    ...proxies,
    ...(isScript ? [unseen("a script for the shell of another machine")] : []),
    ...(rest.length > 0 ? [scriptOf(text)] : from.input._tag === "text" ? [scriptOf(from.input.text)] : [])
  ]
}

const takesValue = (word: Text | undefined): boolean =>
  typeof word === "string" && /^-\w*[BbcDEeFIiJLlmOopQRSWw]$/.test(word)

export const followOption = (from: ShellCommand, name: string): ReadonlyArray<Follow> => {
  const held = Object.hasOwn(commandValues, name) ? commandValues[name] : undefined
  const words = from.words.slice(1)
  const values = held === undefined ? [] : argumentsOf(words, held.options).all(...held.names)
  const pattern = Object.hasOwn(commandOptions, name) ? commandOptions[name] : undefined
  const matched = pattern === undefined ? [] : words.flatMap((word) => word?.match(pattern)?.[1] ?? [])
  const proxies = name === "scp" || name === "sftp" ? proxiesOf(words) : []
  return [...proxies, ...[...values, ...matched].map((text) => scriptOf(text))]
}

/** What a debugger does that runs nothing else. */
const debugs =
  /^(?:r(?:un)?|bt|backtrace|where|thread apply all bt(?: full)?|info [\w ]+|set (?:pagination|confirm|args|breakpoint|width|height)\b[^|]*|q(?:uit)?|c(?:ontinue)?|(?:b|break|tbreak|up|down|frame|list|next|step|finish|kill|detach)\b[^(|]*)$/

/** gdb's and lldb's: an option is a word of any length behind one dash or two, and what it says is a line of their own. */
const followDebugger = (from: ShellCommand): ReadonlyArray<Follow> => {
  const words = from.words.slice(1)
  const program = words.findIndex((word) => /^--?(?:args|)$/.test(word ?? "") && word !== "")
  const own = program < 0 ? words : words.slice(0, program)
  const said = own.flatMap((word, index) => {
    const [is, , , text] =
      /^--?(ex|iex|eval-command|init-eval-command|o|O|one-line(-before-file)?)(?:=([^]*))?$/.exec(
        word ?? ""
      ) ?? []
    return is === undefined ? [] : [text ?? own[index + 1] ?? null]
  })
  return [
    ...said.flatMap((line) => {
      const [, run] = /^\s*(?:(?:platform )?shell\b|!)\s*([^]*)$/.exec(line ?? "") ?? []
      if (run !== undefined) return [scriptOf(run)]
      return line !== null && debugs.test(line.trim()) ? [] : [unseen("a debugger that is told what to do")]
    }),
    ...(program < 0 || program === words.length - 1 ? [] : [commandOf(from, words.slice(program + 1))])
  ]
}

const followZip = ({ words }: ShellCommand): ReadonlyArray<Follow> =>
  words.flatMap((word, index) => {
    const [is, text] = /^(?:-\w*TT|--unzip-command)(?:=([^]*))?$/.exec(word ?? "") ?? []
    return is === undefined ? [] : [scriptOf(text ?? words[index + 1] ?? null)]
  })

const followParallel = ({ words, input }: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(words.slice(1), { short: "jIaNnLd", long: ["jobs", "arg-file"] })
  if (rest === null) return [unseen("what parallel runs")]
  const end = rest.findIndex((word) => word?.startsWith(":::") === true)
  const run = end < 0 ? rest : rest.slice(0, end)
  if (run.length > 0) return [scriptOf(joined([...run, '"$unknown"']))]
  // Without a command each of its lines is one.
  return end < 0 && input._tag === "text"
    ? [scriptOf(input.text)]
    : rest.slice(end + 1).map((text) => scriptOf(text))
}

const followTmux = ({ words }: ShellCommand): ReadonlyArray<Follow> => {
  const { operands } = argumentsOf(words.slice(1), { short: "LSfcsntxyFe" })
  const [name = "", ...rest] = operands
  if (rest.length === 0) return []
  // Into a shell that somebody has open.
  if (/^send(?:-keys)?$/.test(name ?? ""))
    return [scriptOf(joined(rest.filter((key) => !/^(?:Enter|C-\w|KP\w+)$/.test(key ?? ""))))]
  return /^(?:new|new-session|neww|new-window|splitw|split-window|respawn-pane|respawn-window|popup|display-popup|run|run-shell|if|if-shell|pipe-pane)$/.test(
    name ?? ""
  )
    ? [scriptOf(joined(rest))]
    : []
}

const scripts =
  (options: Options, ...names: ReadonlyArray<string>) =>
  ({ words }: ShellCommand): ReadonlyArray<Follow> => {
    const { all, operands } = argumentsOf(words.slice(1), options)
    return [...all(...names), ...operands].map((text) => scriptOf(text))
  }

/** Programs with a form of their own. */
export const optionFollowers: Readonly<Record<string, (from: ShellCommand) => ReadonlyArray<Follow>>> = {
  gdb: followDebugger,
  lldb: followDebugger,
  zip: followZip,
  parallel: followParallel,
  sem: followParallel,
  tmux: followTmux,
  screen: (from) => {
    const options: Options = { short: "cehLprSsTtX" }
    const words = from.words.slice(1)
    const rest = afterOptions(words, options)
    if (rest === null || rest.length === 0) return []
    const typed = argumentsOf(words.slice(0, words.length - rest.length), options)
      .all("X")
      .includes("stuff")
    return [typed ? scriptOf(joined(rest)) : commandOf(from, rest)]
  },
  script: (from) => {
    const { values, operands } = argumentsOf(from.words.slice(1), { short: "cEIBOTm", long: ["command"] })
    const text = values["c"] ?? values["command"]
    // BSD's has the command behind the file.
    return text !== undefined
      ? [scriptOf(text)]
      : operands.length > 1
        ? [commandOf(from, operands.slice(1))]
        : []
  },
  make: followMake,
  gmake: followMake,
  hyperfine: scripts(
    {
      short: "wrmMpscnLPDSN",
      long: [
        "warmup",
        "runs",
        "min-runs",
        "max-runs",
        "prepare",
        "setup",
        "cleanup",
        "conclude",
        "shell",
        "export-json",
        "export-markdown",
        "export-csv",
        "parameter-list",
        "parameter-scan",
        "command-name"
      ]
    },
    "p",
    "prepare",
    "s",
    "setup",
    "c",
    "cleanup",
    "conclude"
  ),
  concurrently: scripts({
    short: "nclpst",
    long: ["names", "prefix", "prefix-colors", "kill-others", "restart-tries", "success", "max-processes"]
  }),
  entr: (from) => {
    const rest = afterOptions(from.words.slice(1), {}) ?? []
    const isText = argumentsOf(from.words.slice(1, from.words.length - rest.length)).has("s")
    return rest.length === 0 ? [] : [isText ? scriptOf(rest[0]!) : commandOf(from, rest)]
  },
  nix: ({ words, ...from }) => {
    const at = words.findIndex((word) => word === "-c" || word === "--command")
    return at < 0 || at === words.length - 1 ? [] : [commandOf({ ...from, words }, words.slice(at + 1))]
  },
  cargo: ({ words }) =>
    words.includes("watch")
      ? argumentsOf(words.slice(1), { short: "swCxid", long: ["shell", "watch", "exec", "ignore", "delay"] })
          .all("s", "shell")
          .map((text) => scriptOf(text))
      : [],
  sg: ({ words }) => {
    const { all, operands } = argumentsOf(words.slice(1), { short: "c" })
    return [...all("c"), ...operands.slice(1)].map((text) => scriptOf(text))
  },
  capsh: ({ words, ...from }) => {
    const at = words.indexOf("--")
    return at < 0 ? [] : [commandOf({ ...from, words }, ["bash", ...words.slice(at + 1)])]
  },
  less: ({ words }) =>
    words.some((word) => /^\+.*[!|]/.test(word ?? "")) ? [unseen("a pager that is told what to do")] : []
}

/** A file of rules is a program like another; what stands in the line or comes from a command is not. */
function followMake({ words, input }: ShellCommand): ReadonlyArray<Follow> {
  const { has, all } = argumentsOf(words.slice(1), {
    short: "fCIjoWE",
    long: ["file", "makefile", "directory", "include-dir", "eval"]
  })
  const given = all("f", "file", "makefile").some(
    (file) => file === null || (input._tag === "text" && (file === "-" || isInput(file)))
  )
  return has("E", "eval") || given ? [unseen("a rule of make that is not in a file")] : []
}
