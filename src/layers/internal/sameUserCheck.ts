/** Which of the ways that an agent of the operator's own user has past an approval are open on this machine. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import type { SandboxMode } from "../../services/ConfigFile.ts"
import { type Check, passed, warned } from "../../services/Doctor.ts"
import { effectiveUid } from "./privateDirectory.ts"
import { findOnPath } from "./programFile.ts"

type Environment = Readonly<Record<string, string | undefined>>

/** 0: every process of a user may attach to every other. Absent where the kernel has no Yama, which is the same. */
const isTraceable = (): boolean => {
  if (process.platform !== "linux") return false
  try {
    return fs.readFileSync("/proc/sys/kernel/yama/ptrace_scope", "utf8").trim() === "0"
  } catch {
    return true
  }
}

const waysOf = (environment: Environment, sandbox: SandboxMode): ReadonlyArray<string> => {
  const uid = effectiveUid()
  const runtime = environment["XDG_RUNTIME_DIR"]
  const tmux = path.join(environment["TMUX_TMPDIR"] ?? "/tmp", `tmux-${uid}`)
  const spoolers = ["at", "crontab"].filter(
    (name) => findOnPath(name, environment["PATH"] ?? "") !== undefined
  )
  return [
    ...(uid === 0 ? ["it is root"] : []),
    ...(sandbox === "danger-full-access" ? ["Codex's sandbox is off"] : []),
    ...(isTraceable()
      ? ["it may attach to the gateway and to your terminals (kernel.yama.ptrace_scope)"]
      : []),
    ...(runtime !== undefined && fs.existsSync(path.join(runtime, "systemd/private"))
      ? ["systemd-run --user starts what is nobody's"]
      : []),
    ...(spoolers.length > 0 ? [`${spoolers.join(" and ")} start what is nobody's`] : []),
    ...(fs.existsSync(tmux) ? [`tmux servers of yours listen in ${tmux}`] : []),
    ...(process.platform === "linux" ? [] : ["a daemon of its own has no mark here"])
  ]
}

export const sameUserCheck = (environment: Environment, sandbox: SandboxMode): Effect.Effect<Check> =>
  Effect.sync(() => {
    const what = "agents as your user"
    const ways = waysOf(environment, sandbox)
    return ways.length === 0
      ? passed(what, "no way past an approval that Holdfast knows of is open to one")
      : warned(
          what,
          `a hostile one can get past an approval: ${ways.join("; ")}`,
          "run agents you do not trust in a sandbox or as another user; see Approvals in the README"
        )
  })
