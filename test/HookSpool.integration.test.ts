/** What clients decide without a gateway, from each client to the rows that the next start makes of it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { parseSpool } from "../src/services/HookSpool.ts"
import { maxSpoolBytes, spoolName } from "../src/services/HookWire.ts"
import { preference } from "../src/services/HookClients.ts"
import { dist, eventually, holdfast, makePlace, startGateway } from "./support/gateway.ts"
import { spawned } from "./support/HookGateway.ts"
import { argvOf } from "../src/services/HookClients.ts"
import { findOnPath } from "../src/layers/internal/programFile.ts"

const clients = preference.map((kind) => ({
  kind,
  argv: argvOf(
    kind,
    kind === "node" ? process.execPath : (findOnPath(kind, process.env["PATH"] ?? "") ?? kind),
    dist
  )
}))

describe("what clients decide without a gateway", () => {
  it.live("each client leaves a line, and the next start makes rows of them and takes them away", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const bridges = path.join(place.runtimeDir, "bridges")
      fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
      fs.chmodSync(place.runtimeDir, 0o700)
      for (const { argv } of clients)
        yield* spawned([...argv, path.join(bridges, "gone.bridge"), "pre_tool_use", "closed", "5000"], "{}")
      yield* spawned(
        [...clients[0]!.argv, path.join(bridges, "gone.bridge"), "pre_tool_use", "closed:not-found", "5000"],
        "{}"
      )
      const spool = path.join(place.runtimeDir, spoolName)
      assert.strictEqual(fs.statSync(spool).mode & 0o777, 0o600)
      // The one of sh writes it behind its answer.
      yield* eventually(
        "all of them are there",
        () => fs.readFileSync(spool, "utf8").split("\n").length > clients.length + 1
      )
      const { undecided, unreadable } = parseSpool(fs.readFileSync(spool, "utf8"))
      assert.deepStrictEqual(
        [
          unreadable,
          undecided.map(({ event, direction, cause, record }) => [event, direction, cause, record].join(" "))
        ],
        [
          0,
          [
            ...clients.map(() => "pre_tool_use closed not-found gone.bridge"),
            "pre_tool_use open not-found gone.bridge"
          ]
        ]
      )
      fs.appendFileSync(spool, "not a line of ours\n")
      yield* startGateway(place)
      assert.isFalse(fs.existsSync(spool))
      const { stdout } = yield* holdfast(place, ["audit", "tail", "--json"])
      const rows = stdout
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line))
      assert.deepStrictEqual(
        rows.map(({ source, verdict, policy, relayId }) => [source, verdict, policy, relayId].join(" ")),
        [...clients.map(() => "client deny no gateway gone.bridge"), "client allow no gateway gone.bridge"]
      )
      const verified = yield* holdfast(place, ["audit", "verify"])
      assert.include(verified.stdout, "UNDECIDED: 0 incidents, 1 hook that fell open")
    })
  )

  it.live(
    "what lies in the spool's place is neither followed nor waited for, and the answer is the same",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const bridges = path.join(place.runtimeDir, "bridges")
        fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
        const spool = path.join(place.runtimeDir, spoolName)
        const victim = path.join(place.home, "victim")
        fs.writeFileSync(victim, "")
        const obstacles: ReadonlyArray<() => void> = [
          () => fs.symlinkSync(victim, spool),
          () => void childProcess.spawnSync("mkfifo", [spool]),
          () => fs.mkdirSync(spool)
        ]
        for (const obstacle of obstacles) {
          fs.rmSync(spool, { recursive: true, force: true })
          obstacle()
          for (const { argv } of clients) {
            const { stdout, exitCode } = yield* spawned(
              [...argv, path.join(bridges, "gone.bridge"), "pre_tool_use", "closed", "5000"],
              "{}"
            )
            assert.deepStrictEqual([exitCode, stdout.includes("[not-found]")], [0, true])
          }
        }
        assert.strictEqual(fs.readFileSync(victim, "utf8"), "")
      })
  )

  it.live("a spool that is full takes no more, and the answer is the same", () =>
    Effect.gen(function* () {
      const place = yield* makePlace()
      const bridges = path.join(place.runtimeDir, "bridges")
      fs.mkdirSync(bridges, { recursive: true, mode: 0o700 })
      const spool = path.join(place.runtimeDir, spoolName)
      fs.writeFileSync(spool, "x".repeat(maxSpoolBytes), { mode: 0o600 })
      for (const { argv } of clients) {
        const { stdout, exitCode } = yield* spawned(
          [...argv, path.join(bridges, "gone.bridge"), "pre_tool_use", "closed", "5000"],
          "{}"
        )
        assert.deepStrictEqual([exitCode, stdout.includes("[not-found]")], [0, true])
      }
      assert.strictEqual(fs.statSync(spool).size, maxSpoolBytes)
    })
  )
})
