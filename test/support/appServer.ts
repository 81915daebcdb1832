/** The live AppServerProcess with a mark of its own per test, and who is left of what it started. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as References from "effect/References"
import * as fs from "node:fs"
import * as path from "node:path"
import { AppServerProcess, layer } from "../../src/layers/AppServerProcess.ts"
import { InstanceMark, layer as layerMark } from "../../src/layers/InstanceMark.ts"
import { layer as layerIdentity } from "../../src/layers/ProcessIdentity.ts"
import type { AppServerConnection } from "../../src/services/AppServerProcess.ts"
import { ThreadResult } from "../../src/services/AppServerProtocol.ts"
import { CodexAuth, TokenRefreshFailed } from "../../src/services/CodexAuth.ts"
import { CodexBinary } from "../../src/services/CodexBinary.ts"
import type { MarkRange } from "../../src/services/InstanceMark.ts"
import { Settings, type SettingsShape } from "../../src/services/Settings.ts"
import { codexBinary, type TestHome } from "./codex.ts"
import { layerOf as layerEpoch } from "../../src/testing/Epoch.ts"
import { carriers, withInEnvironment } from "./markedProcesses.ts"

export interface ServerOptions {
  readonly codexHome: string
  readonly program: string
  readonly environment?: SettingsShape["environment"]
  readonly codex?: Partial<SettingsShape["codex"]>
  readonly lease?: Partial<SettingsShape["lease"]>
  readonly appServer?: SettingsShape["appServer"]
  readonly refresh?: CodexAuth["Service"]["refresh"]
  /** False where the system has none. */
  readonly marked?: boolean
}

/** An epoch's name without meaning, but no other test's. */
export const epochOf = (codexHome: string): string => codexHome.replaceAll(/\W/g, "-")

/** Numbers of the live processes that have the cookie of this test's children in their environment. */
const cookieBearers = (codexHome: string): ReadonlyArray<number> =>
  withInEnvironment(`HOLDFAST_CHILD=${epochOf(codexHome)}.`)

export const appServerOf = Effect.fnUntraced(function* (options: ServerOptions) {
  const all = yield* Settings
  const { codexHome } = options
  const settings = Layer.succeed(Settings, {
    ...all,
    environment: options.environment ?? { PATH: process.env["PATH"] },
    codex: { ...all.codex, home: codexHome, ...options.codex },
    lease: { ...all.lease, ...options.lease },
    appServer: options.appServer ?? all.appServer,
    mark: { killGraceMs: 100, sweepTimeoutMs: 5_000 }
  })
  const marks = layerMark.pipe(Layer.provide(Layer.orDie(layerIdentity)), Layer.provide(settings))
  const mark: MarkRange | null =
    options.marked === false
      ? null
      : yield* Effect.provide(
          Effect.flatMap(InstanceMark, ({ choose }) => choose),
          marks
        )
  const auth = Layer.succeed(CodexAuth, {
    identity: Effect.succeed("0"),
    refresh: options.refresh ?? (() => Effect.fail(new TokenRefreshFailed({ problem: "not-ours" })))
  })
  const binary = Layer.succeed(CodexBinary, {
    path: Effect.succeed(options.program),
    version: Effect.succeed("0.169.0")
  })
  return {
    epoch: epochOf(codexHome),
    mark,
    /** Everybody who is left, by the mark and by the cookie. */
    left: () => [
      ...new Set([...(mark === null ? [] : carriers(mark.low, mark.high)), ...cookieBearers(codexHome)])
    ],
    start: Effect.flatMap(AppServerProcess, (server) => server.start(1, "key")).pipe(
      Effect.provide(
        layer.pipe(
          Layer.provide([marks, layerEpoch({ epoch: epochOf(codexHome) }, mark), auth, binary, settings])
        )
      ),
      Effect.provideService(References.MinimumLogLevel, "Error")
    )
  }
})

/** Answers the handshake as a shell script. */
export const answer = `read -r line
echo '{"id":1,"result":{"userAgent":"holdfast/0.169.0 (Linux)","codexHome":"/"}}'
`

export interface ScriptOptions extends Omit<ServerOptions, "program"> {
  readonly script: string
}

/** An app-server with `script` as codex; its directory is its CODEX_HOME, where it may leave files. */
export const serverOf = ({ script, codexHome, ...options }: ScriptOptions) => {
  const program = path.join(codexHome, "fake-codex")
  fs.writeFileSync(program, `#!/bin/sh\n${script}`, { mode: 0o755 })
  return appServerOf({ codexHome, program, ...options })
}

/** A provider that nobody listens at, so that no thread keeps Codex waiting for the network when it leaves. */
export const provider = `model = "gpt-5.5"
model_provider = "nobody"
[model_providers.nobody]
name = "Nobody"
base_url = "http://127.0.0.1:9/v1"
wire_api = "responses"
`

export const plainEnv = (place: TestHome) => ({
  PATH: `${path.dirname(process.execPath)}:${process.env["PATH"] ?? ""}`,
  HOME: place.home,
  TMPDIR: place.tmp
})

export const codexOf = (place: TestHome, over: Partial<ServerOptions> = {}) => {
  fs.writeFileSync(path.join(place.codexHome, "config.toml"), provider)
  return appServerOf({
    codexHome: place.codexHome,
    program: codexBinary,
    environment: plainEnv(place),
    ...over
  })
}

export const startThread = (connection: AppServerConnection, place: TestHome, config: object = {}) =>
  connection.request(
    "thread/start",
    { cwd: place.workspace, approvalPolicy: "never", sandbox: "danger-full-access", config },
    ThreadResult
  )

export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

export const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const before = yield* Clock.currentTimeMillis
    const value = yield* effect
    return { value, ms: (yield* Clock.currentTimeMillis) - before }
  })
