/** How a supervised child starts and how it ends, on real terminals and pipes: found, marked, reaped, told truly. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as fs from "node:fs"
import { join } from "node:path"
import {
  awaitText,
  cycle,
  directory,
  fixture,
  holdings,
  kinds,
  launched,
  launchedAs,
  printed,
  specOf,
  stateOf
} from "./support/runChild.ts"

const cycles = 100

describe("RunChild end", () => {
  for (const kind of kinds)
    for (const signal of ["SIGKILL", "SIGTERM", "SIGHUP", "SIGABRT"] as const)
      it.live(`a leader on ${kind} that goes by ${signal} tells it, and is not signalled again`, () =>
        Effect.gen(function* () {
          const child = yield* launched(kind, "sleep", "60")
          const first = yield* child.signalLeader(signal)
          const output = yield* printed(child)
          assert.deepStrictEqual(
            { first, output, status: yield* child.exited, again: yield* child.signalLeader("SIGKILL") },
            { first: "sent", output: "", status: { code: null, signal }, again: "gone" }
          )
          yield* child.resize({ cols: 10, rows: 10 })
        })
      )

  it.live("a leader that closes its terminal is not hung up on", () =>
    Effect.gen(function* () {
      const child = yield* launched(
        "terminal",
        "sh",
        "-c",
        "exec </dev/null >/dev/null 2>&1; sleep 0.3; exit 3"
      )
      const output = yield* printed(child)
      assert.deepStrictEqual(
        { output, status: yield* child.exited },
        { output: "", status: { code: 3, signal: null } }
      )
    })
  )

  for (const kind of kinds)
    it.live(`closing the scope on ${kind} ends the leader and its group and tells whoever waits`, () =>
      Effect.gen(function* () {
        const fifo = join(yield* directory, "fifo")
        const script = `trap '' HUP TERM; mkfifo "$0"; echo up; (exec sleep 60 > "$0") & wait; sleep 60`
        const { child, silence } = yield* Effect.scoped(
          Effect.gen(function* () {
            const child = yield* launched(kind, "sh", "-c", script, fifo)
            yield* awaitText(child, "up")
            const other = fs.createReadStream(fifo).resume()
            const ended = once(other, "end")
            yield* Effect.promise(() => once(other, "open"))
            return { child, silence: Effect.promise(() => ended) }
          })
        )
        // Comes when the other one is dead.
        yield* silence
        assert.deepStrictEqual(
          {
            status: yield* child.exited,
            leader: stateOf(child.pid),
            write: (yield* Effect.flip(child.write(Buffer.from("x"))))._tag,
            output: yield* printed(child)
          },
          {
            status: { code: null, signal: "SIGKILL" },
            leader: "gone",
            write: "InputClosed",
            output: ""
          }
        )
      })
    )

  for (const kind of kinds)
    it.live(`${cycles} children on ${kind} leave no descriptor, thread or zombie`, () =>
      Effect.gen(function* () {
        yield* cycle(kind)
        const before = yield* holdings
        for (let round = 0; round < cycles; round++) yield* cycle(kind)
        assert.deepStrictEqual(yield* holdings, before)
      })
    )
})

describe("RunChild start", () => {
  it.live("a child has its mark, its command line and no descriptor but its own three", () =>
    Effect.gen(function* () {
      for (const kind of ["terminal", "terminal", "pipes", "terminal"] as const) {
        const mark = { low: 3_999, high: 4_000 }
        const child = yield* launchedAs({ ...specOf(kind, "sh", "-c", "echo up; read line; exit 0"), mark })
        yield* awaitText(child, "up")
        const of = (name: string) => fs.readFileSync(`/proc/${child.pid}/${name}`, "utf8")
        assert.deepStrictEqual(
          {
            mark: child.mark,
            limit: /^Max file locks +(\S+) +(\S+)/m.exec(of("limits"))?.slice(1),
            command: of("cmdline").split("\0").slice(1, 3),
            descriptors: fs.readdirSync(`/proc/${child.pid}/fd`),
            startToken: of("stat").split(") ")[1]!.split(" ")[19]
          },
          {
            mark,
            limit: ["4000", "4000"],
            command: ["-c", "echo up; read line; exit 0"],
            descriptors: ["0", "1", "2"],
            startToken: child.startToken
          },
          kind
        )
      }
    })
  )

  it.live("a terminal has the size it is given, and follows a change of it", () =>
    Effect.gen(function* () {
      const child = yield* launched("terminal", "sh", "-c", "stty size; read line; stty size")
      yield* awaitText(child, "24 80")
      yield* child.resize({ cols: 132, rows: 43 })
      yield* child.write(Buffer.from("\r"))
      assert.include(yield* printed(child), "43 132")
    })
  )

  it.live("a command is found as execvp finds it", () =>
    Effect.gen(function* () {
      const dir = yield* directory
      const program = (place: string, mode: number) => {
        fs.mkdirSync(join(dir, place))
        fs.writeFileSync(join(dir, place, "tool"), `#!/bin/sh\necho ${place}\n`)
        fs.chmodSync(join(dir, place, "tool"), mode)
      }
      program("refused", 0o644)
      program("first", 0o755)
      program("second", 0o755)
      fs.mkdirSync(join(dir, "odd"))
      fs.mkdirSync(join(dir, "odd", "tool"))
      const told = (command: string, PATH: string) =>
        Effect.scoped(
          Effect.flatMap(
            launchedAs({ ...specOf("pipes", command), cwd: join(dir, "first"), env: { PATH } }),
            printed
          )
        )
      const at = (...places: ReadonlyArray<string>) => places.map((place) => join(dir, place)).join(":")
      assert.deepStrictEqual(
        {
          skipped: yield* told("tool", at("missing", "refused", "odd", "second", "first")),
          here: yield* told("tool", `:${at("second")}`),
          relative: yield* told("tool", `../second:${at("first")}`),
          slash: yield* told("../second/tool", ""),
          absolute: yield* told(join(dir, "first", "tool"), at("second")),
          absent: yield* Effect.map(Effect.flip(told("tool", at("missing"))), ({ problem }) => problem),
          refused: yield* Effect.map(
            Effect.flip(told("tool", at("refused", "odd"))),
            ({ problem }) => problem
          )
        },
        {
          skipped: "second\n",
          here: "first\n",
          relative: "second\n",
          slash: "second\n",
          absolute: "first\n",
          absent: "command-not-found",
          refused: "not-executable"
        }
      )
    })
  )

  for (const kind of kinds)
    it.live(`what cannot be started on ${kind} is told by its name, and leaves nothing behind`, () =>
      Effect.gen(function* () {
        const dir = yield* directory
        const file = join(dir, "plain")
        fs.writeFileSync(file, "")
        const orphan = join(dir, "orphan")
        fs.writeFileSync(orphan, "#!/no/such/interpreter\n", { mode: 0o755 })
        const spec = { ...specOf(kind, "true"), mark: { low: 3_999, high: 4_000 } }
        const before = yield* holdings
        const problems = yield* Effect.forEach(
          Object.entries({
            "no such command": { ...spec, command: "no-such-command" },
            "no such path": { ...spec, command: join(dir, "missing") },
            "no name": { ...spec, command: "" },
            "not executable": { ...spec, command: file },
            "a directory": { ...spec, command: dir },
            "below a file": { ...spec, command: join(file, "x") },
            "no interpreter": { ...spec, command: orphan },
            "no directory": { ...spec, cwd: join(dir, "missing") },
            "directory is a file": { ...spec, cwd: file },
            "relative directory": { ...spec, cwd: "." },
            NUL: { ...spec, args: ["a\0b"] },
            "too long": { ...spec, args: ["x".repeat(200_000)] },
            "odd name": { ...spec, env: { ...spec.env, "A=B": "c" } }
          }),
          ([name, bad]) =>
            Effect.map(Effect.flip(Effect.scoped(launchedAs(bad))), ({ problem }) => [name, problem])
        )
        assert.deepStrictEqual(
          { problems: Object.fromEntries(problems), after: yield* holdings },
          {
            problems: {
              "no such command": "command-not-found",
              "no such path": "command-not-found",
              "no name": "command-not-found",
              "not executable": "not-executable",
              "a directory": "not-executable",
              "below a file": "command-not-found",
              "no interpreter": "command-not-found",
              "no directory": "cwd-missing",
              "directory is a file": "cwd-missing",
              "relative directory": "cwd-missing",
              NUL: "failed",
              "too long": "failed",
              "odd name": "failed"
            },
            after: before
          }
        )
      })
    )

  it.live("a process without a free descriptor is told so, and starts children again when it has some", () =>
    Effect.gen(function* () {
      const child = yield* launched(
        "pipes",
        "sh",
        "-c",
        `ulimit -n 60; exec "$0" "$1"`,
        process.execPath,
        fixture("has-no-descriptors.ts")
      )
      assert.deepStrictEqual(JSON.parse(yield* printed(child)), {
        terminal: ["no-resources", 0],
        pipes: ["no-resources", 0]
      })
    })
  )
})
