import { assert, describe, it } from "@effect/vitest"
import type { KeeperInfo } from "../src/services/Keeper.ts"
import type { RunInfo } from "../src/services/PtySupervisor.ts"
import * as Report from "../src/services/Report.ts"
import type { ExitReason, LossReason } from "../src/services/Run.ts"
import type { RunDealing } from "../src/services/RunLedger.ts"
import * as RunReport from "../src/services/RunReport.ts"
import { identity } from "../src/testing/ProcessIdentity.ts"
import { status } from "./support/Report.ts"
import { runInfo, runSpec } from "./support/runInfo.ts"

const gone = { proven: true, survivors: [] }
const over = (reason: ExitReason, extinction: RunInfo["extinction"] = gone): RunInfo =>
  runInfo({ state: "Exited", endedAt: 9, reason, extinction })
const lost = (reason: LossReason | null): RunInfo => runInfo({ state: "Lost", lost: reason })

describe("how a run ended, in words", () => {
  const cases: ReadonlyArray<readonly [RunInfo, string]> = [
    [over({ _tag: "exited", code: 3 }), "exited with status 3"],
    [over({ _tag: "signalled", signal: "SIGSEGV" }), "ended by SIGSEGV"],
    [over({ _tag: "overall-timeout", timeoutMs: 2_000 }), "ended after its 2 s in all"],
    [over({ _tag: "startup-timeout", timeoutMs: 1_500 }), "ended without any output in its first 1500 ms"],
    [over({ _tag: "no-output-timeout", timeoutMs: 60_000 }), "ended after 60 s without output"],
    [over({ _tag: "stopped", by: "operator" }), "stopped by operator"],
    [over({ _tag: "replaced", by: "r-2" }), "replaced by r-2"],
    [over({ _tag: "spawn-error", problem: "no-pty", detail: "" }), "not started (no-pty)"],
    [over({ _tag: "spawn-error", problem: "failed", detail: "No luck." }), "No luck."],
    [over({ _tag: "gateway-lost" }), "ended with its gateway"],
    [lost("keeper-lost"), "lost: its keeper was lost, so nobody saw how it ended"],
    [lost("both-lost"), "lost: gateway and keeper were lost, so nobody saw how it ended"],
    [lost("never-started"), "lost: its gateway was lost before it began"],
    [lost("foreign-boot"), "lost: the machine was started anew"],
    [lost(null), "lost: it may live, and nobody can tell what it is"],
    [runInfo(), "running"]
  ]
  for (const [run, words] of cases) it(words, () => assert.strictEqual(RunReport.endWords(run), words))

  it("names what would not go, and never calls an end proven that is not", () => {
    const reason = { _tag: "exited", code: 0 } as const
    assert.deepStrictEqual(
      [
        over(reason, { proven: false, survivors: [7, 8] }),
        over(reason, { proven: true, survivors: [7] }),
        over(reason, { proven: false, survivors: [] })
      ].map(RunReport.endWords),
      [
        "exited with status 0; still there: 7, 8",
        "exited with status 0; still there: 7",
        "exited with status 0; whether anything of it is left is not proven"
      ]
    )
  })

  it("is one line, whatever a detail says, and draws nothing", () => {
    const words = RunReport.endWords(
      over({ _tag: "spawn-error", problem: "failed", detail: `a\n\u001b[2Jb${"x".repeat(400)}` })
    )
    assert.match(words, /^a \ufffd\[2Jbx+…$/)
    assert.strictEqual(words.length, 300)
  })

  it("a line for a run that is over has its name, where it has one", () => {
    const run = over({ _tag: "exited", code: 0 })
    assert.deepStrictEqual([run, { ...run, spec: runSpec({ name: "web" }) }].map(RunReport.ended), [
      `${run.id}  exited with status 0`,
      `${run.id} (web)  exited with status 0`
    ])
  })
})

describe("the list of runs", () => {
  const live = runInfo({
    spec: runSpec({ command: "sh", args: ["-c", "echo 'it'; x"], name: "web", scope: "dev\nkey" }),
    warned: true,
    attempt: 2
  })
  const ended = { ...over({ _tag: "exited", code: 1 }), id: "r-2" }
  const turn = { runId: "run-1", spawnedBy: null, cwd: "/", prompt: "do\nit", startedAt: 1_000 }
  const list = {
    runs: [
      { short: "r-01", run: live },
      { short: "r-2", run: ended }
    ],
    turns: [turn],
    now: 61_000
  }

  it("shows turns and runs in columns, commands as a shell would take them", () => {
    assert.deepStrictEqual(RunReport.runs({ ...list, runs: list.runs.slice(0, 1) }, false).split("\n"), [
      "ID     NAME  STATE            AGE    PID   ATTEMPT  SCOPE    COMMAND",
      "run-1  -     turn             1 min  -     -        -        codex do it",
      "r-01   web   running, silent  1 min  4711  2        dev key  sh -c 'echo '\\''it'\\''; x'"
    ])
  })

  it("shows with all how those ended that did, and no process of theirs", () => {
    assert.deepStrictEqual(
      RunReport.runs({ ...list, turns: [] }, true)
        .split("\n")
        .slice(2),
      ["r-2   -     exited           1 min  -     1        -        exited with status 1  sh"]
    )
  })

  it("says where to look when it is empty", () => {
    assert.deepStrictEqual(
      [false, true].map((all) => RunReport.runs({ runs: [], turns: [], now: 0 }, all)),
      ["no run is live; `holdfast ps -a` shows those that ended", "there is no run"]
    )
  })

  it("foreign text cannot draw on the terminal", () => {
    const evil = "x\u001b[2J\u202e\r\ny"
    const spec = runSpec({ command: evil, args: [evil], scope: evil })
    const shown = RunReport.runs(
      { runs: [{ short: "r", run: runInfo({ spec }) }], turns: [{ ...turn, prompt: evil }], now: 0 },
      true
    )
    assert.strictEqual(shown.split("\n").length, 3)
    assert.deepStrictEqual(
      ["\u001b", "\u202e", "\r"].filter((control) => shown.includes(control)),
      []
    )
  })
})

describe("what is told about bytes, a reap and the keeper", () => {
  it("bytes that are gone are counted in whole words", () => {
    assert.deepStrictEqual([1, 2].map(RunReport.missingBytes), [
      "1 byte of the output here is kept no more",
      "2 bytes of the output here are kept no more"
    ])
  })

  it("a reap says of each run what was done, or would be", () => {
    const one = (dealing: RunDealing, extinction: RunInfo["extinction"] = null) => ({
      runId: "r",
      dealing,
      extinction
    })
    const sweep: RunDealing = { _tag: "sweep", lost: "both-lost" }
    assert.deepStrictEqual(
      Report.reaped([
        one({ _tag: "adopt" }),
        one({ _tag: "close", lost: "never-started" }),
        one(sweep),
        one(sweep, gone),
        one(sweep, { proven: false, survivors: [] }),
        one(sweep, { proven: false, survivors: [7] }),
        one({ _tag: "leave", because: "not-proven" })
      ]).split("\n"),
      [
        "r  adopted: its keeper lives and holds it",
        "r  finished: nothing of it is left (never-started)",
        "r  killed: what is left of it carries its mark or cookie (both-lost)",
        "r  killed (both-lost)",
        "r  killed (both-lost); not proven",
        "r  killed (both-lost); would not go: 7",
        "r  left: somebody has its number or its mark, and nothing proves that it is the run's"
      ]
    )
    assert.strictEqual(Report.reaped([]), "no run is without a supervisor")
  })

  const keeper = (over: Partial<KeeperInfo>): string =>
    /^keeper +(.*)$/m.exec(
      Report.status(status({ keeper: { ...status().keeper, ...over }, startedAt: 0, upMs: 5_000 }))
    )![1]!

  it("the status names the keeper, or why there is none", () => {
    const attached = { state: "attached", identity: identity(12), startedAt: 0 } as const
    assert.deepStrictEqual(
      [
        keeper({}),
        keeper(attached),
        keeper({ ...attached, adopted: true, losses: 2 }),
        keeper({ state: "lost", losses: 1 }),
        keeper({ state: "gave-up", losses: 5 })
      ],
      [
        "none, since nothing has run yet",
        "pid 12, up 5 s",
        "pid 12, up 5 s, of an earlier gateway, 2 lost",
        "none, 1 lost",
        "none: too many were lost of late, 5 lost"
      ]
    )
  })
})
