/** Who gets out of a run's range of marks: ended where something else proves it the run's, left alone where nothing does. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { mkdirSync, readdirSync, readFileSync } from "node:fs"
import { cgroupDirectory, type CgroupsFound, removeGroup } from "../src/layers/internal/cgroups.ts"
import { carriers, lives, marked, sleeper } from "./support/markedProcesses.ts"
import { printed, rowsOf, shell, supervisorOf, untilPrinted, type World } from "./support/ptySupervisor.ts"

/** Below every range; a process may always go there, and never come back. */
const low = 77
/** The prlimit command without a PATH to find it by. */
const lowered = (mark: string) => `/usr/bin/prlimit --locks=${mark}:${mark} sleep 61`

const none: CgroupsFound = { _tag: "NotDelegated", problem: "not for this test" }

/** Null where this user may make none. */
const groupForTests = Effect.acquireRelease(
  Effect.sync((): Extract<CgroupsFound, { _tag: "Delegated" }> | null => {
    try {
      const read = (name: string) => readFileSync(`/proc/self/${name}`, "utf8")
      const directory = `${cgroupDirectory(read("cgroup"), read("mountinfo"))}/hf-test-${process.pid}`
      mkdirSync(directory)
      return { _tag: "Delegated", directory }
    } catch {
      return null
    }
  }),
  (made) => (made === null ? Effect.void : removeGroup(made.directory))
)

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
        const world = yield* supervisorOf({ cgroups: none })
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
          {
            fate,
            extinction: { proven: fate === "left alone", survivors: [] },
            innocents: [true, true]
          }
        )
      })
    )

  it.live("a run in a cgroup of its own is ended by the kernel, whoever has no other sign included", () =>
    Effect.gen(function* () {
      // Root may make one where this runs; elsewhere runs are as they are without.
      const made = yield* groupForTests
      const world = yield* supervisorOf({ cgroups: made ?? none })
      const { id } = yield* world.runs.start(
        shell(
          `(env -i setsid ${lowered("77")} >&- 2>&- & echo pid $!); grep ^0:: /proc/self/cgroup; exec sleep 61`
        )
      )
      yield* untilPrinted(world, id, "0::")
      const groups = () =>
        made === null ? [] : readdirSync(made.directory).filter((name) => name.endsWith(id))
      const during = groups().length
      const innocent = yield* marked(low, ...sleeper)
      const escaped = Number(/pid (\d+)/.exec(yield* printed(world.log, id))![1])
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => carriers(low, low).includes(escaped) && process.kill(escaped, "SIGKILL"))
      )
      const { extinction } = yield* world.runs.end(id, { by: "operator", graceMs: 200 })
      const its = (yield* printed(world.log, id)).includes(`/holdfast-${id}\n`)
      assert.deepStrictEqual(
        {
          its,
          during,
          after: groups().length,
          survivors: extinction?.survivors,
          escaped: carriers(low, low).includes(escaped),
          innocent: lives(innocent.child)
        },
        {
          its: made !== null,
          during: made === null ? 0 : 1,
          after: 0,
          survivors: [],
          escaped: made === null,
          innocent: true
        }
      )
    })
  )

  it("finds the own group's directory by its mount, or says that there is none", () => {
    const line = (root: string, point: string, kind: string) =>
      `35 27 0:30 ${root} ${point} rw,relatime shared:9 - ${kind} cgroup rw\n`
    const hybrid = line("/", "/sys/fs/cgroup/unified", "cgroup2") + line("/", "/sys/fs/cgroup/pids", "cgroup")
    const slice = "0::/user.slice/app.scope\n"
    assert.deepStrictEqual(
      {
        hybrid: cgroupDirectory(`8:pids:/x\n${slice}`, hybrid),
        root: cgroupDirectory("0::/\n", line("/", "/sys/fs/cgroup", "cgroup2")),
        bound: cgroupDirectory(slice, line("/user.slice", "/mnt/a\\040b", "cgroup2")),
        elsewhere: cgroupDirectory(slice, line("/other.slice", "/mnt", "cgroup2")),
        first: cgroupDirectory("8:pids:/x\n", hybrid),
        none: cgroupDirectory(slice, line("/", "/sys/fs/cgroup/pids", "cgroup"))
      },
      {
        hybrid: "/sys/fs/cgroup/unified/user.slice/app.scope",
        root: "/sys/fs/cgroup",
        bound: "/mnt/a b/app.scope",
        elsewhere: null,
        first: null,
        none: null
      }
    )
  })
})
