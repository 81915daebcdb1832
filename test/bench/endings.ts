/** The end of twenty runs that do not want to end, by `down` and by the death of their gateway, beside tmux. */
import * as Effect from "effect/Effect"
import { holdfast } from "../support/gateway.ts"
import { ensure } from "./helper.ts"
import {
  bearers,
  isRunning,
  makeSign,
  nameOf,
  openGateway,
  signVariable,
  specOf,
  startRuns,
  stubborn,
  until
} from "./kept.ts"
import { type Measured, median, row } from "./report.ts"
import { hasTmux, openTmux } from "./tmux.ts"

const jobs = 20
/** Each is two processes. */
const processes = 2 * jobs

const [command, ...args] = stubborn
const graceMs = 2_000

/** How many of the same jobs tmux leaves, that long after it was told to end. */
const leftByTmux = (ms: number) =>
  Effect.gen(function* () {
    const sign = yield* makeSign
    const { tmux } = yield* openTmux({ [signVariable]: sign })
    for (let job = 0; job < jobs; job++) tmux("new-session", "-d", ...stubborn)
    const ofJobs = () => bearers([sign]).filter((pid) => !nameOf(pid).startsWith("tmux"))
    yield* until("the jobs in tmux stand", () => ofJobs().length === processes)
    tmux("kill-server")
    yield* Effect.sleep(ms)
    return ofJobs().length
  }).pipe(Effect.scoped)

/** Rows `stop-20` and `stop-20-time`. */
export const stop = (quick: boolean) =>
  Effect.gen(function* () {
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 1 : 3 }), () =>
      Effect.gen(function* () {
        const { place, client, gateway, variables, ofRuns, everybody } = yield* openGateway
        const spec = specOf(command, args, { killGraceMs: graceMs })
        yield* startRuns(
          client,
          Array.from({ length: jobs }, () => spec),
          variables
        )
        yield* until("the jobs stand", () => ofRuns().length === processes)
        const from = performance.now()
        const down = yield* holdfast(place, ["down"])
        yield* ensure(down.code === 0, `down failed: ${down.stderr}`)
        yield* until("the gateway is gone", () => !isRunning(gateway.pid))
        return { ms: performance.now() - from, left: everybody().length }
      }).pipe(Effect.scoped)
    )
    const ms = median(samples.map((one) => one.ms))
    const left = Math.max(...samples.map((one) => one.left))
    const ofTmux = hasTmux ? yield* leftByTmux(ms) : 0
    return {
      rows: [
        row({
          id: "stop-20",
          what: `left of ${processes} deaf processes of ${jobs} runs after \`down\``,
          unit: "left",
          value: left,
          floor: ofTmux,
          floorIs: hasTmux ? "tmux kill-server, as long after it" : "no tmux here",
          n: samples.length,
          budget: { on: "value", atMost: 0 }
        }),
        row({
          id: "stop-20-time",
          what: "`down` of those, until the gateway is gone",
          unit: "ms",
          value: ms,
          floor: graceMs,
          floorIs: "their grace",
          n: samples.length,
          whole: left === 0,
          budget: { on: "difference", atMost: 1_000 }
        })
      ]
    } satisfies Measured
  })

/** Rows `kill-gateway-jobs` and `kill-gateway`. */
export const killGateway = (quick: boolean) =>
  Effect.gen(function* () {
    const samples = yield* Effect.forEach(Array.from({ length: quick ? 3 : 7 }), () =>
      Effect.gen(function* () {
        const { client, gateway, variables, ofRuns, everybody } = yield* openGateway
        const spec = specOf(command, args, { killGraceMs: 1, onGatewayLoss: "kill" })
        yield* startRuns(
          client,
          Array.from({ length: jobs }, () => spec),
          variables
        )
        yield* until("the jobs stand", () => ofRuns().length === processes)
        // Whoever is there now, one by one: a look at all of the system would be a part of what is measured.
        let living = everybody()
        let jobsLiving = ofRuns()
        const from = performance.now()
        process.kill(gateway.pid, "SIGKILL")
        yield* until("the jobs are gone", () => {
          jobsLiving = jobsLiving.filter(isRunning)
          return jobsLiving.length === 0
        })
        const jobsMs = performance.now() - from
        yield* until("all who were there are gone", () => {
          living = living.filter(isRunning)
          return living.length === 0
        })
        return { jobsMs, ms: performance.now() - from, left: everybody().length }
      }).pipe(Effect.scoped)
    )
    return {
      rows: [
        row({
          id: "kill-gateway-jobs",
          what: `SIGKILL of the gateway until the ${processes} deaf processes of its runs are gone`,
          unit: "ms",
          value: median(samples.map((one) => one.jobsMs)),
          floor: 0,
          floorIs: "nothing",
          n: samples.length
        }),
        row({
          id: "kill-gateway",
          what: `SIGKILL of the gateway until ${processes} deaf processes and the keeper are gone`,
          unit: "ms",
          value: median(samples.map((one) => one.ms)),
          floor: 0,
          floorIs: "nothing",
          n: samples.length,
          whole: samples.every((one) => one.left === 0),
          budget: { on: "value", atMost: 500 }
        })
      ]
    } satisfies Measured
  })
