/** Ending what interrupted threads left running: one look for everybody who waits, each environment read once. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { makeThreadEnder, type Processes } from "../src/layers/internal/threadProcesses.ts"
import { range } from "../src/testing/InstanceMark.ts"
import { pass, settle } from "../src/testing/VirtualTime.ts"

interface Fake {
  /** Null: reading it takes forever. */
  environment: string | null
  image: string
  readonly ignores: ReadonlyArray<string>
}

/** Above every number that a kernel gives (2^22), this test's own process included, which is never among the found. */
const firstPid = 2 ** 22 + 1

const startToken = (pid: number) => `started-${pid}`
const mark = range(0)

/** A process table: what was asked of it, and what was sent to whom. */
const makeTable = () => {
  const table = new Map<number, Fake>()
  const reads = new Map<number, number>()
  const sent: Array<string> = []
  let scans = 0
  let onScan = () => {}
  const processes: Processes = {
    imageOf: (pid) => table.get(pid)?.image ?? null,
    readEnvironment: (pid) => {
      reads.set(pid, (reads.get(pid) ?? 0) + 1)
      const environment = table.get(pid)?.environment
      return environment === null ? new Promise(() => {}) : Promise.resolve(environment ?? "")
    },
    signalIfStill: ({ pid, startToken: token }, ...names) => {
      const fake = table.get(pid)
      if (fake === undefined || token !== startToken(pid)) return
      sent.push(...names.map((name) => `${name} ${pid}`))
      if (names.some((name) => name !== "SIGCONT" && !fake.ignores.includes(name))) table.delete(pid)
    }
  }
  return {
    table,
    reads,
    sent,
    processes,
    scans: () => scans,
    onScan: (then: () => void) => {
      onScan = then
    },
    marks: {
      members: () =>
        Effect.sync(() => {
          scans++
          onScan()
          return [...table.keys()].map((pid) => ({
            identity: { pid, startToken: startToken(pid), bootId: "boot", pidNamespace: "ns" },
            mark: mark.high,
            command: "sleep"
          }))
        })
    },
    runs: (pid: number, thread: string | null, over: Partial<Fake> = {}) =>
      table.set(pid, {
        environment: `PATH=/bin\0${thread === null ? "" : `CODEX_THREAD_ID=${thread}\0`}HOME=/\0`,
        image: "a",
        ignores: [],
        ...over
      })
  }
}

/** Milliseconds of the test's clock that it takes. */
const tookMs = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const before = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(effect)
    yield* settle
    for (let ms = 0; ms < 10_000 && fiber.pollUnsafe() === undefined; ms += 10) yield* pass("10 millis")
    yield* Fiber.join(fiber)
    return (yield* Clock.currentTimeMillis) - before
  })

/** So many runs of 25 processes each, ended at once; a fifth of the processes must be killed. */
const interrupted = (runs: number) =>
  Effect.gen(function* () {
    const fake = makeTable()
    for (let run = 0; run < runs; run++)
      for (let n = 0; n < 25; n++)
        fake.runs(firstPid + run * 25 + n, `thread-${run}`, { ignores: n % 5 === 0 ? ["SIGTERM"] : [] })
    fake.runs(1, "somebody else's")
    const end = yield* makeThreadEnder(fake.marks, mark, fake.processes)
    const ms = yield* tookMs(
      Effect.forEach(Array.from({ length: runs }), (_, run) => end([`thread-${run}`]), {
        concurrency: "unbounded",
        discard: true
      })
    )
    return {
      scans: fake.scans(),
      inTime: ms <= 1000,
      readTwice: [...fake.reads.values()].filter((count) => count > 1),
      left: [...fake.table.keys()],
      asked: fake.sent.filter((line) => line.startsWith("SIGTERM")).length,
      woken: fake.sent.filter((line) => line.startsWith("SIGCONT")).length,
      killed: fake.sent.filter((line) => line.startsWith("SIGKILL")).length
    }
  }).pipe(Effect.scoped)

describe("ending what interrupted threads left running", () => {
  it.effect("twenty runs take no more looks than one, and no environment is read twice", () =>
    Effect.gen(function* () {
      const one = yield* interrupted(1)
      const twenty = yield* interrupted(20)
      assert.deepStrictEqual(one, {
        scans: 3,
        inTime: true,
        readTwice: [],
        left: [1],
        asked: 25,
        woken: 25,
        killed: 5
      })
      assert.deepStrictEqual(twenty, { ...one, asked: 500, woken: 500, killed: 100 })
    })
  )

  it.effect("who joins in the middle has its own grace, and nobody waits for another's", () =>
    Effect.gen(function* () {
      const fake = makeTable()
      fake.runs(1, "one", { ignores: ["SIGTERM"] })
      fake.runs(2, "two", { ignores: ["SIGTERM"] })
      fake.runs(3, "three")
      const end = yield* makeThreadEnder(fake.marks, mark, fake.processes)
      const one = yield* Effect.forkChild(end(["one"]))
      yield* pass("100 millis")
      const two = yield* Effect.forkChild(end(["two", "none of such a name"]))
      const three = yield* Effect.forkChild(end(["three"]))
      yield* pass("50 millis")
      yield* pass("60 millis")
      assert.deepStrictEqual(
        [one, two, three].map((fiber) => fiber.pollUnsafe() === undefined),
        [true, true, false]
      )
      yield* pass("40 millis")
      assert.deepStrictEqual(
        [one, two].map((fiber) => fiber.pollUnsafe() === undefined),
        [false, true]
      )
      yield* pass("100 millis")
      yield* pass("40 millis")
      assert.isDefined(two.pollUnsafe())
      assert.deepStrictEqual(fake.sent, [
        "SIGTERM 1",
        "SIGCONT 1",
        "SIGTERM 2",
        "SIGCONT 2",
        "SIGTERM 3",
        "SIGCONT 3",
        "SIGKILL 1",
        "SIGKILL 2"
      ])
    }).pipe(Effect.scoped)
  )

  it.effect("a process met between its fork and its exec is looked at again; once a thread's, always", () =>
    Effect.gen(function* () {
      const fake = makeTable()
      fake.runs(1, "mine", { ignores: ["SIGTERM"] })
      fake.runs(2, null, { ignores: ["SIGTERM"] })
      const end = yield* makeThreadEnder(fake.marks, mark, fake.processes)
      fake.onScan(() => {
        if (fake.scans() !== 2) return
        fake.runs(1, null, { image: "env -i" })
        fake.runs(2, "mine", { image: "sleep" })
      })
      yield* tookMs(end(["mine"]))
      assert.deepStrictEqual(
        { left: [...fake.table.keys()], reads: [...fake.reads], sent: fake.sent },
        {
          left: [],
          reads: [
            [1, 1],
            [2, 2]
          ],
          sent: ["SIGTERM 1", "SIGCONT 1", "SIGKILL 1", "SIGKILL 2"]
        }
      )
    }).pipe(Effect.scoped)
  )

  it.effect(
    "environments that do not answer are asked for once, two at most, and hold up nobody for long",
    () =>
      Effect.gen(function* () {
        const fake = makeTable()
        for (let pid = 1; pid <= 5; pid++) fake.runs(pid, "mine", { environment: null })
        fake.runs(6, "mine", { ignores: ["SIGTERM"] })
        const end = yield* makeThreadEnder(fake.marks, mark, fake.processes)
        yield* tookMs(end(["mine"]))
        yield* tookMs(end(["mine"]))
        assert.deepStrictEqual(
          [...fake.reads],
          [
            [1, 1],
            [2, 1]
          ]
        )
      }).pipe(Effect.scoped)
  )

  it.effect(
    "what cannot be killed is given up after a bounded time, and who leaves is waited for by nobody",
    () =>
      Effect.gen(function* () {
        const fake = makeTable()
        fake.runs(1, "mine", { ignores: ["SIGTERM", "SIGKILL"] })
        fake.runs(2, "other", { ignores: ["SIGTERM", "SIGKILL"] })
        const end = yield* makeThreadEnder(fake.marks, mark, fake.processes)
        const other = yield* Effect.forkChild(end(["other"]))
        yield* pass("20 millis")
        yield* Fiber.interrupt(other)
        yield* tookMs(end(["mine"]))
        const scans = fake.scans()
        yield* pass("1 minute")
        assert.deepStrictEqual(
          {
            kills: fake.sent.filter((line) => line === "SIGKILL 1").length,
            others: fake.sent.filter((line) => line.endsWith(" 2")),
            later: fake.scans() - scans
          },
          { kills: 19, others: ["SIGTERM 2", "SIGCONT 2"], later: 0 }
        )
      }).pipe(Effect.scoped)
  )

  it.effect("who waits when the scope closes is let go, and so is who comes later", () =>
    Effect.gen(function* () {
      const fake = makeTable()
      fake.runs(1, "mine", { ignores: ["SIGTERM", "SIGKILL"] })
      const scope = yield* Scope.make()
      const end = yield* Scope.provide(makeThreadEnder(fake.marks, mark, fake.processes), scope)
      const waiting = yield* Effect.forkChild(end(["mine"]))
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(waiting)
      yield* end(["mine"])
      assert.strictEqual(fake.scans(), 1)
    })
  )

  it.effect("without a mark nothing is looked for", () =>
    Effect.gen(function* () {
      const fake = makeTable()
      fake.runs(1, "mine")
      yield* (yield* makeThreadEnder(fake.marks, null, fake.processes))(["mine"])
      assert.deepStrictEqual([fake.scans(), [...fake.table.keys()]], [0, [1]])
    }).pipe(Effect.scoped)
  )
})
