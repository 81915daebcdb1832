/**
 * ProcessIdentity: which process, beyond its number. No wall clock anywhere in it.
 *
 * A pid is reused; a pid with its start token, boot and pid namespace is not. Nothing is signalled or deleted on a pid
 * alone, and never on `unknown`.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

export const Identity = Schema.Struct({
  /** Linux: /proc/sys/kernel/random/boot_id. macOS: kern.bootsessionuuid. */
  bootId: Schema.String,
  /** Linux: the inode text of /proc/self/ns/pid. macOS: `host`. */
  pidNamespace: Schema.String,
  pid: Schema.Int,
  /** Linux: field 22 of /proc/PID/stat, in clock ticks since boot. macOS: `ps -o lstart`. */
  startToken: Schema.String
})
export type Identity = typeof Identity.Type

/** A process of this boot and pid namespace, as a key. */
export const processKey = ({ pid, startToken }: Pick<Identity, "pid" | "startToken">): string =>
  `${pid}/${startToken}`

/** `unknown`: the system would not say, or the identity is from a pid namespace we cannot see. */
export type Verdict = "alive" | "dead" | "unknown"

/** What the system says about a pid now: a live process and its start token, none, or nothing that can be relied on. */
export type Sighting =
  | {
      readonly _tag: "Running"
      readonly startToken: string
      readonly parent: number
      readonly command: string
    }
  | { readonly _tag: "Gone" }
  | { readonly _tag: "Unreadable" }

export const gone: Sighting = { _tag: "Gone" }
export const unreadable: Sighting = { _tag: "Unreadable" }

export class IdentityUnavailable extends Schema.TaggedError<IdentityUnavailable>()("IdentityUnavailable", {
  problem: Schema.String
}) {
  override get message(): string {
    return `Processes cannot be told apart on this system: ${this.problem}. Holdfast needs /proc on Linux, or ps and sysctl on macOS.`
  }
}

/** Any other value would make kill(2) address a group or everybody. */
export const isPid = (pid: number): boolean => Number.isSafeInteger(pid) && pid > 0

/**
 * One /proc/PID/stat (proc_pid_stat(5)). The command may hold spaces, parentheses and newlines, so the fields are
 * counted from the last parenthesis. A leader that is a zombie while other threads run is not dead: nobody can reap it.
 */
export const parseStat = (text: string): Sighting => {
  const open = text.indexOf("(")
  const close = text.lastIndexOf(")")
  if (open < 0 || close < open) return unreadable
  const fields = text
    .slice(close + 1)
    .trim()
    .split(/\s+/)
  const [state, parent] = fields
  // proc_pid_stat(5) counts from 1 and the command is field 2: threads are field 20, the start is field 22.
  const [threads, startToken] = [fields[17], fields[19]]
  if (state === undefined || parent === undefined || threads === undefined || startToken === undefined)
    return unreadable
  if (/^[Xx]$/.test(state) || (state === "Z" && Number(threads) <= 1)) return gone
  return { _tag: "Running", startToken, parent: Number(parent), command: text.slice(open + 1, close) }
}

/** What `ps -o lstart=,stat=,ppid= -p PID` of macOS prints in the C locale. Silence is no proof of a death: kill(2) is. */
export const parsePs = (text: string): Sighting => {
  const found = /^\s*(\w{3}\s+\w{3}\s+\d+\s+[\d:]+\s+\d+)\s+(\S+)\s+(\d+)\s*$/.exec(text)
  if (found === null) return unreadable
  const [, start = "", state = "", parent = ""] = found
  if (state.startsWith("Z")) return gone
  return { _tag: "Running", startToken: start.replace(/\s+/g, " "), parent: Number(parent), command: "" }
}

/** Another boot has ended every process of the last one; another namespace's pids say nothing here. */
export const verdictOf = (self: Identity, recorded: Identity, seen: Sighting): Verdict => {
  if (recorded.bootId !== self.bootId) return "dead"
  if (recorded.pidNamespace !== self.pidNamespace || seen._tag === "Unreadable") return "unknown"
  return seen._tag === "Running" && seen.startToken === recorded.startToken ? "alive" : "dead"
}

export const identityOf = (
  self: Pick<Identity, "bootId" | "pidNamespace">,
  pid: number,
  seen: Sighting
): Option.Option<Identity> =>
  seen._tag === "Running"
    ? Option.some({
        bootId: self.bootId,
        pidNamespace: self.pidNamespace,
        pid,
        startToken: seen.startToken
      })
    : Option.none()

export class ProcessIdentity extends Context.Service<
  ProcessIdentity,
  {
    readonly self: Identity
    /** The identity of a running process; none when there is no such process, it is a zombie, or it cannot be read. */
    readonly of: (pid: number) => Effect.Effect<Option.Option<Identity>>
    readonly verdict: (identity: Identity) => Effect.Effect<Verdict>
  }
>()("holdfast/ProcessIdentity") {}
