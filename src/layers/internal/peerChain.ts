/** Who is at the other end of a Unix socket, noted when it connected, and whether it is one of ours. */
import type * as net from "node:net"
import type { Link } from "../../services/Operator.ts"
import { runsNamedIn } from "../../services/RunPlace.ts"
import { descriptorOf, type SyscallTable } from "../../services/Syscalls.ts"
import { maxPendingReads, readEnvironment } from "./environ.ts"
import { ancestorsOf, markOf, sight } from "./procfs.ts"

export interface Noted {
  readonly uid: number
  readonly pid: number | null
  /** Null: it was gone before anybody looked. */
  readonly startToken: string | null
}

const startOf = (pid: number): string | null => {
  const seen = sight(pid)
  return seen._tag === "Running" ? seen.startToken : null
}

/** Null where the system does not say. */
export const noted = (table: SyscallTable, connection: net.Socket): Noted | null => {
  const fd = descriptorOf(connection)
  const peer = fd === null ? null : table.peerCredentials(fd)
  if (peer?._tag !== "Peer") return null
  return { uid: peer.uid, pid: peer.pid, startToken: peer.pid === null ? null : startOf(peer.pid) }
}

/** Reads of environments that are under way, whoever has given up on them. */
let reading = 0

const isNamed = async (pid: number): Promise<boolean> => {
  reading++
  try {
    return runsNamedIn(await readEnvironment(pid)).size > 0
  } catch {
    // Another user's cannot be read, nor that of one which is not dumpable; its mark is what counts then.
    return false
  } finally {
    reading--
  }
}

/** Null where the system does not say; one environment after the other, each of which may hold a thread of Node's. */
export const chainOf = async (peer: number): Promise<ReadonlyArray<Link> | null> => {
  const links: Array<Link> = []
  for (const pid of [peer, ...ancestorsOf(peer)]) {
    const mark = markOf(pid)
    if (mark === "unreadable" || reading >= maxPendingReads) return null
    links.push({ pid, mark: mark === "none" ? null : mark, named: await isNamed(pid) })
  }
  return links
}

/** The kernel answers at once, but for a process that is stuck in it. */
export const lookTimeoutMs = 2_000
