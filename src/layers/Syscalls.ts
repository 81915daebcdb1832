/**
 * Syscalls, live: by way of koffi, loaded at the first use and never on the way of a start.
 *
 * Every buffer is ours and larger than what the kernel writes, every answer is checked before it is believed, and what
 * does not load is an answer. One call is one microsecond, and blocks nothing.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { closeSync } from "node:fs"
import * as os from "node:os"
import { isPid } from "../services/ProcessIdentity.ts"
import {
  type Availability,
  decodeProcBsdInfo,
  decodeUcred,
  decodeWaitStatus,
  decodeXucred,
  done,
  type NotDone,
  notDone,
  numbers,
  procBsdInfoBytes,
  type SyscallName,
  Syscalls,
  type SyscallTable,
  unavailable
} from "../services/Syscalls.ts"
import { signal as kill } from "./internal/procfs.ts"

export * from "../services/Syscalls.ts"

type Koffi = Pick<typeof import("koffi"), "errno" | "load">

/** For a test that takes koffi away; everybody else uses `make`. */
export const makeWith = (load: () => Promise<Koffi>) =>
  Effect.map(
    Effect.cached(
      Effect.tryPromise(() => load().then(tableOf)).pipe(
        Effect.catch(({ cause }) => Effect.succeed(tableWithout(`koffi does not load: ${firstLine(cause)}`))),
        // The first to ask may be interrupted; the others would be told so for ever.
        Effect.uninterruptible,
        Effect.withSpan("Syscalls.load")
      )
    ),
    (table) => Syscalls.of({ table })
  )

export const make = makeWith(() => import("koffi"))

export const layer = Layer.effect(Syscalls, make)

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split("\n")[0]!.slice(0, 200)

/** More than any of the structures that are read here; the kernel is told so and writes no more. */
const roomBytes = 256

/** A pid_t and a descriptor are an int; what is larger would arrive as another number. */
const maxInt = 0x7fff_ffff
const isDescriptor = (fd: number): boolean => Number.isSafeInteger(fd) && fd >= 0 && fd <= maxInt
/** Of one process: any other number means a group, or everybody. */
const isOne = (pid: number): boolean => isPid(pid) && pid <= maxInt

/** Two names of one number (SIGABRT and SIGIOT): the first is the one that Node says, too. */
const byNumber = (names: Readonly<Record<string, number>>): ReadonlyMap<number, string> =>
  new Map(
    Object.entries(names)
      .map(([name, number]) => [number, name] as const)
      .toReversed()
  )

const errorNames = byNumber(os.constants.errno)
const signalNames = byNumber(os.constants.signals)
const signalNumbers = new Map(Object.entries(os.constants.signals))

const errnos = os.constants.errno
const { posix, linux, darwin } = numbers

const checkThenKill: SyscallTable["signal"] = (pid, name, stands) =>
  !isOne(pid) ? "gone" : stands() ? kill(pid, name as NodeJS.Signals) : "changed"

const tableWithout = (problem: string): SyscallTable => ({
  available: {
    closeOnExec: unavailable("closeOnExec", problem),
    pidfd: unavailable("pidfd", problem),
    peerCredentials: unavailable("peerCredentials", problem),
    subreaper: unavailable("subreaper", problem),
    reap: unavailable("reap", problem),
    processTimes: unavailable("processTimes", problem)
  },
  closeOnExec: () => notDone(problem),
  signal: checkThenKill,
  peerCredentials: () => notDone(problem),
  setSubreaper: () => notDone(problem),
  reap: () => notDone(problem),
  processTimes: () => notDone(problem)
})

/** What one call is made of: its availability, and itself, which without it only says why. */
interface Bound<F> {
  readonly availability: Availability
  readonly call: F
}

type Native = (...args: ReadonlyArray<unknown>) => number

const bind = <F>(name: SyscallName, without: (problem: string) => F, find: () => F): Bound<F> => {
  try {
    return { availability: { available: true }, call: find() }
  } catch (error) {
    const problem = firstLine(error)
    return { availability: unavailable(name, problem), call: without(problem) }
  }
}

const only = (platform: NodeJS.Platform): void => {
  if (process.platform !== platform) throw new Error(`${process.platform} has no such call`)
}

const tableOf = (koffi: Koffi): SyscallTable => {
  const library = koffi.load(null)
  const errno = (): string => {
    const number = koffi.errno()
    return errorNames.get(number) ?? `errno ${number}`
  }
  const native = (definition: string): Native => {
    const found = library.func(definition)
    return (...args) => Number(found(...args))
  }
  const onLinux = process.platform === "linux"
  const closeOnExec = bind<SyscallTable["closeOnExec"]>("closeOnExec", refusing, () => {
    const fcntl = native("int fcntl(int fd, int cmd, ...)")
    return (fd) => {
      if (!isDescriptor(fd)) return notDone("EBADF")
      const flags = fcntl(fd, posix.F_GETFD, "long", 0)
      return flags === -1 || fcntl(fd, posix.F_SETFD, "long", flags | posix.FD_CLOEXEC) === -1
        ? notDone(errno())
        : done
    }
  })

  const pidfd = bind<SyscallTable["signal"]>(
    "pidfd",
    () => checkThenKill,
    () => {
      only("linux")
      const syscall = native("long syscall(long number, ...)")
      const open = (pid: number) => syscall(linux.SYS_pidfd_open, "long", pid, "long", 0)
      const send = (fd: number, number: number) =>
        syscall(linux.SYS_pidfd_send_signal, "long", fd, "long", number, "long", 0, "long", 0)
      // A kernel before 5.3 or a filter of a container refuses it now and not in the middle of a stop.
      const own = open(process.pid)
      if (own < 0) throw new Error(`pidfd_open: ${errno()}`)
      try {
        if (send(own, 0) !== 0) throw new Error(`pidfd_send_signal: ${errno()}`)
      } finally {
        closeSync(own)
      }
      return (pid, name, stands) => {
        if (!isOne(pid)) return "gone"
        const number = signalNumbers.get(name)
        if (number === undefined) return "refused"
        const fd = open(pid)
        if (fd < 0) {
          const problem = koffi.errno()
          // The number of a thread is none of a process (ENOENT, before 6.13 EINVAL); kill(2) would take it for one.
          return problem === errnos.ESRCH || problem === errnos.ENOENT || problem === errnos.EINVAL
            ? "gone"
            : checkThenKill(pid, name, stands)
        }
        try {
          if (!stands()) return "changed"
          if (send(fd, number) === 0) return "sent"
          return koffi.errno() === errnos.ESRCH ? "gone" : "refused"
        } finally {
          closeSync(fd)
        }
      }
    }
  )

  const peerCredentials = bind<SyscallTable["peerCredentials"]>("peerCredentials", refusing, () => {
    const getsockopt = native("int getsockopt(int fd, int level, int name, void *value, void *length)")
    const option = (fd: number, level: number, name: number): Uint8Array | null => {
      const value = new Uint8Array(roomBytes)
      const length = new Uint32Array([roomBytes])
      return getsockopt(fd, level, name, value, length) === -1 ? null : value.subarray(0, length[0])
    }
    if (onLinux)
      return (fd) => {
        const ucred = isDescriptor(fd) ? option(fd, linux.SOL_SOCKET, linux.SO_PEERCRED) : null
        return ucred === null ? notDone(isDescriptor(fd) ? errno() : "EBADF") : decodeUcred(ucred)
      }
    only("darwin")
    return (fd) => {
      const xucred = isDescriptor(fd) ? option(fd, darwin.SOL_LOCAL, darwin.LOCAL_PEERCRED) : null
      if (xucred === null) return notDone(isDescriptor(fd) ? errno() : "EBADF")
      return decodeXucred(xucred, decodePeerPid(option(fd, darwin.SOL_LOCAL, darwin.LOCAL_PEERPID)))
    }
  })

  const subreaper = bind<SyscallTable["setSubreaper"]>("subreaper", refusing, () => {
    only("linux")
    const prctl = native("int prctl(int option, ...)")
    const current = new Int32Array(1)
    const read = (): boolean => prctl(linux.PR_GET_CHILD_SUBREAPER, "void *", current) === 0
    if (!read()) throw new Error(`prctl: ${errno()}`)
    return (on) => {
      const wanted = on ? 1 : 0
      const set = prctl(linux.PR_SET_CHILD_SUBREAPER, "ulong", wanted, "ulong", 0, "ulong", 0, "ulong", 0)
      if (set === -1 || !read()) return notDone(errno())
      return current[0] === wanted ? done : notDone(`the kernel says ${current[0]} after ${wanted}`)
    }
  })

  const reap = bind<SyscallTable["reap"]>("reap", refusing, () => {
    const waitpid = native("int waitpid(int pid, void *status, int options)")
    return (orphan) => {
      if (!isOne(orphan)) return { _tag: "NotAChild" }
      const word = new Int32Array(1)
      const got = waitpid(orphan, word, posix.WNOHANG)
      if (got === -1) return koffi.errno() === errnos.ECHILD ? { _tag: "NotAChild" } : notDone(errno())
      const status =
        got === orphan ? decodeWaitStatus(word[0] ?? 0, (number) => signalNames.get(number)) : null
      return status === null ? { _tag: "Running" } : { _tag: "Reaped", status }
    }
  })

  const processTimes = bind<SyscallTable["processTimes"]>("processTimes", refusing, () => {
    only("darwin")
    const pidinfo = native("int proc_pidinfo(int pid, int flavor, uint64_t arg, void *buffer, int size)")
    return (pid) => {
      if (!isOne(pid)) return notDone("ESRCH")
      const buffer = new Uint8Array(roomBytes)
      const size = pidinfo(pid, darwin.PROC_PIDTBSDINFO, 0, buffer, procBsdInfoBytes)
      return size <= 0 ? notDone(errno()) : decodeProcBsdInfo(buffer.subarray(0, size))
    }
  })

  return {
    available: {
      closeOnExec: closeOnExec.availability,
      pidfd: pidfd.availability,
      peerCredentials: peerCredentials.availability,
      subreaper: subreaper.availability,
      reap: reap.availability,
      processTimes: processTimes.availability
    },
    closeOnExec: closeOnExec.call,
    signal: pidfd.call,
    peerCredentials: peerCredentials.call,
    setSubreaper: subreaper.call,
    reap: reap.call,
    processTimes: processTimes.call
  }
}

const refusing = (problem: string) => (): NotDone => notDone(problem)

/** A pid_t; 0 when it was not told. */
const decodePeerPid = (bytes: Uint8Array | null): number =>
  bytes === null || bytes.length !== 4 ? 0 : new DataView(bytes.buffer, bytes.byteOffset, 4).getInt32(0, true)
