/**
 * Runs that begin and end, many thousand times, by the built gateway and keeper: neither holds more at the end than it did
 * before. 10,000 by `npm run soak`, everything else 24.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { ControlClient } from "../src/layers/ControlClient.ts"
import { childrenOf } from "../src/layers/internal/procfs.ts"
import { maxRuns, type RunInfo } from "../src/services/PtySupervisor.ts"
import { runDefaults, type RunSpec } from "../src/services/Run.ts"
import { ask, eventually, makePlace, type Place, startGateway } from "./support/gateway.ts"

const soak = Boolean(process.env["HOLDFAST_SOAK"])
/** A connection that was closed is gone from both ends long before. */
const restMs = 500
const cycles = soak ? 10_000 : 24
/** Past it the ledger is full, the histories too, and the compiler has seen everything. */
const warmUp = soak ? 2_500 : 8
const atOnce = 8

/**
 * What 10,000 cycles may add to a process: a garbage collector's slack. What one leaked closure of 1 KB a cycle would add is
 * more. In MB.
 */
const maxGrowthMb = 8
/** Looks at the memory, evenly spread. */
const looks = soak ? 10 : 1

const pty = { cols: 80, rows: 24 }
/** With how each of them ends, which nobody else's end may change: one of them is alone now and then, and then is not. */
const kinds: Readonly<Record<string, Pick<RunSpec, "command" | "args" | "pty">>> = {
  "exited 0": { command: "true", args: [], pty: null },
  "exited 2": { command: "sh", args: ["-c", "seq 1 2000; exit 2"], pty },
  "exited 3": { command: "sh", args: ["-c", "sleep 60 & exit 3"], pty: null },
  "signalled SIGKILL": { command: "sh", args: ["-c", "kill -9 $$"], pty }
}
const names = Object.keys(kinds)

const endOf = ({ reason, extinction }: RunInfo): string => {
  const how =
    reason?._tag === "exited"
      ? `exited ${reason.code}`
      : reason?._tag === "signalled"
        ? `signalled ${reason.signal}`
        : `${reason?._tag}`
  return extinction?.proven === true ? how : `${how}, not proven`
}

interface Holdings {
  readonly descriptors: number
  readonly terminals: number
  readonly children: number
}

const holdingsOf = (pid: number): Holdings => {
  const targets = fs.readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [fs.readlinkSync(`/proc/${pid}/fd/${fd}`)]
    } catch {
      return []
    }
  })
  return {
    descriptors: targets.length,
    terminals: targets.filter((target) => target.includes("ptmx")).length,
    children: childrenOf(pid).length
  }
}

/**
 * What is added in an ordinary tenth, ten times. A leak adds to every one; a heap that finds its size does so once, by tens of
 * megabytes, and whether before or after the first look is chance.
 */
const growthOf = (sizes: ReadonlyArray<number>): number => {
  const added = sizes.slice(1).map((size, index) => size - sizes[index]!)
  return added.toSorted((a, b) => a - b)[Math.floor(added.length / 2)]! * added.length
}

/** Of its pages that are in memory. */
const residentMb = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024

const ledgerOf = ({ home }: Place) => {
  const database = new DatabaseSync(path.join(home, "state/holdfast.db"), { readOnly: true })
  const [row] = database.prepare("SELECT count(*) AS rows, sum(ended_at IS NULL) AS open FROM runs").all()
  database.close()
  return { rows: Number(row!["rows"]), open: Number(row!["open"]) }
}

describe("the keeper, by cycles", () => {
  it.live(
    `${cycles} runs that begin and end leave no descriptor, terminal, child, open row or log${soak ? ", and no memory" : ""}`,
    () =>
      Effect.gen(function* () {
        const place = yield* makePlace()
        const gateway = yield* startGateway(place)
        const states = new Map<string, number>()
        const cycle = Effect.fnUntraced(function* (index: number) {
          const client = yield* ControlClient
          const spec: RunSpec = {
            ...runDefaults,
            cwd: place.workspace,
            killGraceMs: 100,
            ...kinds[names[index % names.length]!]!
          }
          const { id } = yield* client.StartRun({ spec, variables: {} })
          const last = yield* Stream.runLast(client.WatchRun({ runId: id }))
          const state = last._tag === "Some" ? endOf(last.value) : "never seen"
          states.set(state, (states.get(state) ?? 0) + 1)
        })
        const many = (count: number) =>
          ask(
            place,
            Effect.forEach(
              Array.from({ length: count }, (_, index) => index),
              cycle,
              {
                concurrency: atOnce,
                discard: true
              }
            )
          )
        const keeperPid = Effect.map(
          ask(
            place,
            Effect.flatMap(ControlClient, (client) => client.Status())
          ),
          ({ keeper }) => keeper.identity!.pid
        )
        yield* many(warmUp)
        const keeper = yield* keeperPid
        const pids = { gateway: gateway.pid, keeper }
        const look = () => ({ gateway: holdingsOf(pids.gateway), keeper: holdingsOf(pids.keeper) })
        // Nobody is asked any more, and the connections of those that did are closed.
        let before = look()
        let since = Date.now()
        yield* eventually("they are at rest", () => {
          const now = look()
          if (JSON.stringify(now) !== JSON.stringify(before)) since = Date.now()
          before = now
          return now.keeper.terminals === 0 && now.keeper.children === 0 && Date.now() - since > restMs
        })
        const sizes = { gateway: [residentMb(pids.gateway)], keeper: [residentMb(pids.keeper)] }
        for (let look = 0; look < looks; look++) {
          yield* many(cycles / looks)
          sizes.gateway.push(residentMb(pids.gateway))
          sizes.keeper.push(residentMb(pids.keeper))
        }
        const key = JSON.stringify(before)
        yield* eventually(`they are as before: ${key}`, () => JSON.stringify(look()) === key).pipe(
          Effect.catchDefect(() => Effect.sync(() => assert.deepStrictEqual(look(), before)))
        )
        assert.strictEqual(yield* keeperPid, keeper)
        const { rows, open } = ledgerOf(place)
        const logs = fs.readdirSync(path.join(place.home, "state/runs")).length
        const grown = { gateway: growthOf(sizes.gateway), keeper: growthOf(sizes.keeper) }
        if (soak) console.log(`${cycles} cycles: ${JSON.stringify({ before, grown, sizes, rows, logs })}`)
        assert.deepStrictEqual(
          {
            states: Object.fromEntries(states),
            open,
            rows: rows <= maxRuns,
            logs: logs <= rows,
            grown: !soak || Math.max(grown.gateway, grown.keeper) < maxGrowthMb ? "no more than slack" : grown
          },
          {
            states: Object.fromEntries(names.map((name) => [name, (warmUp + cycles) / names.length])),
            open: 0,
            rows: true,
            logs: true,
            grown: "no more than slack"
          }
        )
      }),
    soak ? 3_600_000 : 60_000
  )
})
