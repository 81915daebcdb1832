/**
 * The environment that a process was started with, as /proc shows it to its own user.
 *
 * Unlike the other files of /proc it waits for the process's memory map, so it is read aside and not for long, and only so
 * many at a time: each read that is not answered holds one of Node's four threads for files.
 */
import * as fs from "node:fs"

/** Reads that are still waited for by the kernel. */
export const maxPendingReads = 2

const readBytes = 64 * 1024
/** The kernel lets arguments and environment have 6 MB at exec; a process may later claim that any of its memory is. */
const maxEnvironmentBytes = 8 * 1024 * 1024

/** `NAME=value` strings, each ended by a NUL; a byte is a character. */
export const readEnvironment = async (pid: number): Promise<string> => {
  const file = await fs.promises.open(`/proc/${pid}/environ`)
  try {
    const buffer = Buffer.alloc(readBytes)
    let text = ""
    while (text.length < maxEnvironmentBytes) {
      const { bytesRead } = await file.read(buffer, 0, readBytes, null)
      if (bytesRead === 0) break
      text += buffer.toString("latin1", 0, bytesRead)
    }
    return text
  } finally {
    await file.close()
  }
}
