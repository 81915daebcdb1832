/** What `npm test` runs, in one go: whoever waits for a process leaves the processor to the others. */
import { defineConfig } from "vitest/config"

/** For a fact that a busy machine makes late. */
const patienceMs = 60_000

const project = (name: string, include: string, isolate: boolean) => ({
  test: {
    name,
    include: [`test/**/${include}`],
    exclude: name === "unit" ? ["**/*.integration.test.ts", "**/*.soak.test.ts"] : [],
    isolate,
    testTimeout: patienceMs,
    hookTimeout: patienceMs
  }
})

export default defineConfig({
  test: {
    root: `${import.meta.dirname}/..`,
    // Most of their time is waiting, on two cores too.
    maxWorkers: 5,
    projects: [
      project("unit", "*.test.ts", false),
      project("processes", "*.integration.test.ts", false),
      // They count what their process holds, and what it uses.
      project("hunts", "*.soak.test.ts", true)
    ]
  }
})
