/**
 * Syscalls: the few system calls that Node lacks, each with what is done instead where there is none.
 *
 * Nothing is loaded before the first use. A call never throws and never fails: what could not be done is an answer, with
 * its reason, and whoever asked goes on with the fallback.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { ExitStatus } from "./Run.ts"

export type SyscallName = keyof typeof fallbacks

/** What happens without the call; for `doctor` and for whoever reads an answer. */
export const fallbacks = {
  closeOnExec:
    "children may inherit the descriptor, so a run that is ended is swept by its marks and not by a hang-up",
  pidfd:
    "a process is checked right before kill(2), and its number could change hands in the microsecond between",
  peerCredentials:
    "nobody can be told from an agent, so that nobody may answer approvals, reset leases or end the gateway but by Ctrl-C",
  subreaper: "orphans go to init, and are found by their marks instead of as children",
  reap: "a zombie that was adopted stays until this process ends",
  processTimes: "a start time has the resolution of ps, one second"
} as const

export type Availability =
  | { readonly available: true }
  | { readonly available: false; readonly problem: string; readonly fallback: string }

export const unavailable = (name: SyscallName, problem: string): Availability => ({
  available: false,
  problem,
  fallback: fallbacks[name]
})

/** `problem`: an errno's name, or why the call is not there. */
export type NotDone = { readonly _tag: "NotDone"; readonly problem: string }

export const notDone = (problem: string): NotDone => ({ _tag: "NotDone", problem })

export const done = { _tag: "Done" } as const

/** Who connected, as the kernel noted it then: it may have gone since, or passed the socket on. */
export interface Peer {
  readonly _tag: "Peer"
  /** Null: of a pid namespace that we cannot see, or not told. */
  readonly pid: number | null
  readonly uid: number
  readonly gid: number
}

/**
 * `changed`: at the last look it was another process, and nothing was sent. `sent` to a zombie has no effect, as with
 * kill(2).
 */
export type SignalOutcome = "sent" | "gone" | "refused" | "changed"

export type ReapOutcome =
  | { readonly _tag: "Reaped"; readonly status: ExitStatus }
  | { readonly _tag: "Running" }
  | { readonly _tag: "NotAChild" }
  | NotDone

export interface ProcessTimes {
  readonly _tag: "ProcessTimes"
  readonly pid: number
  readonly parent: number
  readonly group: number
  readonly uid: number
  /** Seconds and microseconds of the wall clock at its start, as one word. */
  readonly startToken: string
}

/** Synchronous, so that nothing of ours happens between a check and what follows it. */
export interface SyscallTable {
  readonly available: Readonly<Record<SyscallName, Availability>>
  /** Sets FD_CLOEXEC. */
  readonly closeOnExec: (fd: number) => typeof done | NotDone
  /**
   * Holds the process behind `pid` by a descriptor, asks `stands` whether it is the one that is meant, and signals what it
   * holds: a number that changes hands in between is not signalled. Without pidfd: `stands`, then kill(2).
   */
  readonly signal: (pid: number, signal: string, stands: () => boolean) => SignalOutcome
  /** Of a connected Unix socket. */
  readonly peerCredentials: (fd: number) => Peer | NotDone
  /** Orphans of our tree become our children from now on, and whoever did stays one after `false`. */
  readonly setSubreaper: (on: boolean) => typeof done | NotDone
  /**
   * Takes the status of one adopted child, never of any: it must not be one that Node or node-pty has started, whose
   * status would be lost to them.
   */
  readonly reap: (orphan: number) => ReapOutcome
  /** Of macOS alone; Linux has /proc. */
  readonly processTimes: (pid: number) => ProcessTimes | NotDone
}

/** Numbers of the two systems. Linux: the same on x64 and arm64 (asm-generic), and those two alone are tested. */
export const numbers = {
  linux: {
    SYS_pidfd_send_signal: 424,
    SYS_pidfd_open: 434,
    SOL_SOCKET: 1,
    SO_PEERCRED: 17,
    PR_SET_CHILD_SUBREAPER: 36,
    PR_GET_CHILD_SUBREAPER: 37
  },
  darwin: { SOL_LOCAL: 0, LOCAL_PEERCRED: 1, LOCAL_PEERPID: 2, PROC_PIDTBSDINFO: 3 },
  posix: { F_GETFD: 1, F_SETFD: 2, FD_CLOEXEC: 1, WNOHANG: 1 }
} as const

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Every machine that this runs on is little-endian. */
const little = true

/** `(uid_t) -1`: the kernel knows no peer, because the socket is not connected or no Unix socket. */
const nobody = 0xffff_ffff

/** socket(7): struct ucred { pid_t pid; uid_t uid; gid_t gid }. */
export const decodeUcred = (bytes: Uint8Array): Peer | NotDone => {
  if (bytes.length !== 12) return notDone(`struct ucred has ${bytes.length} bytes and not 12`)
  const view = viewOf(bytes)
  const pid = view.getInt32(0, little)
  const uid = view.getUint32(4, little)
  if (uid === nobody) return notDone("the socket has no peer")
  return { _tag: "Peer", pid: pid > 0 ? pid : null, uid, gid: view.getUint32(8, little) }
}

/** sys/ucred.h: struct xucred { u_int version; uid_t uid; short ngroups; gid_t groups[16] }; the first group is the gid. */
export const decodeXucred = (bytes: Uint8Array, pid: number): Peer | NotDone => {
  if (bytes.length !== 76) return notDone(`struct xucred has ${bytes.length} bytes and not 76`)
  const view = viewOf(bytes)
  const version = view.getUint32(0, little)
  if (version !== 0) return notDone(`struct xucred has version ${version} and not 0`)
  if (view.getInt16(8, little) < 1) return notDone("struct xucred names no group")
  return {
    _tag: "Peer",
    pid: pid > 0 ? pid : null,
    uid: view.getUint32(4, little),
    gid: view.getUint32(12, little)
  }
}

/** sys/proc_info.h: struct proc_bsdinfo. */
export const procBsdInfoBytes = 136

export const decodeProcBsdInfo = (bytes: Uint8Array): ProcessTimes | NotDone => {
  if (bytes.length !== procBsdInfoBytes)
    return notDone(`struct proc_bsdinfo has ${bytes.length} bytes and not ${procBsdInfoBytes}`)
  const view = viewOf(bytes)
  const micros = view.getBigUint64(128, little)
  if (micros >= 1_000_000n) return notDone(`struct proc_bsdinfo tells of ${micros} microseconds`)
  return {
    _tag: "ProcessTimes",
    pid: view.getUint32(12, little),
    parent: view.getUint32(16, little),
    group: view.getUint32(100, little),
    uid: view.getUint32(20, little),
    startToken: `${view.getBigUint64(120, little)}.${String(micros).padStart(6, "0")}`
  }
}

/** wait(2)'s status, the same on Linux and macOS; `nameOf` knows the platform's signals. Null: stopped or continued. */
export const decodeWaitStatus = (
  status: number,
  nameOf: (signal: number) => string | undefined
): ExitStatus | null => {
  const signal = status & 0x7f
  if (signal === 0) return { code: (status >> 8) & 0xff, signal: null }
  return signal === 0x7f ? null : { code: null, signal: nameOf(signal) ?? `SIG${signal}` }
}

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null && name in value
    ? (value as Readonly<Record<string, unknown>>)[name]
    : undefined

/** The descriptor of a `net.Socket`, which Node keeps to itself. Null once it is closed, and where there is none. */
export const descriptorOf = (socket: unknown): number | null => {
  const fd = field(field(socket, "_handle"), "fd")
  return typeof fd === "number" && Number.isSafeInteger(fd) && fd >= 0 ? fd : null
}

export class Syscalls extends Context.Service<
  Syscalls,
  {
    /** Loads at its first use (15 ms, 3 MB) and once. */
    readonly table: Effect.Effect<SyscallTable>
  }
>()("holdfast/Syscalls") {}
