/** The Codex driver against an app-server that is a script: what it asks, what it answers, what it leaves. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as os from "node:os"
import { TestClock } from "effect/testing"
import { layer } from "../src/layers/AgentDriverCodex.ts"
import {
  AgentDriver,
  type AgentEvent,
  HookIncident,
  HooksUnverified,
  RunFailed,
  type RunRequest,
  TurnTimeout
} from "../src/services/AgentDriver.ts"
import { AppServerLease } from "../src/services/AppServerLease.ts"
import {
  type AppServerConnection,
  AppServerLost,
  AppServerRequestTimeout,
  type Incoming
} from "../src/services/AppServerProcess.ts"
import { AuditUnavailable, type AuditRow } from "../src/services/AuditLog.ts"
import type { Decision } from "../src/services/Policy.ts"
import { type Relay, RelayRegistry } from "../src/services/RelayRegistry.ts"
import { type ThreadRecord, ThreadStore } from "../src/services/ThreadStore.ts"
import { entry } from "./support/AuditLog.ts"

const lost = new AppServerLost({ generation: 1, reason: { _tag: "stdio-closed" }, stderrTail: "" })
const decision = (tag: "allow" | "deny"): Decision => ({
  verdict: { _tag: tag },
  policy: "p",
  reason: "r",
  votes: []
})

interface World {
  /** `method` of every request, in order; with its params where a test looks at them. */
  readonly asked: Array<string>
  readonly params: Map<string, unknown>
  readonly say: (message: Incoming) => Effect.Effect<unknown>
  readonly hangUp: Effect.Effect<unknown>
  readonly turnStarted: Effect.Effect<void>
  /** From now on no request is answered; each has the deadline it asks for. */
  readonly goesSilent: () => void
  readonly driver: AgentDriver["Service"]
  readonly remembered: ReadonlyArray<ThreadRecord>
  /** The relay's rows. */
  readonly rows: Queue.Queue<AuditRow>
  readonly log: Array<string>
}

const world = Effect.fnUntraced(function* (
  options: {
    readonly trustStatus?: string
    readonly approve?: "allow" | "deny" | "fail"
    /** Approvals wait for this. */
    readonly gate?: Effect.Effect<unknown>
  } = {}
) {
  const asked: Array<string> = []
  const params = new Map<string, unknown>()
  const log: Array<string> = []
  const incoming = yield* Queue.unbounded<Incoming, AppServerLost>()
  const turnStarted = yield* Deferred.make<void>()
  let hooks: Record<string, unknown> = {}
  let silent = false

  const results: Record<string, (params: never) => unknown> = {
    "thread/start": ({ config }: { readonly config: { readonly hooks: typeof hooks } }) => {
      hooks = config.hooks
      return { thread: { id: "T" }, model: "m" }
    },
    "thread/resume": (params) => results["thread/start"]!(params),
    "thread/fork": (params) => results["thread/start"]!(params),
    "hooks/list": () => {
      const groups = hooks["PreToolUse"] as ReadonlyArray<{
        readonly hooks: ReadonlyArray<{ readonly command: string }>
      }>
      const state = hooks["state"] as Record<string, { readonly trusted_hash: string }>
      return {
        data: [
          {
            hooks: Object.entries(state).map(([key, { trusted_hash }]) => ({
              key,
              eventName: "preToolUse",
              command: groups[0]!.hooks[0]!.command,
              source: "sessionFlags",
              enabled: true,
              currentHash: trusted_hash,
              trustStatus: options.trustStatus ?? "trusted"
            }))
          }
        ]
      }
    },
    "account/read": () => ({ account: null, requiresOpenaiAuth: true }),
    "turn/start": () => ({ turn: { id: "U" } })
  }
  const connection: AppServerConnection = {
    generation: 1,
    pid: 1,
    version: "0.169.0",
    lost: Effect.never,
    thread: () => Effect.succeed(incoming),
    request: (method, sent, schema, timeoutMs = 60_000) =>
      Effect.suspend(() => {
        if (silent)
          return Effect.andThen(Effect.sleep(timeoutMs), new AppServerRequestTimeout({ method, timeoutMs }))
        asked.push(method)
        params.set(method, sent)
        if (method === "turn/start") Deferred.doneUnsafe(turnStarted, Effect.void)
        return Effect.orDie(
          Schema.decodeUnknownEffect(schema)((results[method]?.(sent as never) ?? {}) as unknown)
        )
      })
  }
  const rows = yield* Queue.unbounded<AuditRow>()
  const relay: Relay = {
    relayId: "R",
    generation: 1,
    recordPath: "/bridges/R",
    commands: { pre_tool_use: "the hook" },
    decide: () => Effect.die("not asked here"),
    approve: (call) =>
      Effect.suspend(() => {
        log.push(`approve ${call.callId}`)
        return options.approve === "fail"
          ? Effect.fail(new AuditUnavailable({ cause: "disk full" }))
          : Effect.as(options.gate ?? Effect.void, {
              decision: decision(options.approve ?? "allow"),
              fromHook: true
            })
      }),
    incident: (callId) => Effect.sync(() => log.push(`incident ${callId}`)),
    rows,
    attachSession: (sessionId) => Effect.sync(() => log.push(`session ${sessionId}`))
  }
  const remembered: Array<ThreadRecord> = []
  const parts = Layer.mergeAll(
    Layer.mock(RelayRegistry, {
      register: () =>
        Effect.acquireRelease(Effect.succeed(relay), () => Effect.sync(() => log.push("relay closed")))
    }),
    Layer.mock(AppServerLease, {
      borrow: Effect.acquireRelease(Effect.succeed(connection), () =>
        Effect.sync(() => log.push("given back"))
      )
    }),
    Layer.mock(ThreadStore, {
      find: () => Effect.succeedNone,
      remember: (record) => Effect.sync(() => remembered.push(record))
    })
  )
  const driver = yield* Effect.provide(AgentDriver, layer.pipe(Layer.provide(parts)))
  return {
    asked,
    params,
    log,
    driver,
    say: (message) => Queue.offer(incoming, message),
    remembered,
    rows,
    goesSilent: () => {
      silent = true
    },
    hangUp: Queue.fail(incoming, lost),
    turnStarted: Deferred.await(turnStarted)
  } satisfies World
})

const cwd = fs.realpathSync(os.tmpdir())
const request: RunRequest = { prompt: "p", cwd, overrides: [], thread: { _tag: "start" } }
const notify = (method: string, params: unknown): Incoming => ({ _tag: "notification", method, params })
const completed = notify("turn/completed", {
  threadId: "T",
  turn: { id: "U", status: "completed", error: null }
})
const cleanup = ["thread/backgroundTerminals/clean", "thread/unsubscribe"]

/** Runs a turn to where it waits for messages. */
const running = Effect.fnUntraced(function* (
  options?: Parameters<typeof world>[0],
  over: Partial<RunRequest> = {}
) {
  const place = yield* world(options)
  const events: Array<AgentEvent> = []
  const fiber = yield* place.driver.run({ ...request, ...over }).pipe(
    Stream.runForEach((event) => Effect.sync(() => events.push(event))),
    Effect.forkChild
  )
  yield* place.turnStarted
  return { ...place, events, fiber }
})

/** A server request, and the answer it gets. */
const asks = Effect.fnUntraced(function* (place: World, method: string, params: unknown) {
  const answer = yield* Deferred.make<unknown>()
  yield* place.say({
    _tag: "request",
    method,
    params,
    respond: (result) => Effect.asVoid(Deferred.succeed(answer, result)),
    refuse: Effect.asVoid(Deferred.succeed(answer, "refused"))
  })
  return yield* Deferred.await(answer)
})

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
      assert.deepInclude(error, { _tag: "RunFailed", stage: "turn", retryable: true, detail: lost.message })
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
          "thread/backgroundTerminals/clean",
          "turn/interrupt",
          "thread/backgroundTerminals/clean",
          "thread/unsubscribe",
          "thread/unsubscribe"
        ])
        assert.deepStrictEqual(place.params.get("turn/interrupt"), { threadId: "child", turnId: "V" })
      })
  )

  it.effect(
    "an app-server that answers nothing any more holds up the end of a run for eight seconds, not for each question",
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
        yield* TestClock.adjust(0)
        place.goesSilent()
        const ending = yield* Effect.forkChild(Fiber.interrupt(place.fiber), { startImmediately: true })
        // The thread itself is let go after the turn, with a deadline of its own.
        yield* TestClock.adjust("13 seconds")
        assert.isDefined(ending.pollUnsafe())
        assert.deepStrictEqual(place.log.slice(1), ["given back", "relay closed"])
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
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(place.events.at(-1), { _tag: "message", threadId: "T", text: "hi" })
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
