import { assert, describe, it } from "@effect/vitest"
import {
  AppServerLost,
  AuthRejected,
  ProviderUnavailable,
  TurnFailed
} from "../src/services/AppServerFailure.ts"
import { failed, leaseChecks, passed, trialCheck, warned } from "../src/services/Doctor.ts"
import * as Report from "../src/services/Report.ts"
import { formatAge, renderTree } from "../src/services/SupervisionTree.ts"
import { entry } from "../src/testing/AuditLog.ts"
import { lease, status } from "./support/Report.ts"

const relay = {
  relayId: "r",
  generation: 1,
  provider: "codex",
  runId: "run",
  spawnedBy: null,
  sessionId: null,
  state: "live" as const,
  events: [],
  recordPath: "/r",
  openedAt: 0,
  decided: 0,
  refused: 0
}
const command = { _tag: "command" as const, threadId: "t", itemId: "i", exitCode: 0 }
const killed = new AppServerLost({
  generation: 1,
  reason: { _tag: "signalled", signal: "SIGKILL" },
  stderrTail: ""
})
const row = { ...entry, seq: 1, at: 0 }

const drawn = (text: string) => ["\u001b", "\u202e", "\r"].filter((control) => text.includes(control))

describe("Report", () => {
  it("foreign text cannot draw on the terminal: no escape, no bidi override, one line", () => {
    const evil = "rm\u001b[2J\u202e\r\nx"
    const shown = Report.agentEvent({ _tag: "verdict", row: { ...row, subject: evil } })!
    assert.deepStrictEqual(drawn(shown), [])
    assert.strictEqual(shown.split("\n").length, 2)
    const texts = [
      Report.auditRow({ ...row, tool: evil, policy: evil, reason: evil, spawnedBy: evil }),
      Report.relays([{ ...relay, sessionId: evil, spawnedBy: evil }], 0).split("\n")[1]!,
      Report.agentEvent({ _tag: "hook", event: evil, callId: evil, status: evil, durationMs: 1 })!,
      Report.agentEvent({ _tag: "ended", status: evil, problem: evil, failure: null })!,
      Report.agentEvent({
        _tag: "ended",
        status: evil,
        problem: evil,
        failure: new TurnFailed({ info: evil, detail: evil })
      })!,
      Report.agentEvent({
        _tag: "governed",
        runId: evil,
        spawnedBy: evil,
        threadId: evil,
        relayId: evil,
        generation: 1,
        model: evil,
        hooks: 1,
        outlives: false
      })!,
      Report.agentEvent({
        _tag: "resumed",
        generation: 2,
        lost: new AppServerLost({
          generation: 1,
          reason: { _tag: "thread-indeterminate", method: evil, timeoutMs: 1 },
          stderrTail: evil
        }),
        inDoubt: 0
      })!,
      Report.checks([passed("a", evil)]),
      Report.leases([lease({ key: evil, version: evil })], 0).split("\n")[1]!,
      ...Report.leases(
        [
          lease({
            codexHome: evil,
            borrowers: [{ runId: evil, spawnedBy: evil }],
            retired: {
              generation: 1,
              reason: { _tag: "write-failed", code: evil },
              stderrTail: "rm\u001b[2J\u202e\rx",
              exit: { code: null, signal: evil },
              at: 0
            },
            circuit: { until: 0, problem: evil }
          })
        ],
        0
      ).split("\n"),
      ...Report.status(status({ leases: [lease({ circuit: { until: 0, problem: evil } })] })).split("\n"),
      Report.agentEvent({ _tag: "patch", threadId: "t", itemId: "i", paths: [evil], status: evil })!,
      Report.agentEvent({ ...command, command: evil, status: evil, output: "" })!
    ]
    for (const text of texts) assert.deepStrictEqual([drawn(text), text.split("\n").length], [[], 1], text)
    assert.deepStrictEqual(
      drawn(Report.agentEvent({ _tag: "message", threadId: "t", itemId: "m", text: evil })!),
      []
    )
  })

  it("columns line up", () => {
    assert.strictEqual(
      Report.table([
        ["A", "LONG", "C"],
        ["aaa", "b", ""]
      ]),
      "A    LONG  C\naaa  b"
    )
  })

  it("ages have one unit", () => {
    assert.deepStrictEqual([999, 1000, 59_999, 60_000, 3_599_999, 3_600_000, 86_400_000].map(formatAge), [
      "999 ms",
      "1 s",
      "59 s",
      "1 min",
      "59 min",
      "1 h",
      "1 d"
    ])
  })

  it("the tree shows every supervisor and child", () => {
    const child = { id: "r1", state: "running" as const, detail: "live", restarts: 1, ageMs: 1500 }
    assert.strictEqual(
      renderTree("gateway", [
        { supervisor: "relays", children: [child, { ...child, id: "r2" }] },
        { supervisor: "leases", children: [] }
      ]),
      [
        "gateway",
        "├─ relays",
        "│  ├─ r1  live  1 s  restarts 1",
        "│  └─ r2  live  1 s  restarts 1",
        "└─ leases (none)"
      ].join("\n")
    )
  })

  it("a check says what to do about itself", () => {
    assert.strictEqual(
      Report.checks([passed("a", "fine"), warned("b", "less", "do x"), failed("c", "broken", null)]),
      [
        "ok    a                    fine",
        "warn  b                    less",
        "      -> do x",
        "FAIL  c                    broken"
      ].join("\n")
    )
  })

  it("a hook that got no decision is a failed round trip with its cause", () => {
    const trial = { exitCode: 0, stdout: "", tookMs: 12.34 }
    assert.deepStrictEqual(
      [trial, { ...trial, stdout: '{"x":"Holdfast: ... [refused]"}' }, { ...trial, exitCode: 2 }].map(
        (one) => `${trialCheck(one).status} ${trialCheck(one).detail}`
      ),
      [
        "ok decided in 12.3 ms, whole process",
        "fail the hook got no decision: refused",
        "fail the hook command ended with 2"
      ]
    )
  })

  it("a lease shows who borrows it, why the last child was retired, and when an open circuit tries again", () => {
    const shared = lease({
      generation: 3,
      borrowers: [
        { runId: "run-a", spawnedBy: null },
        { runId: "run-b", spawnedBy: "run-a" }
      ],
      waiting: 1,
      faults: 2,
      retired: {
        generation: 2,
        reason: { _tag: "stopped" },
        stderrTail: "one\r\n  two\n\n",
        exit: { code: null, signal: "SIGKILL" },
        at: 60_000
      }
    })
    const opened = lease({
      key: "k2",
      codexHome: "/other",
      state: "OpenCircuit",
      generation: 7,
      pid: null,
      version: null,
      faults: 6,
      retired: {
        generation: 7,
        reason: { _tag: "exited", code: 3 },
        stderrTail: "",
        exit: { code: 3, signal: null },
        at: 239_000
      },
      circuit: { until: 282_000, problem: "it exited with status 3" }
    })
    assert.deepStrictEqual(Report.leases([shared, opened], 240_000).split("\n"), [
      "STATE        GENERATION  PID   CODEX    BORROWERS  WAITING  FAULTS  KEY",
      "Ready        3           4711  0.169.0  2          1        2       k1",
      "OpenCircuit  7           -     -        0          0        6       k2",
      "",
      "k1  CODEX_HOME /h/codex",
      "  borrowed by run-a",
      "  borrowed by run-b, spawned by run-a",
      "  generation 2 was retired 3 min ago: it was stopped (SIGSTOP); its process ended by SIGKILL",
      "    one",
      "      two",
      "",
      "k2  CODEX_HOME /other",
      "  generation 7 was retired 1 s ago: it exited with status 3; its process ended with status 3",
      "  circuit open: it exited with status 3; the next attempt is at 1970-01-01T00:04:42.000Z, in 42 s",
      "    -> when the cause is gone, `holdfast leases reset` tries at once"
    ])
  })

  it("an adopted app-server has no pid of ours, and says what it does not give", () => {
    const adopted = lease({ origin: "adopted", pid: null })
    const note = "the app-server was adopted: what it runs does not carry our mark and is not ended by us"
    assert.deepStrictEqual(Report.leases([adopted], 0).split("\n"), [
      "STATE  GENERATION  PID      CODEX    BORROWERS  WAITING  FAULTS  KEY",
      "Ready  1           adopted  0.169.0  0          0        0       k1",
      "",
      "k1  CODEX_HOME /h/codex",
      `  note: ${note}`
    ])
    const shown = Report.status(status({ leases: [adopted] })).split("\n")
    const at = shown.findIndex((line) => line.startsWith("app-server"))
    assert.deepStrictEqual(
      shown.slice(at, at + 2).map((line) => line.replace(/ {2,}/, "  ")),
      ["app-server  Ready, generation 1, adopted, 0 borrowed", `  ${note}`]
    )
    assert.deepStrictEqual(
      leaseChecks([adopted, lease()]).map(({ status, detail }) => [status, detail]),
      [["warn", note]]
    )
  })

  it("the end of stderr is bounded, in lines and in their width", () => {
    const stderrTail = Array.from({ length: 50 }, (_, n) => `${n} ${"x".repeat(300)}`).join("\n")
    const retired = {
      generation: 1,
      reason: { _tag: "stdio-closed" as const },
      stderrTail,
      exit: null,
      at: 0
    }
    const lines = Report.leases([lease({ retired })], 0)
      .split("\n")
      .slice(3)
    assert.strictEqual(
      lines[1],
      "  generation 1 was retired 0 ms ago: it closed its output; its end is not confirmed yet"
    )
    assert.deepStrictEqual(
      lines.slice(2).map((line) => `${line.split("x")[0]}${line.length}`),
      Array.from({ length: 20 }, (_, n) => `    ${30 + n} 204`)
    )
  })

  it("no lease is said so, and an age never runs backwards", () => {
    assert.strictEqual(Report.leases([], 0), "no app-server was asked for yet")
    const retired = {
      generation: 1,
      reason: { _tag: "stdio-closed" as const },
      stderrTail: "",
      exit: { code: null, signal: null },
      at: 10_000
    }
    assert.include(
      Report.leases([lease({ retired })], 0),
      "was retired 0 ms ago: it closed its output; how its process ended is not known"
    )
  })

  it("status and doctor show an open circuit with its remedy", () => {
    const opened = lease({ state: "OpenCircuit", circuit: { until: 35_000, problem: "it died by SIGKILL" } })
    const shown = Report.status(status({ upMs: 5_000, leases: [opened] }))
    assert.include(
      shown,
      "circuit open: it died by SIGKILL; the next attempt is at 1970-01-01T00:00:35.000Z, in 30 s"
    )
    assert.include(shown, "-> when the cause is gone, `holdfast leases reset` tries at once")
    assert.deepStrictEqual(leaseChecks([opened]), [
      {
        what: "app-server",
        status: "fail",
        detail: "circuit open until 1970-01-01T00:00:35.000Z: it died by SIGKILL",
        remedy: "when the cause is gone, `holdfast leases reset` tries at once"
      }
    ])
  })

  it("a reset says how many circuits it closed", () => {
    assert.deepStrictEqual([0, 1, 2].map(Report.closedCircuits), [
      "no circuit was open",
      "closed 1 open circuit; the next run tries at once",
      "closed 2 open circuits; the next run tries at once"
    ])
  })

  it("a helper's run is shown with the run that asked for it", () => {
    const governed = {
      _tag: "governed" as const,
      runId: "run-b",
      threadId: "t",
      relayId: "r",
      generation: 1,
      model: null,
      hooks: 1,
      outlives: false
    }
    assert.deepStrictEqual(
      [null, "run-a"].map((spawnedBy) => Report.agentEvent({ ...governed, spawnedBy })),
      [
        "run run-b on thread t is governed: 1 hook trusted and in force",
        "run run-b, a helper of run-a, on thread t is governed: 1 hook trusted and in force"
      ]
    )
    assert.match(
      Report.relays([{ ...relay, runId: "run-b", spawnedBy: "run-a" }], 0),
      /run-b, spawned by run-a$/
    )
    assert.match(Report.auditRow({ ...row, spawnedBy: "run-a" }), /\) {2}helper of run-a$/)
    assert.notMatch(Report.auditRow(row), /helper/)
  })

  it("a turn that goes on elsewhere says why, and how many calls it will not repeat", () => {
    const lines = [0, 1, 2].map((inDoubt) =>
      Report.agentEvent({ _tag: "resumed", generation: 2, lost: killed, inDoubt })
    )
    const head =
      "the app-server was lost (generation 1: it died by SIGKILL); the turn goes on at generation 2"
    assert.deepStrictEqual(lines, [
      head,
      `${head}, 1 decided call without a seen end will not be run again`,
      `${head}, 2 decided calls without a seen end will not be run again`
    ])
  })

  it("a turn that failed says what to do, whose failure it is and whether trying again may help", () => {
    const end = { _tag: "ended" as const, status: "failed" }
    const auth = new AuthRejected({ httpStatus: 401 })
    const detail = new TurnFailed({ info: "other", detail: "it said no" })
    assert.deepStrictEqual(
      [
        { ...end, problem: null, failure: null },
        { ...end, problem: "broken", failure: null },
        { ...end, problem: null, failure: killed },
        { ...end, problem: "unexpected status 401", failure: auth },
        { ...end, problem: "it said no", failure: detail },
        {
          ...end,
          problem: null,
          failure: new ProviderUnavailable({ problem: "unreachable", httpStatus: null })
        },
        { ...end, status: "completed", problem: null, failure: null }
      ].map(Report.agentEvent),
      [
        "turn failed",
        "turn failed: broken",
        "turn failed: The shared app-server (generation 1) is lost: it died by SIGKILL. Run the turn again. [AppServerLost, poison, retryable]",
        "turn failed: The model provider rejected the login (HTTP 401). Log in again, or check the provider's key. [AuthRejected, caller]\n  codex: unexpected status 401",
        "turn failed: it said no [TurnFailed, caller]",
        "turn failed: The model provider cannot be reached. Run the turn again later. [ProviderUnavailable, caller, retryable]",
        "turn completed"
      ]
    )
  })
})
