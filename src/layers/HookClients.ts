/**
 * HookClients, live: each program found on the PATH answers one hook of a gateway that is only there to ask it, and is
 * used if it brings the answer back. Whatever it lacks (a module, `nc -U`, a `timeout` that takes fractions) shows here.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as childProcess from "node:child_process"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { BridgeRecordText } from "../services/BridgeStore.ts"
import { argvOf, fileOf, HookClients, HookClientUnusable, preference } from "../services/HookClients.ts"
import type { HookClient } from "../services/HookRelay.ts"
import { DirectoryRefused } from "../services/PrivateDirectory.ts"
import { Settings } from "../services/Settings.ts"
import { errorCode } from "./internal/errorCode.ts"
import { ensurePrivateDirectory } from "./internal/privateDirectory.ts"
import { findOnPath, isFileFor } from "./internal/programFile.ts"
import { checkSocketPath } from "./internal/unixSocket.ts"

export * from "../services/HookClients.ts"

/** Not imported: naming its exports one by one to an ES module loads undici, which doubles the time to start. */
const http = process.getBuiltinModule("node:http")

/** A client takes 5 to 50 ms; one that takes this long is not usable. */
const trialDeadlineMs = 2000

const lookUp = (kind: HookClient["kind"], searchPath: string): string | undefined =>
  kind === "node" ? process.execPath : findOnPath(kind, searchPath)

interface Trial {
  readonly answer: string
  readonly recordPath: string
}

/** A gateway with one relay and one answer, and the record that leads to it; gone with the scope. */
const trialGateway = Effect.fnUntraced(function* (runtime: string) {
  const refused = (cause: unknown): DirectoryRefused => {
    const code = errorCode(cause)
    return new DirectoryRefused({
      path: runtime,
      problem: "unusable",
      ...(code === undefined ? {} : { code })
    })
  }
  yield* ensurePrivateDirectory(runtime)
  const directory = yield* Effect.acquireRelease(
    Effect.try({ try: () => fs.mkdtempSync(path.join(runtime, "t-")), catch: refused }),
    (directory) => Effect.sync(() => fs.rmSync(directory, { recursive: true, force: true }))
  )
  const [socketPath, recordPath] = [`${directory}/s`, `${directory}/record`]
  const answer = JSON.stringify({ trial: crypto.randomUUID() })
  const server = http.createServer((request, response) => {
    request.resume()
    request.on("end", () => {
      response.writeHead(200, { "content-length": answer.length })
      response.end(answer)
    })
  })
  yield* Effect.acquireRelease(
    Effect.callback<void, DirectoryRefused>((resume) => {
      server.once("error", (cause) => resume(Effect.fail(refused(cause))))
      server.listen(socketPath, () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        server.close()
        server.closeAllConnections()
      })
  )
  const now = yield* Clock.currentTimeMillis
  const text = yield* Schema.encodeEffect(BridgeRecordText)({
    version: 1,
    relayId: "trial",
    generation: 1,
    owner: {
      epoch: "trial",
      identity: { bootId: "trial", pidNamespace: "trial", pid: process.pid, startToken: "trial" }
    },
    socketPath,
    token: crypto.randomBytes(16).toString("hex"),
    publishedAt: now,
    expiresAt: now + trialDeadlineMs + 60_000
  }).pipe(Effect.mapError(refused))
  yield* Effect.try({
    try: () => fs.writeFileSync(recordPath, text, { mode: 0o600 }),
    catch: refused
  })
  return { answer, recordPath }
})

/** Whether a client brings back the answer. */
const brings = (
  argv: ReadonlyArray<string>,
  recordPath: string,
  answer: string,
  searchPath: string
): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const child = childProcess.execFile(
      argv[0]!,
      [...argv.slice(1), recordPath, "pre_tool_use", "closed", String(trialDeadlineMs)],
      { env: { PATH: searchPath }, timeout: 2 * trialDeadlineMs, killSignal: "SIGKILL", maxBuffer: 65_536 },
      (error, stdout) => resume(Effect.succeed(error === null && stdout === answer))
    )
    child.stdin?.on("error", () => undefined)
    child.stdin?.end("{}")
    return Effect.sync(() => child.kill("SIGKILL"))
  })

export const make = Effect.gen(function* () {
  const { environment, hook, paths } = yield* Settings
  const searchPath = environment["PATH"] ?? ""
  // The trial's own socket is shorter than the gateway's, so the clear error comes first.
  yield* checkSocketPath(paths.hookSocket("0".repeat(26)))

  const tried = (kind: HookClient["kind"], trial: Trial): Effect.Effect<HookClient, HookClientUnusable> =>
    Effect.gen(function* () {
      const program = lookUp(kind, searchPath)
      if (program === undefined) return yield* new HookClientUnusable({ kind, problem: "not-found" })
      if (!isFileFor(`${hook.clientDirectory}/${fileOf[kind]}`, fs.constants.R_OK))
        return yield* new HookClientUnusable({ kind, problem: "file-missing" })
      const argv = argvOf(kind, program, hook.clientDirectory)
      // Node runs us, so it runs; trying it would only make the start slower.
      const works = kind === "node" || (yield* brings(argv, trial.recordPath, trial.answer, searchPath))
      if (!works) return yield* new HookClientUnusable({ kind, problem: "does-not-work" })
      return { kind, argv }
    })

  const withTrial = <A, E>(use: (trial: Trial) => Effect.Effect<A, E>) =>
    Effect.scoped(Effect.flatMap(trialGateway(paths.runtime), use))

  if (hook.client !== null) {
    const forced = hook.client
    const best = yield* withTrial((trial) => tried(forced, trial))
    return HookClients.of({ best, found: Effect.succeed([best]) })
  }
  // The first that works is enough for a start; the others are tried for whoever asks.
  const best = yield* withTrial((trial) =>
    Effect.firstSuccessOf(preference.map((kind) => tried(kind, trial)))
  )
  return HookClients.of({
    best,
    found: withTrial((trial) =>
      Effect.forEach(preference, (kind) => Effect.result(tried(kind, trial)), {
        concurrency: preference.length
      })
    ).pipe(
      Effect.map((results) => results.flatMap((result) => (Result.isSuccess(result) ? [result.success] : [])))
    )
  })
})

export const layer = Layer.effect(HookClients, make)
