/** The keeper: how soon it is there, what it takes while nothing happens, and what a run that does nothing adds to it. */
import * as Effect from "effect/Effect"
import * as childProcess from "node:child_process"
import { child, ensure, rssMb } from "./helper.ts"
import { idler, keeperPid, openGateway, startRuns, until, untilExecuted } from "./kept.ts"
import { type Measured, median, row } from "./report.ts"

/** From the last start to idle. */
const settleMs = 3_000
const idlers = 100

const nodeOnce = Effect.sync(() => {
  const from = performance.now()
  childProcess.spawnSync(process.execPath, ["-e", "0"])
  return performance.now() - from
})

export const ready = (quick: boolean) =>
  Effect.gen(function* () {
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 3 : 9 }), () =>
      Effect.gen(function* () {
        const { client, variables } = yield* openGateway
        const from = performance.now()
        const [run] = yield* startRuns(client, [idler], variables)
        yield* untilExecuted([run!.pid], "sleep")
        const first = performance.now() - from
        const again = performance.now()
        const [next] = yield* startRuns(client, [idler], variables)
        yield* untilExecuted([next!.pid], "sleep")
        return { first, next: performance.now() - again, floor: yield* nodeOnce }
      }).pipe(Effect.scoped)
    )
    const floor = { floor: median(samples.map((one) => one.floor)), floorIs: "node -e 0" }
    return {
      rows: [
        row({
          id: "keeper-ready",
          what: "a gateway's first run, asked to executed, with the keeper's start",
          unit: "ms",
          value: median(samples.map((one) => one.first)),
          ...floor,
          n: samples.length
        }),
        row({
          id: "keeper-next",
          what: "its next run",
          unit: "ms",
          value: median(samples.map((one) => one.next)),
          ...floor,
          n: samples.length
        })
      ]
    } satisfies Measured
  })

/** On a heap that has held as many before: what the first hundred ever cost is not theirs. */
export const memory = Effect.gen(function* () {
  const { client, gateway, variables, ofRuns } = yield* openGateway
  const bare = yield* child(() =>
    childProcess.spawn(process.execPath, ["-e", "setInterval(() => {}, 1e6)"], { stdio: "ignore" })
  )
  const many = Array.from({ length: idlers }, () => idler)
  yield* startRuns(client, [idler], variables)
  const keeper = yield* keeperPid(client)
  yield* Effect.sleep(settleMs)
  const [rss, bareRss] = [rssMb(keeper), rssMb(bare.pid!)]
  const earlier = yield* startRuns(client, many, variables)
  yield* Effect.sleep(settleMs)
  const cold = rssMb(keeper) - rss
  yield* Effect.forEach(earlier, ({ id: runId }) => client.EndRun({ runId, graceMs: 0 }), { concurrency: 10 })
  yield* until("the earlier runs are gone", () => ofRuns().length === 1)
  yield* Effect.sleep(settleMs)
  const before = [keeper, gateway.pid].map(rssMb)
  const held = yield* startRuns(client, many, variables)
  yield* untilExecuted(
    held.map(({ pid }) => pid),
    "sleep"
  )
  yield* Effect.sleep(settleMs)
  yield* ensure(ofRuns().length === idlers + 1, "not every idle run is there")
  const [ofKeeper, ofGateway] = [keeper, gateway.pid].map(
    (pid, index) => ((rssMb(pid) - before[index]!) * 1024) / idlers
  )
  const nothing = { unit: "KB", floor: 0, floorIs: "nothing", n: idlers }
  return {
    rows: [
      row({
        id: "keeper-rss",
        what: "the keeper's memory with one idle run",
        unit: "MB",
        value: rss,
        floor: bareRss,
        floorIs: "node doing nothing",
        n: 1,
        budget: { on: "value", atMost: 70 }
      }),
      row({
        ...nothing,
        id: "keeper-run",
        what: "the keeper's memory per idle run",
        value: ofKeeper!,
        budget: { on: "value", atMost: 150 }
      }),
      row({
        ...nothing,
        id: "keeper-run-cold",
        what: "the same of its first hundred, with the heap they grow",
        value: (cold * 1024) / idlers
      }),
      row({
        ...nothing,
        id: "gateway-run",
        what: "the gateway's memory per idle run",
        value: ofGateway!,
        budget: { on: "value", atMost: 30 }
      })
    ]
  } satisfies Measured
})
