/** The Codex driver against an app-server that is a script: what it asks, what it answers, what it leaves. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import { TestClock } from "effect/testing"
import { HookIncident, HooksUnverified, RunFailed, TurnTimeout } from "../src/services/AgentDriver.ts"
import { entry } from "../src/testing/AuditLog.ts"
import {
  cleanup,
  asks,
  completed,
  cwd,
  lostAt,
  notify,
  request,
  running,
  world
} from "./support/codexWorld.ts"

const commandApproval = {
  threadId: "T",
  turnId: "U",
  itemId: "call_1",
  command: "/bin/bash -lc ls",
  cwd: "/w"
}

describe("AgentDriver for Codex", () => {
  it.effect("a turn is governed, run, cleaned up after, and everything is given back in reverse order", () =>
    Effect.gen(function* () {
      const place = yield* running()
      assert.deepInclude(place.params.get("thread/start"), {
        cwd,
        approvalPolicy: "untrusted",
        sandbox: "workspace-write",
        ephemeral: false
      })
      yield* place.say(completed)
      yield* Fiber.join(place.fiber)
      assert.deepStrictEqual(place.asked, [
        "thread/start",
        "hooks/list",
        "account/read",
        "turn/start",
        ...cleanup
      ])
      assert.deepStrictEqual(place.log, ["session T", "given back", "relay closed"])
      assert.match(
        JSON.stringify(place.events[1]),
        /Codex has no login here; run `CODEX_HOME=.* codex login`/
      )
      assert.deepStrictEqual(
        place.events.map(({ _tag }) => _tag),
        ["governed", "notice", "ended"]
      )
    })
  )

  it.effect("no turn starts on hooks that are not verified", () =>
    Effect.gen(function* () {
      const place = yield* world({ trustStatus: "untrusted" })
      const error = yield* Effect.flip(Stream.runDrain(place.driver.run(request)))
      assert.deepStrictEqual(
        error,
        new HooksUnverified({
          threadId: "T",
          problems: ["/<session-flags>/config.toml:pre_tool_use:0:0 is untrusted, not trusted"]
        })
      )
      assert.deepStrictEqual(place.asked, ["thread/start", "hooks/list", "thread/unsubscribe"])
    })
  )

  it.effect("an approval is answered by the relay; what cannot be recorded or is unknown is refused", () =>
    Effect.gen(function* () {
      const method = "item/commandExecution/requestApproval"
      const [yes, no, broken] = [
        yield* running({ approve: "allow" }),
        yield* running({ approve: "deny" }),
        yield* running({ approve: "fail" })
      ]
      assert.deepStrictEqual(
        [
          yield* asks(yes, method, commandApproval),
          yield* asks(no, method, commandApproval),
          yield* asks(broken, method, commandApproval),
          yield* asks(yes, "item/tool/requestUserInput", { threadId: "T" })
        ],
        [{ decision: "accept" }, { decision: "decline" }, "refused", "refused"]
      )
    })
  )

  it.effect("a hook that Codex let fail is an incident: recorded, and the turn interrupted", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(
        notify("hook/completed", {
          threadId: "T",
          turnId: "U",
          run: {
            id: "pre-tool-use:0:/<session-flags>/config.toml:call_7",
            eventName: "preToolUse",
            source: "sessionFlags",
            status: "failed",
            durationMs: 3,
            entries: [{ kind: "error", text: "hook exited with code 1" }]
          }
        })
      )
      assert.deepStrictEqual(
        yield* Effect.flip(Fiber.join(place.fiber)),
        new HookIncident({ callId: "call_7", detail: "hook exited with code 1" })
      )
      assert.deepStrictEqual(place.asked.slice(4), ["turn/interrupt", ...cleanup])
      assert.include(place.log, "incident call_7")
    })
  )

  it.effect(
    "a call that Codex made and that no hook had asked about is an incident; one that it declined is none",
    () =>
      Effect.gen(function* () {
        const place = yield* running({ undecided: ["call_8", "call_9"] })
        const item = (id: string, status: string) =>
          notify("item/completed", {
            threadId: "T",
            turnId: "U",
            item: { type: "commandExecution", id, command: "ls", status }
          })
        yield* place.say(item("call_7", "completed"))
        yield* place.say(item("call_8", "declined"))
        yield* place.say(item("call_9", "failed"))
        const failure = yield* Effect.flip(Fiber.join(place.fiber))
        assert.strictEqual(failure._tag === "HookIncident" ? failure.callId : failure._tag, "call_9")
        assert.deepStrictEqual(
          place.log.filter((line) => line.startsWith("incident")),
          ["incident call_9"]
        )
        assert.deepStrictEqual(place.asked.slice(4), ["turn/interrupt", ...cleanup])
      })
  )

  it.effect("a turn past its deadline is interrupted and cleaned up after", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(
        yield* Effect.flip(Fiber.join(place.fiber)),
        new TurnTimeout({ timeoutMs: 3_600_000 })
      )
      assert.deepStrictEqual(place.asked.slice(4), ["turn/interrupt", ...cleanup])
    })
  )

  it.effect("a reader that leaves interrupts the turn", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* Fiber.interrupt(place.fiber)
      assert.deepStrictEqual(place.asked.slice(4), ["turn/interrupt", ...cleanup])
      assert.deepStrictEqual(place.log.slice(1), ["given back", "relay closed"])
    })
  )

  it.effect("a lost app-server fails the run as retryable, with the reason", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.hangUp
      const error = yield* Effect.flip(Fiber.join(place.fiber))
      assert.deepStrictEqual(
        error,
        new RunFailed({ stage: "turn", detail: lostAt(1).message, failure: lostAt(1), retryable: true })
      )
    })
  )

  it.effect("only the end of its own turn ends it: not another's, not a sub-agent's", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(
        notify("turn/completed", { threadId: "T", turn: { id: "other", status: "completed" } })
      )
      yield* place.say(
        notify("turn/completed", { threadId: "child", turn: { id: "U", status: "completed" } })
      )
      yield* TestClock.adjust(0)
      assert.isUndefined(place.fiber.pollUnsafe())
      yield* place.say(completed)
      yield* Fiber.join(place.fiber)
    })
  )

  it.effect("resume and fork carry the same governance as start", () =>
    Effect.gen(function* () {
      const sent = Effect.fnUntraced(function* (tag: "start" | "resume" | "fork") {
        const thread = tag === "start" ? ({ _tag: tag } as const) : ({ _tag: tag, threadId: "T" } as const)
        const place = yield* running({}, { thread })
        yield* place.say(completed)
        yield* Fiber.join(place.fiber)
        assert.deepStrictEqual(place.remembered, [{ threadId: "T", relayId: "R", generation: 1, cwd }])
        const { approvalPolicy, approvalsReviewer, config, sandbox } = place.params.get(
          `thread/${tag}`
        ) as Record<string, unknown>
        return { approvalPolicy, approvalsReviewer, config, sandbox }
      })
      const start = yield* sent("start")
      assert.deepStrictEqual([yield* sent("resume"), yield* sent("fork")], [start, start])
    })
  )

  it.effect("the stricter sandbox of an override is what the thread gets", () =>
    Effect.gen(function* () {
      const place = yield* running({}, { overrides: ['sandbox_mode="read-only"'] })
      assert.deepInclude(place.params.get("thread/start"), { sandbox: "read-only" })
    })
  )

  it.effect(
    "a working directory is sent as its real path, and one that is none is refused before any thread",
    () =>
      Effect.gen(function* () {
        const made = fs.mkdtempSync(`${cwd}/hf-cwd-`)
        yield* Effect.addFinalizer(() => Effect.sync(() => fs.rmSync(made, { recursive: true })))
        fs.mkdirSync(`${made}/real`)
        fs.symlinkSync("real", `${made}/link`)
        const place = yield* running({}, { cwd: `${made}/link/../link/` })
        assert.deepInclude(place.params.get("thread/start"), { cwd: `${made}/real` })
        const gone = yield* world()
        const error = yield* Effect.flip(
          Stream.runDrain(gone.driver.run({ ...request, cwd: `${made}/gone` }))
        )
        assert.instanceOf(error, RunFailed)
        assert.match(error.message, /gone is not a directory that exists/)
        assert.deepStrictEqual(gone.asked, [])
      })
  )

  it.effect("a thread that belongs to a run, or to its sub-agents, is not resumed by another", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(
        notify("item/started", {
          threadId: "T",
          turnId: "U",
          item: { type: "subAgentActivity", id: "x", agentThreadId: "child" }
        })
      )
      yield* TestClock.adjust(0)
      const resume = (threadId: string) =>
        Effect.flip(Stream.runDrain(place.driver.run({ ...request, thread: { _tag: "resume", threadId } })))
      for (const threadId of ["T", "child"])
        assert.match((yield* resume(threadId)).message, /belongs to another run now/)
      assert.deepStrictEqual(
        place.asked.filter((method) => method === "thread/resume"),
        []
      )
    })
  )

  it.effect(
    "sub-agents end with their run: their turn interrupted, their background cleaned, their thread let go",
    () =>
      Effect.gen(function* () {
        const place = yield* running()
        yield* place.say(
          notify("item/started", {
            threadId: "T",
            turnId: "U",
            item: { type: "subAgentActivity", id: "x", agentThreadId: "child" }
          })
        )
        yield* place.say(
          notify("turn/started", { threadId: "child", turn: { id: "V", status: "inProgress", error: null } })
        )
        yield* place.say(completed)
        yield* Fiber.join(place.fiber)
        assert.deepStrictEqual(place.asked.slice(4), [
          "turn/interrupt",
          ...cleanup.slice(0, 2),
          ...cleanup.slice(0, 2),
          "thread/unsubscribe",
          "thread/unsubscribe"
        ])
        assert.deepStrictEqual(place.params.get("turn/interrupt"), { threadId: "child", turnId: "V" })
      })
  )

  it.effect(
    "an app-server that answers nothing after a turn holds up the end of its run for eight seconds, not for each question",
    () =>
      Effect.gen(function* () {
        const place = yield* running()
        for (let agent = 0; agent < 10; agent++)
          yield* place.say(
            notify("item/started", {
              threadId: "T",
              turnId: "U",
              item: { type: "subAgentActivity", id: `x${agent}`, agentThreadId: `child${agent}` }
            })
          )
        place.goesSilent()
        yield* place.say(completed)
        // The thread itself is let go after the turn, with a deadline of its own.
        yield* TestClock.adjust("13 seconds")
        yield* Fiber.join(place.fiber)
        assert.deepStrictEqual([place.log.slice(1), place.retired], [["given back", "relay closed"], []])
      })
  )

  it.effect("half a character in a prompt is sent as one that JSON can carry", () =>
    Effect.gen(function* () {
      const place = yield* running({}, { prompt: "a\ud800b" })
      assert.deepInclude(place.params.get("turn/start"), {
        input: [{ type: "text", text: "a\ufffdb", text_elements: [] }]
      })
    })
  )

  it.effect("an approval that waits holds up no event", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const place = yield* running({ gate: Deferred.await(gate) })
      yield* Effect.forkChild(asks(place, "item/commandExecution/requestApproval", commandApproval))
      yield* place.say(
        notify("item/completed", {
          threadId: "T",
          turnId: "U",
          item: { type: "agentMessage", id: "m", text: "hi" }
        })
      )
      assert.deepStrictEqual(yield* place.until("message"), {
        _tag: "message",
        threadId: "T",
        itemId: "m",
        text: "hi"
      })
      yield* Deferred.succeed(gate, undefined)
    })
  )

  it.effect("verdicts that fell at the very end are shown before it", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* Queue.offer(place.rows, { ...entry, seq: 1, at: 0 })
      yield* place.say(completed)
      yield* Fiber.join(place.fiber)
      assert.deepStrictEqual(
        place.events.slice(-2).map(({ _tag }) => _tag),
        ["verdict", "ended"]
      )
    })
  )

  it.effect("a finished call is nobody's elicitation any more", () =>
    Effect.gen(function* () {
      const place = yield* running()
      const call = (id: string) => ({
        threadId: "T",
        turnId: "U",
        item: { type: "mcpToolCall", id, server: "toy", tool: "poke", arguments: { x: 1 } }
      })
      yield* place.say(notify("item/started", call("one")))
      yield* place.say(notify("item/completed", call("one")))
      yield* place.say(notify("item/started", call("two")))
      yield* asks(place, "mcpServer/elicitation/request", {
        threadId: "T",
        turnId: "U",
        serverName: "toy",
        _meta: { codex_approval_kind: "mcp_tool_call", tool_name: "poke", tool_params: { x: 1 } }
      })
      assert.include(place.log, "approve two")
    })
  )

  it.effect("only our own hook's failure is an incident", () =>
    Effect.gen(function* () {
      const place = yield* running()
      const run = {
        id: "x:call_1",
        eventName: "preToolUse",
        source: "project",
        status: "failed",
        entries: []
      }
      yield* place.say(notify("hook/completed", { threadId: "T", turnId: "U", run }))
      yield* place.say(completed)
      yield* Fiber.join(place.fiber)
      assert.strictEqual(place.events.at(-1)!._tag, "ended")
    })
  )

  it.effect("what an agent printed, and why a hook failed, are shown masked", () =>
    Effect.gen(function* () {
      const secret = "api_key=sk-abcdefghijklmnopqrstuvwx"
      const place = yield* running()
      const item = {
        type: "commandExecution",
        id: "c",
        command: "env",
        status: "completed",
        aggregatedOutput: secret
      }
      yield* place.say(notify("item/completed", { threadId: "T", turnId: "U", item }))
      const run = {
        id: "x:call_1",
        eventName: "preToolUse",
        source: "sessionFlags",
        status: "failed",
        entries: [{ kind: "error", text: secret }]
      }
      yield* place.say(notify("hook/completed", { threadId: "T", turnId: "U", run }))
      const error = yield* Effect.flip(Fiber.join(place.fiber))
      const shown = JSON.stringify([place.events, error])
      assert.include(shown, "api_key=[redacted]")
      assert.notInclude(shown, "sk-abc")
    })
  )
})
