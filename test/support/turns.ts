/** A turn that an earlier gateway left, and what its thread says of it. */
import type { TurnRecord } from "../../src/services/TurnStore.ts"
import { cwd } from "./codexWorld.ts"

export const turnRecord = (over: Partial<TurnRecord> = {}): TurnRecord => ({
  runId: "run-1",
  threadId: "T",
  turnId: "U",
  serverRun: "r-1",
  relayId: "R",
  generation: 3,
  spawnedBy: null,
  cwd,
  terms: {
    sandbox: "workspace-write",
    config: { model: "m" },
    commands: { pre_tool_use: "the hook" },
    hookTimeoutMs: 30_000
  },
  startedAt: 0,
  deadline: 3_600_000,
  ...over
})

const message = (id: string, text: string) => ({ type: "agentMessage", id, text, completedAtMs: 1 })

/** The turn `U` with two messages said. */
export const historyOf = (status: string, error: unknown = null) => ({
  thread: {
    turns: [
      {
        id: "U",
        status,
        error,
        startedAt: 0,
        items: [
          message("m1", "one"),
          message("m2", "two"),
          {
            type: "fileChange",
            id: "p1",
            status: "inProgress",
            changes: [{ path: "a" }],
            completedAtMs: null
          }
        ]
      }
    ]
  }
})
