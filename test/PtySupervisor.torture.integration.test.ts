/** Torturers of a run that has no mark, as where there is no prlimit: whoever kept something of it is ended. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { bystander, lives } from "./support/markedProcesses.ts"
import { leftOf, namedInPath, shell, supervisorOf, torture, untilPrinted } from "./support/ptySupervisor.ts"

const killGraceMs = 300

/** What is not here has kept nothing, or is another one whenever somebody looks. */
const known = [
  "bounded-fork-bomb.pl",
  "double-fork-daemon.pl",
  "env-cleared-setsid.sh",
  "env-cleared.sh",
  "ignores-hup-and-term.sh",
  "keeps-the-terminal-open.pl",
  "leader-exits-leaving-a-daemon.pl",
  "mcp-leaves-a-browser.pl",
  "nested-namespaces.sh",
  "own-process-group.pl",
  "plain.sh",
  "setsid-child.sh",
  "setsid-orphan.pl",
  "stopped-child.pl",
  "stopped-leader.pl"
]

describe("PtySupervisor without marks", () => {
  it.live("without a mark nobody is left who kept the session, the parent or the environment", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({ marked: false })
      const other = yield* bystander
      const ids = yield* Effect.forEach(known, (vice) =>
        Effect.gen(function* () {
          const { id } = yield* world.runs.start(torture(vice, { killGraceMs }))
          yield* untilPrinted(world, id, "up")
          return id
        })
      )
      const infos = yield* Effect.forEach(
        ids,
        (id) => world.runs.end(id, { by: "operator", graceMs: null }),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        { left: leftOf(null, ids), bystander: lives(other), ends: infos.map(({ extinction }) => extinction) },
        { left: [], bystander: true, ends: known.map(() => ({ proven: false, survivors: [] })) }
      )
    })
  )

  it.live("without a mark one that keeps nothing of its environment but PATH is ended all the same", () =>
    Effect.gen(function* () {
      const world = yield* supervisorOf({ marked: false })
      // As an MCP server that starts a browser and leaves: nothing else of it is the run's.
      const { id } = yield* world.runs.start(
        shell('env -i PATH="$PATH" sh -c "setsid sleep 61 >&- 2>&- &"; echo up; exec sleep 60')
      )
      yield* untilPrinted(world, id, "up")
      const named = () => namedInPath(id)
      const before = named().length
      yield* world.runs.end(id, { by: "operator", graceMs: killGraceMs })
      assert.deepStrictEqual({ before, left: named() }, { before: 2, left: [] })
    })
  )
})
