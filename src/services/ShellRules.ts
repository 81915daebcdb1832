/**
 * ShellRules: what one command, with all its words, comes to: refused, asked about, or nothing to say.
 *
 * It knows the programs that destroy, publish, raise rights or open a way around the gateway; a program that it does not know
 * is left to the other policies. What such a program does is the sandbox's business.
 */
import { argumentsOf, programOf, type ShellCommand } from "./ShellCommand.ts"
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
    const said = argumentsOf(words, options).operands
    return askIf(
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
      short: flags.filter((flag) => flag.length === 1).join("") + "hpUud",
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

const docker: Rule = (words, at) => {
  const [first, second] = words.filter((word) => word === null || !word.startsWith("-"))
  if (first === "push") return ask(publishes)
  if ((first === "system" || first === "volume") && second === "prune") return ask(destroys)
  if (first === "volume" && second === "rm") return ask(destroys)
  if (first !== "run" && first !== "create") return none
  const { flags, values } = argumentsOf(words, {
    short: "vewpulhmac",
    long: ["volume", "mount", "env", "name", "pid"]
  })
  const mounted = [values["v"], values["volume"]].some(
    (mount) =>
      mount !== undefined &&
      (mount === null || concernOfTree(mount.split(":")[0]!, { ...at, cwd: null, project: null }) === "deny")
  )
  return askIf(flags.has("privileged") || mounted, "a container that can reach the whole machine")
}

const aws: Rule = (words) => [
  ...askIf(words[0] === "s3" && words[1] === "rm" && words.includes("--recursive"), destroys),
  ...askIf(words[0] === "s3" && words[1] === "rb", destroys)
]

const holdfast: Rule = (words) => {
  const said = words.filter((word) => word === null || !word.startsWith("-"))
  const own = "an agent does not decide its own approvals, and does not end what watches it"
  if (said[0] === "down") return deny(own)
  return said[0] === "approvals" &&
    (said[1] === null || /^(?:approve|deny|revoke|watch)$/.test(said[1] ?? ""))
    ? deny(own)
    : none
}

const ungoverned: Rule = (words) =>
  askIf(
    words.some((word) =>
      /^--(?:dangerously-[\w-]+|yolo|allow-dangerously-[\w-]+|permission-mode=bypassPermissions)$/.test(
        word ?? ""
      )
    ) || words.includes("bypassPermissions"),
    "an agent whose tool calls nobody decides"
  )

const rules: Readonly<Record<string, Rule>> = {
  ...fileRules,
  git,
  kill,
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
  claude: ungoverned,
  codex: ungoverned,
  gemini: ungoverned,
  nc: (words) =>
    askIf(
      argumentsOf(words).flags.has("e") || argumentsOf(words).flags.has("c"),
      "it gives a shell to the network"
    ),
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

/** What a command comes to by itself; what it runs in turn is judged for itself. */
export const judge = (command: ShellCommand, from: Pick<Whereabouts, "home" | "project">): Findings => {
  const at: Whereabouts = { ...from, cwd: command.cwd }
  const name = programOf(command)
  const words = command.words.slice(1)
  const rule = name === null ? undefined : Object.hasOwn(rules, name) ? rules[name] : undefined
  return [
    ...redirected(command, at),
    ...askIf(
      Object.keys(command.variables).some((variable) => loaded.has(variable)),
      "it makes another program load what somebody else wrote"
    ),
    ...askIf(namesCredential(words, at), "it names a file with credentials"),
    ...(name !== null && /^mkfs(?:\.|$)/.test(name) ? deny("it writes to a raw device") : none),
    ...(rule === undefined ? none : rule(words, at, command))
  ]
}

/** What files that a patch writes come to. */
export const judgePaths = (paths: ReadonlyArray<string>, at: Whereabouts): Findings => writes(paths, at)
