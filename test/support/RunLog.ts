/** Run logs in a directory of their own that ends with the test, over a disk that can be made to refuse. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { type LogDisk, nodeDisk } from "../../src/layers/internal/logFiles.ts"
import { type LogChunk, type LogLimits, logLimits, makeWith, RunLogLimits } from "../../src/layers/RunLog.ts"
import { Settings } from "../../src/services/Settings.ts"

export const stateDirectory = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(`${tmpdir()}/hf-log-`)),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

/** A life of the process that writes below `state`; it ends with the scope, or by `close`. */
export const runLogs = Effect.fnUntraced(function* (options: {
  readonly state?: string
  readonly limits?: Partial<LogLimits>
  readonly disk?: LogDisk
}) {
  const state = options.state ?? (yield* stateDirectory)
  const scope = yield* Scope.fork(yield* Effect.scope)
  const settings = yield* Settings
  const log = yield* makeWith(options.disk ?? nodeDisk).pipe(
    Effect.provideService(Settings, { ...settings, paths: { ...settings.paths, state } }),
    Effect.provideService(RunLogLimits, { ...logLimits, ...options.limits }),
    Scope.provide(scope)
  )
  return {
    state,
    log,
    open: (runId: string) => Scope.provide(log.open(runId), scope),
    close: Scope.close(scope, Exit.void)
  }
})

export const chunksOf = <E, R>(chunks: Stream.Stream<LogChunk, E, R>) =>
  Effect.map(Stream.runCollect(chunks), (all) =>
    all.map(({ cursor, bytes, missing }) => ({ cursor, text: Buffer.from(bytes).toString(), missing }))
  )

export const textOf = <E, R>(chunks: Stream.Stream<LogChunk, E, R>) =>
  Effect.map(Stream.runCollect(chunks), (all) => Buffer.concat(all.map(({ bytes }) => bytes)).toString())
