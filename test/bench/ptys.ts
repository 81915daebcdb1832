/** Runs on terminals: how soon a hundred are there, how fast output gets to the disk, and how soon a screen is shown. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { spawn as spawnRaw } from "node-pty"
import { segmentStart } from "../../src/services/RunLog.ts"
import { directory, supervisorOf, type World } from "../support/ptySupervisor.ts"
import {
  bearers,
  idler,
  makeSign,
  openGateway,
  signVariable,
  specOf,
  startRuns,
  terminal,
  until,
  untilExecuted
} from "./kept.ts"
import { type Measured, median, row } from "./report.ts"
import { hasTmux, openTmux } from "./tmux.ts"

const many = 100
const searchPath = process.env["PATH"] ?? "/usr/bin:/bin"

const rawTerminal = (command: string, args: ReadonlyArray<string>, env: Readonly<Record<string, string>>) =>
  // Null: bytes, as Holdfast takes them; text would have to be decoded.
  spawnRaw(command, [...args], { ...terminal, name: "xterm-256color", encoding: null, cwd: "/", env })

/** Kills whoever has a sign and waits until all of them are gone. */
const clear = Effect.fnUntraced(function* (sign: string) {
  for (const pid of bearers([sign])) process.kill(pid, "SIGKILL")
  yield* until("the last round is gone", () => bearers([sign]).length === 0)
})

const rawHundred = Effect.fnUntraced(function* (variables: Readonly<Record<string, string>>) {
  const from = performance.now()
  const ptys = Array.from({ length: many }, () => rawTerminal(idler.command, idler.args, variables))
  yield* untilExecuted(
    ptys.map(({ pid }) => pid),
    "sleep"
  )
  const ms = performance.now() - from
  yield* clear(variables[signVariable]!)
  return ms
})

const ownHundred = Effect.fnUntraced(function* (
  { runs }: World,
  variables: Readonly<Record<string, string>>
) {
  const from = performance.now()
  const all = yield* Effect.forEach(
    Array.from({ length: many }),
    () =>
      Effect.flatMap(runs.start(idler, variables), ({ id }) =>
        runs.watch(id).pipe(
          Stream.takeUntil(({ leader }) => leader !== null),
          Stream.runLast,
          Effect.map((last) => (last._tag === "Some" ? last.value.leader!.pid : -1))
        )
      ),
    { concurrency: "unbounded" }
  )
  yield* untilExecuted(all, "sleep")
  const ms = performance.now() - from
  yield* clear(variables[signVariable]!)
  for (;;) {
    const live = (yield* runs.list).filter(({ endedAt }) => endedAt === null)
    if (live.length === 0) return ms
    yield* Effect.sleep(10)
  }
})

const tmuxHundred = Effect.fnUntraced(function* (variables: Readonly<Record<string, string>>) {
  const { tmux } = yield* openTmux(variables)
  const from = performance.now()
  for (let session = 0; session < many; session++) tmux("new-session", "-d", idler.command, ...idler.args)
  const pids = tmux("list-panes", "-a", "-F", "#{pane_pid}").trim().split("\n").map(Number)
  yield* untilExecuted(pids, "sleep")
  return performance.now() - from
}, Effect.scoped)

/** Rows `pty-100`, `pty-keeper` and, where the machine has it, `pty-tmux`. */
export const hundred = (quick: boolean) =>
  Effect.gen(function* () {
    const sign = yield* makeSign
    const variables = { PATH: searchPath, [signVariable]: sign }
    const own = yield* supervisorOf()
    const kept = yield* supervisorOf({ kept: true })
    const samples: Array<{ raw: number; own: number; kept: number; tmux: number | null }> = []
    const rounds = quick ? 3 : 7
    for (let round = -1; round < rounds; round++) {
      const sample = {
        raw: yield* rawHundred(variables),
        own: yield* ownHundred(own, variables),
        kept: yield* ownHundred(kept, variables),
        tmux: hasTmux ? yield* tmuxHundred(variables) : null
      }
      // The first pays for what is loaded once.
      if (round >= 0) samples.push(sample)
    }
    const raw = median(samples.map((one) => one.raw))
    const byKeeper = median(samples.map((one) => one.kept))
    const facts = { unit: "ms", n: samples.length }
    const tmux = samples.flatMap((one) => (one.tmux === null ? [] : [one.tmux]))
    return {
      rows: [
        row({
          ...facts,
          id: "pty-100",
          what: `${many} runs on terminals, asked to executed, in process`,
          value: median(samples.map((one) => one.own)),
          floor: raw,
          floorIs: "raw node-pty in the same process",
          budget: { on: "ratio", atMost: 1.3 }
        }),
        row({
          ...facts,
          id: "pty-keeper",
          what: "the same by way of a keeper",
          value: byKeeper,
          floor: raw,
          floorIs: "raw node-pty in this process"
        }),
        ...(tmux.length === 0
          ? []
          : [
              row({
                ...facts,
                id: "pty-tmux",
                what: "the same by way of a keeper",
                value: byKeeper,
                floor: median(tmux),
                floorIs: "tmux new-session -d, one after the other"
              })
            ])
      ],
      leftOut: hasTmux ? [] : [{ id: "pty-tmux", why: "this machine has no tmux" }]
    } satisfies Measured
  })

const line = `${"0123456789abcdef".repeat(5).slice(0, 79)}\n`

/** Up to where the files of a log go. */
const onDisk = (log: string): number => {
  try {
    const last = fs
      .readdirSync(log)
      .flatMap((name) => segmentStart(name) ?? [])
      .reduce((a, b) => Math.max(a, b), -1)
    if (last < 0) return 0
    const name = fs.readdirSync(log).find((name) => segmentStart(name) === last)!
    return last + fs.statSync(path.join(log, name)).size
  } catch {
    return 0
  }
}

export const output = (quick: boolean) =>
  Effect.gen(function* () {
    const sign = yield* makeSign
    const variables = { PATH: searchPath, [signVariable]: sign }
    const world = yield* supervisorOf()
    const file = path.join(yield* directory, "text")
    const lines = (quick ? 16 : 64) * 13_107
    fs.writeFileSync(file, line.repeat(lines))
    // A terminal makes two of every end of a line.
    const bytes = lines * (line.length + 1)
    const mbPerSecond = (ms: number) => bytes / 1e6 / (ms / 1e3)
    const raw = Effect.gen(function* () {
      const from = performance.now()
      let seen = 0
      const pty = rawTerminal("cat", [file], variables)
      pty.onData((data) => (seen += data.length))
      yield* until("node-pty has read it all", () => seen >= bytes)
      return mbPerSecond(performance.now() - from)
    })
    const own = Effect.gen(function* () {
      const from = performance.now()
      const { id } = yield* world.runs.start(specOf("cat", [file]), variables)
      yield* until("it is all on the disk", () => onDisk(`${world.home}/state/runs/${id}`) >= bytes)
      return mbPerSecond(performance.now() - from)
    })
    const samples: Array<readonly [number, number]> = []
    const rounds = quick ? 3 : 7
    for (let round = -1; round < rounds; round++) {
      const pair = [yield* own, yield* raw] as const
      if (round >= 0) samples.push(pair)
    }
    return {
      rows: [
        row({
          id: "pty-log",
          what: `${Math.round(bytes / 1e6)} MB of a run's terminal output to its log on disk, from the start`,
          unit: "MB/s",
          value: median(samples.map(([one]) => one)),
          floor: median(samples.map(([, one]) => one)),
          floorIs: "raw node-pty reading the same",
          n: samples.length,
          budget: { on: "ratio", atLeast: 0.7 }
        })
      ]
    } satisfies Measured
  })

/** Every cell of a screen is set, in eight colours. */
const full = `for my $row (1 .. 24) { print "\\e[3", $row % 8, "m", "x" x 79, $row < 24 ? "\\r\\n" : "" } $| = 1; print ""; sleep 300`

export const attach = (quick: boolean) =>
  Effect.gen(function* () {
    const { client, variables } = yield* openGateway
    const [run] = yield* startRuns(client, [specOf("perl", ["-e", full])], variables)
    const runId = run!.id
    yield* client.ReadRun({ runId, from: { _tag: "start" }, follow: true }).pipe(
      Stream.scan(
        () => 0,
        (seen, { bytes }) => seen + bytes.length
      ),
      Stream.takeUntil((seen) => seen >= 24 * 79),
      Stream.runDrain
    )
    const once = Effect.gen(function* () {
      const from = performance.now()
      yield* client.AttachRun({ runId, readOnly: true, size: null, cursor: null }).pipe(
        Stream.takeUntil(({ _tag }) => _tag === "draw"),
        Stream.runDrain
      )
      return performance.now() - from
    })
    const first = yield* once
    const samples: Array<readonly [number, number]> = []
    for (let round = 0; round < (quick ? 10 : 50); round++) {
      const from = performance.now()
      yield* client.FindRun({ ref: runId })
      const floor = performance.now() - from
      samples.push([yield* once, floor])
    }
    return {
      rows: [
        row({
          id: "attach",
          what: `attached to the first bytes of a full screen (the very first time ${first.toFixed(0)} ms)`,
          unit: "ms",
          value: median(samples.map(([one]) => one)),
          floor: median(samples.map(([, one]) => one)),
          floorIs: "the run looked up on the same connection",
          n: samples.length
        })
      ]
    } satisfies Measured
  })
