/** The bench's own end of its helpers, and the surroundings of what it measures: places, relays, facts from /proc. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import { fileURLToPath } from "node:url"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import type { OpenedRelay } from "../../src/services/Control.ts"
import { resolve, type SettingsShape } from "../../src/services/Settings.ts"
import { callerOf, dist, type Place } from "../support/gateway.ts"
import type { Answer, Handlers } from "./serve.ts"

/** No question takes a third of this; one that does hangs, and the bench is broken. */
const answerTimeoutMs = 60_000

export class BenchFailed extends Schema.TaggedError<BenchFailed>()("BenchFailed", {
  problem: Schema.String
}) {
  override get message(): string {
    return this.problem
  }
}

/** Something measured was not what it had to be: the numbers would mean nothing. */
export const ensure = (holds: boolean, problem: string): Effect.Effect<void, BenchFailed> =>
  holds ? Effect.void : Effect.fail(new BenchFailed({ problem }))

/** A child that lives as long as the scope; the end waits until it is gone. */
export const child = <C extends childProcess.ChildProcess>(start: () => C) =>
  Effect.acquireRelease(Effect.sync(start), (child) =>
    Effect.callback<void>((resume) => {
      if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
      child.once("exit", () => resume(Effect.void))
      child.kill("SIGKILL")
    })
  )

/** A helper process; one question at a time. */
export const startHelper = Effect.fnUntraced(function* <H extends Handlers>(
  module: URL,
  execArgv: ReadonlyArray<string> = []
) {
  const helper = yield* child(() =>
    childProcess.fork(fileURLToPath(module), { execArgv: [...execArgv], stdio: ["ignore", 2, 2, "ipc"] })
  )
  return <K extends keyof H & string>(
    name: K,
    input: Parameters<H[K]>[0]
  ): Effect.Effect<Awaited<ReturnType<H[K]>>, BenchFailed> =>
    Effect.callback<Awaited<ReturnType<H[K]>>, BenchFailed>((resume) => {
      const fail = (problem: string): void => resume(Effect.fail(new BenchFailed({ problem })))
      const onAnswer = (answer: Answer): void => {
        stop()
        if ("problem" in answer) fail(`${name}: ${answer.problem}`)
        else resume(Effect.succeed(answer.value as Awaited<ReturnType<H[K]>>))
      }
      const onExit = (): void => fail(`${name}: the helper ended`)
      const stop = (): void => {
        helper.off("message", onAnswer)
        helper.off("exit", onExit)
      }
      helper.once("message", onAnswer)
      helper.once("exit", onExit)
      helper.send({ name, input })
      return Effect.sync(stop)
    }).pipe(
      Effect.timeoutOrElse({
        duration: answerTimeoutMs,
        orElse: () =>
          Effect.fail(new BenchFailed({ problem: `${name}: no answer within ${answerTimeoutMs} ms` }))
      })
    )
})

/** The settings a gateway of that place has. */
export const settingsOf = (place: Place): SettingsShape =>
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

/** A relay of that place's gateway, open until the scope closes. */
export const openRelay = Effect.fnUntraced(function* (place: Place) {
  const opened = yield* Deferred.make<OpenedRelay, BenchFailed>()
  yield* Effect.gen(function* () {
    const client = yield* ControlClient
    yield* Stream.runForEach(
      client.OpenRelay({ provider: "codex", sessionId: null, events: ["pre_tool_use"] }),
      (relay) => Deferred.succeed(opened, relay)
    )
  }).pipe(
    Effect.provide(callerOf(place)),
    Effect.catchCause((cause) =>
      Deferred.fail(opened, new BenchFailed({ problem: `no relay could be opened: ${String(cause)}` }))
    ),
    Effect.forkScoped
  )
  return yield* Deferred.await(opened)
})

/** Nanoseconds of CPU of every living thread of a process; ticks of `stat`, 10 ms each, would be too coarse. */
export const cpuMs = (pid: number): number =>
  fs
    .readdirSync(`/proc/${pid}/task`)
    .map((thread) => Number(fs.readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]))
    .reduce((sum, ns) => sum + ns, 0) / 1e6

export const rssMb = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

/** What Codex sends to a hook before it runs `true`. */
export const payload = JSON.stringify({
  session_id: "0199a213-81c0-7800-8aa1-bbab2a035a53",
  turn_id: "0199a213-81c1-7a10-9d5f-0a4d0b1f3c77",
  transcript_path: "/home/user/.codex/sessions/2026/11/20/rollout-0199a213.jsonl",
  cwd: "/home/user/project",
  hook_event_name: "PreToolUse",
  model: "gpt-5.5",
  permission_mode: "default",
  tool_name: "Bash",
  tool_input: { command: "true" },
  tool_use_id: "call_0f3b9c5e1d"
})
