/**
 * ShellPath: where a path of a command line leads, as text: nothing is asked of the disk, and a link that leads elsewhere is
 * not seen.
 *
 * A path that is not known before the command runs is null, and every question about it has an answer for that.
 */

/** Null: not known before it runs. */
export type Text = string | null

/** What a path is looked at from. */
export interface Whereabouts {
  readonly cwd: Text
  readonly home: Text
  /** Where the agent works: the directory that its line starts in. */
  readonly project: Text
}

/** One level of strength; null = nothing to say. */
export type Concern = "deny" | "ask" | null

export const strongest = (...concerns: ReadonlyArray<Concern>): Concern =>
  concerns.includes("deny") ? "deny" : concerns.includes("ask") ? "ask" : null

const glob = /[*?[]/

/** A process's own root, directory and descriptors, by any of the kernel's names for it. */
const ofProcess = /^\/proc\/[^/]+(?:\/task\/[^/]+)?\/(root|cwd|fd)$/

/**
 * Absolute, without `.`, `..` and doubled slashes; null where the directory that it starts from is unknown. A `~` is a home
 * only where a shell reads it, which has happened before. Links of the kernel are followed, since they lead to the same place
 * everywhere: `/proc/self/root/etc` is `/etc`, and `/dev/fd` a process's own descriptors.
 */
export const resolvePath = (path: Text, { cwd }: Pick<Whereabouts, "cwd">): Text => {
  if (path === null) return null
  const full = path.startsWith("/") ? path : cwd === null ? null : `${cwd}/${path}`
  if (full === null) return null
  let parts: Array<string> = []
  for (const part of full.split("/")) {
    if (part === "..") parts.pop()
    else if (part !== "" && part !== ".") parts.push(part)
    const so = `/${parts.join("/")}`
    const [, link] = ofProcess.exec(so) ?? []
    if (link === "root") parts = []
    else if (link === "cwd") {
      if (cwd === null) return null
      parts = [...partsOf(cwd)]
    } else if (so === "/dev/fd") parts = ["proc", "self", "fd"]
    // Of macOS.
    else if (/^\/private\/(?:etc|var|tmp)$/.test(so)) parts.shift()
  }
  return `/${parts.join("/")}`.replace(/^\/proc\/(?:thread-)?self\/fd(?=\/|$)/, "/dev/fd")
}

export const isWithin = (path: string, directory: string): boolean =>
  directory === "/" || path === directory || path.startsWith(`${directory}/`)

const partsOf = (path: string): ReadonlyArray<string> => path.split("/").filter((part) => part !== "")

/** Of Linux and macOS: without one of them a machine does not work, or not as its people know it. */
const systemDirectories: ReadonlySet<string> = new Set(
  "bin boot dev etc home lib lib32 lib64 libx32 opt proc root sbin sys usr var Applications Library System Users".split(
    " "
  )
)

/** What is thrown away anyway. */
const temporaryDirectories = ["/tmp", "/var/tmp", "/dev/shm"]

const isTemporary = (path: string): boolean =>
  temporaryDirectories.some((directory) => path !== directory && isWithin(path, directory))

/** `*` and what else matches everything of a directory. */
const everything = /^(?:\*+|\.\*|\.\[.*|\?+\*?)$/

/** What recursive deletion of a path, or another change of all that is in it, comes to. */
export const concernOfTree = (path: Text, at: Whereabouts): Concern => {
  if (path === null) return "ask"
  const full = resolvePath(path, at)
  // Somewhere: nobody knows what is there by that name.
  if (full === null) return "ask"
  const parts = partsOf(full)
  const last = parts.at(-1) ?? ""
  if (parts.length === 0 || glob.test(parts[0]!)) return "deny"
  const { home } = at
  const wipes = everything.test(last) ? `/${parts.slice(0, -1).join("/")}` : full
  if (home !== null && isWithin(home, wipes)) return "deny"
  // In the project what counts is the project, wherever somebody put it.
  const project = projectOf(at)
  if (project !== null && isWithin(project, wipes)) return parts.length <= 1 ? "deny" : "ask"
  if (project !== null && isWithin(full, project)) return ofGit(parts, last) ? "ask" : null
  if (temporaryDirectories.includes(wipes)) return "ask"
  if (isTemporary(full)) return null
  const below = home !== null && isWithin(full, home)
  return !below && systemDirectories.has(parts[0]!) && parts.length <= 2 ? "deny" : "ask"
}

/** The history itself, or a pattern that may mean it. */
const ofGit = (parts: ReadonlyArray<string>, last: string): boolean =>
  parts.includes(".git") ||
  (last.startsWith(".") && glob.test(last) && ".git".startsWith(last.replace(/[*?[].*$/, "")))

/** Nobody's project is a whole home or a part of the system. */
const projectOf = ({ project, home }: Whereabouts): Text =>
  project !== null && project !== "/" && project !== home && !isSystemDirectory(project) ? project : null

const isSystemDirectory = (path: string): boolean => {
  const parts = partsOf(path)
  return parts.length === 1 && systemDirectories.has(parts[0]!)
}

/** Files of the machine that decide who may do what. */
const accountFiles = /^\/etc\/(?:passwd|shadow|gshadow|group|sudoers(?:\/.*|\.d\/.*)?|pam\.d\/.*)$/

export const isAccountFile = (path: string, at: Whereabouts): boolean =>
  accountFiles.test(resolvePath(path, at) ?? "")

/** Programs and the kernel: nothing of a project belongs there. */
const programDirectories = [
  "/bin",
  "/sbin",
  "/usr",
  "/lib",
  "/lib32",
  "/lib64",
  "/boot",
  "/sys",
  "/proc",
  "/System"
]

const machineDirectories = ["/etc", "/var", "/opt", "/root", "/Library"]

const harmlessDevices = /^\/dev\/(?:null|zero|full|stdin|stdout|stderr|tty|ptmx|pts\/\d+|fd\/\d+|u?random)$/
const rawDevices =
  /^\/dev\/(?:(?:sd|hd|vd|xvd|nvme|mmcblk|disk|mapper|dm-|loop|md|sr|rdisk|zd)[^/]*(?:\/.*)?|mem|kmem|port)$/
const networkDevices = /^\/dev\/(?:tcp|udp)\//

/** Relative to the home: read by a shell, git, ssh or an agent when it starts, so that a line in it runs. */
const startFiles =
  /^(?:\.(?:bashrc|bash_profile|bash_login|bash_logout|bash_aliases|profile|zshrc|zshenv|zprofile|zlogin|gitconfig|npmrc|netrc|pypirc|inputrc|vimrc|tmux\.conf|pam_environment|xprofile|xinitrc)|\.(?:ssh|aws|gnupg|claude|codex|kube|docker)(?:\/.*)?|\.claude\.json|\.config\/(?:holdfast|git|fish|autostart|systemd|gh)(?:\/.*)?|\.local\/state\/holdfast(?:\/.*)?|Library\/LaunchAgents(?:\/.*)?)$/

/** Relative to a project: what its next `git` or agent runs. */
const projectFiles =
  /(?:^|\/)(?:\.git\/(?:hooks(?:\/.*)?|config|info\/attributes)|\.(?:claude|codex|husky)(?:\/.*)?|\.git\/?)$/

/** Whether a file of a device's name is written, or one of the machine's. */
const concernOfDevice = (full: string): Concern =>
  harmlessDevices.test(full) || full.startsWith("/dev/shm/")
    ? null
    : rawDevices.test(full) || networkDevices.test(full)
      ? "deny"
      : "ask"

/** What writing to a file comes to. */
export const concernOfWrite = (path: Text, at: Whereabouts): Concern => {
  if (path === null) return "ask"
  const full = resolvePath(path, at)
  if (full === null) return projectFiles.test(path) ? "ask" : null
  if (isWithin(full, "/dev")) return concernOfDevice(full)
  const { home } = at
  if (home !== null && full === `${home}/.ssh/authorized_keys`) return "deny"
  if (accountFiles.test(full)) return "deny"
  if (home !== null && isWithin(full, home) && startFiles.test(full.slice(home.length + 1))) return "ask"
  if (projectFiles.test(full)) return "ask"
  // A pattern that may be a place of the system: who writes there means it.
  if (glob.test(partsOf(full)[0] ?? "")) return "deny"
  const project = projectOf(at)
  if (isTemporary(full) || (project !== null && isWithin(full, project))) return null
  if (home !== null && isWithin(full, home)) return null
  if (programDirectories.some((directory) => isWithin(full, directory))) return "deny"
  return machineDirectories.some((directory) => isWithin(full, directory)) ? "ask" : null
}

/** Below a home: places that files are read from at a start, and what these are in. */
const startDirectories = [".config", ".local", ".local/state", "Library"]

/** What writing files there comes to whose names are not known: an archive's, another tree's. */
export const concernOfFilling = (directory: Text, at: Whereabouts): Concern => {
  const full = resolvePath(directory, at)
  if (full === null) return directory === null ? "ask" : null
  const { home } = at
  const fillsHome =
    home !== null && (isWithin(home, full) || startDirectories.some((below) => full === `${home}/${below}`))
  return strongest(concernOfWrite(full, at), fillsHome ? "ask" : null)
}

/** What deleting one file comes to. */
export const concernOfDeletion = (path: Text, at: Whereabouts): Concern => {
  const full = resolvePath(path, at)
  if (full === null) return null
  const project = projectOf(at)
  if (project !== null && isWithin(full, project)) return null
  if (glob.test(partsOf(full)[0] ?? "")) return "deny"
  const machine = isWithin(full, "/etc") || programDirectories.some((directory) => isWithin(full, directory))
  return machine ? "deny" : null
}

/** Whether a word names something that a network is reached by: reading it sends as well. */
export const isNetworkDevice = (path: Text): boolean => path !== null && networkDevices.test(path)

const credentialFiles =
  /^(?:\.ssh\/(?:id_[^/]*(?<!\.pub)|identity)|\.aws\/credentials|\.netrc|\.gnupg\/.*|\.config\/gh\/hosts\.yml|\.kube\/config|\.docker\/config\.json|\.pypirc)$/

/** Whether a path is a file with somebody's credentials. */
export const isCredential = (path: string, at: Whereabouts): boolean => {
  const full = resolvePath(path, at)
  if (full === null) return false
  if (/^\/etc\/g?shadow$/.test(full)) return true
  const { home } = at
  if (home !== null && isWithin(full, home)) {
    const below = full.slice(home.length + 1)
    // A pattern in such a directory means its files.
    return credentialFiles.test(below) || /^\.(?:ssh|aws|gnupg)\/[^/]*[*?[]/.test(below)
  }
  const other = /^\/(?:root|(?:home|Users)\/[^/]+)\/(.*)$/.exec(full)
  return other !== null && credentialFiles.test(other[1]!)
}
