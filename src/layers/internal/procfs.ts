/**
 * Procfs: what Linux says about a process, read synchronously (10 microseconds a file).
 *
 * Only `stat`, `limits` and `status` are read: they are world-readable and take no memory-map lock, so neither another
 * user's process nor one that is stuck in the kernel can block or mislead a reader, as `cmdline` and `environ` could.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { type ForkMark, parseForkMark, parseLocks } from "../../services/InstanceMark.ts"
import { gone, isPid, parseStat, type Sighting, unreadable } from "../../services/ProcessIdentity.ts"

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined

const read = (path: string): string | { readonly code: string | undefined } => {
  try {
    return readFileSync(path, "utf8")
  } catch (error) {
    return { code: codeOf(error) }
  }
}

const isAbsent = (code: string | undefined): boolean => code === "ENOENT" || code === "ESRCH"

/** A mount with `hidepid` hides a foreign process that kill(2) still knows, so a missing directory is not yet a death. */
export const sight = (pid: number): Sighting => {
  if (!isPid(pid)) return gone
  const first = read(`/proc/${pid}/stat`)
  if (typeof first === "string") return parseStat(first)
  if (!isAbsent(first.code)) return unreadable
  if (signal(pid, 0) === "gone") return gone
  const second = read(`/proc/${pid}/stat`)
  return typeof second === "string" ? parseStat(second) : unreadable
}

/**
 * The hard RLIMIT_LOCKS of a process. `none`: unlimited, no such process, or another user's that a `hidepid` mount keeps
 * from us, which we could not signal either. `unreadable`: this process could not look (out of descriptors, say).
 */
export const markOf = (pid: number): number | "none" | "unreadable" => {
  const text = read(`/proc/${pid}/limits`)
  if (typeof text !== "string")
    return isAbsent(text.code) || text.code === "EACCES" || text.code === "EPERM" ? "none" : "unreadable"
  // The kernel prints nothing for a process that is between its death and its burial.
  if (text === "") return "none"
  const locks = parseLocks(text)
  return locks === null ? "unreadable" : (locks.hard ?? "none")
}

/** A thread has a directory in /proc as well; only its process may be signalled or counted. */
export const isThread = (pid: number): boolean => {
  const text = read(`/proc/${pid}/status`)
  return typeof text === "string" && Number(/^Tgid:\s+(\d+)$/m.exec(text)?.[1]) !== pid
}

/** A sixth of the price of a failed read, for numbers that are mostly nobody's. */
export const isListed = (pid: number): boolean => existsSync(`/proc/${pid}`)

/** Null when the process list cannot be read at all. */
export const pids = (): ReadonlyArray<number> | null => {
  try {
    return readdirSync("/proc").map(Number).filter(isPid)
  } catch {
    return null
  }
}

export const forkMark = (): ForkMark | null => {
  const loadavg = read("/proc/loadavg")
  const stat = read("/proc/stat")
  return typeof loadavg === "string" && typeof stat === "string" ? parseForkMark(loadavg, stat) : null
}

/** The numbers of this process's ancestors, nearest first, as far as this pid namespace goes. */
export const ancestorsOf = (pid: number): ReadonlyArray<number> => {
  const found: Array<number> = []
  for (let seen = sight(pid); seen._tag === "Running" && isPid(seen.parent); seen = sight(seen.parent)) {
    if (found.includes(seen.parent)) break
    found.push(seen.parent)
  }
  return found
}

export interface Vitals {
  /** One letter of proc_pid_stat(5); `T` is stopped by a signal, and not by a debugger. */
  readonly state: string
  /** What it and its threads have used, in the kernel and outside. */
  readonly cpuTimeMs: number
}

/** Field 14 and 15 of /proc/PID/stat count in USER_HZ, which is 100 on every architecture that Node runs on. */
const tickMs = 10

/** Null when there is no such process, or no /proc. */
export const vitals = (pid: number): Vitals | null => {
  const text = read(`/proc/${pid}/stat`)
  if (typeof text !== "string") return null
  // Counted from the last parenthesis, as parseStat does: state is field 3.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
  const [state, user, system] = [fields[0], fields[11], fields[12]]
  if (state === undefined || system === undefined) return null
  return { state, cpuTimeMs: (Number(user) + Number(system)) * tickMs }
}

/**
 * How often its first thread has given up the processor, which each stop and each going on adds to; null where the kernel
 * does not say. Costs four times a look at its vitals.
 */
export const switchesOf = (pid: number): string | null => {
  const text = read(`/proc/${pid}/status`)
  if (typeof text !== "string") return null
  return [...text.matchAll(/^(?:non)?voluntary_ctxt_switches:\s+(\d+)$/gm)]
    .map(([, count]) => count)
    .join("+")
}

/** A process as it was seen: its number alone may belong to another one later. */
export interface Seen {
  readonly pid: number
  readonly startToken: string
}

/** A process and the numbers that it shares with others. */
export interface Relatives extends Seen {
  readonly parent: number
  readonly group: number
  readonly session: number
}

export interface Child extends Seen {
  /** Nothing but a status that nobody has taken. */
  readonly dead: boolean
}

/** The numbers in proc_pid_children(5) of every thread, the dead included; null where the kernel was built without. */
export const listedChildren = (parent: number): ReadonlyArray<number> | null => {
  try {
    const texts = readdirSync(`/proc/${parent}/task`).map((thread) =>
      read(`/proc/${parent}/task/${thread}/children`)
    )
    return texts.some((text) => typeof text !== "string" && !isAbsent(text.code)) ||
      !existsSync(`/proc/${parent}/task/${parent}/children`)
      ? null
      : texts
          .flatMap((text) => (typeof text === "string" ? text.split(" ") : []))
          .map(Number)
          .filter(isPid)
  } catch {
    return null
  }
}

/** Those that are not taken yet, too. */
export const childrenOf = (parent: number): ReadonlyArray<Child> =>
  (listedChildren(parent) ?? pids() ?? []).flatMap((pid) => {
    const text = read(`/proc/${pid}/stat`)
    if (typeof text !== "string") return []
    // State, parent and start are fields 3, 4 and 22 of proc_pid_stat(5).
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
    const startToken = fields[19]
    if (Number(fields[1]) !== parent || startToken === undefined) return []
    return [{ pid, startToken, dead: parseStat(text)._tag === "Gone" }]
  })

/** Null when there is no such process, or only what its parent has not taken yet. */
export const relativesOf = (pid: number): Relatives | null => {
  const text = read(`/proc/${pid}/stat`)
  if (typeof text !== "string") return null
  const seen = parseStat(text)
  if (seen._tag !== "Running") return null
  const { startToken, parent } = seen
  const [, , group, session] = text.slice(text.lastIndexOf(")") + 2).split(" ")
  return { pid, startToken, parent, group: Number(group), session: Number(session) }
}

/**
 * Whoever among all descends from a process, or is in a session or group that it or one of those leads; without itself. A
 * number that leads a session or group is nobody else's while anybody is in it.
 */
export const familyOf = (all: ReadonlyArray<Relatives>, leader: number): ReadonlyArray<Seen> => {
  const below = new Map<number, Array<Relatives>>()
  for (const one of all)
    for (const above of new Set([one.parent, one.session, one.group])) {
      const theirs = below.get(above)
      if (theirs === undefined) below.set(above, [one])
      else theirs.push(one)
    }
  const family = new Map<number, Seen>()
  const rest = [leader]
  for (let above = rest.pop(); above !== undefined; above = rest.pop())
    for (const { pid, startToken } of below.get(above) ?? [])
      if (pid !== leader && !family.has(pid)) {
        family.set(pid, { pid, startToken })
        rest.push(pid)
      }
  return [...family.values()]
}

/** The family of a process now, without itself; in one step, which takes 10 microseconds a process. */
export const kinOf = (leader: number): ReadonlyArray<Seen> =>
  familyOf(
    (pids() ?? []).flatMap((pid) => relativesOf(pid) ?? []),
    leader
  )

/**
 * Equal as long as a process runs the same program with the same arguments and environment: its name, and where its code,
 * stack, arguments and environment lie, which the kernel draws anew with every exec. Null when there is no such process.
 */
export const imageOf = (pid: number): string | null => {
  const text = read(`/proc/${pid}/stat`)
  if (typeof text !== "string") return null
  const end = text.lastIndexOf(")")
  // Fields 26, 28, 48 and 50 of proc_pid_stat(5); state is field 3.
  const fields = text.slice(end + 2).split(" ")
  return `${text.slice(text.indexOf("("), end)} ${[23, 25, 45, 47].map((index) => fields[index]).join(" ")}`
}

/** Whether it is still the process that was seen. */
export const isStill = ({ pid, startToken }: Seen): boolean => {
  const now = sight(pid)
  return now._tag === "Running" && now.startToken === startToken
}

export const signal = (pid: number, name: NodeJS.Signals | 0): "sent" | "gone" | "refused" => {
  if (!isPid(pid)) return "gone"
  try {
    process.kill(pid, name)
    return "sent"
  } catch (error) {
    return codeOf(error) === "ESRCH" ? "gone" : "refused"
  }
}
