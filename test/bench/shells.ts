/** The shell pack: how often it asks without need, and what a line costs. */
import * as Effect from "effect/Effect"
import { parse } from "unbash"
import { shellVerdict } from "../../src/layers/internal/policyPack.ts"
import type { HookEvent } from "../../src/services/HookEvent.ts"
import { cases } from "../fixtures/shell/cases.ts"
import { everyday } from "../fixtures/shell/everyday.ts"
import { type Measured, median, quantile, row } from "./report.ts"

const say = shellVerdict("/home/dev")

const eventOf = (command: string): HookEvent => ({
  event: "pre_tool_use",
  provider: "codex",
  callId: { _tag: "native", id: "bench" },
  sessionId: null,
  agentId: null,
  spawnedBy: null,
  turnId: null,
  cwd: "/home/dev/project",
  call: { tool: "Bash", kind: "shell", command, paths: [], input: { command } },
  raw: {}
})

const microseconds = (work: () => unknown): number => {
  const start = performance.now()
  work()
  return (performance.now() - start) * 1000
}

export const judging = (quick: boolean) =>
  Effect.sync((): Measured => {
    const asked = everyday.filter((line) => say(eventOf(line)) !== null).length
    const wrong = cases.filter(([label, line]) => (say(eventOf(line))?._tag ?? "pass") !== label).length
    const rounds = quick ? 10 : 50
    const lines = Array.from({ length: rounds }, () => everyday).flat()
    const judged = lines.map((line) => microseconds(() => say(eventOf(line))))
    const parsed = lines.map((line) => microseconds(() => parse(line)))
    const facts = { unit: "us", floorIs: "parsing the line", n: lines.length }
    return {
      rows: [
        row({
          id: "shell-false-asks",
          what: `of ${everyday.length} lines of a developer's day, asked about`,
          unit: "%",
          value: (100 * asked) / everyday.length,
          floor: 0,
          floorIs: "none",
          n: everyday.length
        }),
        row({
          id: "shell-labels",
          what: `of ${cases.length} labelled lines, judged otherwise`,
          unit: "",
          value: wrong,
          floor: 0,
          floorIs: "none",
          n: cases.length,
          budget: { on: "value", atMost: 0 }
        }),
        row({
          id: "shell-p50",
          what: "judging a line",
          value: median(judged),
          floor: median(parsed),
          ...facts
        }),
        row({
          id: "shell-p99",
          what: "judging a line, 99th percentile",
          value: quantile(judged, 0.99),
          floor: quantile(parsed, 0.99),
          ...facts
        })
      ]
    }
  })
