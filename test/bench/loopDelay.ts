/** Loaded into a gateway: how late its loop is, since it was last asked; asked by a signal, answered in a file. */
import * as fs from "node:fs"
import { monitorEventLoopDelay } from "node:perf_hooks"

const histogram = monitorEventLoopDelay({ resolution: 1 })
histogram.enable()
const ms = (nanoseconds: number): number => nanoseconds / 1e6

process.on("SIGUSR2", () => {
  fs.writeFileSync(
    process.env["LOOP_DELAY_FILE"]!,
    JSON.stringify({ p99: ms(histogram.percentile(99)), max: ms(histogram.max), count: histogram.count })
  )
  histogram.reset()
})
