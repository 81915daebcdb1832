/**
 * What it costs that everybody shares one app-server: to borrow it, to have its messages brought to the right thread, to
 * hear of its end; and what it saves.
 */
import * as Effect from "effect/Effect"
import { ControlClient } from "../../src/layers/ControlClient.ts"
import { ask, endOf, eventually, makePlace, type Place, startGateway, turn } from "../support/gateway.ts"
import { launchOf } from "./bareCodex.ts"
import type { LeaseBorrower } from "./borrower.ts"
import type { CrowdOfCodex } from "./crowd.ts"
import { ensure, rssMb, startHelper } from "./helper.ts"
import type { Provider } from "./provider.ts"
import { type Measured, median, row } from "./report.ts"
import type { Router } from "./router.ts"

const startBorrower = startHelper<LeaseBorrower>(new URL("./borrower.ts", import.meta.url))
const startRouter = startHelper<Router>(new URL("./router.ts", import.meta.url))

export const borrowWarm = (quick: boolean) =>
  Effect.gen(function* () {
    const borrower = yield* startBorrower
    const { lease, floor } = yield* borrower("warm", { rounds: quick ? 1000 : 5000, warmup: 1000 })
    return {
      rows: [
        row({
          id: "borrow-warm",
          what: "one borrow of a warm child that nobody else has, and its give-back, p50",
          unit: "us",
          value: median(lease),
          floor: median(floor),
          floorIs: "one question to an actor that does nothing",
          n: lease.length
        })
      ]
    } satisfies Measured
  })

export const borrowFirst = (quick: boolean) =>
  Effect.gen(function* () {
    const borrower = yield* startBorrower
    const { lease, floor } = yield* borrower("first", { rounds: quick ? 5 : 15, warmup: 1 })
    return {
      rows: [
        row({
          id: "borrow-first",
          what: "the first borrow, while no child runs",
          unit: "ms",
          value: median(lease),
          floor: median(floor),
          floorIs: "a bare codex app-server, started to its answer to initialize",
          n: lease.length
        })
      ]
    } satisfies Measured
  })

const borrowers = 20

export const poison = (quick: boolean) =>
  Effect.gen(function* () {
    const helper = yield* startBorrower
    const { again, next, told } = yield* helper("poison", { borrowers, rounds: quick ? 3 : 7, warmup: 1 })
    return {
      rows: [
        row({
          id: "poison-told",
          what: `SIGKILL of the child until the last of ${borrowers} borrowers has failed, the slowest round`,
          unit: "ms",
          value: Math.max(...told.lease),
          floor: Math.max(...told.floor),
          floorIs: "until the exit of a bare child with as many threads is seen",
          n: told.lease.length,
          budget: { on: "value", atMost: 1000 }
        }),
        row({
          id: "poison-next",
          what: `SIGKILL of the child until the next generation has answered each of the ${borrowers}, the slowest round; ${again} borrows gave the lost one once more`,
          unit: "ms",
          value: Math.max(...next.lease),
          floor: Math.max(...next.floor),
          floorIs: "until another bare child has answered",
          n: next.lease.length,
          budget: { on: "value", atMost: 2000 },
          whole: again === 0
        })
      ]
    } satisfies Measured
  })

export const routeRate = (quick: boolean) =>
  Effect.gen(function* () {
    const router = yield* startRouter
    const threads = 16
    const { lineBytes, perSecond } = yield* router("rate", {
      threads,
      messages: quick ? 50_000 : 100_000,
      rounds: quick ? 5 : 11,
      warmup: 2
    })
    return {
      rows: [
        row({
          id: "route-rate",
          what: `messages of ${lineBytes} bytes a second from the pipe to the readers of ${threads} threads`,
          unit: "k/s",
          value: median(perSecond.routed) / 1000,
          floor: median(perSecond.parsed) / 1000,
          floorIs: "the same bytes split and given to JSON.parse",
          n: perSecond.routed.length
        })
      ]
    } satisfies Measured
  })

/**
 * Measured on codex 0.169.0 with one turn: a command that prints 200,000 lines comes as 4,500 messages a second, and an
 * answer whose provider holds nothing back as 16,000 words a second, which is as fast as Codex writes.
 */
const floods = [
  { id: "route-fair", perSecond: 5000, budget: { on: "ratio", atMost: 2 } },
  { id: "route-fair-16k", perSecond: 16_000, budget: null }
] as const

export const routeFair = (quick: boolean) =>
  Effect.gen(function* () {
    const router = yield* startRouter
    const [calm, ...flooded] = yield* router("fair", {
      rates: [0, ...floods.map(({ perSecond }) => perSecond)],
      blocks: quick ? 5 : 9,
      count: 300
    })
    const rows = floods.flatMap(({ id, perSecond, budget }, index) => {
      const { all, own, perSecond: came } = flooded[index]!
      const promise = budget ? { budget, whole: median(came) > perSecond * 0.9 } : {}
      const against = (value: ReadonlyArray<number>, floor: ReadonlyArray<number>) => ({
        unit: "ms",
        value: median(value),
        floor: median(floor),
        floorIs: "while that one is silent",
        n: value.length,
        ...promise
      })
      return [
        row({
          id,
          what: `a quiet thread's request until its answer and its message are read, while another thread is sent ${median(came).toFixed(0)} a second through the same pipe, p99`,
          ...against(all, calm!.all)
        }),
        row({
          id: `${id}-own`,
          what: "the same less the time that other processes had the CPU",
          ...against(own, calm!.own)
        })
      ]
    })
    return { rows } satisfies Measured
  })

const crowd = 50
/** A command, and a model that then says nothing more: every run is in the middle of its turn until it is ended. */
const midTurn = `@@SCRIPT${JSON.stringify([{ fn: "exec_command", args: { cmd: "true" } }, { hang: true }])}@@`
const wholeTurn = `@@SCRIPT${JSON.stringify([{ fn: "exec_command", args: { cmd: "true" } }, { say: "done" }])}@@`
/** From the last of them being there to the measurement. */
const settleMs = 1000

/** Waits until each thread has asked its model twice: it has run its command. */
const inMidTurn = Effect.fnUntraced(function* (
  arrivals: (threadId: string) => Effect.Effect<ReadonlyArray<number>, unknown>,
  threadIds: ReadonlyArray<string>
) {
  for (const threadId of threadIds) while ((yield* arrivals(threadId)).length < 2) yield* Effect.sleep(20)
  yield* Effect.sleep(settleMs)
})

const childOf = (place: Place) =>
  ask(
    place,
    Effect.gen(function* () {
      const leases = yield* (yield* ControlClient).Leases()
      const pids = leases.flatMap(({ pid }) => pid ?? [])
      yield* ensure(pids.length === 1, `there are ${pids.length} app-servers and not one`)
      return pids[0]!
    })
  )

/** `crowd` runs of one gateway, all in the middle of a turn: what the gateway and the one child take, in MB. */
const sharing = Effect.fnUntraced(function* (
  url: string,
  arrivals: (threadId: string) => Effect.Effect<ReadonlyArray<number>, unknown>
) {
  const place = yield* makePlace()
  const gateway = yield* startGateway(place)
  const events = yield* ask(place, turn(place, { provider: url, prompt: wholeTurn }))
  yield* ensure(endOf(events) === "completed", `the first turn ended as ${endOf(events)}`)
  yield* Effect.sleep(settleMs)
  const before = rssMb(gateway.pid)
  const threadIds: Array<string> = []
  yield* Effect.forEach(
    Array.from({ length: crowd }),
    () =>
      Effect.forkScoped(
        ask(
          place,
          turn(place, {
            provider: url,
            prompt: midTurn,
            onEvent: (event) => Effect.sync(() => event._tag === "governed" && threadIds.push(event.threadId))
          })
        )
      ),
    { discard: true }
  )
  yield* eventually(`${crowd} governed runs`, () => threadIds.length === crowd, 60_000)
  yield* inMidTurn(arrivals, threadIds)
  return { before, gateway: rssMb(gateway.pid), child: rssMb(yield* childOf(place)) }
})

export const memory = Effect.gen(function* () {
  const provider = yield* startHelper<Provider>(new URL("./provider.ts", import.meta.url))
  const bare = yield* startHelper<CrowdOfCodex>(new URL("./crowd.ts", import.meta.url))
  const url = yield* provider("url", undefined)
  const arrivals = (threadId: string) => provider("arrivals", threadId)
  const shared = yield* Effect.scoped(sharing(url, arrivals))

  const place = yield* makePlace()
  const common = { launch: launchOf(place), cwd: place.workspace, provider: url, count: crowd }
  const loaded = yield* bare("threads", common)
  const { idleMb, threadIds } = yield* bare("separate", { ...common, prompt: midTurn })
  yield* inMidTurn(arrivals, threadIds)
  const separateMb = yield* bare("sharedMb", undefined)
  yield* bare("end", undefined)
  return {
    rows: [
      row({
        id: "memory-thread",
        what: `RSS of the one child for each further idle thread, ${crowd} of them`,
        unit: "MB",
        value: (loaded.all - loaded.first) / (crowd - 1),
        floor: idleMb / crowd,
        floorIs: `PSS of one child of ${crowd} with an idle thread each`,
        n: 1
      }),
      row({
        id: "memory-run",
        what: `RSS of the gateway for each of ${crowd} runs at once, in the middle of their turns`,
        unit: "MB",
        value: (shared.gateway - shared.before) / crowd,
        floor: (loaded.all - loaded.first) / (crowd - 1),
        floorIs: "the child's for an idle thread",
        n: 1
      }),
      row({
        id: "shared-50",
        what: `RSS of one child with ${crowd} runs in the middle of their turns (${shared.child.toFixed(0)} MB) and of the gateway (${shared.gateway.toFixed(0)} MB)`,
        unit: "MB",
        value: shared.child + shared.gateway,
        floor: separateMb,
        floorIs: `PSS of ${crowd} bare children in the middle of the same turn, without a gateway`,
        n: 1
      })
    ]
  } satisfies Measured
})
