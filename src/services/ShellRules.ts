/**
 * ShellRules: what one command, with all its words, comes to: refused, asked about, or nothing to say.
 *
 * It knows the programs that destroy, publish, raise rights or open a way around the gateway; a program that it does not know
 * is left to the other policies. What such a program does is the sandbox's business.
 */
import { afterOptions, argumentsOf, programOf, type ShellCommand } from "./ShellCommand.ts"
import { fileRules } from "./ShellFileRules.ts"
import {
  ask,
  askIf,
  deny,
  type Finding,
  type Findings,
  none,
  type Rule,
  worst,
  writes
} from "./ShellFinding.ts"
import { git } from "./ShellGit.ts"
import { concernOfTree, isCredential, isNetworkDevice, type Text, type Whereabouts } from "./ShellPath.ts"

export { type Finding, worst }

const kill: Rule = (words) => {
  const { operands } = argumentsOf(words, { short: "sn", long: ["signal"] })
  const last = words.findLast((word) => word !== "--")
  const everybody = operands.includes("-1") || (last === "-1" && words.length > 1)
  return everybody ? deny("it ends every process of the user") : none
}

const sub = (words: ReadonlyArray<Text>): Text =>
  words.find((word) => word === null || !word.startsWith("-")) ?? ""

/** Asked about, but for these sub-commands. */
const askBut =
  (reason: string, harmless: RegExp): Rule =>
  (words) => {
    const name = sub(words)
    return askIf(name === null || !harmless.test(name), reason)
  }

interface Valued {
  readonly short?: string
  readonly long?: ReadonlyArray<string>
}

/** Asked about for these, said as the first words that are no options. `options`: those that take a value. */
const askFor =
  (reason: string, options: Valued, ...phrases: ReadonlyArray<string>): Rule =>
  (words) => {
    const said = argumentsOf(words, options).operands.filter((word) => word?.startsWith("+") !== true)
    return askIf(
      !words.includes("--dry-run") &&
        phrases.some((phrase) => phrase.split(" ").every((part, index) => said[index] === part)),
      reason
    )
  }

const ofPackages: Valued = {
  short: "wC",
  long: ["workspace", "prefix", "registry", "filter", "dir", "cwd", "tag", "access"]
}
const ofClusters: Valued = {
  short: "n",
  long: ["context", "namespace", "kubeconfig", "cluster", "user", "kube-context", "server", "token"]
}

const always =
  (reason: string): Rule =>
  () =>
    ask(reason)

const publishes = "it publishes, and that cannot be taken back"
const destroys = "it destroys something elsewhere that cannot be brought back"
const accounts = "it changes who may do what on this machine"
const services = "it changes what runs on this machine"

const crontab: Rule = (words) => askIf(!words.includes("-l"), services)

const sql =
  (...flags: ReadonlyArray<string>): Rule =>
  (words, _at, { input }) => {
    const { values, operands } = argumentsOf(words, {
      short: flags.filter((flag) => flag.length === 1).join("") + "hpUudf",
      long: flags
    })
    const given = [
      ...flags.map((flag) => values[flag]),
      ...operands,
      input._tag === "text" ? input.text : undefined
    ]
    return askIf(
      given.some((text) => typeof text === "string" && /\b(?:drop|truncate|delete)\b/i.test(text)),
      "it deletes from a database"
    )
  }

const dockerOptions: Valued = {
  short: "veHwpulhmacn",
  long: [
    "volume",
    "mount",
    "env",
    "name",
    "publish",
    "user",
    "workdir",
    "network",
    "entrypoint",
    "env-file",
    "label",
    "hostname",
    "memory",
    "cpus",
    "host",
    "context",
    "config",
    "log-level",
    "file",
    "project-name",
    "platform",
    "pid",
    "ipc",
    "add-host"
  ]
}

/** Options end at the image: what comes behind is the container's. */
const untilImage = (words: ReadonlyArray<Text>): ReadonlyArray<Text> => {
  const rest = afterOptions(words, dockerOptions)
  return rest === null ? words : words.slice(0, words.length - rest.length)
}

const docker: Rule = (words, at) => {
  const said = argumentsOf(words, dockerOptions).operands.filter((word) => word !== null)
  const [first, second] = said[0] === "compose" || said[0] === "buildx" ? said.slice(1) : said
  const [noun, verb] = ["image", "container", "volume", "system"].includes(first ?? "")
    ? [first, second]
    : [null, first]
  if (verb === "push") return ask(publishes)
  if (noun === "system" && verb === "prune") return ask(destroys)
  if (noun === "volume" && /^(?:prune|rm|remove)$/.test(verb ?? "")) return ask(destroys)
  if (!/^(?:run|create|exec)$/.test(verb ?? "")) return none
  const own = untilImage(words.slice(words.indexOf(verb ?? "") + 1))
  const { has, all } = argumentsOf(own, dockerOptions)
  const mounted = [
    ...all("v", "volume").map((mount) => mount?.split(":")[0] ?? null),
    ...all("mount").map((mount) => mount?.match(/(?:source|src)=([^,]*)/)?.[1] ?? null)
  ].some(
    (source) =>
      source !== null &&
      (source.endsWith("docker.sock") ||
        concernOfTree(source, { ...at, cwd: null, project: null }) === "deny")
  )
  return askIf(has("privileged") || mounted, "a container that can reach the whole machine")
}

const aws: Rule = (words) => {
  const { operands } = argumentsOf(words, { long: ["profile", "region", "endpoint-url", "output"] })
  return askIf(
    operands[0] === "s3" && (operands[1] === "rb" || (operands[1] === "rm" && words.includes("--recursive"))),
    destroys
  )
}

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
  git,
  kill,
  hash: (words) => askIf(argumentsOf(words, { short: "p" }).has("p"), "it gives a command another meaning"),
  shopt: (words) => askIf(words.includes("expand_aliases"), "it gives commands another meaning"),
  pkill: always("it ends processes by their name, whoever they belong to"),
  killall: always("it ends processes by their name, whoever they belong to"),
  shutdown: always(services),
  reboot: always(services),
  halt: always(services),
  poweroff: always(services),
  telinit: always(services),
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
  npm: askFor(publishes, ofPackages, "publish", "unpublish"),
  pnpm: askFor(publishes, ofPackages, "publish"),
  yarn: askFor(publishes, ofPackages, "publish", "npm publish"),
  bun: askFor(publishes, ofPackages, "publish"),
  cargo: askFor(publishes, ofPackages, "publish", "yank"),
  twine: askFor(publishes, ofPackages, "upload"),
  uv: askFor(publishes, ofPackages, "publish"),
  poetry: askFor(publishes, ofPackages, "publish"),
  gem: askFor(publishes, ofPackages, "push", "yank"),
  docker,
  podman: docker,
  gh: askFor(destroys, { short: "R", long: ["repo"] }, "repo delete", "release delete", "repo archive"),
  terraform: askFor(destroys, {}, "apply", "destroy"),
  tofu: askFor(destroys, {}, "apply", "destroy"),
  kubectl: askFor(destroys, ofClusters, "delete", "drain"),
  helm: askFor(destroys, ofClusters, "uninstall", "delete"),
  aws,
  dropdb: always(destroys),
  psql: sql("c", "command"),
  mysql: sql("e", "execute"),
  mariadb: sql("e", "execute"),
  sqlite3: sql("cmd"),
  "redis-cli": (words) =>
    askIf(/^flush(?:all|db)$/i.test(argumentsOf(words, { short: "hpanuristD" }).operands[0] ?? ""), destroys),
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

/** Variables by which a program runs what somebody else wrote. */
const loaded = new Set([
  "LD_PRELOAD",
  "LD_AUDIT",
  "BASH_ENV",
  "ENV",
  "DYLD_INSERT_LIBRARIES",
  "PROMPT_COMMAND",
  "PYTHONSTARTUP",
  "PERL5OPT"
])

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
      Object.keys(command.variables).some((variable) => loaded.has(variable)),
      "it makes another program load what somebody else wrote"
    ),
    ...askIf(!presents.has(name ?? "") && namesCredential(words, at), "it names a file with credentials"),
    ...askIf(
      subscripts.has(name ?? "") && words.some((word) => /\[.*(?:\$\(|`)/.test(word ?? "")),
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
