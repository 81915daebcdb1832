/** The shared app-server on the real codex: one child, many runs; whoever fails fails alone, and only poison ends it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { RunRequest } from "../src/services/AgentDriver.ts"
import { severity } from "../src/services/AppServerFailure.ts"
import { overridesFor, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { eventually, makePlace, marked, startGateway } from "./support/gateway.ts"

import {
  shell,
  scripted,
  serverRange,
  runOf,
  leaseOf,
  busyRun,
  textsOf,
  statusOf,
  closedPort,
  assertNothingLeft,
  statusOfGateway,
  withCookie
} from "./support/leases.ts"

const seconds = 120_000

const live = <A, E>(promise: string, test: () => Effect.Effect<A, E, ScriptedProvider | Scope.Scope>) =>
  it.live(promise, () => Effect.provide(test(), providerLayer), seconds)

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
      const mark = yield* serverRange(place)
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
      assert.deepStrictEqual(yield* gateway.end("SIGINT"), { code: 0, signal: null })
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

  live("fifty threads at once share one child, and none gets another's answer", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const gateway = yield* startGateway(place)
      const { epoch, mark } = yield* statusOfGateway(place)
      const names = Array.from({ length: 50 }, (_, index) => `thread-${index}-end`)
      // Codex, busy, may miss the output of a command that is gone at once.
      for (const name of names)
        yield* scripted(name, [shell(`echo out-of-${name}; sleep 0.3`), { say: `answer of ${name}` }])
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
      yield* gateway.end("SIGINT")
      assertNothingLeft(place, { epoch, mark, leaders: [lease.pid!] })
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
      const lines = marked(yield* serverRange(place)).map((line) => line.split(" ")[0])
      const argv = lines.map((pid) => fs.readFileSync(`/proc/${pid}/cmdline`, "latin1")).join("\n")
      const shown = JSON.stringify([rejected, worked, yield* leaseOf(place)])
      yield* gateway.end("SIGINT")
      const state = path.join(place.home, "state")
      const files = fs
        .readdirSync(state, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => fs.readFileSync(path.join(entry.parentPath, entry.name), "latin1"))
        .join("\n")
      for (const text of [argv, shown, gateway.stderr(), files]) assert.notInclude(text, secret)
    })
  )

  live("a caller that vanishes while it resumes a thread lends nobody its sandbox", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      yield* startGateway(place)
      const { url } = yield* ScriptedProvider
      const strict = ['model="gpt-5.5"', ...overridesFor(url), 'sandbox_mode="read-only"']
      yield* scripted("remember", [{ say: "yes" }])
      yield* scripted("write", [
        shell("touch written 2>/dev/null && echo writable || echo read-only"),
        { say: "done" }
      ])
      const { events } = yield* runOf(place, { prompt: "remember" })
      const { threadId } = events.find((event) => event._tag === "governed")!
      const thread = { _tag: "resume", threadId } as const
      for (const delayMs of [5, 10, 15, 20, 25, 30, 40, 60]) {
        const vanishing = yield* Effect.forkChild(runOf(place, { prompt: "remember", thread }))
        yield* Effect.sleep(delayMs)
        yield* Fiber.interrupt(vanishing)
        const strictly = yield* runOf(place, { prompt: "write", thread, overrides: strict }).pipe(
          Effect.repeat({ until: ({ error }) => !error?.message.includes("belongs to another run") })
        )
        // Without the redirection Codex would take the refusal for one of its sandbox's and run it again outside.
        const outputs = strictly.events.flatMap((event) =>
          event._tag === "command" ? [event.output.trim()] : []
        )
        assert.deepStrictEqual([strictly.error, outputs], [null, ["read-only"]], `${delayMs} ms`)
      }
      assert.deepStrictEqual((yield* leaseOf(place)).borrowers, [])
    })
  )
})
