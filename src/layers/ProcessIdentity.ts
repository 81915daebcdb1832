/**
 * ProcessIdentity, live: /proc on Linux, `ps` and `sysctl` on macOS. A process that we may not read or signal is there
 * all the same, and is never called dead.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { execFile } from "node:child_process"
import { readFileSync, readlinkSync } from "node:fs"
import {
  gone,
  type Identity,
  identityOf,
  IdentityUnavailable,
  parsePs,
  ProcessIdentity,
  type Sighting,
  unreadable,
  verdictOf
} from "../services/ProcessIdentity.ts"
import { sight, signal } from "./internal/procfs.ts"

export * from "../services/ProcessIdentity.ts"

/** Both macOS tools answer within 10 ms; a machine that needs longer than this is in no state to be judged. */
const toolTimeoutMs = 5_000

/** How one platform names its boot and its pid namespace, and looks at a pid. */
interface Platform {
  readonly place: Effect.Effect<Pick<Identity, "bootId" | "pidNamespace">, IdentityUnavailable>
  readonly look: (pid: number) => Effect.Effect<Sighting>
}

const linux: Platform = {
  place: Effect.try({
    try: () => ({
      bootId: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
      pidNamespace: readlinkSync("/proc/self/ns/pid")
    }),
    catch: (cause) => new IdentityUnavailable({ problem: `/proc cannot be read (${String(cause)})` })
  }),
  look: (pid) => Effect.sync(() => sight(pid))
}

/** Resolves with what the tool printed, whatever its exit status; null when it could not run. */
const tool = (path: string, args: ReadonlyArray<string>): Effect.Effect<string | null> =>
  Effect.callback((resume) => {
    const options = { timeout: toolTimeoutMs, env: { LC_ALL: "C", TZ: "UTC" } }
    const child = execFile(path, [...args], options, (error, stdout) => {
      const ran = error === null || (typeof error.code === "number" && error.killed !== true)
      resume(Effect.succeed(ran ? stdout : null))
    })
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const darwin: Platform = {
  place: Effect.flatMap(tool("/usr/sbin/sysctl", ["-n", "kern.bootsessionuuid"]), (text) =>
    text === null || text.trim() === ""
      ? Effect.fail(new IdentityUnavailable({ problem: "sysctl does not name the boot session" }))
      : Effect.succeed({ bootId: text.trim(), pidNamespace: "host" })
  ),
  look: (pid) =>
    Effect.suspend(() =>
      signal(pid, 0) === "gone"
        ? Effect.succeed(gone)
        : Effect.map(tool("/bin/ps", ["-o", "lstart=,stat=,ppid=", "-p", String(pid)]), (text) =>
            text === null ? unreadable : parsePs(text)
          )
    )
}

export const make = Effect.gen(function* () {
  const platform = process.platform === "linux" ? linux : process.platform === "darwin" ? darwin : null
  if (platform === null)
    return yield* new IdentityUnavailable({ problem: `${process.platform} is not supported` })
  const place = yield* platform.place
  const self = identityOf(place, process.pid, yield* platform.look(process.pid))
  if (Option.isNone(self))
    return yield* new IdentityUnavailable({ problem: "this process cannot see itself in the process list" })
  return ProcessIdentity.of({
    self: self.value,
    of: Effect.fn("ProcessIdentity.of")(function* (pid: number) {
      return identityOf(place, pid, yield* platform.look(pid))
    }),
    verdict: Effect.fn("ProcessIdentity.verdict")(function* (identity: Identity) {
      return verdictOf(self.value, identity, yield* platform.look(identity.pid))
    })
  })
})

export const layer = Layer.effect(ProcessIdentity, make)
