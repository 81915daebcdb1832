/** ProcessIdentity against the processes of this machine. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import { layer, parsePs, ProcessIdentity } from "../src/layers/ProcessIdentity.ts"

const child = (command: string, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const process = spawn(command, args, { stdio: ["ignore", "pipe", "ignore"] })
      await once(process, "spawn")
      return process
    }),
    (process) => Effect.sync(() => process.kill("SIGKILL"))
  )

const firstLine = (stream: NodeJS.ReadableStream) =>
  Effect.promise(async () => String((await once(stream, "data"))[0]).trim())

describe("ProcessIdentity on this machine", () => {
  it.live("this process and its parent are alive, and stay who they are", () =>
    Effect.gen(function* () {
      const { of, self, verdict } = yield* ProcessIdentity
      const parent = Option.getOrThrow(yield* of(process.ppid))
      assert.deepStrictEqual(
        {
          self: yield* of(process.pid),
          verdicts: [yield* verdict(self), yield* verdict(parent)],
          place: [parent.bootId, parent.pidNamespace]
        },
        { self: Option.some(self), verdicts: ["alive", "alive"], place: [self.bootId, self.pidNamespace] }
      )
    }).pipe(Effect.provide(layer))
  )

  it.live("a child is alive until it ends; its number with another start is dead", () =>
    Effect.gen(function* () {
      const { of, verdict } = yield* ProcessIdentity
      const sleeper = yield* child("sleep", "60")
      const found = Option.getOrThrow(yield* of(sleeper.pid!))
      const alive = yield* verdict(found)
      const recycled = yield* verdict({ ...found, startToken: `${found.startToken}0` })
      const exited = once(sleeper, "exit")
      sleeper.kill("SIGKILL")
      yield* Effect.promise(() => exited)
      assert.deepStrictEqual(
        { alive, recycled, ended: yield* verdict(found), none: yield* of(sleeper.pid!) },
        { alive: "alive", recycled: "dead", ended: "dead", none: Option.none() }
      )
    }).pipe(Effect.provide(layer))
  )

  it.live("a zombie is dead", () =>
    Effect.gen(function* () {
      const { of } = yield* ProcessIdentity
      const parent = yield* child(
        "perl",
        "-e",
        `$| = 1; my $pid = fork; exit unless $pid; my $state = "";
          until ($state eq "Z") { open my $stat, "<", "/proc/$pid/stat"; $state = (split " ", <$stat>)[2] }
          print "$pid\\n"; sleep 60`
      )
      const pid = Number(yield* firstLine(parent.stdout!))
      assert.deepStrictEqual(yield* of(pid), Option.none())
    }).pipe(Effect.provide(layer))
  )

  it.live("numbers that are no process are nobody", () =>
    Effect.gen(function* () {
      const { of, self, verdict } = yield* ProcessIdentity
      const none = [0, -1, -process.pid, 1.5, 2 ** 22 + 1]
      assert.deepStrictEqual(
        {
          of: yield* Effect.forEach(none, of),
          verdicts: yield* Effect.forEach(none, (pid) => verdict({ ...self, pid }))
        },
        { of: none.map(() => Option.none()), verdicts: none.map(() => "dead" as const) }
      )
    }).pipe(Effect.provide(layer))
  )

  it.live("the parser for macOS reads what the ps of this machine prints", () =>
    Effect.sync(() => {
      const text = execFileSync("ps", ["-o", "lstart=,stat=,ppid=", "-p", String(process.pid)], {
        encoding: "utf8",
        env: { LC_ALL: "C", TZ: "UTC", PATH: process.env["PATH"] }
      })
      const seen = parsePs(text)
      assert.deepStrictEqual(
        seen._tag === "Running"
          ? { parent: seen.parent, dated: /^\w{3} \w{3} \d+ [\d:]{8} \d{4}$/.test(seen.startToken) }
          : seen,
        { parent: process.ppid, dated: true }
      )
    })
  )
})
