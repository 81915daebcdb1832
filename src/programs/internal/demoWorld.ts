/** The demo's surroundings: a home of its own outside the temp dir, a gateway as a child, and what is left of it all. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as ControlClient from "../../layers/ControlClient.ts"
import * as InstanceMark from "../../layers/InstanceMark.ts"
import * as ProcessIdentity from "../../layers/ProcessIdentity.ts"
import type { PolicyConfig } from "../../services/Policy.ts"
import { resolve, Settings, type SettingsShape } from "../../services/Settings.ts"
import { surroundings } from "./surroundings.ts"

export class DemoFailed extends Schema.TaggedError<DemoFailed>()("DemoFailed", { problem: Schema.String }) {
  override get message(): string {
    return `The demo cannot go on: ${this.problem}`
  }
}

export interface World {
  readonly home: string
  readonly work: string
  readonly treasure: string
  readonly settings: SettingsShape
  readonly env: Readonly<Record<string, string>>
}

/** Codex's sandbox breaks when CODEX_HOME is below the temp dir, so the demo lives in the user's cache directory. */
const cacheDirectory = (): string => process.env["XDG_CACHE_HOME"] || path.join(os.homedir(), ".cache")

const makeHome = (): string => {
  fs.mkdirSync(cacheDirectory(), { recursive: true })
  return fs.mkdtempSync(path.join(cacheDirectory(), "holdfast-demo-"))
}

/** `policy`: what is in force unless the surroundings say otherwise. */
export const world = (live: boolean, policy: PolicyConfig) =>
  Effect.gen(function* () {
    const home = yield* Effect.acquireRelease(Effect.sync(makeHome), (home) =>
      Effect.promise(() => fs.promises.rm(home, { recursive: true, force: true, maxRetries: 5 }))
    )
    const runtime = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "hfd-"))),
      (runtime) =>
        Effect.promise(() => fs.promises.rm(runtime, { recursive: true, force: true, maxRetries: 5 }))
    )
    const work = path.join(home, "work")
    const treasure = path.join(work, "customers", "ledger.txt")
    fs.mkdirSync(path.dirname(treasure), { recursive: true })
    fs.writeFileSync(treasure, "the only copy\n")
    const env = {
      HOLDFAST_HOME: home,
      HOLDFAST_RUNTIME_DIR: runtime,
      HOLDFAST_LOG_LEVEL: "error",
      // Nothing but Holdfast stands between the agent and the disk.
      HOLDFAST_CODEX_SANDBOX: "danger-full-access",
      HOLDFAST_POLICY: process.env["HOLDFAST_POLICY"] ?? JSON.stringify(policy),
      ...(live ? { HOLDFAST_CODEX_HOME: process.env["CODEX_HOME"] ?? path.join(os.homedir(), ".codex") } : {})
    }
    const settings = yield* Effect.fromResult(
      resolve({ ...surroundings, env: { ...surroundings.env, ...env } }, null)
    )
    return { home, work, treasure, settings, env } satisfies World
  })

const ReadyLine = Schema.fromJsonString(Schema.Struct({ ready: Schema.Literal(true), pid: Schema.Int }))

/** A gateway that takes longer has failed; it is ready in about 150 ms. */
const readyTimeoutMs = 20_000

interface RunningGateway {
  readonly pid: number
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<void>
}

/** Starts a gateway as our child and waits for its ready line; the scope's end kills it if it still runs. */
export const startGateway = Effect.fnUntraced(function* (world: World) {
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      childProcess.spawn(
        process.execPath,
        ["--no-warnings", path.join(import.meta.dirname, "gateway.mjs"), "--json"],
        { env: { ...process.env, ...world.env }, stdio: ["ignore", "pipe", "inherit"] }
      )
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  const exited = Effect.callback<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
  })
  const line = Effect.callback<string, DemoFailed>((resume) => {
    let seen = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      seen += text
      if (seen.includes("\n")) resume(Effect.succeed(seen.slice(0, seen.indexOf("\n"))))
    })
    child.once("exit", () => resume(Effect.fail(new DemoFailed({ problem: "the gateway did not start." }))))
  })
  const { pid } = yield* line.pipe(
    Effect.timeoutOrElse({
      duration: readyTimeoutMs,
      orElse: () => Effect.fail(new DemoFailed({ problem: "the gateway was not ready in time." }))
    }),
    Effect.flatMap(Schema.decodeUnknownEffect(ReadyLine)),
    Effect.mapError(() => new DemoFailed({ problem: "the gateway did not start." }))
  )
  return {
    pid,
    kill: (signal) =>
      Effect.andThen(
        Effect.sync(() => child.kill(signal)),
        exited
      )
  } satisfies RunningGateway
})

/** The layers of a caller of this world's gateway. */
export const callerOf = (world: World) =>
  ControlClient.layer.pipe(Layer.provideMerge(Layer.succeed(Settings, world.settings)))

/** For counting what carries a mark; this process carries none. */
export const observer = InstanceMark.layer.pipe(Layer.provideMerge(ProcessIdentity.layer))

const list = (directory: string): ReadonlyArray<string> =>
  fs.existsSync(directory) ? fs.readdirSync(directory) : []

/** Bridge records and sockets of the world's gateways that are still on disk. */
export const filesLeft = ({ settings }: World): ReadonlyArray<string> => {
  return [
    ...list(settings.paths.bridges),
    ...list(settings.paths.runtime).filter((name) => name.endsWith(".sock"))
  ]
}
