/** The built programs as a user runs them: a gateway of its own per test, its callers, and what is left behind. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as ControlClient from "../../src/layers/ControlClient.ts"
import type { AgentEvent, ThreadChoice } from "../../src/services/AgentDriver.ts"
import type { MarkRange } from "../../src/services/InstanceMark.ts"
import { spoolName } from "../../src/services/HookWire.ts"
import { overridesFor } from "../../src/services/ScriptedProvider.ts"
import type { ConfigFile } from "../../src/services/ConfigFile.ts"
import { resolve, Settings } from "../../src/services/Settings.ts"
import { codexBinary, makeHome, type TestHome } from "./codex.ts"
import { carriers } from "./markedProcesses.ts"

export const dist = path.resolve(import.meta.dirname, "../../dist")

/** A model of the catalogue whose tools are called one by one, and one that only writes code. */
const directModel = "gpt-5.5"
export const codeModel = "gpt-5.6-sol"

export interface Place extends TestHome {
  readonly env: Readonly<Record<string, string>>
}

/** Where Node keeps what it has compiled, a quarter of the start of a program; hundreds are started. */
const compiled: Readonly<Record<string, string>> =
  process.env["NODE_COMPILE_CACHE"] === undefined
    ? {}
    : { NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"] }

/** No other variable of the surroundings reaches the program but what a shell always has. */
const plainEnv = (place: TestHome): Record<string, string> => ({
  PATH: `${path.dirname(process.execPath)}:${process.env["PATH"] ?? ""}`,
  HOME: place.home,
  TMPDIR: place.tmp,
  HOLDFAST_NODE: process.execPath,
  HOLDFAST_HOME: place.home,
  HOLDFAST_RUNTIME_DIR: place.runtimeDir,
  HOLDFAST_CODEX: codexBinary,
  HOLDFAST_CODEX_HOME: place.codexHome,
  HOLDFAST_CODEX_SANDBOX: "danger-full-access",
  HOLDFAST_LOG_LEVEL: "warn",
  ...compiled
})

export const makePlace = (
  config: ConfigFile = {},
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<Place, never, Scope.Scope> =>
  Effect.gen(function* () {
    const home = yield* makeHome
    fs.writeFileSync(path.join(home.home, "config.json"), JSON.stringify(config))
    yield* Effect.addFinalizer(() => Effect.sync(() => endKeepers(home)))
    return { ...home, env: { ...plainEnv(home), ...env } }
  })

/** Whatever the keepers of a home still hold, where a test has killed their gateway; each carries a mark of their rows. */
const endKeepers = ({ home }: TestHome): void => {
  for (const { low, high } of keeperRanges(path.join(home, "state/holdfast.db")))
    for (const pid of carriers(low, high)) kill(pid)
}

/** None where there is no database, or a test has made it one that nobody can read. */
const keeperRanges = (file: string): ReadonlyArray<MarkRange> => {
  if (!fs.existsSync(file)) return []
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    return database
      .prepare("SELECT mark_low, mark_high FROM keepers WHERE mark_low IS NOT NULL")
      .all()
      .map((row) => ({ low: Number(row["mark_low"]), high: Number(row["mark_high"]) }))
  } catch {
    return []
  } finally {
    database.close()
  }
}

const kill = (pid: number): void => {
  try {
    process.kill(pid, "SIGKILL")
  } catch {
    // It has gone meanwhile.
  }
}

/**
 * What is in a place's runtime directory, but for the note of a hook that had to decide by itself while there was no gateway:
 * the next one takes that.
 */
export const runtimeFiles = ({ runtimeDir }: TestHome): ReadonlyArray<string> =>
  fs.readdirSync(runtimeDir, { recursive: true, encoding: "utf8" }).filter((name) => name !== spoolName)

export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs a program to its end. */
export const run = (
  command: string,
  args: ReadonlyArray<string>,
  options: { readonly env: Readonly<Record<string, string>>; readonly cwd?: string; readonly input?: string }
): Effect.Effect<Ran> =>
  Effect.callback<Ran>((resume) => {
    const child = childProcess.spawn(command, args, { env: options.env, cwd: options.cwd })
    let stdout = ""
    let stderr = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    child.stdin.on("error", () => undefined)
    child.stdin.end(options.input ?? "")
    child.once("close", (code, signal) => resume(Effect.succeed({ code, signal, stdout, stderr })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** The operator's command, by its launcher. */
export const holdfast = (
  place: Place,
  args: ReadonlyArray<string>,
  cwd = place.workspace
): Effect.Effect<Ran> => run("/bin/sh", [path.join(dist, "holdfast.sh"), ...args], { env: place.env, cwd })

export interface Gateway {
  readonly pid: number
  /** The path of its control socket. */
  readonly control: string
  /** Sends a signal to our own child and waits for its end. */
  readonly end: (signal: NodeJS.Signals) => Effect.Effect<Pick<Ran, "code" | "signal">>
  readonly stderr: () => string
}

const ReadyLine = Schema.fromJsonString(
  Schema.Struct({ ready: Schema.Literal(true), pid: Schema.Int, control: Schema.String })
)

/** A gateway as a child, past its ready line; ended with the scope. */
export const startGateway = (place: Place, directory: string = dist) =>
  started(place, process.execPath, [path.join(directory, "gateway.mjs"), "--json"])

/** With a module that is loaded before it. */
export const startGatewayWith = (place: Place, module: URL) =>
  started(place, process.execPath, ["--import", module.href, path.join(dist, "gateway.mjs"), "--json"])

/** With words of the command line behind it. */
export const startGatewayAs = (place: Place, ...args: ReadonlyArray<string>) =>
  started(place, process.execPath, [path.join(dist, "gateway.mjs"), ...args, "--json"])

/** The same by the launcher, with what that gives it. */
export const launchGateway = (place: Place) =>
  started(place, "/bin/sh", [path.join(dist, "holdfast.sh"), "up", "--json"])

const started = Effect.fnUntraced(function* (
  place: Place,
  command: string,
  args: ReadonlyArray<string>
): Effect.fn.Return<Gateway, never, Scope.Scope> {
  let stderr = ""
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = childProcess.spawn(command, args, {
        env: place.env,
        stdio: ["ignore", "pipe", "pipe"]
      })
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
      return child
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        // Like `down`: by SIGTERM its keeper would wait half a minute for the next gateway.
        child.kill("SIGINT")
      })
  )
  const line = yield* Effect.callback<string>((resume) => {
    let seen = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      seen += text
      if (seen.includes("\n")) resume(Effect.succeed(seen.slice(0, seen.indexOf("\n"))))
    })
    child.once("exit", () => resume(Effect.die(new Error(`the gateway did not start: ${stderr}`))))
  })
  const { pid, control } = yield* Effect.orDie(Schema.decodeEffect(ReadyLine)(line))
  return {
    pid,
    control,
    end: (signal) =>
      Effect.callback((resume) => {
        child.once("exit", (code, signal) => resume(Effect.succeed({ code, signal })))
        child.kill(signal)
      }),
    stderr: () => stderr
  }
})

/** What a program reads there, without its config file. */
export const settingsOf = (place: Place) =>
  Layer.succeed(
    Settings,
    Result.getOrThrow(
      resolve(
        {
          env: place.env,
          uid: process.getuid?.() ?? 0,
          homeDirectory: place.home,
          tempDirectory: os.tmpdir(),
          clientDirectory: dist
        },
        null
      )
    )
  )

/** A caller of that place's gateway. */
export const callerOf = (place: Place) => ControlClient.layer.pipe(Layer.provide(settingsOf(place)))

export const ask = <A, E, R>(place: Place, effect: Effect.Effect<A, E, R | ControlClient.ControlClient>) =>
  Effect.scoped(Effect.provide(effect, callerOf(place)))

/** One turn against a scripted provider, with every event it emitted. */
export const turn = Effect.fnUntraced(function* (
  place: Place,
  options: {
    readonly provider: string
    readonly prompt: string
    readonly model?: string
    readonly thread?: ThreadChoice
    readonly cwd?: string
    readonly spawnedBy?: string
    readonly onLost?: "fail" | "resume"
    readonly startTimeoutMs?: number
    readonly onEvent?: (event: AgentEvent) => Effect.Effect<unknown>
  }
) {
  const client = yield* ControlClient.ControlClient
  return yield* client
    .RunCodex({
      prompt: options.prompt,
      cwd: options.cwd ?? place.workspace,
      overrides: [`model="${options.model ?? directModel}"`, ...overridesFor(options.provider)],
      thread: options.thread ?? { _tag: "start" },
      spawnedBy: options.spawnedBy ?? null,
      onLost: options.onLost ?? "fail",
      startTimeoutMs: options.startTimeoutMs ?? null
    })
    .pipe(Stream.tap(options.onEvent ?? (() => Effect.void)), Stream.runCollect)
})

const rowsOf = (events: ReadonlyArray<AgentEvent>) =>
  events.flatMap((event) => (event._tag === "verdict" ? [event.row] : []))

/** Each decision as `source verdict tool: subject`. */
export const decisionsOf = (events: ReadonlyArray<AgentEvent>): ReadonlyArray<string> =>
  rowsOf(events).map((row) => `${row.source} ${row.verdict} ${row.tool ?? row.event}: ${row.subject}`)

export const endOf = (events: ReadonlyArray<AgentEvent>): string | null => {
  const last = events.at(-1)
  return last?._tag === "ended" ? last.status : null
}

/** Live processes that carry a mark of the range: `pid command`. */
export const marked = (range: MarkRange | null): ReadonlyArray<string> =>
  range === null
    ? []
    : fs
        .readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .flatMap((pid) => {
          try {
            const hard = /Max file locks\s+\S+\s+(\d+)/.exec(
              fs.readFileSync(`/proc/${pid}/limits`, "utf8")
            )?.[1]
            const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
            const dead = /^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2))
            const carries = hard !== undefined && Number(hard) >= range.low && Number(hard) <= range.high
            return carries && !dead ? [`${pid} ${/\((.*)\)/.exec(stat)?.[1]}`] : []
          } catch {
            return []
          }
        })

/** The mark that a process carries. */
export const hardLocksOf = (pid: number): number =>
  Number(/Max file locks\s+\S+\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/limits`, "utf8"))?.[1])

/** Polls a fact of the outside world that nothing announces; fails loudly at its deadline. */
export const eventually = Effect.fnUntraced(function* (
  what: string,
  holds: () => boolean,
  deadlineMs = 10_000
) {
  const end = Date.now() + deadlineMs
  while (!holds()) {
    if (Date.now() > end) return yield* Effect.die(new Error(`not within ${deadlineMs} ms: ${what}`))
    yield* Effect.sleep(10)
  }
})
