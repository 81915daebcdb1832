/** The shared app-server on the real codex: one child, many runs; whoever fails fails alone, and only poison ends it. */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { AgentEvent, AgentRunError, RunRequest } from "../src/services/AgentDriver.ts"
import { type AppServerFailure, severity } from "../src/services/AppServerFailure.ts"
import { overridesFor, type Script, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { ask, eventually, holdfast, makePlace, marked, type Place, startGateway } from "./support/gateway.ts"

const seconds = 120_000

const live = <A, E>(promise: string, test: () => Effect.Effect<A, E, ScriptedProvider | Scope.Scope>) =>
  it.live(promise, () => Effect.provide(test(), providerLayer), seconds)

const shell = (cmd: string) => ({ fn: "exec_command", args: { cmd } }) as const

const scripted = Effect.fnUntraced(function* (name: string, steps: Script) {
  yield* (yield* ScriptedProvider).script(name, steps)
})

interface Ended {
  readonly events: ReadonlyArray<AgentEvent>
  readonly failure: AppServerFailure | null
  readonly error: AgentRunError | null
}

const failureOf = (error: AgentRunError | null): AppServerFailure | null =>
  error?._tag === "RunFailed" ? error.failure : null

/** One run to its end, however it ends; what fails it is part of the outcome. */
const runOf = Effect.fnUntraced(function* (
  place: Place,
  request: Partial<RunRequest> & { readonly prompt: string },
  onEvent: (event: AgentEvent) => Effect.Effect<unknown> = () => Effect.void
): Effect.fn.Return<Ended, never, ScriptedProvider> {
  const { url } = yield* ScriptedProvider
  const events: Array<AgentEvent> = []
  const exit = yield* Effect.exit(
    ask(
      place,
      Effect.flatMap(ControlClient, (client) =>
        client
          .RunCodex({
            cwd: place.workspace,
            overrides: ['model="gpt-5.5"', ...overridesFor(url)],
            thread: { _tag: "start" },
            spawnedBy: null,
            onLost: "fail",
            startTimeoutMs: null,
            ...request
          })
          .pipe(
            Stream.tap((event) =>
              Effect.andThen(
                Effect.sync(() => events.push(event)),
                onEvent(event)
              )
            ),
            Stream.runDrain
          )
      )
    )
  )
  const error = Exit.isFailure(exit) ? (Cause.squash(exit.cause) as AgentRunError) : null
  const ended = events.findLast((event) => event._tag === "ended")
  return { events, error, failure: ended?.failure ?? failureOf(error) }
})

const leaseOf = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const [lease] = yield* (yield* ControlClient).Leases()
      return lease!
    })
  )

/** A run whose command waits for a file: it is in the middle of its turn until `release`. */
const busyRun = Effect.fnUntraced(function* (place: Place, name: string, request: Partial<RunRequest> = {}) {
  const [going, go] = [`${name}-going`, `${name}-go`].map((file) => path.join(place.workspace, file)) as [
    string,
    string
  ]
  const output = path.join(place.workspace, `${name}-out`)
  yield* scripted(name, [
    shell(`touch ${going}; while [ ! -e ${go} ]; do sleep 0.02; done; echo ${name} >> ${output}`),
    { say: `${name} is done` }
  ])
  const governed = yield* Deferred.make<Extract<AgentEvent, { readonly _tag: "governed" }>>()
  const fiber = yield* Effect.forkScoped(
    runOf(place, { ...request, prompt: name }, (event) =>
      event._tag === "governed" ? Deferred.succeed(governed, event) : Effect.void
    )
  )
  yield* eventually(`${name} runs its command`, () => fs.existsSync(going), 60_000)
  return {
    governed: yield* Deferred.await(governed),
    output,
    release: Effect.sync(() => fs.writeFileSync(go, "")),
    ended: Fiber.join(fiber)
  }
})

const textsOf = (events: ReadonlyArray<AgentEvent>): ReadonlyArray<string> =>
  events.flatMap((event) => (event._tag === "message" ? [event.text] : []))

const statusOf = ({ events }: Ended) => events.findLast((event) => event._tag === "ended")?.status ?? null

/** A loopback port that refuses connections. */
const closedPort = Effect.callback<number>((resume) => {
  const server = net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** Processes that carry the cookie of that place's epoch, seen from outside: `pid command`. */
const withCookie = (epoch: string): ReadonlyArray<string> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const has = fs.readFileSync(`/proc/${pid}/environ`, "latin1").includes(`HOLDFAST_CHILD=${epoch}.`)
        const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
        const dead = /^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2))
        return has && !dead ? [`${pid} ${/\((.*)\)/.exec(stat)?.[1]}`] : []
      } catch {
        return []
      }
    })

const statusOfGateway = (place: Place) =>
  ask(
    place,
    Effect.flatMap(ControlClient, (client) => client.Status())
  )

describe("the shared app-server", () => {
  live("every failure of a helper is its own: the parent's turn on the same child completes", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const parent = yield* busyRun(place, "the-parent")
      const before = yield* leaseOf(place)
      const spawnedBy = parent.governed.runId
      const { url } = yield* ScriptedProvider
      const refused = `http://127.0.0.1:${yield* closedPort}/v1`

      yield* scripted("gets 401", [{ status: 401 }])
      yield* scripted("gets 403", [{ status: 403 }])
      yield* scripted("gets no model", [
        {
          status: 400,
          body: {
            error: { message: "no such model", type: "invalid_request_error", code: "model_not_found" }
          }
        }
      ])
      yield* scripted("gets 429", [{ status: 429 }])
      yield* scripted("gets 500", [{ status: 500 }])
      yield* scripted("gets cut", [{ cut: true }])
      yield* scripted("is fine", [{ say: "fine" }])
      const base = ['model="gpt-5.5"', ...overridesFor(url)]
      const rows: ReadonlyArray<readonly [Partial<RunRequest> & { readonly prompt: string }, string]> = [
        [{ prompt: "gets 401" }, "AuthRejected"],
        [{ prompt: "gets 403" }, "AuthRejected"],
        [{ prompt: "gets no model" }, "ModelNotFound"],
        [{ prompt: "gets 429" }, "RateLimited"],
        [{ prompt: "gets 500" }, "ProviderUnavailable"],
        [{ prompt: "gets cut" }, "ProviderUnavailable"],
        [
          { prompt: "is fine", overrides: ['model="gpt-5.5"', ...overridesFor(refused)] },
          "ProviderUnavailable"
        ],
        [{ prompt: "is fine", overrides: [...base, "model_reasoning_effort=7"] }, "AppServerRejected"],
        [
          {
            prompt: "is fine",
            thread: { _tag: "resume", threadId: "01a20000-0000-7000-8000-000000000000" }
          },
          "ThreadNotFound"
        ]
      ]
      const seen: Array<readonly [string, string | null]> = []
      for (const [request] of rows) {
        const { failure, error } = yield* runOf(place, { ...request, spawnedBy })
        assert(failure !== null, `${request.prompt}: ${JSON.stringify(error)}`)
        assert.strictEqual(severity(failure), "caller")
        seen.push([request.prompt, failure._tag])
      }
      assert.deepStrictEqual(
        seen,
        rows.map(([{ prompt }, tag]) => [prompt, tag])
      )
      assert.deepStrictEqual(textsOf((yield* runOf(place, { prompt: "is fine", spawnedBy })).events), [
        "fine"
      ])

      yield* parent.release
      const ended = yield* parent.ended
      assert.deepStrictEqual([statusOf(ended), ended.failure], ["completed", null])
      const after = yield* leaseOf(place)
      assert.deepStrictEqual([after.pid, after.generation], [before.pid, 1])
    })
  )

  live("a helper that is interrupted leaves no command running, and its parent's goes on", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const gateway = yield* startGateway(place)
      const parent = yield* busyRun(place, "the-parent")
      const { pid } = yield* leaseOf(place)
      const { mark } = yield* statusOfGateway(place)
      yield* scripted("sleeps", [shell("setsid sleep 307 & touch asleep; exec sleep 307"), { say: "never" }])
      const helper = yield* Effect.forkChild(
        runOf(place, { prompt: "sleeps", spawnedBy: parent.governed.runId })
      )
      yield* eventually("the helper sleeps", () => fs.existsSync(path.join(place.workspace, "asleep")))
      yield* Fiber.interrupt(helper)
      const sleepers = () => marked(mark).filter((line) => line.endsWith(" sleep"))
      // The parent's own loop sleeps for 20 ms at a time.
      yield* eventually(
        "the helper's command is gone",
        () =>
          sleepers().filter((line) => {
            try {
              return fs.readFileSync(`/proc/${line.split(" ")[0]}/cmdline`, "latin1").includes("307")
            } catch {
              return false
            }
          }).length === 0
      )
      yield* parent.release
      assert.strictEqual(statusOf(yield* parent.ended), "completed")
      assert.strictEqual((yield* leaseOf(place)).pid, pid)
      assert.deepStrictEqual(yield* gateway.end("SIGTERM"), { code: 0, signal: null })
      assert.deepStrictEqual(marked(mark), [])
    })
  )

  live("of two that wait for a cold child one gives up after its own time, and the other gets it", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      yield* scripted("waits", [{ say: "served" }])
      const [hasty, patient] = yield* Effect.all(
        [runOf(place, { prompt: "waits", startTimeoutMs: 1 }), runOf(place, { prompt: "waits" })],
        { concurrency: 2 }
      )
      assert.strictEqual(hasty.failure?._tag, "LeaseTimeout")
      assert.deepStrictEqual(textsOf(patient.events), ["served"])
      assert.strictEqual((yield* leaseOf(place)).generation, 1)
    })
  )

  live("a killed child fails every borrower with the reason, and the next generation serves", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const runs = yield* Effect.forEach(["one", "two", "three"], (name) => busyRun(place, name), {
        concurrency: 3
      })
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGKILL")
      for (const run of runs) {
        const { failure, error } = yield* run.ended
        assert.deepInclude(failure, {
          _tag: "AppServerLost",
          generation: 1,
          reason: { _tag: "signalled", signal: "SIGKILL" }
        })
        assert.deepInclude(error, { _tag: "RunFailed", retryable: true })
      }
      yield* scripted("again", [{ say: "served again" }])
      assert.deepStrictEqual(textsOf((yield* runOf(place, { prompt: "again" })).events), ["served again"])
      const lease = yield* leaseOf(place)
      assert.deepStrictEqual(
        [lease.state, lease.generation, lease.retired?.generation, lease.retired?.exit],
        ["Ready", 2, 1, { code: null, signal: "SIGKILL" }]
      )
    })
  )

  live("a stopped child is seen as stopped and killed; its thread goes on in the next generation", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const run = yield* busyRun(place, "interrupted")
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGSTOP")
      const { failure } = yield* run.ended
      assert.deepInclude(failure, { _tag: "AppServerLost", reason: { _tag: "stopped" } })
      yield* scripted("goes on", [{ say: "resumed" }])
      const resumed = yield* runOf(place, {
        prompt: "goes on",
        thread: { _tag: "resume", threadId: run.governed.threadId }
      })
      assert.deepStrictEqual(textsOf(resumed.events), ["resumed"])
      const lease = yield* leaseOf(place)
      assert.deepStrictEqual([lease.generation, lease.retired?.exit], [2, { code: null, signal: "SIGKILL" }])
    })
  )

  live("a turn that may go on does so once, and no call that was decided runs again", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const run = yield* busyRun(place, "goes-on", { onLost: "resume" })
      const { pid } = yield* leaseOf(place)
      process.kill(pid!, "SIGKILL")
      yield* run.release
      const ended = yield* run.ended
      const resumed = ended.events.filter((event) => event._tag === "resumed")
      assert.deepStrictEqual(
        resumed.map(({ generation, inDoubt }) => ({ generation, inDoubt })),
        [{ generation: 2, inDoubt: 1 }]
      )
      assert.strictEqual(statusOf(ended), "completed")
      const lines = fs.existsSync(run.output) ? fs.readFileSync(run.output, "utf8").split("\n").length - 1 : 0
      assert.isAtMost(lines, 1)
    })
  )

  live("fifty threads at once share one child, and none gets another's answer", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const gateway = yield* startGateway(place)
      const { epoch, mark } = yield* statusOfGateway(place)
      const names = Array.from({ length: 50 }, (_, index) => `thread-${index}-end`)
      for (const name of names)
        yield* scripted(name, [shell(`echo out-of-${name}`), { say: `answer of ${name}` }])
      const all = yield* Effect.forEach(names, (name) => runOf(place, { prompt: name }), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        all.map(({ events, failure }) => ({
          texts: textsOf(events),
          outputs: events.flatMap((event) => (event._tag === "command" ? [event.output.trim()] : [])),
          failure
        })),
        names.map((name) => ({ texts: [`answer of ${name}`], outputs: [`out-of-${name}`], failure: null }))
      )
      const lease = yield* leaseOf(place)
      assert.deepStrictEqual([lease.generation, lease.borrowers], [1, []])
      assert.deepStrictEqual(
        withCookie(epoch).filter((line) => line.endsWith(" codex")),
        [`${lease.pid} codex`]
      )
      yield* gateway.end("SIGTERM")
      assert.deepStrictEqual([withCookie(epoch), marked(mark)], [[], []])
    })
  )

  live("a child that will not stay up opens the circuit; a reset closes it", () =>
    Effect.gen(function* () {
      const place = yield* makePlace(
        {},
        { HOLDFAST_CODEX: path.join(import.meta.dirname, "fixtures/codex-never-starts.sh") }
      )
      yield* startGateway(place)
      yield* scripted("tries", [{ say: "never" }])
      const failures: Array<string | undefined> = []
      for (let attempt = 0; attempt < 7; attempt++)
        failures.push((yield* runOf(place, { prompt: "tries" })).failure?._tag)
      assert.deepStrictEqual(failures, [
        ...Array.from({ length: 6 }, () => "AppServerUnavailable"),
        "LeaseCircuitOpen"
      ])
      assert.strictEqual((yield* leaseOf(place)).state, "OpenCircuit")
      const reset = yield* holdfast(place, ["leases", "reset"])
      assert.strictEqual(reset.code, 0)
      assert.strictEqual((yield* runOf(place, { prompt: "tries" })).failure?._tag, "AppServerUnavailable")
    })
  )

  live("no credential reaches an argument, a log, the ledger or an error", () =>
    Effect.gen(function* () {
      const secret = "sk-canary-5d1f0c7a9b"
      const place = yield* makePlace(
        { codex: { passEnv: ["CANARY_KEY"] } },
        { CANARY_KEY: secret, HOLDFAST_LOG_LEVEL: "debug" }
      )
      const gateway = yield* startGateway(place)
      const { mark } = yield* statusOfGateway(place)
      yield* scripted("is rejected", [{ status: 401, body: { error: { message: `bad key ${secret}` } } }])
      yield* scripted("works", [shell("sleep 0.1"), { say: "ok" }])
      const { url } = yield* ScriptedProvider
      const overrides = [
        'model="gpt-5.5"',
        ...overridesFor(url),
        'model_providers.scripted.env_key="CANARY_KEY"'
      ]
      const rejected = yield* runOf(place, { prompt: "is rejected", overrides })
      assert.strictEqual(rejected.failure?._tag, "AuthRejected")
      const worked = yield* runOf(place, { prompt: "works", overrides })
      const lines = marked(mark).map((line) => line.split(" ")[0])
      const argv = lines.map((pid) => fs.readFileSync(`/proc/${pid}/cmdline`, "latin1")).join("\n")
      const shown = JSON.stringify([rejected, worked, yield* leaseOf(place)])
      yield* gateway.end("SIGTERM")
      const state = path.join(place.home, "state")
      const files = fs
        .readdirSync(state, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => fs.readFileSync(path.join(entry.parentPath, entry.name), "latin1"))
        .join("\n")
      for (const text of [argv, shown, gateway.stderr(), files]) assert.notInclude(text, secret)
    })
  )
})
