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

const read = (name: string): string => fs.readFileSync(`/proc/self/${name}`, "utf8")

/** Makes a group and removes it: what a directory's mode says is not what the kernel allows. */
export const findCgroups: Effect.Effect<CgroupsFound> = Effect.sync(() => {
  try {
    const directory = cgroupDirectory(read("cgroup"), read("mountinfo"))
    if (directory === null) return notDelegated("no cgroup of the second version is mounted")
    // The root of all groups, which alone has no such file, is the system's even where we are root.
    if (!fs.existsSync(`${directory}/cgroup.events`))
      return notDelegated("its own group is the system's root")
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

/** Below the own group's directory, and so never a group that this process is in. */
export const groupOf = (directory: string, runId: string): string => `${directory}/holdfast-${runId}`

/** A killed process leaves its group when it is buried, within a millisecond, or when the kernel lets go of it. */
const emptyWithinMs = 1_000
const lookMs = 5
/** Groups that a run has made inside of its own. */
const maxInner = 1_024

/** False where it could not be made: the run is started without. */
export const makeGroup = (group: string): Effect.Effect<boolean> =>
  Effect.try(() => fs.mkdirSync(group)).pipe(
    Effect.as(true),
    Effect.catch(({ cause }) =>
      Effect.as(
        Effect.logWarning(
          `a run starts without a cgroup of its own (${errorCode(cause) ?? "unknown error"})`
        ),
        false
      )
    )
  )

/** Whether anybody is in it, or in a group that was made inside; false when it is gone. */
const isPopulated = (group: string): boolean => {
  try {
    return /^populated 1$/m.test(fs.readFileSync(`${group}/cgroup.events`, "utf8"))
  } catch {
    return false
  }
}

/** Ends everybody in it at once, by the kernel; whether anybody was in it. */
export const killGroupMembers = (group: string): Effect.Effect<boolean> =>
  Effect.gen(function* () {
    if (!isPopulated(group)) return false
    yield* Effect.try(() => fs.writeFileSync(`${group}/cgroup.kill`, "1")).pipe(
      Effect.catch(({ cause }) => Effect.logWarning("a run's cgroup could not be killed", cause))
    )
    yield* Effect.sleep(lookMs).pipe(
      Effect.repeat({ while: () => isPopulated(group) }),
      Effect.timeoutOption(emptyWithinMs)
    )
    return true
  })

const removeAll = (group: string, budget: { left: number }): void => {
  if (budget.left-- <= 0) return
  for (const entry of fs.readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) removeAll(`${group}/${entry.name}`, budget)
  fs.rmdirSync(group)
}

/** With whoever is still in it. */
export const removeGroup = (group: string): Effect.Effect<void> =>
  Effect.gen(function* () {
    if (!fs.existsSync(group)) return
    yield* killGroupMembers(group)
    yield* Effect.try(() => removeAll(group, { left: maxInner })).pipe(
      Effect.catch(({ cause }) =>
        Effect.logWarning(`a run's cgroup could not be removed (${errorCode(cause) ?? "unknown error"})`)
      )
    )
  })

/**
 * A command that starts in a group: a shell joins it and becomes the program, so that nothing it forks was ever outside.
 * Where it cannot, it goes on without.
 */
export const inGroup = (
  group: string,
  { program, args }: { readonly program: string; readonly args: ReadonlyArray<string> }
): { readonly program: string; readonly args: ReadonlyArray<string> } => ({
  program: "/bin/sh",
  args: ["-c", '{ echo 0 > "$0"; } 2>/dev/null; exec "$@"', `${group}/cgroup.procs`, program, ...args]
})
