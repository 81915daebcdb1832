/** Who gets out of a run's range of marks: ended where something else proves it the run's, left alone where nothing does. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { carriers, lives, marked, sleeper } from "./support/markedProcesses.ts"
import { printed, rowsOf, shell, supervisorOf, untilPrinted, type World } from "./support/ptySupervisor.ts"

/** Below every range; a process may always go there, and never come back. */
const low = 77
/** The prlimit command without a PATH to find it by. */
const lowered = (mark: string) => `/usr/bin/prlimit --locks=${mark}:${mark} sleep 61`

const untilRunning = ({ runs }: World, runId: string) =>
  runs.watch(runId).pipe(
    Stream.takeUntil(({ leader }) => leader !== null),
    Stream.runDrain
  )

const escapes: Readonly<
  Record<string, { readonly how: string; readonly fate: "ended, and said to be a hole" | "left alone" }>
> = {
  "lowers its mark and keeps the cookie": {
    how: `setsid ${lowered(`${low}`)}`,
    fate: "ended, and said to be a hole"
  },
  "lowers its mark and keeps PATH alone": {
    how: `env -i PATH="$PATH" setsid ${lowered(`${low}`)}`,
    fate: "ended, and said to be a hole"
  },
  "lowers its mark and stays in the session": {
    how: `env -i ${lowered(`${low}`)}`,
    fate: "ended, and said to be a hole"
  },
  "lowers its mark and keeps no other sign": {
    how: `env -i setsid ${lowered(`${low}`)}`,
    fate: "left alone"
  },
  "takes the mark of another run": { how: `setsid ${lowered("$OTHER")}`, fate: "left alone" }
}

describe("PtySupervisor and who escapes from a mark", () => {
  for (const [what, { how, fate }] of Object.entries(escapes))
    it.live(`one that ${what} is ${fate}`, () =>
      Effect.gen(function* () {
        const world = yield* supervisorOf()
        const innocent = yield* marked(low, ...sleeper)
        const { id } = yield* world.runs.start(
          shell(`read OTHER; (${how} >&- 2>&- & echo pid $!); exec sleep 61`)
        )
        // The later of two has the lower mark, which a process may always take.
        const other = yield* world.runs.start(shell("echo up; exec sleep 61"))
        yield* untilPrinted(world, other.id, "up")
        const othersMark = Number(rowsOf(world.home).find((row) => row["run_id"] === other.id)!["mark_high"])
        yield* untilRunning(world, id)
        yield* world.runs.write(id, Buffer.from(`${othersMark}\n`))
        yield* untilPrinted(world, id, "\n")
        const escaped = Number((yield* printed(world.log, id)).slice("pid ".length))
        const isThere = () => [...carriers(low, low), ...carriers(othersMark, othersMark)].includes(escaped)
        yield* Effect.addFinalizer(() => Effect.sync(() => isThere() && process.kill(escaped, "SIGKILL")))
        yield* Effect.suspend(() => (isThere() ? Effect.void : Effect.fail("not yet"))).pipe(
          Effect.retry(Schedule.spaced(5))
        )
        const { extinction } = yield* world.runs.end(id, { by: "operator", graceMs: 200 })
        assert.deepStrictEqual(
          {
            fate: isThere() ? "left alone" : "ended, and said to be a hole",
            extinction,
            innocents: [lives(innocent.child), carriers(othersMark, othersMark).length > 0]
          },
          { fate, extinction: { proven: fate === "left alone", survivors: [] }, innocents: [true, true] }
        )
      })
    )
})
