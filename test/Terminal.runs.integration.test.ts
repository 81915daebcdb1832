/** Runs at a person's terminal: in the foreground and attached to, over an upgrade, and what is left of it on the terminal. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { dist, eventually, holdfast, makePlace, type Place, startGateway } from "./support/gateway.ts"
import { terminal } from "./support/terminal.ts"

const seconds = 90_000
const launcher = path.join(dist, "holdfast.sh")

/** Draws on the whole screen, as editors do, and says its size; ends at a `q`. */
const fullScreen = [
  `trap 'stty size' WINCH`,
  // Reads for a tenth of a second at most: a shell tells of its window only between two commands.
  `stty -echo -icanon min 0 time 1`,
  String.raw`printf '\033[?1049h\033[?2004h\033[?25l\033[?1000h\033[Hfull screen\r\n'`,
  `stty size`,
  `while key=$(dd bs=1 count=1 2>/dev/null) || :; do [ "$key" = q ] && exit 5; [ -n "$key" ] && printf '<%s>' "$key"; done`
].join("\n")

const isPlain = (at: Effect.Success<ReturnType<typeof terminal>>): boolean =>
  !at.alternate() &&
  !at.modes().bracketedPasteMode &&
  at.modes().mouseTrackingMode === "none" &&
  at.written().lastIndexOf("\x1b[?25h") > at.written().lastIndexOf("\x1b[?25l")

const gatewayAt = Effect.fnUntraced(function* (place: Place) {
  const gateway = yield* startGateway(place)
  yield* Effect.addFinalizer(() => Effect.ignore(holdfast(place, ["down"])))
  return gateway
})

describe("a run at a terminal", () => {
  it.live(
    "one types, others look on, the window is the writer's; who detaches has their terminal back, and the run goes on",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const first = yield* gatewayAt(place)
        const script = `stty -g > before; sh ${launcher} run --name v -- sh -c "$SCRIPT"; echo "code $?"; stty -g > after`
        const env = { ...place.env, SCRIPT: fullScreen }
        const person = yield* terminal({ ...place, env }, ["-c", script], {
          program: "/bin/sh",
          cols: 90,
          rows: 20
        })
        yield* person.displays("20 90")
        yield* person.type("a")
        yield* person.displays("<a>")

        const other = yield* terminal(place, ["attach", "v"])
        yield* other.shows("another terminal is the writer")
        yield* other.displays("<a>")
        yield* other.type("x")
        yield* other.shows("\x07")
        yield* person.resize(70, 15)
        yield* other.displays("15 70")
        assert.isTrue(person.alternate() && other.alternate())
        yield* other.type("\x10\x11")
        assert.strictEqual(yield* other.exit, 0)
        assert.isTrue(isPlain(other))
        assert.match(other.lines().join("\n"), /detached from r-\w{26}, which goes on/)

        assert.strictEqual((yield* first.end("SIGTERM")).code, 0)
        yield* person.type("b")
        const second = yield* startGateway(place)
        yield* person.displays("<b>")
        assert.notInclude(person.lines().join("\n"), "<x>")

        yield* person.type("\x10\x11")
        yield* person.displays("code 0")
        assert.strictEqual(yield* person.exit, 0)
        assert.isTrue(isPlain(person))
        const modes = (name: string) => fs.readFileSync(path.join(place.workspace, name), "utf8")
        assert.strictEqual(modes("after"), modes("before"))

        const back = yield* terminal(place, ["attach", "--detach-keys", "ctrl-a,d", "v"], {
          cols: 60,
          rows: 10
        })
        yield* back.displays("10 60")
        assert.include(back.lines().join("\n"), "<b>")
        yield* back.type("q")
        assert.strictEqual(yield* back.exit, 0)
        assert.isTrue(isPlain(back))
        yield* back.displays("exited with status 5")
        assert.strictEqual((yield* holdfast(place, ["wait", "v"])).code, 5)
        // Ended for good before its keeper's grace.
        assert.strictEqual((yield* holdfast(place, ["down"])).code, 0)
        assert.isFalse(fs.existsSync(second.control))
      }),
    seconds
  )

  it.live(
    "Ctrl-C is the run's own, its status ours; a log that is followed leaves the terminal as it was",
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        yield* gatewayAt(place)
        const asleep = yield* terminal(place, ["run", "--", "sh", "-c", "echo on $(tty); sleep 64"])
        yield* asleep.displays("on /dev/")
        yield* asleep.type("\x03")
        assert.strictEqual(yield* asleep.exit, 130)

        const over = yield* terminal(place, ["run", "--", "sh", "-c", "exit 7"])
        assert.strictEqual(yield* over.exit, 7)

        yield* holdfast(place, ["run", "-d", "--name", "v", "--", "sh", "-c", fullScreen])
        const log = yield* terminal(place, ["logs", "-f", "v"])
        yield* log.displays("full screen")
        yield* eventually("the log is on the whole screen", log.alternate)
        yield* log.type("\x03")
        assert.strictEqual(yield* log.exit, 130)
        yield* eventually("the terminal is as it was", () => isPlain(log))

        const gone = yield* terminal(place, ["attach", "nobody"])
        assert.strictEqual(yield* gone.exit, 4)
        const pipes = yield* terminal(place, ["run", "--no-pty", "--", "sh", "-c", "tty; echo done"])
        assert.strictEqual(yield* pipes.exit, 0)
        yield* pipes.displays("not a tty")
      }),
    seconds
  )
})
