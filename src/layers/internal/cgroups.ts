/**
 * Control groups of the second version, where this process's own directory is its to divide (a systemd user scope with
 * Delegate=yes, a container's): one group a run, which a kill of the kernel's own ends as a whole, however fast it forks.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { errorCode } from "./errorCode.ts"

/** Where groups can be made, or why none can. */
export type CgroupsFound =
  | { readonly _tag: "Delegated"; readonly directory: string }
  | { readonly _tag: "NotDelegated"; readonly problem: string }

const notDelegated = (problem: string): CgroupsFound => ({ _tag: "NotDelegated", problem })

/** proc_pid_mountinfo(5) writes blanks and backslashes of a path as three octal digits. */
const unescaped = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))

/** `cgroup` and `mountinfo` of /proc/self: the own group's directory, null where there is none of the second version. */
export const cgroupDirectory = (cgroup: string, mountinfo: string): string | null => {
  const own = /^0::(\/.*)$/m.exec(cgroup)?.[1]
  if (own === undefined) return null
  for (const line of mountinfo.split("\n")) {
    const [mount, kind] = line.split(" - ")
    const [, , , root, point] = (mount ?? "").split(" ").map(unescaped)
    if (!kind?.startsWith("cgroup2 ") || root === undefined || point === undefined) continue
    const below = path.posix.relative(root, own)
    // A mount of another part of the tree does not show it.
    if (below === ".." || below.startsWith("../")) continue
    return path.posix.join(point, below)
  }
  return null
}

/** Makes a group and removes it: what a directory's mode says is not what the kernel allows. */
export const findCgroups: Effect.Effect<CgroupsFound> = Effect.sync(() => {
  try {
    const read = (name: string) => fs.readFileSync(`/proc/self/${name}`, "utf8")
    const directory = cgroupDirectory(read("cgroup"), read("mountinfo"))
    if (directory === null) return notDelegated("no cgroup of the second version is mounted")
    const trial = `${directory}/holdfast-probe-${process.pid}`
    fs.mkdirSync(trial)
    try {
      // Who may not write to the group that it leaves cannot leave it (cgroups(7), delegation containment).
      fs.accessSync(`${directory}/cgroup.procs`, fs.constants.W_OK)
      fs.accessSync(`${trial}/cgroup.kill`, fs.constants.W_OK)
    } finally {
      fs.rmdirSync(trial)
    }
    return { _tag: "Delegated", directory }
  } catch (error) {
    return notDelegated(`its own group cannot be divided (${errorCode(error) ?? "unknown error"})`)
  }
})
