/** The keeper in a scope of systemd, on a stand-in that does as systemd-run(1) says of --scope: it becomes the program. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { findCgroups } from "../src/layers/internal/cgroups.ts"
import { relativesOf } from "../src/layers/internal/procfs.ts"
import { ask, holdfast, makePlace, startGateway } from "./support/gateway.ts"

const seconds = 60_000

const becomes = `printf '%s\\n' "$@" > "$XDG_RUNTIME_DIR/asked"
while [ "$1" != -- ]; do shift; done; shift; exec "$@"`

/** A place whose user has a systemd, with this systemd-run. */
const placeWith = Effect.fnUntraced(function* (systemdRun: string) {
  const made = yield* makePlace()
  const runtime = path.join(made.tmp, "x")
  const bin = path.join(made.tmp, "bin")
  fs.mkdirSync(path.join(runtime, "systemd"), { recursive: true })
  fs.mkdirSync(bin)
  fs.writeFileSync(path.join(bin, "systemd-run"), `#!/bin/sh\n${systemdRun}\n`, { mode: 0o755 })
  yield* Effect.acquireRelease(
    Effect.callback<net.Server>((resume) => {
      const server = net.createServer()
      server.listen(path.join(runtime, "systemd/private"), () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => server.close())
  )
  const env = { ...made.env, XDG_RUNTIME_DIR: runtime, PATH: `${bin}:${made.env["PATH"]}` }
  return { place: { ...made, env }, asked: path.join(runtime, "asked") }
})

describe("a systemd scope", () => {
  it.live(
    "is asked for where there is one and the cgroup is not delegated already, and the keeper is the process that asked",
    () =>
      Effect.gen(function* () {
        const { place, asked } = yield* placeWith(becomes)
        const delegated = (yield* findCgroups)._tag === "Delegated"
        const gateway = yield* startGateway(place)
        const ran = yield* holdfast(place, ["run", "--no-pty", "--", "echo", "hello"])
        assert.deepStrictEqual([ran.code, ran.stdout], [0, "hello\n"])
        const { keeper } = yield* ask(
          place,
          Effect.flatMap(ControlClient, (client) => client.Status())
        )
        assert.strictEqual(relativesOf(keeper.identity!.pid)?.parent, gateway.pid)
        assert.isNotNull(keeper.mark)
        const words = fs.existsSync(asked) ? fs.readFileSync(asked, "utf8").split("\n").slice(0, 7) : null
        assert.deepStrictEqual(
          words,
          delegated
            ? null
            : [
                "--user",
                "--scope",
                "--quiet",
                "--collect",
                `--unit=holdfast-keeper-${keeper.keeperId}`,
                "--property=Delegate=yes",
                "--"
              ]
        )
      }),
    seconds
  )

  it.live(
    "that is refused costs nothing but a line in the log",
    () =>
      Effect.gen(function* () {
        const { place } = yield* placeWith("echo Failed to start transient scope unit >&2; exit 1")
        const delegated = (yield* findCgroups)._tag === "Delegated"
        const gateway = yield* startGateway(place)
        const ran = yield* holdfast(place, ["run", "--no-pty", "--", "echo", "hello"])
        assert.deepStrictEqual([ran.code, ran.stdout], [0, "hello\n"])
        assert.strictEqual(
          gateway.stderr().includes("systemd gave the keeper no scope of its own"),
          !delegated
        )
      }),
    seconds
  )
})
