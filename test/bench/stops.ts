/**
 * Stopping a tree of a thousand processes: how long the event loop is held at a time, beside an idle loop in the same
 * process. Each process of the tree lives a minute at most.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { InstanceMark, layer as layerMark } from "../../src/layers/InstanceMark.ts"
import { makeTraces } from "../../src/layers/internal/traces.ts"
import { sweepTree } from "../../src/layers/internal/runTree.ts"
import { layer as layerIdentity } from "../../src/layers/ProcessIdentity.ts"
import { layer as layerSyscalls, Syscalls } from "../../src/layers/Syscalls.ts"
import { Settings } from "../../src/services/Settings.ts"
import { sight } from "../../src/layers/internal/procfs.ts"
import { marked } from "../support/markedProcesses.ts"
import { type Measured, quantile, row } from "./report.ts"

/** Every third in a session of its own, and all deaf to what they are asked. */
const tree = (size: number): readonly [string, ...ReadonlyArray<string>] => [
  "perl",
  "-e",
  `use POSIX qw(setsid); $| = 1; $SIG{TERM} = $SIG{HUP} = "IGNORE"; $SIG{CHLD} = "IGNORE";
   for my $n (2 .. ${size}) { my $new = fork; unless ($new) { setsid if $n % 3 == 0; sleep 60; exit } }
   print "up\\n"; sleep 60`
]

/**
 * How late a timer of one millisecond comes, as often as it can be set; and the processor time that this process had in
 * between, which is the part of it that is its own: on a busy machine others are let run in the middle of a turn.
 */
const probed = <A, E, R>(work: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const late: Array<number> = []
    const own: Array<number> = []
    let last = performance.now()
    let used = process.cpuUsage()
    const timer = setInterval(() => {
      const now = performance.now()
      late.push(now - last - 1)
      last = now
      const { user, system } = process.cpuUsage(used)
      own.push((user + system) / 1000)
      used = process.cpuUsage()
    }, 1)
    const result = yield* work.pipe(Effect.ensuring(Effect.sync(() => clearInterval(timer))))
    return { result, longest: quantile(late, 1), own: quantile(own, 1) }
  })

/** Rows `stop-1k`, `stop-1k-own` and `stop-1k-time`. */
export const thousand = (quick: boolean) =>
  Effect.gen(function* () {
    const marks = yield* InstanceMark
    const { mark: times } = yield* Settings
    const { signal } = yield* (yield* Syscalls).table
    const traces = yield* makeTraces
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 1 : 5 }), () =>
      Effect.gen(function* () {
        const range = yield* marks.choose
        const [command, ...args] = tree(1_000)
        const { child } = yield* marked(range.high, command, ...args)
        const seen = sight(child.pid!)
        const leader = {
          pid: child.pid!,
          startToken: seen._tag === "Running" ? seen.startToken : ""
        }
        const began = performance.now()
        const idle = yield* probed(Effect.sleep(300))
        const stop = yield* probed(
          sweepTree(
            { runId: "bench", leader, mark: range, cgroup: null, kin: new Map() },
            { marks, signal, times, traces, orphans: Effect.succeed([]), claimed: Effect.succeed([]) },
            true
          )
        )
        return {
          tookMs: performance.now() - began - 300,
          longest: stop.longest,
          own: stop.own,
          idle: idle.longest,
          proven: stop.result.extinction.proven
        }
      }).pipe(Effect.scoped)
    )
    const worst = (of: (one: (typeof samples)[number]) => number) => Math.max(...samples.map(of))
    const facts = { unit: "ms", n: samples.length, whole: samples.every(({ proven }) => proven) }
    return {
      rows: [
        row({
          ...facts,
          id: "stop-1k",
          what: "longest hold of the event loop while 1000 processes are stopped",
          value: worst(({ longest }) => longest),
          floor: worst(({ idle }) => idle),
          floorIs: "the same loop, idle"
        }),
        row({
          ...facts,
          id: "stop-1k-own",
          what: "the same in processor time of its own",
          value: worst(({ own }) => own),
          floor: 0,
          floorIs: "nothing",
          budget: { on: "value", atMost: 20 }
        }),
        row({
          ...facts,
          id: "stop-1k-time",
          what: "1000 deaf processes, killed at once and proven gone",
          value: quantile(
            samples.map(({ tookMs }) => tookMs),
            0.5
          ),
          floor: 0,
          floorIs: "nothing"
        })
      ]
    } satisfies Measured
  }).pipe(Effect.provide(Layer.mergeAll(layerMark.pipe(Layer.provide(layerIdentity)), layerSyscalls)))
