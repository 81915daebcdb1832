/** Gateways killed at random instants of a governed turn. Small and seeded here; in full by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { MarkRange } from "../src/services/InstanceMark.ts"
import { ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { ask, holdfast, makePlace, marked, startGateway, turn } from "./support/gateway.ts"
import { random } from "./support/random.ts"

const rounds = process.env["HOLDFAST_SOAK"] ? 150 : 3
/** A turn with its start takes about 700 ms here; later instants fall into the idle time after it. */
const latestKillMs = 1200

const shell = (cmd: string) => ({ fn: "exec_command", args: { cmd } }) as const

describe("gateway, by kills", () => {
  it.live(
    `killed at ${rounds} random instants of a turn, the next start leaves nothing and the refused command never ran`,
    () =>
      Effect.gen(function* () {
        const bystander = yield* Effect.acquireRelease(
          Effect.sync(() => childProcess.spawn("sleep", ["3600"], { stdio: "ignore" })),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        const provider = yield* ScriptedProvider
        yield* provider.script("go wild", [
          shell("setsid sleep 300 > /dev/null 2>&1 < /dev/null & true"),
          shell("rm -rf treasure"),
          shell("(setsid sh -c 'trap \"\" TERM; sleep 301' > /dev/null 2>&1 < /dev/null &) ; true"),
          shell("rm -rf treasure"),
          { say: "done" }
        ])
        const place = yield* makePlace()
        const server = path.resolve(import.meta.dirname, "fixtures/mcp-detaches-a-helper.mjs")
        fs.writeFileSync(
          path.join(place.codexHome, "config.toml"),
          `[mcp_servers.toy]\ncommand = ${JSON.stringify(process.execPath)}\nargs = ${JSON.stringify([server, place.home])}\n`
        )
        const treasure = path.join(place.workspace, "treasure")
        fs.mkdirSync(treasure)
        const next = random(20261120)
        const ranges: Array<MarkRange | null> = []
        for (let round = 0; round < rounds; round++)
          yield* Effect.scoped(
            Effect.gen(function* () {
              const gateway = yield* startGateway(place)
              ranges.push(
                yield* ask(
                  place,
                  Effect.flatMap(ControlClient, (client) => client.Status())
                ).pipe(Effect.map(({ mark }) => mark))
              )
              yield* Effect.forkScoped(
                Effect.exit(ask(place, turn(place, { provider: provider.url, prompt: "go wild" })))
              )
              yield* Effect.sleep(Math.floor(next() * latestKillMs))
              yield* gateway.end("SIGKILL")
            })
          )
        yield* startGateway(place)
        const { keeper } = yield* ask(
          place,
          Effect.flatMap(ControlClient, (client) => client.Status())
        )
        ranges.push(keeper.mark)
        assert.strictEqual((yield* holdfast(place, ["down"])).code, 0)
        assert.deepStrictEqual(
          {
            marked: ranges.flatMap(marked),
            records: fs.readdirSync(path.join(place.runtimeDir, "bridges")),
            sockets: fs.readdirSync(place.runtimeDir).filter((name) => name.endsWith(".sock")).length,
            treasure: fs.existsSync(treasure),
            bystander: bystander.exitCode ?? bystander.signalCode
          },
          { marked: [], records: [], sockets: 0, treasure: true, bystander: null }
        )
      }).pipe(Effect.provide(providerLayer)),
    rounds * 10_000
  )
})
