/** A turn over a restart of the built gateway, with its keeper and the operator's command, as a user has them. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { AgentEvent } from "../src/services/AgentDriver.ts"
import { overridesFor, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { eventually, holdfast, makePlace, runtimeFiles, startGateway } from "./support/gateway.ts"
import { scripted, shell, statusOfGateway } from "./support/leases.ts"

const seconds = 120_000

describe("a turn of the operator's command", () => {
  for (const how of ["SIGTERM", "SIGKILL"] as const)
    it.live(
      `goes on when its gateway gets ${how} and another starts, and the command shows it to its end`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace({
            policy: {
              default: "allow",
              policies: [{ id: "no", command: "forbidden", verdict: "deny", reason: "no" }]
            }
          })
          const at = (name: string) => path.join(place.workspace, name)
          const { url } = yield* ScriptedProvider
          yield* scripted("over-restarts", [
            shell("echo one; touch going; while [ ! -e go ]; do sleep 0.02; done; echo two"),
            shell("touch forbidden"),
            { say: "all done" }
          ])
          const first = yield* startGateway(place)
          const overrides = ['model="gpt-5.5"', ...overridesFor(url)].flatMap((entry) => ["-c", entry])
          const caller = yield* Effect.forkChild(
            holdfast(place, ["codex", "--json", ...overrides, "over-restarts"]),
            { startImmediately: true }
          )
          yield* eventually("the command runs", () => fs.existsSync(at("going")), 60_000)
          const [before] = (yield* statusOfGateway(place)).leases
          yield* first.end(how)
          fs.writeFileSync(at("go"), "")
          yield* startGateway(place)
          const { code, stdout, stderr } = yield* Fiber.join(caller)
          const events = stdout
            .trimEnd()
            .split("\n")
            .map((line) => JSON.parse(line) as AgentEvent)
          const [after] = (yield* statusOfGateway(place)).leases
          assert.deepStrictEqual(
            {
              code,
              shown: events.flatMap((event) =>
                event._tag === "command"
                  ? [event.output.trim()]
                  : event._tag === "message"
                    ? [event.text]
                    : event._tag === "verdict"
                      ? [`${event.row.verdict} ${event.row.subject.slice(0, 15)}`]
                      : event._tag === "ended"
                        ? [event.status]
                        : []
              ),
              forbidden: fs.existsSync(at("forbidden")),
              sameServer: after?.pid === before?.pid
            },
            {
              code: 0,
              shown: ["allow echo one; touch", "one\ntwo", "deny touch forbidden", "all done", "completed"],
              forbidden: false,
              sameServer: true
            },
            stderr
          )
          yield* holdfast(place, ["down"])
          assert.deepStrictEqual(runtimeFiles(place), ["bridges"])
        }).pipe(Effect.provide(providerLayer)),
      seconds
    )
})
