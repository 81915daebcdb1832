/** The verbs about runs, on pipes, as a user has them: the built programs, one gateway and its keeper for many checks. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import {
  ask,
  dist,
  eventually,
  type Gateway,
  holdfast,
  makePlace,
  type Place,
  type Ran,
  run,
  startGateway
} from "./support/gateway.ts"

const seconds = 90_000

class World extends Context.Service<World, { readonly place: Place; readonly gateway: Gateway }>()(
  "holdfast/test/World"
) {}

/** Ended for good, so that its keeper is gone too. */
const down = (place: Place) => Effect.ignore(holdfast(place, ["down"]))

const world = Layer.effect(
  World,
  Effect.gen(function* () {
    const place = yield* makePlace()
    const gateway = yield* startGateway(place)
    yield* Effect.addFinalizer(() => down(place))
    return { place, gateway }
  })
)

const cli = Effect.fnUntraced(function* (...args: ReadonlyArray<string>) {
  return yield* holdfast((yield* World).place, args)
})

/** What it prints, where it does what it should. */
const done = Effect.fnUntraced(function* (...args: ReadonlyArray<string>) {
  const ran = yield* cli(...args)
  assert.deepStrictEqual({ code: ran.code, stderr: ran.stderr }, { code: 0, stderr: "" }, args.join(" "))
  return ran.stdout
})

const idOf = (ran: string): string => ran.trim()
const sh = (script: string) => ["--", "sh", "-c", script]

/** Not one that only waits to be reaped. */
const lives = (pid: string): boolean => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2))
  } catch {
    return false
  }
}

const liveRuns = Effect.fnUntraced(function* () {
  const { place } = yield* World
  const { runs } = yield* ask(
    place,
    Effect.flatMap(ControlClient, (client) => client.ListRuns({ ended: false }))
  )
  return runs.map(({ run }) => run.id)
})

const oneLine = /^holdfast: [^\n]+\n$/
const onlyCode = ({ code, signal }: Ran) => ({ code, signal })

it.layer(world, { timeout: seconds, excludeTestServices: true })("a run", (it) => {
  it.effect(
    "in the foreground: its bytes are ours and ours its, to the last one, and its exit status too",
    () =>
      Effect.gen(function* () {
        const { place } = yield* World
        const file = path.join(place.workspace, "bytes")
        const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7 + (at >> 8)) & 0xff))
        fs.writeFileSync(file, bytes)
        const line = `sh ${path.join(dist, "holdfast.sh")} run -- sh -c 'cat; echo err >&2; exit 7' < bytes > out`
        const ran = yield* run("/bin/sh", ["-c", line], { env: place.env, cwd: place.workspace })
        assert.deepStrictEqual(onlyCode(ran), { code: 7, signal: null })
        const out = fs.readFileSync(path.join(place.workspace, "out"))
        assert.isTrue(out.equals(Buffer.concat([bytes, Buffer.from("err\n")])), `${out.length} bytes`)
      })
  )

  it.effect("in the foreground: we end as it does: 128 and its signal, 124 for a deadline", () =>
    Effect.gen(function* () {
      const [signalled, late, silent] = yield* Effect.all(
        [
          cli("run", ...sh("kill -SEGV $$")),
          cli("run", "--timeout", "300ms", "--", "sleep", "60"),
          cli("run", "--idle-timeout", "400ms", "--", "sleep", "60")
        ],
        { concurrency: 2 }
      )
      assert.deepStrictEqual([signalled.code, late.code, silent.code], [139, 124, 124])
      assert.match(late.stderr, /^holdfast: r-\w{26}: ended after its 300 ms in all\n$/)
      assert.match(silent.stderr, /: ended after 400 ms without output\n$/)
    })
  )

  it.effect("what follows the command is its own; a variable is given by name", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* done("run", "echo", "-d", "--json", "--help"), "-d --json --help\n")
      assert.strictEqual(yield* done("run", "-e", "A=b c", ...sh('printf "$A"')), "b c")
    })
  )

  it.effect("SIGTERM ends the run, all of its tree, and then itself", () =>
    Effect.gen(function* () {
      const { place } = yield* World
      const child = childProcess.spawn(
        process.execPath,
        [path.join(dist, "cli.mjs"), "run", ...sh("sleep 61 & echo $!; wait")],
        { env: place.env, cwd: place.workspace }
      )
      let stdout = ""
      child.stdout.on("data", (text) => (stdout += String(text)))
      const exit = yield* Effect.forkChild(
        Effect.callback<number | null>(
          (resume) => void child.once("close", (code) => resume(Effect.succeed(code)))
        )
      )
      yield* eventually("it runs", () => stdout.includes("\n"))
      child.kill("SIGTERM")
      assert.strictEqual(yield* Fiber.join(exit), 129)
      assert.isFalse(lives(stdout.trim()))
    })
  )

  it.effect("a reader that has seen enough ends the run", () =>
    Effect.gen(function* () {
      const { place } = yield* World
      const line = `sh ${path.join(dist, "holdfast.sh")} run --name endless -- yes | head -n 2`
      const ran = yield* run("/bin/sh", ["-c", line], { env: place.env, cwd: place.workspace })
      assert.strictEqual(ran.stdout, "y\ny\n")
      yield* Effect.ignore(cli("wait", "endless"))
      assert.deepStrictEqual(yield* liveRuns(), [])
    })
  )
  it.effect(
    "in the background has a process when its id is printed, is found by name and beginning, and is typed into",
    () =>
      Effect.gen(function* () {
        const script = 'stty -echo; echo ready; while read -r line; do echo "[$line]"; done'
        const id = idOf(yield* done("run", "-d", "--name", "web", ...sh(script)))
        assert.match(id, /^r-[0-9A-Z]{26}$/)
        const listed = (yield* done("ps")).split("\n")
        assert.match(listed[0]!, /^ID +NAME +STATE +AGE +PID +ATTEMPT +SCOPE +COMMAND$/)
        assert.match(listed[1]!, /^r-\w{12} +web +running +\d+ \w+ +\d+ +1 +- +sh -c /)
        const [short, pid] = [listed[1]!.split(/ +/)[0]!, /running +\d+ \w+ +(\d+)/.exec(listed[1]!)![1]!]
        assert.include(fs.readFileSync(`/proc/${pid}/cmdline`, "utf8"), "while read")
        assert.include(yield* done("status", "--tree"), id)
        assert.match(yield* done("status"), /^keeper +pid \d+, up /m)
        assert.strictEqual(
          yield* done("reap", "--dry-run"),
          `${id}  adopted: its keeper lives and holds it\n`
        )

        const log = path.join((yield* World).place.workspace, "log")
        const { place } = yield* World
        const line = `exec sh ${path.join(dist, "holdfast.sh")} logs -f web > log`
        const following = yield* Effect.forkChild(
          run("/bin/sh", ["-c", line], { env: place.env, cwd: place.workspace })
        )
        const logged = (text: string) =>
          eventually(
            `the log has ${text}`,
            () => fs.existsSync(log) && fs.readFileSync(log, "utf8").includes(text)
          )
        yield* logged("ready")
        yield* done("send", "web", "one", "--keys", "Enter")
        yield* logged("[one]")
        yield* done("send", short, "--paste", "two\nthree\n")
        yield* logged("[three]")
        assert.strictEqual(yield* done("logs", "--tail", "2", id.slice(0, 20)), "[two]\r\n[three]\r\n")
        const going = yield* cli("wait", "--timeout", "50ms", "web")
        assert.deepStrictEqual(
          [going.code, going.stderr],
          [124, `holdfast: The run ${id} goes on after 50ms.\n`]
        )
        yield* done("send", "web", "--keys", "C-d")
        assert.strictEqual(yield* done("wait", "web"), `${id} (web)  exited with status 0\n`)
        assert.deepStrictEqual(onlyCode(yield* Fiber.join(following)), { code: 0, signal: null })
        const text = "ready\r\n[one]\r\n[two]\r\n[three]\r\n"
        assert.deepStrictEqual([fs.readFileSync(log, "utf8"), yield* done("logs", "web")], [text, text])
        assert.match(yield* done("ps", "-a"), /web +exited .* exited with status 0 +sh -c/)
        assert.strictEqual(yield* done("rm", "web"), `${id}\n`)
        assert.deepStrictEqual((yield* cli("logs", "web")).code, 4)
      })
  )

  it.effect("stop and kill end it with its tree, and wait tells how it ended", () =>
    Effect.gen(function* () {
      const stubborn = "trap '' HUP TERM; (setsid sleep 62 &) ; sleep 62; sleep 62"
      const [a, b, c] = yield* Effect.forEach([stubborn, stubborn, "exit 9"], (script) =>
        Effect.map(done("run", "-d", "--no-pty", ...sh(script)), idOf)
      )
      assert.strictEqual(yield* done("stop", "--grace", "100ms", a!), `${a}  stopped by operator\n`)
      assert.strictEqual(yield* done("kill", b!), `${b}  stopped by operator\n`)
      assert.deepStrictEqual(
        (yield* Effect.forEach([a!, b!, c!], (id) => cli("wait", id))).map(({ code }) => code),
        [137, 137, 9]
      )
      assert.deepStrictEqual(yield* liveRuns(), [])
    })
  )

  it.effect("bad input is one line with the designed code, and leaves nothing", () =>
    Effect.gen(function* () {
      const { place } = yield* World
      const plain = path.join(place.workspace, "plain")
      fs.writeFileSync(plain, "text")
      const a = idOf(yield* done("run", "-d", "--no-pty", "--name", "a", "--scope", "s", "--", "sleep", "63"))
      const b = idOf(yield* done("run", "-d", "--no-pty", "--name", "b", "--", "sleep", "63"))
      const cases: ReadonlyArray<readonly [ReadonlyArray<string>, number, RegExp]> = [
        [["run", "--", "no-such-command"], 127, /There is no no-such-command on the run's PATH/],
        [["run", "-d", "--", "no-such-command"], 127, /There is no no-such-command on the run's PATH/],
        [["run", "--", plain], 126, /plain is not a file that this user may execute/],
        [
          ["run", "--cwd", "/nowhere", "--", "true"],
          1,
          /The directory \/nowhere cannot be entered \(ENOENT\)/
        ],
        [["run"], 2, /There is no command to run.*holdfast run -- CMD/],
        [["run", "--frobnicate", "--", "true"], 2, /--frobnicate.*See: holdfast run --help/],
        [["run", "--timeout", "soon", "--", "true"], 2, /--timeout.*"soon".*500ms, 10s/],
        [["run", "--name", "a", "--", "true"], 1, /The name a belongs to the live run r-\w+\./],
        [["run", "--scope", "s", "--", "true"], 1, /The scope "s" has the live run r-\w+\..*--replace/],
        [["wait", "nobody"], 4, /There is no run "nobody"\. Look at `holdfast ps -a`/],
        [["stop", "a", "nobody"], 4, /There is no run "nobody"/],
        [["stop", "r-"], 2, /"r-" may be any of r-\w+, r-\w+/],
        [["rm", "a"], 1, /is still live\. Stop it first/],
        [["send", "a", "--keys", "Enter"], 1, /has pipes and no terminal/],
        [["attach", "a"], 2, /attach needs a terminal/],
        [["attach", "--json", "a"], 1, /has pipes and no terminal to attach to/]
      ]
      const rans = yield* Effect.forEach(cases, ([args]) => cli(...args), { concurrency: 3 })
      for (const [at, [args, code, line]] of cases.entries()) {
        const ran = rans[at]!
        assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code, stdout: "" }, args.join(" "))
        assert.match(ran.stderr, oneLine)
        assert.match(ran.stderr, line)
      }
      assert.deepStrictEqual((yield* liveRuns()).toSorted(), [a, b].toSorted())
      yield* done("kill", "a", "b")
    })
  )
})

describe("without a gateway", () => {
  it.live(
    "the verbs about runs say so, and a reap looks itself, and makes nothing",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const verbs = [
          ["run", "--", "true"],
          ["ps"],
          ["logs", "-f", "x"],
          ["wait", "x"],
          ["stop", "x"],
          ["send", "x", "y"]
        ]
        const rans = yield* Effect.forEach(verbs, (args) => holdfast(place, args), { concurrency: 3 })
        for (const ran of rans) {
          assert.deepStrictEqual({ code: ran.code, stdout: ran.stdout }, { code: 3, stdout: "" })
          assert.match(ran.stderr, /^holdfast: No gateway answers on [^\n]+\n$/)
        }
        const reap = yield* holdfast(place, ["reap", "--dry-run"])
        assert.deepStrictEqual(
          { code: reap.code, stdout: reap.stdout, stderr: reap.stderr },
          { code: 0, stdout: "no run is without a supervisor\n", stderr: "" }
        )
        assert.isFalse(fs.existsSync(path.join(place.home, "state")))
      }),
    seconds
  )
})

/** Whether a command of a place has a connection: a socket beside its standard ones, which may be sockets, too. */
const isConnected = (place: Place, verb: string): boolean =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .some((pid) => {
      try {
        const is = (file: string, text: string) =>
          fs.readFileSync(`/proc/${pid}/${file}`, "latin1").includes(text)
        if (!is("cmdline", `cli.mjs\0${verb}\0`) || !is("environ", `HOLDFAST_HOME=${place.home}\0`))
          return false
        const others = fs.readdirSync(`/proc/${pid}/fd`).filter((fd) => Number(fd) > 2)
        return others.some((fd) => fs.readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith("socket:"))
      } catch {
        return false
      }
    })

describe("an upgrade of the gateway", () => {
  it.live(
    "is not noticed by who follows, waits or runs in the foreground: every byte once, the true status",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const first = yield* startGateway(place)
        yield* Effect.addFinalizer(() => down(place))
        const flag = (name: string) => path.join(place.workspace, name)
        // Half of it is printed before the upgrade, some while there is no gateway, and the rest when told.
        const script = (code: number, name: string) =>
          `seq 1 500; touch ${name}-1; until [ -e gap ]; do sleep 0.02; done; seq 501 1000; touch ${name}-2; until [ -e go ]; do sleep 0.02; done; seq 1001 1500; exit ${code}`
        const text = Array.from({ length: 1500 }, (_, at) => `${at + 1}\n`).join("")
        yield* holdfast(place, ["run", "-d", "--no-pty", "--name", "back", ...sh(script(8, "back"))])
        const follow = yield* Effect.forkChild(holdfast(place, ["logs", "-f", "back"]))
        const wait = yield* Effect.forkChild(holdfast(place, ["wait", "back"]))
        const front = yield* Effect.forkChild(holdfast(place, ["run", ...sh(script(9, "front"))]))
        yield* eventually(
          "both are under way, and all three are connected",
          () =>
            fs.existsSync(flag("front-1")) &&
            fs.existsSync(flag("back-1")) &&
            ["logs", "wait", "run"].every((verb) => isConnected(place, verb)),
          30_000
        )
        assert.deepStrictEqual(yield* first.end("SIGTERM"), { code: 0, signal: null })
        fs.writeFileSync(flag("gap"), "")
        yield* eventually(
          "both go on",
          () => fs.existsSync(flag("front-2")) && fs.existsSync(flag("back-2")),
          30_000
        )
        yield* startGateway(place)
        fs.writeFileSync(flag("go"), "")
        const [followed, waited, ran] = yield* Effect.all([
          Fiber.join(follow),
          Fiber.join(wait),
          Fiber.join(front)
        ])
        assert.deepStrictEqual([followed.code, waited.code, ran.code], [0, 8, 9])
        assert.isTrue(followed.stdout === text && ran.stdout === text)
        assert.deepStrictEqual([followed.stderr, waited.stderr, ran.stderr], ["", "", ""])
      }),
    seconds
  )
})
