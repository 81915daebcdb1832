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
import { ask, askIf, deny, fills, type Findings, none, type Rule, writes } from "./ShellFinding.ts"
import { resolvePath, type Text, type Whereabouts } from "./ShellPath.ts"

/** Keys of git's configuration whose value git runs. */
const runByGit =
  /^(?:remote\..*\.(?:uploadpack|receivepack|vcs)|core\.(?:sshcommand|pager|editor|fsmonitor|askpass|gitproxy)|sequence\.editor|diff\.external|gpg\.(?:\w+\.)?program|pager\.\w+|uploadpack\.packobjectshook|interactive\.difffilter|sendemail\..*cmd|gc\.recentobjectshook|(?:trailer|tar|guitool)\..*\.(?:command|cmd)|(?:diff|difftool|mergetool|merge|filter|browser|man)\..*\.(?:cmd|command|textconv|driver|clean|smudge|process))$/i

const gitGlobal: Options = {
  short: "Cc",
  long: [
    "git-dir",
    "work-tree",
    "namespace",
    "super-prefix",
    "exec-path",
    "config-env",
    "attr-source",
    "list-cmds"
  ]
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
  words.flatMap((word, index) => {
    if (words[index - 1] === "-c") return gitSetting(word)
    return word?.startsWith("-c") === true && word.length > 2 ? gitSetting(word.slice(2)) : []
  })

const gitSetting = (text: Text): ReadonlyArray<readonly [string, Text]> => {
  if (text === null) return [["alias.?", null]]
  const at = text.indexOf("=")
  return at < 0 ? [] : [[text.slice(0, at).toLowerCase(), text.slice(at + 1)]]
}

const followSetting = ([key, value]: readonly [string, Text]): ReadonlyArray<Follow> => {
  if (value === null) return [unseen("what git is told to run")]
  if (
    key === "core.hookspath" ||
    key === "include.path" ||
    key === "core.worktree" ||
    key === "init.templatedir" ||
    key.startsWith("includeif.") ||
    /^remote\..*\.(?:push|mirror)$/.test(key)
  )
    return [unseen("git is told to take more from elsewhere")]
  if (
    key.startsWith("alias.") ||
    /^submodule\..*\.update$/.test(key) ||
    /^credential\.(?:.*\.)?helper$/.test(key)
  )
    return value.startsWith("!") ? [scriptOf(value.slice(1))] : []
  return runByGit.test(key) ? [scriptOf(value)] : []
}

export const followGit = (from: ShellCommand): ReadonlyArray<Follow> => {
  const rest = afterOptions(from.words.slice(1), gitGlobal) ?? []
  const own = from.words.slice(1, from.words.length - rest.length)
  const elsewhere =
    own.some((word) => /^--(?:exec-path(?:=|$)|config-env)/.test(word ?? "")) && rest.length > 0
  const settings = [
    ...(elsewhere ? [unseen("git is told to take more from elsewhere")] : []),
    ...gitSettings(own).flatMap(followSetting)
  ]
  const [sub, ...words] = rest
  const held = argumentsOf(words, {
    short: "uO",
    long: ["upload-pack", "receive-pack", "exec", "open-files-in-pager", "extcmd"]
  })
  const options = [
    ...(sub === "push" ||
    sub === "fetch" ||
    sub === "clone" ||
    sub === "pull" ||
    sub === "ls-remote" ||
    sub === "archive"
      ? held.all("upload-pack", "receive-pack", "exec")
      : []),
    ...(sub === "clone" ? held.all("u") : []),
    ...(sub === "grep" ? held.all("O", "open-files-in-pager") : [])
  ].map((text) => scriptOf(text))
  const transports = [
    ...(words.some((word) => word?.startsWith("ext::") === true)
      ? [unseen("a transport that is a command")]
      : []),
    ...((sub === "clone" || sub === "init") && words.some((word) => word?.startsWith("--template") === true)
      ? [unseen("hooks that come from elsewhere")]
      : [])
  ]
  const configured =
    sub === "clone"
      ? argumentsOf(words, { short: "c", long: ["config"] })
          .all("c", "config")
          .flatMap((text) => gitSetting(text))
      : []
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
        const said = argumentsOf(words, { short: "f", long: ["file", "blob", "type", "default"] }).operands
        const [key, value] = said[0] === "set" || said[0] === "add" ? said.slice(1) : said
        return typeof key === "string" && value !== undefined ? followSetting([key.toLowerCase(), value]) : []
      }
      default:
        return []
    }
  })()
  return [...settings, ...options, ...transports, ...configured.flatMap(followSetting), ...more]
}

const force = "a forced push rewrites other people's history"
const work = "it throws away work that is in no commit"
const history = "it throws away commits"

const gitPush: Rule = (words) => {
  const { has, operands } = argumentsOf(words, {
    short: "o",
    long: ["push-option", "repo", "receive-pack", "exec"]
  })
  if (words.some((word) => /^--forc(?:e)?$|^--mir/.test(word ?? "")) || has("f")) return deny(force)
  if (operands.some((ref) => ref?.startsWith("+") === true)) return deny(force)
  return [
    ...askIf(has("force-with-lease", "force-if-includes"), force),
    ...askIf(operands.includes(null), "what is pushed, and how, is not known before it runs"),
    ...askIf(
      has("d", "delete", "prune") || operands.some((ref) => ref?.startsWith(":") === true),
      "it deletes a branch or tag that others may use"
    )
  ]
}

const everything = new Set([".", "./", "*", ":/", ":", "./*", "..", "/", ":(top)", ":/*", "./."])

const gitRestore: Rule = (words) => {
  const { has, operands } = argumentsOf(words, { short: "sbB", long: ["source", "branch"] })
  const staged = (has("staged") || has("S")) && !has("worktree") && !has("W")
  return askIf(
    !staged &&
      operands.some((path) => path === null || everything.has(path.replace(/(?<=.)\/$|^\.\/(?=\.?$)/, ""))),
    work
  )
}

const gitRules: Readonly<Record<string, Rule>> = {
  push: gitPush,
  "send-pack": gitPush,
  reset: (words) => askIf(argumentsOf(words).has("hard"), work),
  clean: (words) => {
    const { has } = argumentsOf(words, { short: "e", long: ["exclude"] })
    return askIf((has("f") || has("force")) && !has("n") && !has("dry-run"), work)
  },
  checkout: (words, at, command) => [
    ...gitRestore(words, at, command),
    ...askIf(argumentsOf(words).has("f") || argumentsOf(words).has("force"), work)
  ],
  switch: (words) => askIf(argumentsOf(words, { short: "cC" }).has("f", "force", "discard-changes"), work),
  restore: gitRestore,
  branch: (words) => {
    const { has } = argumentsOf(words, { short: "u" })
    return askIf(has("D") || ((has("d") || has("delete")) && (has("f") || has("force"))), history)
  },
  stash: (words) => askIf(/^(?:drop|clear)$/.test(argumentsOf(words).operands[0] ?? ""), work),
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

/** Options of git that name a file which is written. */
const writtenBy: Readonly<Record<string, ReadonlyArray<string>>> = {
  diff: ["output"],
  log: ["output"],
  show: ["output"],
  archive: ["o", "output"],
  "format-patch": ["o", "output-directory", "output"]
}

/** Sub-commands that put files into a work tree as a commit or a patch has them. */
const fillsTree: ReadonlySet<string> = new Set(
  "checkout switch restore reset merge pull rebase cherry-pick revert stash read-tree checkout-index apply am".split(
    " "
  )
)

/** Where git works by its own options; null: not known. */
const treeOf = ({ words, variables, cwd }: ShellCommand): Text => {
  const own = words.slice(1, words.length - (afterOptions(words.slice(1), gitGlobal) ?? []).length)
  const { all, values } = argumentsOf(own, gitGlobal)
  const begin = all("C").reduce<Text>((from, to) => resolvePath(to, { cwd: from }), cwd)
  const tree = values["work-tree"] ?? variables["GIT_WORK_TREE"]
  return tree === undefined ? begin : resolvePath(tree, { cwd: begin })
}

const gitFills = (
  name: string,
  rest: ReadonlyArray<Text>,
  from: Whereabouts,
  command: ShellCommand
): Findings => {
  if (!fillsTree.has(name)) return none
  const tree = treeOf(command)
  const at = { ...from, cwd: tree }
  const { operands, all } = argumentsOf(rest, { short: "bBcCsmpX", long: ["source", "directory"] })
  const named = name === "checkout" || name === "restore" ? operands.filter((path) => path !== null) : []
  return [...fills([".", ...all("directory")], at), ...writes(named, at)]
}

export const git: Rule = (_words, at, command) => {
  const words = gitWords(command.words)
  if (words === null) return ask("what git does is not known before it runs")
  const [name, ...rest] = words
  if (typeof name !== "string") return none
  const files = Object.hasOwn(writtenBy, name) ? writtenBy[name]! : []
  const short = files.filter((file) => file.length === 1).join("")
  const written = writes(argumentsOf(rest, { short, long: files }).all(...files), at)
  const places = argumentsOf(rest, { short: "bocu", long: ["branch", "origin", "config", "depth"] }).operands
  const placed =
    name === "clone" || name === "init" ? fills(places.slice(name === "clone" ? 1 : 0), at) : none
  return [
    ...written,
    ...placed,
    ...(name === "worktree" && rest[0] === "add" ? fills(places.slice(1, 2), at) : none),
    ...gitFills(name, rest, at, command),
    ...(Object.hasOwn(gitRules, name) ? gitRules[name]!(rest, at, command) : none)
  ]
}
