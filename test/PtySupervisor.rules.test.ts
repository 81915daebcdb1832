/** The pure rules of runs: what a start does with a record, which run is meant, and what the shell is told. */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import {
  exitCodeOf,
  findRun,
  RunAmbiguous,
  infoOfState,
  type RunInfo,
  RunNotFound
} from "../src/services/PtySupervisor.ts"
import type { ExitReason, ExitStatus } from "../src/services/Run.ts"
import { dealingWithRun, type RunSighting } from "../src/services/RunLedger.ts"
import { requestedRun } from "../src/services/RunState.ts"
import { specOf } from "../src/testing/PtySupervisor.ts"

const nobody: RunSighting = {
  sameBoot: true,
  leader: "dead",
  leaderProven: false,
  bearers: "none",
  held: false,
  kept: false
}
const alive = { leader: "alive", leaderProven: true } as const

/** Each with what becomes of it. */
const table: ReadonlyArray<readonly [string, Partial<RunSighting>, string]> = [
  ["nothing of it is left", {}, "close both-lost"],
  ["its keeper lives, whatever else is seen", { ...alive, kept: true, held: true }, "adopt"],
  ["no leader was noted and nobody has its cookie", { leader: null }, "close never-started"],
  ["it is of another boot", { sameBoot: false }, "close foreign-boot"],
  [
    "it is of another boot, whatever runs under its number",
    { sameBoot: false, ...alive },
    "close foreign-boot"
  ],
  ["its leader lives, with its mark or cookie", alive, "sweep both-lost"],
  ["its leader lives, and nothing else proves it", { leader: "alive" }, "leave not-proven"],
  ["its leader cannot be looked at", { leader: "unknown", bearers: "proven" }, "leave identity-unknown"],
  ["its leader is gone and others have its cookie", { bearers: "proven" }, "sweep both-lost"],
  ["it was forked and never noted", { leader: null, bearers: "proven" }, "sweep both-lost"],
  ["somebody has its mark and not its cookie", { bearers: "unproven" }, "leave not-proven"],
  [
    "somebody has the mark of one that was never noted",
    { leader: null, bearers: "unproven" },
    "leave not-proven"
  ],
  ["its leader lives inside our own range", { ...alive, held: true }, "leave mark-held"],
  ["others of it live inside our own range", { bearers: "proven", held: true }, "leave mark-held"],
  ["its range is ours by now and nobody is left", { held: true }, "close both-lost"]
]

const info = (id: string, name: string | null, createdAt: number, over: Partial<RunInfo> = {}): RunInfo => ({
  id,
  spec: specOf("a", { name }),
  state: "Exited",
  leader: null,
  attempt: 1,
  createdAt,
  endedAt: createdAt + 1,
  reason: null,
  lost: null,
  status: null,
  extinction: null,
  warned: false,
  ...over
})

describe("RunLedger", () => {
  for (const [what, seen, dealing] of table)
    it(`of a dead epoch's run: ${what}: ${dealing}`, () => {
      const found = dealingWithRun({ ...nobody, ...seen })
      const why = found._tag === "leave" ? found.because : found._tag === "adopt" ? "" : found.lost
      assert.strictEqual(`${found._tag} ${why}`.trim(), dealing)
    })

  it("says keeper-lost of what a living gateway's keeper held, and never of what never was", () => {
    const dealt = [{}, alive, { leader: null }, { sameBoot: false }].map((seen) => {
      const found = dealingWithRun({ ...nobody, ...seen }, "keeper-lost")
      return found._tag === "close" || found._tag === "sweep" ? `${found._tag} ${found.lost}` : found._tag
    })
    assert.deepStrictEqual(dealt, [
      "close keeper-lost",
      "sweep keeper-lost",
      "close never-started",
      "close foreign-boot"
    ])
  })
})

describe("PtySupervisor rules", () => {
  it("a state before the end is shown as live, even to whoever is told of it late", () => {
    const known = { id: "r-01A", spec: specOf("web"), createdAt: 1, leader: null, endedAt: 9 }
    const over = { _tag: "Lost", reason: "keeper-lost" } as const
    assert.deepStrictEqual(
      [infoOfState(known, requestedRun).endedAt, infoOfState(known, over).endedAt],
      [null, 9]
    )
  })

  const runs = [
    info("r-01A", "web", 1, { state: "Running", endedAt: null }),
    info("r-01B", "web", 2),
    info("r-02C", "job", 3),
    info("r-02D", "job", 4)
  ]
  const meant = (ref: string) => Result.map(findRun(runs, ref), ({ id }) => id)

  it("a name is the live run's first, and else the newest one's", () => {
    assert.deepStrictEqual([meant("web"), meant("job")], [Result.succeed("r-01A"), Result.succeed("r-02D")])
  })

  it("an id may be cut short as long as it is one run's, in either case", () => {
    assert.deepStrictEqual(
      [meant("r-01b"), meant("r-02"), meant("r-3"), meant("")],
      [
        Result.succeed("r-01B"),
        Result.fail(new RunAmbiguous({ ref: "r-02", matches: ["r-02D", "r-02C"] })),
        Result.fail(new RunNotFound({ ref: "r-3" })),
        Result.fail(new RunNotFound({ ref: "" }))
      ]
    )
  })

  const code = (reason: ExitReason, status: ExitStatus | null) => exitCodeOf({ reason, status })

  it("the shell is told the run's own status, 128 and the signal, 124 for a deadline, 126 and 127 as by a shell", () => {
    const spawnError = (problem: "command-not-found" | "not-executable" | "no-pty") =>
      code({ _tag: "spawn-error", problem, detail: "" }, null)
    assert.deepStrictEqual(
      [
        code({ _tag: "exited", code: 3 }, { code: 3, signal: null }),
        code({ _tag: "stopped", by: "operator" }, { code: null, signal: "SIGTERM" }),
        code({ _tag: "signalled", signal: "SIG35" }, { code: null, signal: "SIG35" }),
        code({ _tag: "overall-timeout", timeoutMs: 1 }, { code: 0, signal: null }),
        spawnError("command-not-found"),
        spawnError("not-executable"),
        spawnError("no-pty"),
        code({ _tag: "gateway-lost" }, null)
      ],
      [3, 143, 163, 124, 127, 126, 1, 1]
    )
  })
})
