/** Runs on a gateway's shared app-server, to their end, and what is to be found of it from outside. */
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import type { AgentEvent, AgentRunError, RunRequest } from "../../src/services/AgentDriver.ts"
import { type AppServerFailure } from "../../src/services/AppServerFailure.ts"
import { overridesFor, type Script, ScriptedProvider } from "../../src/services/ScriptedProvider.ts"
import { type MarkRange, rangeOf } from "../../src/services/InstanceMark.ts"
import { ask, eventually, hardLocksOf, marked, type Place } from "./gateway.ts"

export const shell = (cmd: string) => ({ fn: "exec_command", args: { cmd } }) as const

export const scripted = Effect.fnUntraced(function* (name: string, steps: Script) {
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
export const runOf = Effect.fnUntraced(function* (
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

export const leaseOf = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const [lease] = yield* (yield* ControlClient).Leases()
      return lease!
    })
  )

/** Of everything that the app-server runs: it is the keeper's, and not under the gateway's own mark. */
export const serverRange = (place: Place) =>
  Effect.map(leaseOf(place), ({ pid }) => rangeOf(hardLocksOf(pid!)))

/** A run whose command waits for a file: it is in the middle of its turn until `release`. */
export const busyRun = Effect.fnUntraced(function* (
  place: Place,
  name: string,
  request: Partial<RunRequest> = {}
) {
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

export const textsOf = (events: ReadonlyArray<AgentEvent>): ReadonlyArray<string> =>
  events.flatMap((event) => (event._tag === "message" ? [event.text] : []))

export const statusOf = ({ events }: Ended) =>
  events.findLast((event) => event._tag === "ended")?.status ?? null

/** A loopback port that refuses connections. */
export const closedPort = Effect.callback<number>((resume) => {
  const server = net.createServer()
  server.listen(0, "127.0.0.1", () => {
    const { port } = server.address() as net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** Live processes that a look at /proc says yes to, seen from outside: `pid command`. */
const processes = (is: (pid: string, stat: ReadonlyArray<string>) => boolean): ReadonlyArray<string> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const text = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
        const stat = text.slice(text.lastIndexOf(")") + 2).split(" ")
        return !/^[ZX]/.test(stat[0]!) && is(pid, stat) ? [`${pid} ${/\((.*)\)/.exec(text)?.[1]}`] : []
      } catch {
        return []
      }
    })

/** Who carries the cookie of that epoch. */
export const withCookie = (epoch: string) =>
  processes((pid) => fs.readFileSync(`/proc/${pid}/environ`, "latin1").includes(`HOLDFAST_CHILD=${epoch}.`))

/** Who is in the process group, or the session, that the leader founded. */
const inGroupOf = (leader: number) =>
  processes((_, [, , group, session]) => Number(group) === leader || Number(session) === leader)

/** By every way of finding it, and on disk: nothing of a gateway that has ended. */
export const assertNothingLeft = (
  place: Place,
  was: { readonly epoch: string; readonly mark: MarkRange | null; readonly leaders: ReadonlyArray<number> }
) =>
  assert.deepStrictEqual(
    {
      cookie: withCookie(was.epoch),
      mark: marked(was.mark),
      groups: was.leaders.flatMap(inGroupOf),
      temporary: fs.readdirSync(place.tmp),
      runtime: fs.readdirSync(place.runtimeDir, { recursive: true })
    },
    { cookie: [], mark: [], groups: [], temporary: [], runtime: ["bridges"] }
  )

export const statusOfGateway = (place: Place) =>
  ask(
    place,
    Effect.flatMap(ControlClient, (client) => client.Status())
  )
