/**
 * Every way in which a hook gets no decision, on the real Codex, told by what is on disk afterwards: the call did not run. Where
 * the client can still answer it does; where it is missing or killed the wrapper around it does, or the approval. A client
 * that is missing, unreadable, killed, late or silent is in Gateway.integration, with what Codex makes of each.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { findOnPath } from "../src/layers/internal/programFile.ts"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import type { ConfigFile } from "../src/services/ConfigFile.ts"
import { ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { ask, dist, endOf, eventually, makePlace, type Place, startGateway, turn } from "./support/gateway.ts"

const perl = findOnPath("perl", process.env["PATH"] ?? "") ?? "/usr/bin/perl"

interface Sabotaged {
  readonly place: Place
  /** The copy of the programs that the gateway runs, and its hook clients with it. */
  readonly programs: string
  readonly client: string
  readonly interpreter: string
}

/** A place whose hook client, and the interpreter of that, are its own. */
const sabotaged = Effect.fnUntraced(function* (config: ConfigFile = {}) {
  const place = yield* makePlace({ ...config, hook: { timeoutSeconds: 2, client: "perl" } })
  const programs = path.join(place.home, "dist")
  const bin = path.join(place.home, "bin")
  fs.mkdirSync(bin)
  fs.cpSync(dist, programs, {
    recursive: true,
    filter: (file) => !file.startsWith(path.join(dist, "library"))
  })
  const interpreter = path.join(bin, "perl")
  fs.copyFileSync(perl, interpreter)
  fs.chmodSync(interpreter, 0o755)
  const env = { ...place.env, PATH: `${bin}:${place.env["PATH"]}` }
  return {
    place: { ...place, env },
    programs,
    client: path.join(programs, "hookRelay.pl"),
    interpreter
  } satisfies Sabotaged
})

type Sabotage = (world: Sabotaged) => void

/** The client itself, given something else to read, or other words. */
const aroundClient =
  (change: string): Sabotage =>
  (world) => {
    const real = `${world.client}.real`
    fs.copyFileSync(world.client, real)
    fs.writeFileSync(
      world.client,
      `use strict; my $in = do { local $/; <STDIN> }; my @args = @ARGV; ${change};
open(my $to, '|-', '${world.interpreter}', '${real}', @args) or exit 70; print $to $in; close $to; exit($? >> 8);`
    )
  }

/** What the record of every open relay says, changed. */
const inRecord =
  (pattern: RegExp, text: string): Sabotage =>
  ({ place }) => {
    const bridges = path.join(place.runtimeDir, "bridges")
    for (const name of fs.readdirSync(bridges)) {
      const file = path.join(bridges, name)
      fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace(pattern, text))
    }
  }

const cells: Readonly<Record<string, Sabotage>> = {
  "wrong generation": inRecord(/^generation=.*$/m, "generation=999"),
  "wrong token": inRecord(/^token=.*$/m, "token=guessed"),
  "an expired record": inRecord(/^expiresAt=.*$/m, "expiresAt=1"),
  "interpreter not executable": ({ interpreter }) => fs.chmodSync(interpreter, 0o644),
  "interpreter missing": ({ interpreter }) => fs.rmSync(interpreter),
  "truncated JSON": aroundClient("$in = substr($in, 0, length($in) - 5)"),
  "invalid UTF-8": aroundClient(String.raw`$in =~ s/"touch/"\xff\xfetouch/`),
  "oversized stdin": aroundClient("$in =~ s/\\}\\s*$/, \"pad\": \"/; $in .= ('x' x 6_000_000) . '\"}'"),
  "unknown event": aroundClient('$args[1] = "no_such_event"')
}

const live = <A, E>(promise: string, test: () => Effect.Effect<A, E, ScriptedProvider | Scope.Scope>) =>
  it.live(promise, () => Effect.provide(test(), providerLayer), 90_000)

const shell = (cmd: string) => ({ fn: "exec_command", args: { cmd } }) as const

const holdUntil = (file: string) => `touch begun; while [ ! -e ${file} ]; do sleep 0.05; done`

/** A turn that holds still in its first call, for the world to be changed under it, and then makes a second. */
const heldTurn = Effect.fnUntraced(function* (world: Sabotaged, name: string) {
  const provider = yield* ScriptedProvider
  const prompt = `cell ${name}`
  yield* provider.script(prompt, [shell(holdUntil("go")), shell("touch ran"), { say: "done" }])
  const file = (name: string) => path.join(world.place.workspace, name)
  for (const name of ["begun", "go", "ran"]) fs.rmSync(file(name), { force: true })
  const turning = yield* Effect.forkScoped(
    Effect.exit(ask(world.place, turn(world.place, { provider: provider.url, prompt })))
  )
  yield* eventually(`${name}: the turn has begun`, () => fs.existsSync(file("begun")), 30_000)
  return { file, turning, goOn: () => fs.writeFileSync(file("go"), "") }
})

const settle = ({ turning }: Effect.Success<ReturnType<typeof heldTurn>>) => Fiber.join(turning)

describe("a hook that gets no decision, on the real Codex", () => {
  live("falls closed in every cell of the table, by what is on disk", () =>
    Effect.gen(function* () {
      const world = yield* sabotaged()
      yield* startGateway(world.place, world.programs)
      const client = fs.readFileSync(world.client)
      const ran: Array<string> = []
      const sound = yield* heldTurn(world, "sound")
      sound.goOn()
      const exit = yield* settle(sound)
      if (exit._tag === "Success") assert.strictEqual(endOf(exit.value), "completed")
      assert.isTrue(fs.existsSync(sound.file("ran")))
      for (const [name, sabotage] of Object.entries(cells)) {
        const held = yield* heldTurn(world, name)
        sabotage(world)
        held.goOn()
        yield* settle(held)
        if (fs.existsSync(held.file("ran"))) ran.push(name)
        fs.rmSync(world.client, { recursive: true, force: true })
        fs.writeFileSync(world.client, client)
        fs.copyFileSync(perl, world.interpreter)
        fs.chmodSync(world.interpreter, 0o755)
      }
      assert.deepStrictEqual(ran, [])
    })
  )

  live("a gateway that is stopped, gone, or cannot write decides nothing, and nothing runs", () =>
    Effect.gen(function* () {
      const world = yield* sabotaged()
      const first = yield* startGateway(world.place, world.programs)
      const full = yield* heldTurn(world, "disk full")
      // As far as a file can tell a full disk: it cannot grow any more.
      const limited = childProcess.spawnSync("prlimit", ["--pid", String(first.pid), "--fsize=0:unlimited"])
      assert.strictEqual(limited.status, 0)
      full.goOn()
      yield* settle(full)
      assert.isFalse(fs.existsSync(full.file("ran")), "disk full")
      assert.strictEqual(
        childProcess.spawnSync("prlimit", ["--pid", String(first.pid), "--fsize=unlimited:unlimited"]).status,
        0
      )

      const hung = yield* heldTurn(world, "hung")
      process.kill(first.pid, "SIGSTOP")
      hung.goOn()
      const spool = path.join(world.place.runtimeDir, "undecided.log")
      const fell = (event: string) => () =>
        fs.existsSync(spool) && fs.readFileSync(spool, "utf8").includes(event)
      yield* eventually("the hook fell", fell("pre_tool_use closed timeout"))
      process.kill(first.pid, "SIGCONT")
      yield* settle(hung)
      assert.isFalse(fs.existsSync(hung.file("ran")), "hung")

      fs.rmSync(spool, { force: true })
      const gone = yield* heldTurn(world, "gone")
      yield* first.end("SIGKILL")
      gone.goOn()
      yield* eventually("the hook fell", fell("pre_tool_use closed"))
      assert.isFalse(fs.existsSync(gone.file("ran")), "gone")
      yield* Fiber.interrupt(gone.turning)
    })
  )

  live("falls open where the config says so, and then it is the approval that decides", () =>
    Effect.gen(function* () {
      const world = yield* sabotaged({
        directions: { pre_tool_use: "open" },
        policy: { default: "allow", policies: [{ id: "no-touch", command: "^touch ran", verdict: "deny" }] }
      })
      yield* startGateway(world.place, world.programs)
      const held = yield* heldTurn(world, "open")
      fs.rmSync(world.client)
      held.goOn()
      yield* settle(held)
      assert.isFalse(fs.existsSync(held.file("ran")))
    })
  )
})
