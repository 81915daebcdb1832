/** Orphans of runs are children of the keeper: who has nothing else of its run is found as one, and the dead are buried. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { childrenOf, isStill, markOf, relativesOf, type Seen } from "../src/layers/internal/procfs.ts"
import { sweepTree } from "../src/layers/internal/runTree.ts"
import { ask, eventually, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"

const seconds = 60_000

/**
 * Leaves behind a process without a parent, an environment or a directory of its run, whose mark is below every range;
 * writes its number down.
 */
const ghost = `use POSIX qw(setsid); $| = 1; pipe my $read, my $write;
  unless (fork) {
    exit if fork;
    setsid; %ENV = (); chdir "/"; close $read; my $out = fileno $write; POSIX::dup2($out, 9) if $out != 9;
    exec "prlimit", "--locks=1:1", "--", $^X, "-e",
      q{use POSIX; POSIX::write(9, "$$\\n", length "$$\\n"); POSIX::close($_) for 0 .. 63; sleep 120}
  }
  close $write; wait; my $pid = <$read>; open my $file, ">", "$ARGV[0].new"; print $file $pid; close $file;
  rename "$ARGV[0].new", $ARGV[0]; sleep 120`

const begin = Effect.fnUntraced(function* (place: Place, name: string) {
  const file = path.join(place.workspace, name)
  yield* holdfast(place, ["run", "-d", "--no-pty", "--name", name, "--", "perl", "-e", ghost, file])
  yield* eventually("the ghost is there", () => fs.existsSync(file))
  const pid = Number(fs.readFileSync(file, "utf8"))
  const seen: Seen = { pid, startToken: relativesOf(pid)!.startToken }
  return seen
})

const keeperOf = (place: Place) =>
  ask(
    place,
    Effect.flatMap(ControlClient, (client) => client.Status())
  ).pipe(Effect.map(({ keeper }) => keeper.identity!.pid))

describe("orphans", () => {
  it.live(
    "one that has lowered its mark out of every range and kept nothing of its run ends with it, where no other can be its run",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const one = yield* begin(place, "haunted")
        const parent = relativesOf(one.pid)?.parent
        assert.strictEqual(parent, yield* keeperOf(place))
        const stopped = yield* holdfast(place, ["stop", "haunted"])
        assert.deepStrictEqual([stopped.code, isStill(one)], [0, false])
      }),
    seconds
  )

  it.live(
    "beside another run it is left to that, as it could be its own, and is ended with the keeper at the latest",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        yield* holdfast(place, ["run", "-d", "--no-pty", "--name", "other", "--", "sleep", "120"])
        const one = yield* begin(place, "haunted")
        yield* holdfast(place, ["stop", "haunted"])
        const beside = isStill(one)
        yield* holdfast(place, ["down"])
        assert.deepStrictEqual([beside, isStill(one)], [true, false])
      }),
    seconds
  )

  it.live("a run that begins while the only other is swept is not taken for an orphan of that", () =>
    Effect.gen(function* () {
      const child = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          const started = childProcess.spawn("prlimit", ["--locks=7:7", "--", "sleep", "120"], {
            stdio: "ignore"
          })
          await once(started, "spawn")
          return started
        }),
        (started) => Effect.sync(() => started.kill("SIGKILL"))
      )
      const pid = child.pid!
      yield* eventually("it has its mark", () => markOf(pid) === 7)
      const other: Seen = { pid, startToken: relativesOf(pid)!.startToken }
      const swept = { low: 100, high: 200 }
      // It begins as soon as anybody has looked at anything.
      let begun = false
      const afterwards = <A>(look: (begun: boolean) => A) =>
        Effect.sync(() => {
          const seen = look(begun)
          begun = true
          return seen
        })
      const signals: Array<string> = []
      const end = yield* sweepTree(
        { runId: "r", leader: null, mark: swept, cgroup: null, kin: new Map() },
        {
          marks: {
            members: () => Effect.succeed([]),
            sweep: () => Effect.succeed({ ended: [], survivors: [], proven: true })
          },
          signal: (_pid, name) => {
            signals.push(name)
            return "sent"
          },
          times: { killGraceMs: 10, sweepTimeoutMs: 100 },
          traces: { kinOf: () => Effect.succeed([]), bearers: () => Effect.succeed([]) },
          orphans: afterwards((there) => (there ? [other] : [])),
          claimed: afterwards((there) => (there ? [swept, { low: 5, high: 10 }] : [swept]))
        },
        true
      )
      assert.deepStrictEqual([signals, end.extinction], [[], { proven: true, survivors: [] }])
    })
  )

  it.live(
    "those that die unasked are buried, and a status that is Node's or a terminal's is left to it",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* startGateway(place)
        const words = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do (sleep 0.$i &) ; done; sleep 1; exit 3"]
        const rans = yield* Effect.forEach(
          [
            ["run", "--", ...words],
            ["run", "--no-pty", "--", ...words],
            ["run", "-d", "--", "sleep", "120"]
          ],
          (args) => holdfast(place, args),
          { concurrency: 3 }
        )
        const keeper = yield* keeperOf(place)
        yield* eventually("nobody is unburied", () => childrenOf(keeper).every(({ dead }) => !dead))
        assert.deepStrictEqual(
          { codes: rans.map(({ code }) => code), children: childrenOf(keeper).length },
          { codes: [3, 3, 0], children: 1 }
        )
      }),
    seconds
  )
})
