/** The real codex as a child: how it ends, however it is ended, and that nothing of it is left. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { codexOf, startThread, timed } from "./support/appServer.ts"
import { makeHome } from "./support/codex.ts"
import { eventually } from "./support/gateway.ts"

describe("codex as a child", () => {
  it.live("a healthy one leaves when it is asked to, and nothing is left", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const { start, left } = yield* codexOf(place)
      const { gone } = yield* Effect.scoped(Effect.tap(start, (connection) => startThread(connection, place)))
      assert.deepStrictEqual(
        { gone: yield* gone, left: left() },
        { gone: { confirmed: true, code: 0, signal: null }, left: [] }
      )
    })
  )

  it.live("one that is killed is lost by that signal within a second", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const { start, left } = yield* codexOf(place)
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* start
          process.kill(connection.pid!, "SIGKILL")
          const { value, ms } = yield* timed(connection.lost)
          assert.deepStrictEqual(
            { reason: value.reason, gone: yield* connection.gone, inTime: ms < 1000 },
            {
              reason: { _tag: "signalled", signal: "SIGKILL" },
              gone: { confirmed: true, code: null, signal: "SIGKILL" },
              inTime: true
            }
          )
        })
      )
      assert.deepStrictEqual(left(), [])
    })
  )

  it.live("one that is stopped is seen as such within a second, and killed without being asked", () =>
    Effect.gen(function* () {
      const place = yield* makeHome
      const { start, left } = yield* codexOf(place)
      const scope = yield* Scope.make()
      const connection = yield* Scope.provide(start, scope)
      process.kill(connection.pid!, "SIGSTOP")
      const lost = yield* timed(connection.lost)
      const closed = yield* timed(Scope.close(scope, Exit.void))
      assert.deepStrictEqual(
        {
          reason: lost.value.reason,
          gone: yield* connection.gone,
          left: left(),
          inTime: lost.ms < 1000 && closed.ms < 1000
        },
        {
          reason: { _tag: "stopped" },
          gone: { confirmed: true, code: null, signal: "SIGKILL" },
          left: [],
          inTime: true
        },
        `${lost.ms} ms and ${closed.ms} ms`
      )
    })
  )

  it.live(
    "a helper that an MCP server put into a session of its own is gone within 5 s of a retirement",
    () =>
      Effect.gen(function* () {
        const place = yield* makeHome
        const { start, left } = yield* codexOf(place)
        const fixture = path.resolve(import.meta.dirname, "fixtures/mcp-detaches-a-helper.mjs")
        const toy = { command: process.execPath, args: [fixture, place.home] }
        const scope = yield* Scope.make()
        const connection = yield* Scope.provide(start, scope)
        yield* startThread(connection, place, { mcp_servers: { toy } })
        const file = path.join(place.home, "helper.pid")
        yield* eventually(
          "the helper runs",
          () => fs.existsSync(file) && fs.readFileSync(file, "utf8") !== ""
        )
        const helper = Number(fs.readFileSync(file, "utf8"))
        assert.isTrue(left().includes(helper))
        yield* connection.retire({ _tag: "probes-missed", count: 2, silentMs: 30_000 })
        const { ms } = yield* timed(Scope.close(scope, Exit.void))
        assert.deepStrictEqual(
          { confirmed: (yield* connection.gone).confirmed, left: left(), inTime: ms < 5000 },
          { confirmed: true, left: [], inTime: true },
          `${ms} ms`
        )
      })
  )
})
