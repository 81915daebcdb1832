/** The Codex driver when things go wrong below it: a lost app-server, a provider that stays away, an unheard interrupt. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import {
  AgentRunError,
  HookIncident,
  HooksUnverified,
  ParentNotFound,
  RunFailed,
  TurnTimeout
} from "../src/services/AgentDriver.ts"
import {
  AppServerFailure,
  AppServerLost,
  AppServerOverloaded,
  AppServerRejected,
  AppServerRequestTimeout,
  AppServerUnavailable,
  AppServerUnexpected,
  AuthRejected,
  BorrowerShed,
  LeaseCircuitOpen,
  LeaseTimeout,
  ModelNotFound,
  ProviderUnavailable,
  RateLimited,
  ThreadNotFound,
  ThreadWriterConflict,
  TurnCancelled,
  TurnFailed
} from "../src/services/AppServerFailure.ts"
import { ConfigKeyRefused } from "../src/services/CodexGovernance.ts"
import {
  asks,
  cleanup,
  completed,
  endOf,
  itemOf,
  lostAt,
  notify,
  request,
  runIn,
  running,
  turnEnded,
  world
} from "./support/codexWorld.ts"

const retrying = (message = "Reconnecting... 1/5", additionalDetails: string | null = null) =>
  notify("error", {
    threadId: "T",
    turnId: "U",
    willRetry: true,
    error: {
      message,
      additionalDetails,
      codexErrorInfo: { responseStreamDisconnected: { httpStatusCode: null } }
    }
  })

const childActivity = itemOf("started", { type: "subAgentActivity", id: "x", agentThreadId: "child" })
const childTurn = notify("turn/started", {
  threadId: "child",
  turn: { id: "V", status: "inProgress", error: null }
})

const command = { type: "commandExecution", id: "call_1", command: "touch x", status: "completed" }
const sentText = (params: unknown) =>
  (params as { readonly input: readonly [{ readonly text: string }] }).input[0].text

describe("the end of a turn", () => {
  it.effect.each([
    { status: "completed", error: null, failure: null },
    { status: "interrupted", error: null, failure: new TurnCancelled({}) },
    {
      status: "failed",
      error: { message: "401", codexErrorInfo: { httpConnectionFailed: { httpStatusCode: 401 } } },
      failure: new AuthRejected({ httpStatus: 401 })
    },
    {
      status: "failed",
      error: { message: "no", codexErrorInfo: "modelNotFound" },
      failure: new ModelNotFound({})
    },
    {
      status: "failed",
      error: { message: "refused", codexErrorInfo: { httpConnectionFailed: { httpStatusCode: null } } },
      failure: new ProviderUnavailable({ problem: "unreachable", httpStatus: null })
    },
    {
      status: "failed",
      error: { message: `api_key=sk-abcdefghijklmnopqrstuvwx ${"x".repeat(600)}`, codexErrorInfo: "odd" },
      failure: new TurnFailed({ info: "odd", detail: `api_key=[redacted] ${"x".repeat(481)}` })
    },
    {
      status: "vanished",
      error: null,
      failure: new TurnFailed({ info: "unknown", detail: "it ended as vanished" })
    }
  ])("is exactly one failure, or none: $status $error.codexErrorInfo", ({ status, error, failure }) =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(turnEnded(status, error))
      assert.deepInclude(yield* endOf(place), { _tag: "ended", status, failure })
    })
  )

  it.effect("every error of a run survives the wire, the failure inside it too", () =>
    Effect.gen(function* () {
      const failures: ReadonlyArray<AppServerFailure> = [
        lostAt(3),
        new AppServerLost({
          generation: 1,
          reason: { _tag: "thread-indeterminate", method: "thread/start", timeoutMs: 60_000 },
          stderrTail: "bye"
        }),
        new AppServerUnavailable({ stage: "connect", problem: "no" }),
        new LeaseTimeout({ timeoutMs: 100 }),
        new LeaseCircuitOpen({ faults: 6, until: 1, problem: "no" }),
        new AppServerRejected({ method: "m", code: -32600, detail: "no" }),
        new AppServerOverloaded({ method: "m", attempts: 3 }),
        new AppServerRequestTimeout({ method: "m", timeoutMs: 1 }),
        new AppServerUnexpected({ method: "m", problem: "x" }),
        new ThreadNotFound({ method: "m" }),
        new ThreadWriterConflict({ method: "m" }),
        new BorrowerShed({ threadId: "T", unread: 4096 }),
        new AuthRejected({ httpStatus: null }),
        new ModelNotFound({}),
        new RateLimited({ httpStatus: 429 }),
        new ProviderUnavailable({ problem: "silent", httpStatus: null }),
        new TurnFailed({ info: "other", detail: "no" }),
        new TurnCancelled({})
      ]
      const errors: ReadonlyArray<AgentRunError> = [
        new ConfigKeyRefused({ key: "k", why: "malformed" }),
        new HooksUnverified({ threadId: "T", problems: ["p"] }),
        new HookIncident({ callId: "c", detail: "d" }),
        new TurnTimeout({ timeoutMs: 1 }),
        new ParentNotFound({ runId: "run-1" }),
        ...[null, ...failures].map(
          (failure) => new RunFailed({ stage: "turn", detail: "d", failure, retryable: true })
        )
      ]
      assert.deepStrictEqual(new Set(failures.map(({ _tag }) => _tag)).size, AppServerFailure.members.length)
      const wire = Schema.fromJsonString(Schema.toCodecJson(AgentRunError))
      for (const error of errors) {
        const back = yield* Schema.decodeEffect(wire)(yield* Schema.encodeEffect(wire)(error))
        assert.deepStrictEqual([back, back.message], [error, error.message])
      }
    })
  )
})

describe("a provider that stays away", () => {
  it.effect("ends the turn once Codex has only tried again for a minute, and the turn is interrupted", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(retrying())
      yield* place.until("notice")
      yield* place.until("notice")
      yield* TestClock.adjust("59 seconds")
      yield* place.say(retrying("Reconnecting... 2/5"))
      assert.deepInclude(yield* place.until("notice"), { text: "Reconnecting... 2/5" })
      yield* TestClock.adjust("1 second")
      const failure = new ProviderUnavailable({ problem: "silent", httpStatus: null })
      assert.deepStrictEqual(yield* endOf(place), {
        _tag: "ended",
        status: "failed",
        problem: failure.message,
        failure
      })
      assert.deepStrictEqual(place.asked.slice(4), ["turn/interrupt", ...cleanup])
    })
  )

  it.effect.each([
    ["Reconnecting... waiting for network", null],
    ["Reconnecting... 1/5", "Connection failed: error sending request"]
  ])("is unreachable where no connection is accepted (%s)", ([message, details]) =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(retrying(message!, details))
      yield* place.until("notice")
      yield* place.until("notice")
      yield* TestClock.adjust("1 minute")
      assert.deepInclude(yield* endOf(place), {
        failure: new ProviderUnavailable({ problem: "unreachable", httpStatus: null })
      })
    })
  )

  it.effect.each([
    ["an item", itemOf("started", { type: "reasoning", id: "r" })],
    ["a delta", notify("item/agentMessage/delta", { threadId: "T", turnId: "U", itemId: "m", delta: "x" })],
    ["token usage", notify("thread/tokenUsage/updated", { threadId: "T", turnId: "U" })]
  ] as const)("is back with %s", ([, progress]) =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(retrying())
      yield* TestClock.adjust("59 seconds")
      yield* place.say(progress)
      yield* place.say(itemOf("completed", { type: "agentMessage", id: "m", text: "hi" }))
      yield* place.until("message")
      yield* TestClock.adjust("10 minutes")
      assert.isUndefined(place.fiber.pollUnsafe())
      yield* place.say(completed)
      assert.deepInclude(yield* endOf(place), { status: "completed", failure: null })
    })
  )

  it.effect("is not back because of another thread's progress, or the thread's own administration", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.say(retrying())
      yield* place.say(notify("thread/status/changed", { threadId: "T", status: { type: "active" } }))
      yield* place.say(
        notify("item/completed", {
          threadId: "child",
          turnId: "V",
          item: { type: "agentMessage", id: "m", text: "hi" }
        })
      )
      yield* place.until("message")
      yield* TestClock.adjust("1 minute")
      assert.deepInclude(yield* endOf(place), { status: "failed" })
    })
  )
})

describe("an interrupt", () => {
  const interrupted = Effect.fnUntraced(function* (options: Parameters<typeof running>[0]) {
    const place = yield* running(options)
    const ending = yield* Effect.forkChild(Fiber.interrupt(place.fiber), { startImmediately: true })
    return { ...place, ending }
  })

  it.effect("is confirmed by a server that knows of no turn to interrupt", () =>
    Effect.gen(function* () {
      const place = yield* interrupted({ interrupt: "idle" })
      yield* Fiber.join(place.ending)
      assert.deepStrictEqual([place.asked.slice(4), place.retired], [["turn/interrupt", ...cleanup], []])
    })
  )

  it.effect.each(["rejects", "never"] as const)(
    "is confirmed by the turn's end where the answer %s",
    (interrupt) =>
      Effect.gen(function* () {
        const place = yield* interrupted({ interrupt })
        yield* TestClock.adjust("9 seconds")
        yield* place.say(turnEnded("interrupted"))
        yield* Fiber.join(place.ending)
        assert.deepStrictEqual([place.asked.slice(4), place.retired], [["turn/interrupt", ...cleanup], []])
      })
  )

  it.effect.each(["rejects", "never"] as const)(
    "that nothing confirms, asked twice, retires the app-server (%s), and nothing more is asked of it",
    (interrupt) =>
      Effect.gen(function* () {
        for (const origin of ["spawned", "adopted"] as const) {
          const place = yield* interrupted({ interrupt, origin })
          yield* TestClock.adjust("10 seconds")
          assert.deepStrictEqual(place.retired, [])
          yield* TestClock.adjust("5 seconds")
          yield* Fiber.join(place.ending)
          assert.deepStrictEqual(place.retired, [
            { _tag: "interrupt-unconfirmed", threadId: "T", timeoutMs: 15_000 }
          ])
          assert.deepStrictEqual(place.asked.slice(4), [
            "turn/interrupt",
            "turn/interrupt",
            "thread/unsubscribe"
          ])
        }
      })
  )

  it.effect("of a lost app-server needs no confirmation", () =>
    Effect.gen(function* () {
      const place = yield* running()
      yield* place.hangUp
      yield* Effect.flip(Fiber.join(place.fiber))
      assert.deepStrictEqual([place.asked.slice(4), place.retired], [[], []])
    })
  )

  it.effect(
    "leaves no command: what is still listed after the clean-up is terminated and looked at again",
    () =>
      Effect.gen(function* () {
        const place = yield* interrupted({ terminals: [["7", "8"], ["8"]] })
        yield* Fiber.join(place.ending)
        assert.deepStrictEqual(
          place.asked.slice(4).map((method) => method.replace("thread/backgroundTerminals/", "")),
          [
            "turn/interrupt",
            "clean",
            "list",
            "terminate",
            "terminate",
            "list",
            "terminate",
            "list",
            "thread/unsubscribe"
          ]
        )
        assert.deepStrictEqual(place.params.get("thread/backgroundTerminals/terminate"), {
          threadId: "T",
          processId: "8"
        })
      })
  )

  it.effect("answers no approval any more", () =>
    Effect.gen(function* () {
      const place = yield* interrupted({ interrupt: "never" })
      const answer = yield* asks(place, "item/commandExecution/requestApproval", {
        threadId: "T",
        turnId: "U",
        itemId: "call_1",
        command: "/bin/bash -lc ls"
      })
      assert.deepStrictEqual([answer, place.log], ["refused", ["session T"]])
      yield* place.say(turnEnded("interrupted"))
      yield* Fiber.join(place.ending)
    })
  )
})

describe("a run that survives the loss of its app-server", () => {
  const resumes = { onLost: "resume" } as const

  it.effect("goes on once, on the same thread, governed and verified as before, behind a fence", () =>
    Effect.gen(function* () {
      const place = yield* running({ fenced: { decided: 2, inDoubt: 1 } }, resumes)
      const governance = place.params.get("thread/start") as Record<string, unknown>
      yield* place.say(itemOf("completed", command))
      yield* place.until("command")
      yield* place.hangUp
      yield* place.turnStarted
      assert.deepStrictEqual(place.asked.slice(4), ["thread/resume", "hooks/list", "turn/start"])
      const { approvalPolicy, approvalsReviewer, config, cwd, sandbox } = governance
      assert.deepInclude(place.params.get("thread/resume"), {
        threadId: "T",
        approvalPolicy,
        approvalsReviewer,
        config,
        cwd,
        sandbox
      })
      // The old borrow is given back before the next is asked for, the relay and the thread are kept.
      assert.deepStrictEqual(place.log, ["session T", "given back", "fence [call_1]"])
      assert.deepStrictEqual(place.remembered.length, 1)
      const text = sentText(place.params.get("turn/start"))
      assert.match(text, /Check what they changed instead of repeating them/)
      yield* place.say(turnEnded("completed", null, { threadId: "T", id: "U2" }))
      assert.deepStrictEqual(yield* endOf(place), {
        _tag: "ended",
        status: "completed",
        problem: null,
        failure: null
      })
      assert.deepStrictEqual(
        place.events.filter(({ _tag }) => _tag === "resumed"),
        [{ _tag: "resumed", generation: 2, lost: lostAt(1), inDoubt: 1 }]
      )
      assert.deepStrictEqual(
        place.borrows.map(({ runId }) => runId),
        [place.borrows[0]!.runId, place.borrows[0]!.runId]
      )
    })
  )

  it.effect("sends its prompt again only where nothing at all had happened", () =>
    Effect.gen(function* () {
      const after = Effect.fnUntraced(function* (decided: number, item: Record<string, unknown> | null) {
        const place = yield* running({ fenced: { decided, inDoubt: 0 } }, { ...resumes, prompt: "original" })
        if (item) yield* place.say(itemOf("started", item))
        yield* place.say(retrying())
        yield* place.until("notice")
        yield* place.until("notice")
        yield* place.hangUp
        yield* place.turnStarted
        return sentText(place.params.get("turn/start")) === "original"
      })
      assert.deepStrictEqual(
        [
          yield* after(0, null),
          yield* after(0, { type: "userMessage", id: "u" }),
          yield* after(1, null),
          yield* after(0, { type: "reasoning", id: "r" })
        ],
        [true, true, false, false]
      )
    })
  )

  it.effect("fails at the second loss, with that loss", () =>
    Effect.gen(function* () {
      const place = yield* running({}, resumes)
      yield* place.hangUp
      yield* place.turnStarted
      yield* place.hangUp
      assert.deepStrictEqual(
        yield* Effect.flip(Fiber.join(place.fiber)),
        new RunFailed({ stage: "turn", detail: lostAt(2).message, failure: lostAt(2), retryable: true })
      )
      assert.deepStrictEqual(place.borrows.length, 2)
    })
  )

  it.effect("starts no turn where the fence cannot be raised", () =>
    Effect.gen(function* () {
      const place = yield* running({ fenced: "fails" }, resumes)
      yield* place.hangUp
      const error = yield* Effect.flip(Fiber.join(place.fiber))
      assert.deepInclude(error, { _tag: "RunFailed", stage: "relay", failure: lostAt(1), retryable: true })
      assert.deepStrictEqual(place.asked.slice(4), ["thread/resume", "hooks/list", "thread/unsubscribe"])
    })
  )

  it.effect("has one deadline for both parts of its turn", () =>
    Effect.gen(function* () {
      const place = yield* running({}, resumes)
      yield* TestClock.adjust("59 minutes")
      yield* place.hangUp
      yield* place.turnStarted
      yield* TestClock.adjust("1 minute")
      assert.instanceOf(yield* Effect.flip(Fiber.join(place.fiber)), TurnTimeout)
    })
  )

  it.effect("keeps its thread while it has no app-server", () =>
    Effect.gen(function* () {
      const place = yield* running({}, resumes)
      yield* place.hangUp
      yield* place.turnStarted
      const other = yield* Effect.flip(
        Stream.runDrain(place.driver.run({ ...request, thread: { _tag: "resume", threadId: "T" } }))
      )
      assert.match(other.message, /belongs to another run now/)
    })
  )

  it.effect("says that the loss is why, where the thread had not been written yet", () =>
    Effect.gen(function* () {
      const place = yield* running({ forgetsThreads: true }, resumes)
      yield* place.hangUp
      assert.deepStrictEqual(
        yield* Effect.flip(Fiber.join(place.fiber)),
        new RunFailed({ stage: "turn", detail: lostAt(1).message, failure: lostAt(1), retryable: true })
      )
    })
  )

  it.effect("stops what goes on without it where the server itself was not lost", () =>
    Effect.gen(function* () {
      const place = yield* running({ origin: "adopted", interrupt: "idle" }, resumes)
      yield* place.say(childActivity)
      yield* place.say(childTurn)
      yield* place.say(itemOf("completed", command))
      yield* place.until("command")
      yield* place.hangUp
      yield* place.turnStarted
      assert.deepStrictEqual(place.asked.slice(4), [
        "thread/resume",
        "hooks/list",
        "turn/interrupt",
        ...cleanup.slice(0, 2),
        "turn/interrupt",
        ...cleanup.slice(0, 2),
        "turn/start"
      ])
      assert.deepStrictEqual(place.params.get("turn/interrupt"), { threadId: "child", turnId: "V" })
    })
  )
})

describe("a helper", () => {
  const parentIn = (place: Effect.Success<ReturnType<typeof world>>) =>
    Effect.map(runIn(place), (parent) => {
      const [governed] = parent.events
      return { ...parent, runId: governed?._tag === "governed" ? governed.runId : "" }
    })

  it.effect("shares its parent's child, is told apart by its parent, and fails alone", () =>
    Effect.gen(function* () {
      const place = yield* world()
      const parent = yield* parentIn(place)
      const helper = yield* runIn(place, { spawnedBy: parent.runId, startTimeoutMs: 5000 })
      assert.deepInclude(helper.events[0], { _tag: "governed", spawnedBy: parent.runId, threadId: "T2" })
      assert.deepStrictEqual(
        place.borrows.map(({ spawnedBy, timeoutMs }) => ({ spawnedBy, timeoutMs })),
        [
          { spawnedBy: null, timeoutMs: undefined },
          { spawnedBy: parent.runId, timeoutMs: 5000 }
        ]
      )
      assert.deepStrictEqual(
        place.registered.map(({ spawnedBy }) => spawnedBy),
        [null, parent.runId]
      )
      yield* place.say(
        turnEnded(
          "failed",
          { message: "401", codexErrorInfo: { httpConnectionFailed: { httpStatusCode: 401 } } },
          { threadId: "T2", id: "U2" }
        ),
        "T2"
      )
      assert.deepInclude(yield* endOf(helper), { failure: new AuthRejected({ httpStatus: 401 }) })
      assert.isUndefined(parent.fiber.pollUnsafe())
      yield* place.say(completed)
      assert.deepInclude(yield* endOf(parent), { status: "completed" })
    })
  )

  it.effect("of no active run is refused before anything starts; one that ended is no parent", () =>
    Effect.gen(function* () {
      const place = yield* world()
      const parent = yield* parentIn(place)
      yield* place.say(completed)
      yield* Fiber.join(parent.fiber)
      const before = place.asked.length
      for (const spawnedBy of ["run-nobody", parent.runId])
        assert.deepStrictEqual(
          yield* Effect.flip(Stream.runDrain(place.driver.run({ ...request, spawnedBy }))),
          new ParentNotFound({ runId: spawnedBy })
        )
      assert.deepStrictEqual(
        [place.asked.length, place.registered.length, place.borrows.length],
        [before, 1, 1]
      )
    })
  )

  it.effect("goes on when its parent ends", () =>
    Effect.gen(function* () {
      const place = yield* world()
      const parent = yield* parentIn(place)
      const helper = yield* runIn(place, { spawnedBy: parent.runId })
      yield* Fiber.interrupt(parent.fiber)
      assert.isUndefined(helper.fiber.pollUnsafe())
      yield* place.say(turnEnded("completed", null, { threadId: "T2", id: "U2" }), "T2")
      assert.deepInclude(yield* endOf(helper), { status: "completed" })
    })
  )
})
