/** Doctor, live: looks at Node, codex, directories and the mark, and runs a hook command the way a provider does. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { CodexBinary } from "../services/CodexBinary.ts"
import {
  type Check,
  Doctor,
  failed,
  type HookTrial,
  passed,
  trialPayload,
  warned
} from "../services/Doctor.ts"
import { InstanceMark } from "../services/InstanceMark.ts"
import { ProcessIdentity } from "../services/ProcessIdentity.ts"
import { maxSocketPathBytes, Settings } from "../services/Settings.ts"
import { Syscalls } from "../services/Syscalls.ts"
import { shownAddress } from "./internal/appServerSocket.ts"
import {
  cgroupCheck,
  marksCheck,
  scopeCheck,
  syscallsCheck,
  terminalCheck
} from "./internal/containmentChecks.ts"
import { effectiveUid, ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { sameUserCheck } from "./internal/sameUserCheck.ts"

export * from "../services/Doctor.ts"

/** A hook that takes this long hangs. */
const trialTimeoutMs = 35_000

const nodeCheck: Effect.Effect<Check> = Effect.sync(() => {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)
  const what = "node"
  return major > 22 || (major === 22 && minor >= 19)
    ? passed(what, `${process.version}, ${process.execPath}`)
    : failed(what, `${process.version} is too old`, "install Node 22.19 or newer, or set HOLDFAST_NODE")
})

const real = (file: string): string => {
  try {
    return fs.realpathSync(file)
  } catch {
    return file
  }
}

const isBelow = (file: string, directory: string): boolean =>
  !path.relative(real(directory), real(file)).startsWith("..")

const directoryCheck = (what: string, directory: string): Effect.Effect<Check> =>
  Effect.match(ensurePrivateDirectory(directory), {
    onSuccess: () => passed(what, `${directory}, 0700, ours`),
    onFailure: (error) => failed(what, error.message, null)
  })

const statOf = (look: () => fs.Stats): fs.Stats | null => {
  try {
    return look()
  } catch {
    return null
  }
}

/** Only looked at, by the rules of the one who connects: what listens there is not asked. */
const connectCheck = (connect: string): Check => {
  const what = "app-server address"
  if (!connect.startsWith("unix:")) return passed(what, shownAddress(connect))
  const socket = connect.slice("unix:".length)
  const stat = statOf(() => fs.statSync(socket))
  return stat?.isSocket() && (stat.uid === effectiveUid() || stat.uid === 0)
    ? passed(what, connect)
    : failed(
        what,
        `${socket} is not a socket of yours`,
        "start a codex app-server there, or unset appServer.connect"
      )
}

const tokenCheck = (file: string): Check => {
  const what = "app-server token"
  const stat = statOf(() => fs.lstatSync(file))
  return stat?.isFile() && stat.uid === effectiveUid() && (stat.mode & 0o077) === 0 && stat.size > 0
    ? passed(what, `${file}, nobody else's`)
    : failed(
        what,
        `${file} is not a file with a token that only you can read`,
        "write one there and chmod 600 it"
      )
}

const tryHook = (command: string): Effect.Effect<HookTrial> =>
  Effect.gen(function* () {
    const startedAt = yield* Clock.currentTimeNanos
    const { exitCode, stdout } = yield* Effect.callback<Omit<HookTrial, "tookMs">>((resume) => {
      const child = childProcess.execFile(
        "/bin/sh",
        ["-c", command],
        { timeout: trialTimeoutMs, killSignal: "SIGKILL" },
        (error, stdout) =>
          resume(
            Effect.succeed({
              exitCode: error === null ? 0 : typeof error.code === "number" ? error.code : null,
              stdout
            })
          )
      )
      child.stdin?.on("error", () => undefined)
      child.stdin?.end(trialPayload)
      return Effect.sync(() => child.kill("SIGKILL"))
    })
    return { exitCode, stdout, tookMs: Number((yield* Clock.currentTimeNanos) - startedAt) / 1e6 }
  })

export const make = Effect.gen(function* () {
  const { appServer, codex, environment, paths } = yield* Settings
  const binary = yield* CodexBinary
  const mark = yield* InstanceMark
  const identities = yield* ProcessIdentity
  const { table } = yield* Syscalls

  const codexCheck: Effect.Effect<Check> = Effect.gen(function* () {
    const file = yield* binary.path
    return passed("codex", `${yield* binary.version}, ${file}`)
  }).pipe(
    Effect.catch((error) =>
      Effect.succeed(
        appServer.connect === null
          ? failed("codex", error.message, null)
          : passed("codex", "none found, and none needed: appServer.connect is set")
      )
    )
  )

  const codexHomeCheck: Effect.Effect<Check> = Effect.sync(() =>
    isBelow(codex.home, environment["TMPDIR"] ?? os.tmpdir())
      ? warned(
          "CODEX_HOME",
          `${codex.home} is below the temporary directory; codex is given a temp dir of its own inside it`,
          "set HOLDFAST_HOME or codex.home to a place that is kept"
        )
      : passed("CODEX_HOME", codex.home)
  )

  const socketCheck: Effect.Effect<Check> = Effect.sync(() => {
    const longest = Math.max(
      ...[paths.controlSocket, paths.hookSocket("0".repeat(26))].map((file) => Buffer.byteLength(file))
    )
    const limit = maxSocketPathBytes(process.platform)
    return longest > limit
      ? failed(
          "socket paths",
          `${longest} bytes; this system allows ${limit}`,
          "set HOLDFAST_RUNTIME_DIR to a shorter directory"
        )
      : passed("socket paths", `${longest} of ${limit} bytes`)
  })

  const markCheck: Effect.Effect<Check> = Effect.match(mark.choose, {
    onSuccess: () => passed("instance mark", "available: what detaches from its agent can be found again"),
    onFailure: (error) =>
      warned("instance mark", error.message, "install util-linux (prlimit), or run on Linux")
  })

  const appServerChecks: Effect.Effect<ReadonlyArray<Check>> = Effect.sync(() => [
    ...(appServer.connect === null ? [] : [connectCheck(appServer.connect)]),
    ...(appServer.tokenFile === null ? [] : [tokenCheck(appServer.tokenFile)])
  ])

  return Doctor.of({
    checks: Effect.zipWith(
      Effect.all([
        nodeCheck,
        codexCheck,
        codexHomeCheck,
        directoryCheck("state directory", paths.state),
        directoryCheck("runtime directory", paths.runtime),
        directoryCheck("bridge directory", paths.bridges),
        socketCheck,
        markCheck,
        marksCheck(paths.database, mark, identities),
        Effect.map(table, syscallsCheck),
        cgroupCheck,
        scopeCheck(environment),
        terminalCheck,
        sameUserCheck(environment, codex.sandbox)
      ]),
      appServerChecks,
      (always, configured) => [...always, ...configured]
    ),
    tryHook
  })
})

export const layer = Layer.effect(Doctor, make)
