/**
 * ShellRules: what one command, with all its words, comes to: refused, asked about, or nothing to say.
 *
 * It knows the programs that destroy, publish, raise rights or open a way around the gateway; a program that it does not know
 * is left to the other policies. What such a program does is the sandbox's business.
 */
import { argumentsOf, programOf, type ShellCommand } from "./ShellCommand.ts"
import { fileRules } from "./ShellFileRules.ts"
import {
  always,
  askBut,
  askIf,
  commandIndex,
  deny,
  type Finding,
  type Findings,
  none,
  type Rule,
  sub,
  worst,
  writes
} from "./ShellFinding.ts"
import { git } from "./ShellGit.ts"
import { remoteRules } from "./ShellRemoteRules.ts"
import { isCredential, isNetworkDevice, type Text, type Whereabouts } from "./ShellPath.ts"

export { type Finding, worst }

const kill: Rule = (words) => {
  const { operands } = argumentsOf(words, { short: "sn", long: ["signal"] })
  const last = words.findLast((word) => word !== "--")
  const everybody = operands.includes("-1") || (last === "-1" && words.length > 1)
  return everybody ? deny("it ends every process of the user") : none
}

const accounts = "it changes who may do what on this machine"
const services = "it changes what runs on this machine"

const crontab: Rule = (words) => askIf(!words.includes("-l"), services)

const holdfast: Rule = (words) => {
  const said = argumentsOf(words, { long: ["dir"] }).operands
  if (
    said.includes("down") ||
    (said.includes("approvals") &&
      said.some((word) => word === null || /^(?:approve|deny|revoke|watch)$/.test(word)))
  )
    return deny("an agent does not decide its own approvals, and does not end what watches it")
  return askIf(said[0] === null, "what is asked of holdfast is not known before it runs")
}

const ungoverned: Rule = (words) =>
  askIf(
    words.some((word) =>
      /^--(?:dangerously-[\w-]+|yolo|allow-dangerously-[\w-]+|permission-mode=bypassPermissions)$/.test(
        word ?? ""
      )
    ) || words.some((word) => word === "bypassPermissions" || word === "danger-full-access"),
    "an agent whose tool calls nobody decides"
  )

const rules: Readonly<Record<string, Rule>> = {
  ...fileRules,
  ...remoteRules,
  git,
  kill,
  hash: (words) => askIf(argumentsOf(words, { short: "p" }).has("p"), "it gives a command another meaning"),
  bind: (words) => askIf(argumentsOf(words).has("x", "f"), "it gives a key a command"),
  enable: (words) => askIf(argumentsOf(words).has("f"), "it gives a command another meaning"),
  shopt: (words) => askIf(words.includes("expand_aliases"), "it gives commands another meaning"),
  pkill: always("it ends processes by their name, whoever they belong to"),
  killall: always("it ends processes by their name, whoever they belong to"),
  shutdown: always(services),
  reboot: always(services),
  halt: always(services),
  poweroff: always(services),
  telinit: always(services),
  init: always(services),
  killall5: always("it ends every process of the machine"),
  fuser: (words) =>
    askIf(argumentsOf(words, { short: "Mn" }).has("k", "kill"), "it ends processes by what they use"),
  crontab,
  at: always(services),
  batch: always(services),
  systemctl: askBut(services, /^(?:status|list-\S+|show|is-\S+|cat|help|get-default|)$/),
  service: (words) => askIf(words[1] !== "status" && !words.includes("--status-all"), services),
  launchctl: askBut(services, /^(?:list|print|blame|)$/),
  useradd: always(accounts),
  adduser: always(accounts),
  usermod: always(accounts),
  userdel: always(accounts),
  deluser: always(accounts),
  groupadd: always(accounts),
  passwd: always(accounts),
  gpasswd: always(accounts),
  groupmod: always(accounts),
  groupdel: always(accounts),
  chage: always(accounts),
  chsh: always(accounts),
  vipw: always(accounts),
  vigr: always(accounts),
  chpasswd: always(accounts),
  visudo: always(accounts),
  iptables: always(services),
  ip6tables: always(services),
  nft: always(services),
  ufw: always(services),
  mount: (words) => askIf(sub(words) !== "" || words.includes("-a"), services),
  umount: always(services),
  modprobe: always(services),
  insmod: always(services),
  rmmod: always(services),
  setcap: always(accounts),
  sysctl: (words) =>
    askIf(
      words.some((word) => word === "-w" || word === "--write" || (word?.includes("=") ?? false)),
      services
    ),
  holdfast,
  sudoedit: (words, at) => writes(argumentsOf(words, { short: "gu" }).operands, at),
  claude: ungoverned,
  codex: ungoverned,
  gemini: ungoverned,
  nc: (words) =>
    askIf(argumentsOf(words).has("e") || argumentsOf(words).has("c"), "it gives a shell to the network"),
  ncat: (words) =>
    askIf(
      words.some((word) => /^(?:-\w*[ec]|--(?:sh-)?exec)/.test(word ?? "")),
      "it gives a shell to the network"
    ),
  socat: (words) =>
    askIf(
      words.some((word) => /^(?:exec|system):/i.test(word ?? "")),
      "it gives a shell to the network"
    )
}

/** Whether a program is one of those that something is said of. */
export const isRuled = (name: string): boolean => Object.hasOwn(rules, name)

/** Variables by which a program runs what somebody else wrote. */
const loaded = new Set([
  "LD_PRELOAD",
  "LD_AUDIT",
  "BASH_ENV",
  "ENV",
  "DYLD_INSERT_LIBRARIES",
  "PROMPT_COMMAND",
  "PYTHONSTARTUP",
  "PERL5OPT",
  "PERL5DB",
  "PYTHONHOME",
  "PYTHONBREAKPOINT",
  "GCONV_PATH",
  "ZDOTDIR",
  "GIT_EXEC_PATH",
  "GIT_TEMPLATE_DIR",
  "BASH_ALIASES",
  "BASH_CMDS"
])

/** Options that a program takes from its environment, of which some load code. */
const loadedBy: Readonly<Record<string, RegExp>> = {
  NODE_OPTIONS: /(?:^|\s)(?:-r|--(?:require|import|loader|experimental-loader|inspect-brk))/,
  RUBYOPT: /-[rIe]/,
  JAVA_TOOL_OPTIONS: /-(?:javaagent|agentpath|agentlib|XX:On)/,
  _JAVA_OPTIONS: /-(?:javaagent|agentpath|agentlib|XX:On)/,
  JDK_JAVA_OPTIONS: /-(?:javaagent|agentpath|agentlib|XX:On)/,
  MAKEFLAGS: /--eval|(?:^|\s)-?E/,
  TAR_OPTIONS: /-I|--(?:use-comp|to-c|checkp|info|new-v|rsh|rmt)/
}

const isLoaded = ([name, value]: readonly [string, Text]): boolean =>
  loaded.has(name) ||
  name.startsWith("BASH_FUNC_") ||
  (Object.hasOwn(loadedBy, name) && value !== null && loadedBy[name]!.test(value))

const redirected = ({ redirects }: ShellCommand, at: Whereabouts): Findings => [
  ...(redirects.some(({ target }) => isNetworkDevice(target))
    ? deny("it opens a connection of the shell itself")
    : none),
  ...writes(
    redirects.flatMap(({ writes: is, target }) => (is ? [target] : [])),
    at
  ),
  ...askIf(
    redirects.some(({ target }) => target !== null && isCredential(target, at)),
    "it names a file with credentials"
  )
]

const namesCredential = (words: ReadonlyArray<Text>, at: Whereabouts): boolean =>
  words.some(
    (word) =>
      word !== null &&
      word.length < 4096 &&
      // @FILE, NAME=FILE, NAME=@FILE, HOST:FILE
      [word, ...word.split(/[=@:]/)].some((part) => part !== "" && isCredential(part, at))
  )

/** Programs that show a key to another machine, which is what it is for. */
const presents: ReadonlySet<string> = new Set(["ssh", "scp", "sftp", "ssh-add", "ssh-copy-id"])

/** Commands of the shell that evaluate the index in a name they are given. */
const subscripts: ReadonlySet<string> = new Set([
  "printf",
  "unset",
  "read",
  "test",
  "[",
  "let",
  "declare",
  "export",
  "local"
])

/** What `read` takes in may be an index later. */
const inputTo = ({ words: [name], input }: ShellCommand): Text =>
  name === "read" && input._tag === "text" ? input.text : null

/** What a command comes to by itself; what it runs in turn is judged for itself. */
export const judge = (command: ShellCommand, from: Pick<Whereabouts, "home" | "project">): Findings => {
  const at: Whereabouts = { ...from, cwd: command.cwd }
  const name = programOf(command)
  const words = command.words.slice(1)
  if (name?.startsWith("git-") === true)
    return judge({ ...command, words: ["git", name.slice(4), ...command.words.slice(1)] }, from)
  const rule = name === null ? undefined : Object.hasOwn(rules, name) ? rules[name] : undefined
  return [
    ...redirected(command, at),
    ...askIf(
      Object.entries(command.variables).some(isLoaded),
      "it makes another program load what somebody else wrote"
    ),
    ...askIf(!presents.has(name ?? "") && namesCredential(words, at), "it names a file with credentials"),
    ...askIf(
      (subscripts.has(name ?? "") &&
        [...words, inputTo(command)].some((word) => /\[.*(?:\$\(|`)/.test(word ?? ""))) ||
        (name === "set" && words.some((word) => commandIndex.test(word ?? ""))),
      "an index that runs a command"
    ),
    ...(name !== null && /^(?:mkfs(?:\.|$)|mke2fs$|mkntfs$|mkdosfs$)/.test(name)
      ? deny("it writes to a raw device")
      : none),
    ...(rule === undefined ? none : rule(words, at, command))
  ]
}

/** What files that a patch writes come to. */
export const judgePaths = (paths: ReadonlyArray<string>, at: Whereabouts): Findings => writes(paths, at)
