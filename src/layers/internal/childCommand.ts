/**
 * What is started, found before anything is: the file execvp would take, everything checked that would otherwise show only
 * after the fork, as an exit status 127 of prlimit or as text on the terminal.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { type MarkRange, underMark } from "../../services/InstanceMark.ts"
import type { SpawnProblem } from "../../services/Run.ts"
import { defaultPath } from "../../services/RunPlace.ts"
import { inGroup } from "./cgroups.ts"
import { errorCode } from "./errorCode.ts"
import { ChildFailed, type ChildSpec } from "./runChild.ts"

/** execve(2): one string has at most 32 pages (MAX_ARG_STRLEN), all together a quarter of the usual 8 MB stack. */
const stringLimitBytes = 128 * 1024
const argumentLimitBytes = 2 * 1024 * 1024

/** BINPRM_BUF_SIZE: so much of a script's first line is read by the kernel. */
const firstLineBytes = 256

/** util-linux is installed there by every distribution; a PATH comes second, since it is the agent's to change. */
const prlimitPlaces = ["/usr/bin/prlimit", "/bin/prlimit"]

export interface ChildCommand {
  readonly program: string
  readonly args: ReadonlyArray<string>
  /** Null when there is no prlimit command. */
  readonly mark: MarkRange | null
}

export const failed = (problem: SpawnProblem, detail: string) => new ChildFailed({ problem, detail })

/** Fails with the problem, and nothing was started. */
export const findCommand = Effect.fnUntraced(function* (
  spec: ChildSpec
): Effect.fn.Return<ChildCommand, ChildFailed> {
  const { command, args, cwd, env, mark } = spec
  const problem = malformed(spec) ?? unusable(cwd)
  if (problem !== null) return yield* problem
  const program = lookUp(command, cwd, env["PATH"])
  if (typeof program !== "string") return yield* program
  const missing = missingInterpreter(program, cwd)
  if (missing !== null)
    return yield* failed(
      "command-not-found",
      `${program} names ${missing} as its interpreter, which cannot be run.`
    )
  const placed = (command: Pick<ChildCommand, "program" | "args">) =>
    spec.cgroup ? inGroup(spec.cgroup, command) : command
  if (mark === null) return { ...placed({ program, args }), mark: null }
  const prlimit = prlimitPlaces.find((file) => look(file) === "runs") ?? lookUp("prlimit", cwd, env["PATH"])
  if (typeof prlimit === "string")
    return { ...placed({ ...underMark(mark, program, args), program: prlimit }), mark }
  yield* Effect.logWarning("no prlimit command: a run starts without a mark of its own")
  return { ...placed({ program, args }), mark: null }
})

/** Refused by the kernel only after the fork, or cut short without a word. */
const malformed = ({ command, args, cwd, env }: ChildSpec): ChildFailed | null => {
  const pairs = Object.entries(env)
  const words = [command, cwd, ...args, ...pairs.map(([name, value]) => `${name}=${value}`)]
  if (words.some((word) => word.includes("\0")))
    return failed("failed", "The command, its arguments, directory and environment cannot hold a NUL byte.")
  if (pairs.some(([name]) => name === "" || name.includes("=")))
    return failed("failed", "The name of an environment variable cannot be empty or hold a '='.")
  const sizes = words.map((word) => Buffer.byteLength(word) + 1)
  if (sizes.some((size) => size > stringLimitBytes))
    return failed("failed", `An argument or variable is longer than the system's ${stringLimitBytes} bytes.`)
  // Each has a pointer of eight bytes beside it.
  return sizes.reduce((sum, size) => sum + size + 8, 0) > argumentLimitBytes
    ? failed("failed", `Arguments and environment are larger than ${argumentLimitBytes} bytes together.`)
    : null
}

const unusable = (cwd: string): ChildFailed | null => {
  try {
    if (!path.isAbsolute(cwd)) return failed("cwd-missing", `The directory ${cwd} is not an absolute path.`)
    if (!fs.statSync(cwd).isDirectory()) return failed("cwd-missing", `${cwd} is not a directory.`)
    fs.accessSync(cwd, fs.constants.X_OK)
    return null
  } catch (error) {
    return failed("cwd-missing", `The directory ${cwd} cannot be entered (${errorCode(error)}).`)
  }
}

const look = (file: string): "runs" | "refused" | "absent" => {
  try {
    if (!fs.statSync(file).isFile()) return "refused"
  } catch (error) {
    return errorCode(error) === "EACCES" ? "refused" : "absent"
  }
  try {
    fs.accessSync(file, fs.constants.X_OK)
    return "runs"
  } catch {
    return "refused"
  }
}

/** As execvp: a name with a slash is a path, an empty entry of PATH is the directory, and what may not be run is passed over. */
const lookUp = (command: string, cwd: string, searchPath = defaultPath): string | ChildFailed => {
  const places = command.includes("/") ? [""] : searchPath.split(":")
  const files = command === "" ? [] : places.map((place) => path.resolve(cwd, place, command))
  const found = files.find((file) => look(file) === "runs")
  if (found !== undefined) return found
  const refused = files.find((file) => look(file) === "refused")
  return refused === undefined
    ? failed(
        "command-not-found",
        `There is no ${command}${command.includes("/") ? "" : " on the run's PATH"}.`
      )
    : failed("not-executable", `${refused} is not a file that this user may execute.`)
}

/** What a script's first line names and is not there; the kernel reports that as if the script itself were missing. */
const missingInterpreter = (program: string, cwd: string): string | null => {
  const head = Buffer.alloc(firstLineBytes)
  let length = 0
  try {
    const fd = fs.openSync(program, "r")
    try {
      length = fs.readSync(fd, head)
    } finally {
      fs.closeSync(fd)
    }
  } catch {
    // May be executed but not read: the kernel will know.
    return null
  }
  const interpreter = /^#![ \t]*([^ \t\n\0]+)/.exec(head.toString("latin1", 0, length))?.[1]
  if (interpreter === undefined) return null
  const file = Buffer.from(interpreter, "latin1").toString()
  return look(path.resolve(cwd, file)) === "runs" ? null : file
}
