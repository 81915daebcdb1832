/** The operator's view of the shared app-server, by the built programs: who borrows it, why it failed, how to go on. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { LeaseInfo } from "../src/services/AppServerLease.ts"
import { overridesFor, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { dist, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"

const seconds = 90_000

const scripted = (url: string): ReadonlyArray<string> =>
  [...overridesFor(url), 'model="gpt-5.5"'].flatMap((override) => ["-c", override])

/** The one lease there is, as JSON shows it. */
const leasesOf = (place: Place) =>
  Effect.map(holdfast(place, ["leases", "--json"]), ({ stdout }) => {
    const [lease, ...others] = JSON.parse(stdout) as ReadonlyArray<LeaseInfo>
    assert.deepStrictEqual(others, [])
    return lease!
  })

const oneLine = /^holdfast: [^\n]+\n$/

/** A line of `holdfast --json codex`, as far as these tests look at it. */
interface Line {
  readonly _tag: string
  readonly runId?: string
  readonly spawnedBy?: string | null
  readonly status?: string
}

/** A turn in the background, by its own words; ended with the scope. */
const running = Effect.fnUntraced(function* (place: Place, args: ReadonlyArray<string>) {
  const governed = yield* Deferred.make<{ readonly runId: string; readonly spawnedBy: string | null }>()
  const ended = yield* Deferred.make<{
    readonly code: number | null
    readonly status: string | null
    readonly stderr: string
  }>()
  yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = childProcess.spawn("/bin/sh", [path.join(dist, "holdfast.sh"), "--json", ...args], {
        env: place.env,
        cwd: place.workspace,
        stdio: ["ignore", "pipe", "pipe"]
      })
      let text = ""
      let stderr = ""
      let status: string | null = null
      child.stderr.setEncoding("utf8").on("data", (more: string) => (stderr += more))
      child.stdout.setEncoding("utf8").on("data", (more: string) => {
        const lines = (text + more).split("\n")
        text = lines.pop()!
        for (const line of lines) {
          const event = JSON.parse(line) as Line
          if (event._tag === "ended") status = event.status ?? null
          if (event._tag === "governed")
            Deferred.doneUnsafe(
              governed,
              Effect.succeed({ runId: event.runId ?? "", spawnedBy: event.spawnedBy ?? null })
            )
        }
      })
      child.once("close", (code) => {
        Deferred.doneUnsafe(governed, Effect.die(new Error(`the turn was never governed: ${stderr}`)))
        Deferred.doneUnsafe(ended, Effect.succeed({ code, status, stderr }))
      })
      return child
    }),
    (child) =>
      Effect.andThen(
        Effect.sync(() => child.kill("SIGTERM")),
        Deferred.await(ended)
      )
  )
  return { governed: Deferred.await(governed), ended: Deferred.await(ended) }
})

describe("holdfast leases and codex", () => {
  it.live(
    "a codex that never gets ready is waited for as long as was said: one line, exit 124",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const program = path.join(place.home, "fake-codex")
        fs.writeFileSync(program, "#!/bin/sh\nwhile read -r line; do :; done\n", { mode: 0o755 })
        const changed: Place = { ...place, env: { ...place.env, HOLDFAST_CODEX: program } }
        yield* startGateway(changed)
        const ran = yield* holdfast(changed, ["codex", "--start-timeout", "300ms", "hello"])
        assert.deepStrictEqual(
          {
            ...ran,
            stderr:
              /^holdfast: The app-server was not ready within 300 ms\.[^\n]* \[LeaseTimeout, caller, retryable\]\n$/.test(
                ran.stderr
              ) || ran.stderr
          },
          { code: 124, signal: null, stdout: "", stderr: true }
        )
      }),
    seconds
  )

  it.live(
    "an app-server that keeps failing opens the circuit: every view shows it with its remedy, a reset closes it",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const program = path.join(place.home, "fake-codex")
        fs.writeFileSync(program, "#!/bin/sh\necho 'no such luck' >&2\nexit 3\n", { mode: 0o755 })
        const changed: Place = { ...place, env: { ...place.env, HOLDFAST_CODEX: program } }
        yield* startGateway(changed)
        const attempt = Effect.map(holdfast(changed, ["codex", "hello"]), ({ code, stderr }) => {
          assert.match(stderr, oneLine)
          return `${code} ${/did not come up|not started again before/.exec(stderr)?.[0]}`
        })
        // Five faults in a minute are borne, the sixth opens the circuit.
        const attempts = yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7], () => attempt)
        assert.deepStrictEqual(attempts, [
          ...Array.from({ length: 6 }, () => "1 did not come up"),
          "1 not started again before"
        ])

        const remedy = /holdfast leases reset/
        const leases = yield* holdfast(changed, ["leases"])
        assert.match(leases.stdout, /^STATE .*\nOpenCircuit {2}6 /)
        assert.match(leases.stdout, /circuit open: [^\n]*status 3[^\n]*; the next attempt is at /)
        assert.match(leases.stdout, remedy)
        const status = yield* holdfast(changed, ["status"])
        assert.match(status.stdout, /app-server +OpenCircuit[^\n]*\n +circuit open: /)
        assert.match(status.stdout, remedy)
        const doctor = yield* holdfast(changed, ["doctor"])
        assert.strictEqual(doctor.code, 1)
        assert.match(doctor.stdout, /FAIL {2}app-server +circuit open until [^\n]*\n +-> [^\n]*leases reset/)
        const { state, generation, pid, borrowers, waiting, origin } = yield* leasesOf(changed)
        assert.deepStrictEqual(
          { state, generation, pid, borrowers, waiting, origin },
          { state: "OpenCircuit", generation: 6, pid: null, borrowers: [], waiting: 0, origin: "spawned" }
        )

        const reset = yield* holdfast(changed, ["leases", "reset"])
        assert.deepStrictEqual(
          { code: reset.code, stdout: reset.stdout },
          { code: 0, stdout: "closed 1 open circuit; the next run tries at once\n" }
        )
        assert.strictEqual(yield* attempt, "1 did not come up")
        const again = yield* holdfast(changed, ["leases", "reset", "--json"])
        assert.deepStrictEqual(JSON.parse(again.stdout), { closed: 0 })
      }),
    seconds
  )

  it.live(
    "an app-server that is killed fails the turn by name, and leases keeps the evidence",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const provider = yield* ScriptedProvider
        yield* provider.script("hang", [{ hang: true }])
        const turn = yield* running(place, ["codex", ...scripted(provider.url), "hang"])
        yield* turn.governed
        const ready = yield* leasesOf(place)
        // Our own gateway's own child.
        process.kill(ready.pid!, "SIGKILL")
        assert.deepStrictEqual(yield* turn.ended, {
          code: 1,
          status: null,
          stderr:
            "holdfast: The shared app-server (generation 1) is lost: it died by SIGKILL. Run the turn again. [AppServerLost, poison, retryable]\n"
        })
        const { retired } = yield* leasesOf(place)
        assert.deepStrictEqual(
          { generation: retired?.generation, reason: retired?.reason },
          { generation: 1, reason: { _tag: "signalled", signal: "SIGKILL" } }
        )
        assert.match(
          (yield* holdfast(place, ["leases"])).stdout,
          /\n {2}generation 1 was retired \d+ m?s ago: it died by SIGKILL; it/
        )

        yield* provider.script("speak", [{ say: "done" }])
        const next = yield* holdfast(place, ["codex", ...scripted(provider.url), "speak"])
        assert.strictEqual(next.code, 0, next.stderr)
        const { generation, pid } = yield* leasesOf(place)
        assert.strictEqual(generation, 2)
        assert.notStrictEqual(pid, ready.pid)
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  it.live(
    "a parent that is no run of this gateway is not found: one line, exit 4",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const ran = yield* holdfast(place, ["codex", "--parent", "nobody", "hello"])
        assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code: 4, stdout: "" })
        assert.match(ran.stderr, /^holdfast: No run nobody is active on this gateway[^\n]*\n$/)
      }),
    seconds
  )

  it.live(
    "a helper runs on its parent's app-server, and leases says who spawned it",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const provider = yield* ScriptedProvider
        const shared = scripted(provider.url)
        // The parent's turn lasts until its file appears, which the helper writes once leases was seen.
        const done = path.join(place.workspace, "done")
        yield* provider.script("wait for the helper", [
          {
            fn: "exec_command",
            args: { cmd: `until [ -e ${done} ]; do sleep 0.05; done`, yield_time_ms: 30_000 }
          },
          { say: "seen" }
        ])
        yield* provider.script("help", [{ hang: true }])
        yield* provider.script("finish", [
          { fn: "exec_command", args: { cmd: `touch ${done}` } },
          { say: "ok" }
        ])
        const parent = yield* running(place, ["codex", ...shared, "wait for the helper"])
        const { runId, spawnedBy } = yield* parent.governed
        assert.strictEqual(spawnedBy, null)
        const hanging = yield* running(place, ["codex", "--parent", runId, ...shared, "help"])
        const helper = yield* hanging.governed
        assert.strictEqual(helper.spawnedBy, runId)

        const text = (yield* holdfast(place, ["leases"])).stdout
        assert.match(text, /\nReady {2}1 /)
        assert.include(text, `  borrowed by ${runId}\n`)
        assert.include(text, `  borrowed by ${helper.runId}, spawned by ${runId}\n`)
        const { generation, borrowers } = yield* leasesOf(place)
        assert.deepStrictEqual(
          { generation, borrowers },
          {
            generation: 1,
            borrowers: [
              { runId, spawnedBy: null },
              { runId: helper.runId, spawnedBy: runId }
            ]
          }
        )

        const finish = yield* holdfast(place, ["codex", "--json", "--parent", runId, ...shared, "finish"])
        assert.strictEqual(finish.code, 0, finish.stderr)
        assert.deepStrictEqual(yield* parent.ended, { code: 0, status: "completed", stderr: "" })
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )
})
