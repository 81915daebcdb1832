/** The keeper, by the built programs: who is answered, and one that does not answer. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { ask, dist, holdfast, makePlace, run, startGateway } from "./support/gateway.ts"

const seconds = 60_000

const status = Effect.flatMap(ControlClient, (client) => client.Status())

/** Asks a keeper for its tree; says what it heard within two seconds. */
const peer = `use IO::Socket::UNIX; $SIG{PIPE} = "IGNORE";
  my $c = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die;
  $c->autoflush; print $c qq({"_tag":"Request","id":"1","tag":"Tree","payload":null,"headers":[]}\\n);
  $SIG{ALRM} = sub { print "silence\\n"; exit }; alarm 2;
  my $l = <$c>; print defined $l ? ($l =~ /"Success"/ ? "answered" : $l) : "cut off"`

describe("the keeper", () => {
  it.live(
    "answers its user, and nobody who carries a mark of its range: not a run, nor what a run has put into a session of its own",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        yield* holdfast(place, ["run", "-d", "--", "sleep", "60"])
        const socket = fs.readdirSync(place.runtimeDir).find((name) => name.startsWith("keeper-"))!
        const words = ["perl", "-e", peer, path.join(place.runtimeDir, socket)]
        const outside = yield* run(words[0]!, words.slice(1), { env: place.env })
        const inside = yield* holdfast(place, ["run", "--no-pty", "--", ...words])
        const detached = yield* holdfast(place, ["run", "--no-pty", "--", "setsid", "-w", ...words])
        assert.deepStrictEqual(
          [outside.stdout, inside.stdout, detached.stdout],
          ["answered", "cut off", "cut off"]
        )
      }),
    seconds
  )

  it.live(
    "a reader that does not read holds up nobody: others are answered, read the same output, and end the run",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const words = ["while :; do echo a line of a run that talks without end; done"]
        const { stdout } = yield* holdfast(place, ["run", "-d", "--no-pty", "--", "sh", "-c", ...words])
        const runId = stdout.trim()
        const from = { _tag: "start" } as const
        const stuck = yield* Deferred.make<void>()
        yield* ask(
          place,
          Effect.flatMap(ControlClient, (client) =>
            client
              .ReadRun({ runId, from, follow: true })
              .pipe(Stream.runForEach(() => Effect.andThen(Deferred.succeed(stuck, undefined), Effect.never)))
          )
        ).pipe(Effect.forkScoped)
        yield* Deferred.await(stuck)
        const answers = yield* ask(
          place,
          Effect.gen(function* () {
            const client = yield* ControlClient
            // What there is: whoever follows a run that talks so much may be too slow for it.
            const chunks = client.ReadRun({ runId, from, follow: false })
            const read = yield* Stream.runFold(
              chunks,
              () => 0,
              (sum, item) => sum + ("bytes" in item ? item.bytes.length : 0)
            )
            const states = (yield* client.ListRuns({ ended: false })).runs.map(({ run }) => run.state)
            const ended = yield* client.EndRun({ runId, graceMs: 0 })
            return { read: read > 0, states, ended: ended.state }
          })
        )
        assert.deepStrictEqual(answers, { read: true, states: ["Running"], ended: "Exited" })
      }),
    seconds
  )

  it.live(
    "whoever asks for the first run and leaves while its keeper starts leaves one keeper, which the next one gets",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const sockets = () => fs.readdirSync(place.runtimeDir).filter((name) => name.startsWith("keeper-"))
        const start = Effect.forkScoped(holdfast(place, ["run", "-d", "--", "sleep", "60"]))
        const first = yield* start
        while (sockets().length === 0) yield* Effect.sleep(1)
        yield* Fiber.interrupt(first)
        const seen = sockets()
        yield* Effect.flatMap(start, Fiber.join)
        assert.deepStrictEqual(sockets(), seen)
        assert.strictEqual((yield* ask(place, status)).keeper.losses, 0)
      }),
    seconds
  )

  it.live(
    "one that is stopped keeps the next gateway from starting, in a line that says what to do, and is gone on with later",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const first = yield* startGateway(place)
        yield* holdfast(place, ["run", "-d", "--name", "stays", "--", "sleep", "60"])
        const keeper = (yield* ask(place, status)).keeper.identity!.pid
        process.kill(keeper, "SIGSTOP")
        yield* first.end("SIGKILL")
        const up = yield* run(process.execPath, [path.join(dist, "gateway.mjs")], { env: place.env })
        process.kill(keeper, "SIGCONT")
        assert.deepStrictEqual(
          [up.code, up.stdout, up.stderr.trim().split("\n").at(-1)],
          [
            1,
            "",
            `holdfast: The keeper, which holds the runs, does not answer. It is process ${keeper} and holds the runs of the last gateway: let it go on if it is stopped (kill -CONT), or end it with its runs (kill), and start again.`
          ]
        )
        yield* startGateway(place)
        const { keeper: kept, reconciled } = yield* ask(place, status)
        assert.deepStrictEqual(
          [kept.identity?.pid, kept.adopted, reconciled.map(({ dealing }) => dealing._tag)],
          [keeper, true, ["adopt"]]
        )
      }),
    seconds
  )
})
