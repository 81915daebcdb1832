/**
 * Starts processes and measures them on the monotonic clock. A helper of its own, and small, because the time a start takes
 * grows with the memory of whoever starts. Cases are interleaved, every other round in the opposite order.
 */
import * as childProcess from "node:child_process"
import * as fs from "node:fs"
import * as http from "node:http"
import { serve } from "./serve.ts"

export interface Command {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly env: Readonly<Record<string, string>>
  readonly input: string
}

/** A run that hangs has failed. */
const runTimeoutMs = 10_000

const running = new Set<childProcess.ChildProcess>()

interface Outcome {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

const orders = (cases: number, rounds: number): ReadonlyArray<ReadonlyArray<number>> => {
  const forth = Array.from({ length: cases }, (_, index) => index)
  return Array.from({ length: rounds }, (_, round) => (round % 2 === 0 ? forth : forth.toReversed()))
}

/** Distinct outcomes are few; which ones, and how often, is what the caller checks. */
const tally = () => {
  const counts = new Map<string, { readonly outcome: Outcome; count: number }>()
  return {
    add: (outcome: Outcome): void => {
      const key = JSON.stringify(outcome)
      const known = counts.get(key)
      if (known) known.count++
      else counts.set(key, { outcome, count: 1 })
    },
    list: () => [...counts.values()]
  }
}

const runOnce = ({ command, args, env, input }: Command): { readonly ms: number } & Outcome => {
  const from = performance.now()
  const { status, stdout, stderr } = childProcess.spawnSync(command, args, {
    env,
    input,
    encoding: "utf8",
    timeout: runTimeoutMs,
    killSignal: "SIGKILL"
  })
  return { ms: performance.now() - from, status, stdout, stderr }
}

const start = ({ command, args, env, input }: Command): childProcess.ChildProcessWithoutNullStreams => {
  const child = childProcess.spawn(command, args, { env, stdio: "pipe" })
  running.add(child)
  child.once("exit", () => running.delete(child))
  child.stdin.on("error", () => undefined)
  child.stdin.end(input)
  return child
}

const ended = (child: childProcess.ChildProcessWithoutNullStreams): Promise<Outcome> =>
  new Promise((resolve) => {
    let [stdout, stderr] = ["", ""]
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
    const timer = setTimeout(() => child.kill("SIGKILL"), runTimeoutMs)
    child.once("close", (status) => {
      clearTimeout(timer)
      resolve({ status, stdout, stderr })
    })
  })

const firstLine = (child: childProcess.ChildProcessWithoutNullStreams): Promise<void> =>
  new Promise((resolve, reject) => {
    child.stdout.once("data", () => resolve())
    child.once("exit", () => reject(new Error("it ended before its first line")))
  })

/** Memory a process had at most, with everything below it, in kB: an upper bound, since pages they share count for each. */
const treePeakKb = (root: number): number => {
  const parents = new Map<number, number>()
  for (const name of fs.readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue
    try {
      const stat = fs.readFileSync(`/proc/${name}/stat`, "utf8")
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]))
    } catch {
      // It ended while we looked.
    }
  }
  const below = (pid: number): boolean => {
    for (let at: number | undefined = pid; at !== undefined && at > 0; at = parents.get(at))
      if (at === root) return true
    return false
  }
  return [...parents.keys()]
    .filter(below)
    .map((pid) => {
      try {
        return Number(/^VmHWM:\s+(\d+) kB/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0)
      } catch {
        return 0
      }
    })
    .reduce((sum, kb) => sum + kb, 0)
}

const handlers = {
  /** Each case run to its end, one after the other. */
  runs: ({
    cases,
    rounds,
    warmup
  }: {
    readonly cases: ReadonlyArray<Command>
    readonly rounds: number
    readonly warmup: number
  }) => {
    const measured = cases.map(() => ({ ms: [] as Array<number>, outcomes: tally() }))
    for (const [round, order] of orders(cases.length, warmup + rounds).entries()) {
      for (const index of order) {
        const { ms, ...outcome } = runOnce(cases[index]!)
        measured[index]!.outcomes.add(outcome)
        if (round >= warmup) measured[index]!.ms.push(ms)
      }
    }
    return measured.map(({ ms, outcomes }) => ({ ms, outcomes: outcomes.list() }))
  },

  /** `width` of the same case at once; the time until the last one has ended. */
  together: async ({
    cases,
    rounds,
    warmup,
    width
  }: {
    readonly cases: ReadonlyArray<Command>
    readonly rounds: number
    readonly warmup: number
    readonly width: number
  }) => {
    const measured = cases.map(() => ({ ms: [] as Array<number>, outcomes: tally() }))
    for (const [round, order] of orders(cases.length, warmup + rounds).entries()) {
      for (const index of order) {
        const from = performance.now()
        const all = Array.from({ length: width }, () => ended(start(cases[index]!)))
        const outcomes = await Promise.all(all)
        const ms = performance.now() - from
        for (const outcome of outcomes) measured[index]!.outcomes.add(outcome)
        if (round >= warmup) measured[index]!.ms.push(ms)
      }
    }
    return measured.map(({ ms, outcomes }) => ({ ms, outcomes: outcomes.list() }))
  },

  /** A server to its first line, then ended by SIGTERM; beside it the floor, run to its end. */
  ready: async ({
    server,
    floor,
    rounds,
    warmup
  }: {
    readonly server: Command
    readonly floor: Command
    readonly rounds: number
    readonly warmup: number
  }) => {
    const measured = { server: [] as Array<number>, floor: [] as Array<number> }
    for (const [round, order] of orders(2, warmup + rounds).entries()) {
      for (const index of order) {
        const from = performance.now()
        const child = start(index === 0 ? server : floor)
        const end = ended(child)
        await (index === 0 ? firstLine(child) : end)
        const ms = performance.now() - from
        if (round >= warmup) measured[index === 0 ? "server" : "floor"].push(ms)
        child.kill("SIGTERM")
        const { status, stderr } = await end
        if (status !== 0) throw new Error(`${index === 0 ? "the server" : "the floor"} failed: ${stderr}`)
      }
    }
    return measured
  },

  /** What each case and its children had at most, in kB, when its question was there and waited for an answer. */
  memory: async ({
    socketPath,
    cases,
    rounds
  }: {
    readonly socketPath: string
    readonly cases: ReadonlyArray<Command>
    readonly rounds: number
  }) => {
    const peaks = cases.map(() => [] as Array<number>)
    let waiting: { readonly pid: number; readonly peaks: Array<number> } | null = null
    const server = http.createServer((request, response) => {
      request.resume()
      request.on("end", () => {
        if (waiting) waiting.peaks.push(treePeakKb(waiting.pid))
        response.writeHead(200, { "content-length": 0, connection: "close" })
        response.end()
      })
    })
    await new Promise<void>((resolve) => server.listen(socketPath, resolve))
    try {
      for (const order of orders(cases.length, rounds)) {
        for (const index of order) {
          const child = start(cases[index]!)
          waiting = { pid: child.pid!, peaks: peaks[index]! }
          const { status, stderr } = await ended(child)
          if (status !== 0) throw new Error(`case ${index} failed: ${stderr}`)
        }
      }
      return peaks
    } finally {
      server.close()
    }
  }
}

export type Stopwatch = typeof handlers

serve(handlers, () => {
  for (const child of running) child.kill("SIGKILL")
})
