/** ShellRemoteRules: programs that publish, and that destroy what a machine or a service elsewhere holds. */
import { afterOptions, argumentsOf } from "./ShellCommand.ts"
import { always, ask, askBut, askFor, askIf, none, type Rule, type Valued } from "./ShellFinding.ts"
import { concernOfTree, type Text } from "./ShellPath.ts"

const publishes = "it publishes, and that cannot be taken back"
const destroys = "it destroys something elsewhere that cannot be brought back"
const ofPackages: Valued = {
  short: "wC",
  long: ["workspace", "prefix", "registry", "filter", "dir", "cwd", "tag", "access"]
}
const ofClusters: Valued = {
  short: "n",
  long: ["context", "namespace", "kubeconfig", "cluster", "user", "kube-context", "server", "token"]
}

/** `\\! ls` of psql and mysql, `.shell ls` of sqlite3, and output or input of a command. */
const clientCommand =
  /\\!|(?:^|[;\n])\s*(?:system|\.shell|\.system|\.(?:once|output|import)\s+["']?\|)\s*|\bprogram\s+'/i

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
    const says = (pattern: RegExp): boolean =>
      given.some((text) => typeof text === "string" && pattern.test(text))
    return [
      ...askIf(says(/\b(?:drop|truncate|delete)\b/i), "it deletes from a database"),
      ...askIf(says(clientCommand), "a database client that is told to run a command")
    ]
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

/** By program. */
export const remoteRules: Readonly<Record<string, Rule>> = {
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
  zpool: askFor(destroys, {}, "destroy", "labelclear"),
  zfs: askFor(destroys, {}, "destroy", "rollback"),
  btrfs: askFor(destroys, {}, "subvolume delete", "device remove"),
  lvremove: always(destroys),
  vgremove: always(destroys),
  pvremove: always(destroys),
  mdadm: (words) =>
    askIf(
      words.some((word) => /^--(?:zero|stop|remove|create)/.test(word ?? "")),
      destroys
    ),
  diskutil: askBut(destroys, /^(?:list|info|activity|verify\w*|)$/i),
  gsutil: askFor(destroys, { short: "hou" }, "rm", "rb"),
  rclone: askFor(destroys, {}, "purge", "delete", "deletefile", "sync"),
  dropdb: always(destroys),
  psql: sql("c", "command"),
  mysql: sql("e", "execute"),
  mariadb: sql("e", "execute"),
  sqlite3: sql("cmd"),
  "redis-cli": (words) =>
    askIf(/^flush(?:all|db)$/i.test(argumentsOf(words, { short: "hpanuristD" }).operands[0] ?? ""), destroys)
}
