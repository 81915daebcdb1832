/** A run with nothing unusual about it. */
import type { RunInfo } from "../../src/services/PtySupervisor.ts"
import { runDefaults, type RunSpec } from "../../src/services/Run.ts"

export const runSpec = (over: Partial<RunSpec> = {}): RunSpec => ({
  ...runDefaults,
  command: "sh",
  args: [],
  cwd: "/",
  ...over
})

export const runInfo = (over: Partial<RunInfo> = {}): RunInfo => ({
  id: "r-01J0000000AAAAAAAAAAAAAAAA",
  spec: runSpec({ pty: { cols: 80, rows: 24 } }),
  state: "Running",
  leader: { pid: 4711, startToken: "1" },
  attempt: 1,
  createdAt: 0,
  endedAt: null,
  reason: null,
  lost: null,
  status: null,
  extinction: null,
  warned: false,
  ...over
})
