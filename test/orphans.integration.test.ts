/** Orphans of runs are children of the keeper: who has nothing else of its run is found as one, and the dead are buried. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { childrenOf, isStill, relativesOf, type Seen } from "../src/layers/internal/procfs.ts"
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
