/** Approvals on the real codex, with the built programs: who is asked, who may answer, and what a restart does to it. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs"
import * as path from "node:path"
import { layer as providerLayer } from "../src/layers/ScriptedProvider.ts"
import { ControlClient } from "../src/layers/ControlClient.ts"
import type { Approval } from "../src/services/Approvals.ts"
import type { ConfigFile } from "../src/services/ConfigFile.ts"
import { overridesFor, ScriptedProvider } from "../src/services/ScriptedProvider.ts"
import { ask, dist, eventually, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"
import { runOf, scripted, shell, statusOf } from "./support/leases.ts"

const seconds = 120_000

const asksAbout = (command: string): ConfigFile => ({
  policy: {
    default: "allow",
    policies: [{ id: "careful", command, verdict: "ask", reason: "a person decides" }]
  }
})

/** The last line of what the command prints as JSON. */
const json = Effect.fnUntraced(function* (place: Place, args: ReadonlyArray<string>) {
  const { code, stdout, stderr } = yield* holdfast(place, [...args, "--json"])
  assert.strictEqual(code, 0, stderr)
  return JSON.parse(stdout) as unknown
})

const listed = (place: Place, ...args: ReadonlyArray<string>) =>
  Effect.map(json(place, ["approvals", "list", ...args]), (all) => all as ReadonlyArray<Approval>)

const pollMs = 20

/** As the gateway says it; while there is none, nobody waits. */
const waitingFor = Effect.fnUntraced(function* (place: Place, subject: string) {
  const end = Date.now() + 60_000
  for (;;) {
    const found = yield* ask(
      place,
      Effect.flatMap(ControlClient, (client) => client.ListApprovals({ live: true }))
    ).pipe(Effect.orElseSucceed(() => ({ approvals: [] as ReadonlyArray<Approval> })))
    const one = found.approvals.find(
      ({ call, state }) => state._tag === "pending" && call.subject.includes(subject)
    )
    if (one !== undefined) return one
    if (Date.now() > end) return yield* Effect.die(new Error(`nobody asked about ${subject}`))
    yield* Effect.sleep(pollMs)
  }
})

const rowsOf = (place: Place) =>
  Effect.map(holdfast(place, ["audit", "tail", "--json"]), ({ stdout }) =>
    stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly verdict: string; readonly reason: string })
      .map(({ verdict, reason }) => ({ verdict, reason }))
  )

describe("an approval", () => {
  it.live(
    "holds the call until somebody answers: a yes lets it run, a no leaves no trace, each with its row",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace(asksAbout("asked"))
        const at = (name: string) => path.join(place.workspace, name)
        yield* startGateway(place)
        yield* scripted("two", [shell("touch asked-yes"), shell("touch asked-no"), { say: "done" }])
        const turn = yield* Effect.forkChild(runOf(place, { prompt: "two" }))
        const first = yield* waitingFor(place, "asked-yes")
        assert.deepStrictEqual(
          (yield* listed(place)).map(({ id }) => id),
          [first.id]
        )
        assert.isFalse(fs.existsSync(at("asked-yes")))
        yield* json(place, ["approvals", "approve", first.id.slice(0, 8)])
        const second = yield* waitingFor(place, "asked-no")
        assert.isTrue(fs.existsSync(at("asked-yes")))
        yield* json(place, ["approvals", "deny", second.id, "--note", "not this one"])
        assert.strictEqual(statusOf(yield* Fiber.join(turn)), "completed")
        assert.isFalse(fs.existsSync(at("asked-no")))
        const rows = yield* rowsOf(place)
        assert.deepStrictEqual(
          rows.map(({ verdict }) => verdict).filter((verdict, index, all) => verdict !== all[index - 1]),
          ["allow", "deny"]
        )
        assert.include(rows.at(-1)!.reason, "not this one")
        const { code, stderr } = yield* holdfast(place, ["approvals", "approve", second.id])
        assert.deepStrictEqual([code, stderr.includes("was denied already")], [1, true], stderr)
        assert.strictEqual((yield* holdfast(place, ["approvals", "show", "zz"])).code, 4)
        assert.strictEqual(
          (yield* holdfast(place, ["approvals", "approve", second.id, "--session", "--for", "1h"])).code,
          2
        )
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  for (const how of ["SIGTERM", "SIGKILL"] as const)
    it.live(
      `outlives its gateway's ${how}: the hook that waits comes back, and the next gateway's answer reaches it`,
      () =>
        Effect.gen(function* () {
          const place = yield* makePlace(asksAbout("asked"))
          const first = yield* startGateway(place)
          const { url } = yield* ScriptedProvider
          const overrides = ['model="gpt-5.5"', ...overridesFor(url)].flatMap((entry) => ["-c", entry])
          yield* scripted("over", [shell("touch asked-over"), { say: "done" }])
          const turn = yield* Effect.forkChild(holdfast(place, ["codex", "--json", ...overrides, "over"]), {
            startImmediately: true
          })
          const { id } = yield* waitingFor(place, "asked-over")
          yield* first.end(how)
          yield* startGateway(place)
          const again = yield* waitingFor(place, "asked-over")
          assert.strictEqual(again.id, id)
          yield* json(place, ["approvals", "approve", id])
          const { code, stderr } = yield* Fiber.join(turn)
          assert.strictEqual(code, 0, stderr)
          assert.isTrue(fs.existsSync(path.join(place.workspace, "asked-over")))
          assert.strictEqual((yield* listed(place, "--all")).length, 1)
        }).pipe(Effect.provide(providerLayer)),
      seconds
    )

  it.live(
    "is answered by no agent: not by what asked, nor from a session, a daemon, an empty environment or a lower limit",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace(asksAbout("asked"))
        const at = (name: string) => path.join(place.workspace, name)
        yield* startGateway(place)
        const verb = `/bin/sh ${dist}/holdfast.sh`
        const names = ["PATH", "HOLDFAST_NODE", "HOLDFAST_HOME", "HOLDFAST_RUNTIME_DIR"]
        const keep = names.map((name) => `${name}="$${name}"`).join(" ")
        const daemon = `use POSIX; exit if fork; POSIX::setsid(); exit if fork; exec "sh", "-c", $ARGV[0]`
        const attempts = {
          direct: `${verb} approvals approve $id`,
          session: `setsid -w ${verb} approvals approve $id`,
          bare: `env -i ${keep} ${verb} approvals approve $id`,
          lowered: `prlimit --locks=3:3 -- ${verb} approvals approve $id`,
          gateway: `${verb} down`,
          reap: `${verb} reap`
        }
        yield* scripted("own", [shell("touch asked-own"), { say: "done" }])
        const turn = yield* Effect.forkChild(runOf(place, { prompt: "own" }))
        const { id } = yield* waitingFor(place, "asked-own")
        fs.writeFileSync(
          at("agent.sh"),
          [
            `id=${id}`,
            ...Object.entries(attempts).map(
              ([name, command]) => `${command} > ${name}.out 2>&1; echo $? > ${name}`
            ),
            `export id; perl -e '${daemon}' "env -i ${keep} ${verb} approvals approve $id > daemon.out 2>&1; echo \\$? > daemon"`,
            // What it started ends with it.
            "while [ ! -e daemon ]; do sleep 0.05; done"
          ].join("\n")
        )
        const env = names.slice(1).flatMap((name) => ["--env", name])
        const { code, stderr } = yield* holdfast(place, ["run", "-d", ...env, "--", "sh", "agent.sh"])
        assert.strictEqual(code, 0, stderr)
        yield* eventually(
          "every attempt was made",
          () => fs.existsSync(at("daemon")) && fs.readFileSync(at("daemon"), "utf8").endsWith("\n"),
          60_000
        )
        for (const name of [...Object.keys(attempts), "daemon"])
          assert.deepStrictEqual(
            {
              name,
              code: fs.readFileSync(at(name), "utf8").trim(),
              said: fs.readFileSync(at(`${name}.out`), "utf8").includes("This is for a person to say")
            },
            { name, code: "1", said: true },
            fs.readFileSync(at(`${name}.out`), "utf8")
          )
        assert.deepStrictEqual(
          (yield* listed(place)).map(({ state }) => state._tag),
          ["pending"]
        )
        assert.isFalse(fs.existsSync(at("asked-own")))
        yield* json(place, ["approvals", "deny", id])
        yield* Fiber.join(turn)
        assert.isFalse(fs.existsSync(at("asked-own")))
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )

  it.live(
    "of a script holds for that script: one that was rewritten meanwhile is refused, by its name",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace(asksAbout("deploy"))
        const at = (name: string) => path.join(place.workspace, name)
        yield* startGateway(place)
        fs.writeFileSync(at("deploy.sh"), "touch harmless\n")
        yield* scripted("drift", [shell("sh ./deploy.sh"), { say: "done" }])
        const turn = yield* Effect.forkChild(runOf(place, { prompt: "drift" }))
        const { id } = yield* waitingFor(place, "deploy.sh")
        fs.writeFileSync(at("deploy.sh"), "touch harmful\n")
        yield* json(place, ["approvals", "approve", id])
        yield* Fiber.join(turn)
        assert.isFalse(fs.existsSync(at("harmful")))
        assert.include((yield* rowsOf(place)).at(-1)!.reason, "the file ./deploy.sh changed")
      }).pipe(Effect.provide(providerLayer)),
    seconds
  )
})
