/** AppServerProcess as a run of a supervisor, on the real codex: how it is reached, left, taken over, lost and ended. */
import { WebSocketServer } from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as http from "node:http"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { AccountResult } from "../src/services/AppServerProtocol.ts"
import { isAlive, plainEnv, startThread } from "./support/appServer.ts"
import { eventually } from "./support/gateway.ts"
import { connectIn, keptWorld } from "./support/keptServer.ts"

const secret = "sk-0123456789abcdef0123456789"

const environmentOf = (pid: number): Readonly<Record<string, string>> =>
  Object.fromEntries(
    fs
      .readFileSync(`/proc/${pid}/environ`, "utf8")
      .split("\0")
      .filter((entry) => entry !== "")
      .map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)])
  )

const seconds = 60_000

describe("AppServerProcess, as a run", () => {
  it.live(
    "it is a run on a private socket, with the listed variables and no other, and none of their values is kept",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const { place } = world
        const gateway = yield* connectIn(world, {
          environment: { ...plainEnv(place), OPENAI_API_KEY: secret, AWS_SECRET: "s" },
          codex: { passEnv: ["OPENAI_API_KEY"] }
        })
        const { connection } = gateway
        const run = yield* world.keeper.runs.find(connection.runId!)
        const [socket] = fs.readdirSync(place.runtimeDir).map((name) => path.join(place.runtimeDir, name))
        const env = environmentOf(connection.pid!)
        assert.deepStrictEqual(
          {
            state: run.state,
            pid: run.leader?.pid,
            policy: [run.spec.onGatewayLoss, run.spec.restart, run.spec.pty],
            mode: (fs.statSync(socket!).mode & 0o777).toString(8),
            passed: env["OPENAI_API_KEY"],
            scrubbed: env["AWS_SECRET"],
            home: env["CODEX_HOME"]
          },
          {
            state: "Running",
            pid: connection.pid,
            policy: ["adopt", "temporary", null],
            mode: "600",
            passed: secret,
            scrubbed: undefined,
            home: place.codexHome
          }
        )
        const database = new DatabaseSync(world.paths.database)
        const rows = JSON.stringify(database.prepare("SELECT * FROM runs").all())
        database.close()
        assert.notInclude(rows + JSON.stringify(run), secret)
        yield* startThread(connection, place)
        yield* gateway.end
        assert.deepStrictEqual(
          {
            gone: yield* connection.gone,
            alive: isAlive(connection.pid!),
            left: yield* world.left,
            sockets: fs.readdirSync(place.runtimeDir)
          },
          { gone: { confirmed: true, code: 0, signal: null }, alive: false, left: [], sockets: [] }
        )
      }),
    seconds
  )

  it.live(
    "one that is handed over is taken over by the next start of its key, and ended by whoever ends it",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const first = yield* connectIn(world)
        yield* first.leave
        assert.isTrue(isAlive(first.connection.pid!))
        const second = yield* connectIn(world)
        assert.deepStrictEqual(
          [second.connection.pid, second.connection.runId],
          [first.connection.pid, first.connection.runId]
        )
        yield* second.connection.request("account/read", {}, AccountResult)
        yield* second.end
        const third = yield* connectIn(world)
        assert.notStrictEqual(third.connection.pid, second.connection.pid)
        yield* third.end
        assert.deepStrictEqual(
          { left: yield* world.left, sockets: fs.readdirSync(world.place.runtimeDir) },
          { left: [], sockets: [] }
        )
      }),
    seconds
  )

  it.live(
    "one that nobody takes over is ended after the idle grace, and its socket is gone",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const first = yield* connectIn(world)
        yield* first.leave
        // What a server that was killed with everybody leaves.
        fs.writeFileSync(world.paths.codexSocket("00000000"), "")
        const second = yield* connectIn(world, { key: "another", lease: { idleGraceMs: 50 } })
        yield* eventually("it is ended", () => !isAlive(first.connection.pid!), 30_000)
        assert.isTrue(isAlive(second.connection.pid!))
        yield* second.end
        assert.deepStrictEqual(
          { left: yield* world.left, sockets: fs.readdirSync(world.place.runtimeDir) },
          { left: [], sockets: [] }
        )
      }),
    seconds
  )

  it.live(
    "one that was poisoned is not left to anybody",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const gateway = yield* connectIn(world, { lease: { poisonGraceMs: 50 } })
        yield* gateway.connection.retire({ _tag: "probes-missed", count: 3, silentMs: 30_000 })
        yield* gateway.leave
        assert.deepStrictEqual(
          { alive: isAlive(gateway.connection.pid!), left: yield* world.left },
          { alive: false, left: [] }
        )
      }),
    seconds
  )

  for (const [signal, reason] of [
    ["SIGKILL", { _tag: "signalled", signal: "SIGKILL" }],
    ["SIGSTOP", { _tag: "stopped" }]
  ] as const)
    it.live(
      `after ${signal} it is lost for that reason, ended in bounded time, and followed by another`,
      () =>
        Effect.gen(function* () {
          const world = yield* keptWorld
          const gateway = yield* connectIn(world, { lease: { poisonGraceMs: 50, stateLookMs: 20 } })
          const { connection } = gateway
          const waiting = yield* Effect.forkChild(connection.lost, { startImmediately: true })
          process.kill(connection.pid!, signal)
          const lost = yield* Fiber.join(waiting)
          yield* gateway.end
          const next = yield* connectIn(world)
          yield* next.end
          assert.deepStrictEqual(
            {
              reason: lost.reason,
              gone: yield* connection.gone,
              another: next.connection.pid !== connection.pid,
              left: yield* world.left,
              sockets: fs.readdirSync(world.place.runtimeDir)
            },
            {
              reason,
              gone: { confirmed: true, code: null, signal: "SIGKILL" },
              another: true,
              left: [],
              sockets: []
            }
          )
        }),
      seconds
    )

  it.live(
    "one that ends before it listens says so with its last words, without their secrets",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        const program = path.join(world.place.home, "fake-codex")
        fs.writeFileSync(program, `#!/bin/sh\necho 'no OPENAI_API_KEY=${secret}' >&2\nexit 3\n`, {
          mode: 0o755
        })
        const error = yield* Effect.flip(connectIn(world, { program }))
        assert.deepStrictEqual(
          { stage: error.stage, problem: error.problem },
          {
            stage: "handshake",
            problem:
              "it exited with status 3 before it answered. Its last words: no OPENAI_API_KEY=[redacted]"
          }
        )
        const missing = yield* Effect.flip(connectIn(world, { program: "/nonexistent/codex" }))
        assert.strictEqual(missing.stage, "spawn")
        assert.include(missing.problem, "/nonexistent/codex")
      }),
    seconds
  )

  it.live(
    "a socket that somebody else serves is not spoken to",
    () =>
      Effect.gen(function* () {
        const world = yield* keptWorld
        // It lets a process that is none of its own, this one, listen where it was told to.
        const program = path.join(world.place.home, "fake-codex")
        const asked = path.join(world.place.home, "asked")
        fs.writeFileSync(program, `#!/bin/sh\necho "\${3#unix://}" > ${asked}\nexec sleep 60\n`, {
          mode: 0o755
        })
        const impostor = yield* Effect.forkChild(serveWhere(asked))
        const error = yield* Effect.flip(connectIn(world, { program, lease: { exitGraceMs: 100 } }))
        yield* Fiber.interrupt(impostor)
        assert.strictEqual(error.stage, "connect")
        assert.include(error.problem, `is served by process ${process.pid}, which is not of the run`)
        assert.deepStrictEqual(yield* world.left, [])
      }),
    seconds
  )
})

/** A WebSocket server at the path that a file names, once it does. */
const serveWhere = (file: string) =>
  Effect.gen(function* () {
    // A shell makes the file before it writes to it.
    const written = () => (fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "")
    yield* eventually("the program was started", () => written().endsWith("\n"))
    const server = http.createServer()
    const sockets = new WebSocketServer({ server })
    yield* Effect.acquireRelease(
      Effect.sync(() => server.listen(written().trim())),
      () =>
        Effect.sync(() => {
          sockets.close()
          server.close()
        })
    )
    return yield* Effect.never
  }).pipe(Effect.scoped)
