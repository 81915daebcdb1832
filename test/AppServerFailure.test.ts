import { assert, describe, it } from "@effect/vitest"
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
  describePoison,
  failureOfRejection,
  failureOfTurn,
  isRetryable,
  LeaseCircuitOpen,
  LeaseTimeout,
  ModelNotFound,
  type PoisonReason,
  ProviderUnavailable,
  RateLimited,
  type Severity,
  severity,
  ThreadNotFound,
  ThreadWriterConflict,
  TurnCancelled,
  TurnFailed
} from "../src/services/AppServerFailure.ts"

type Tag = AppServerFailure["_tag"]

/** A row per member: one that is added to the union and not here does not compile. */
const members: { readonly [T in Tag]: readonly [Extract<AppServerFailure, { _tag: T }>, Severity, boolean] } =
  {
    AppServerLost: [
      new AppServerLost({ generation: 3, reason: { _tag: "stdio-closed" }, stderrTail: "payload" }),
      "poison",
      true
    ],
    AppServerUnavailable: [
      new AppServerUnavailable({ stage: "spawn", problem: "it cannot be started." }),
      "caller",
      false
    ],
    LeaseTimeout: [new LeaseTimeout({ timeoutMs: 100 }), "caller", true],
    LeaseCircuitOpen: [
      new LeaseCircuitOpen({ faults: 6, until: 60_000, problem: "it closed its output" }),
      "caller",
      true
    ],
    AppServerRejected: [
      new AppServerRejected({ method: "turn/start", code: -32600, detail: "no input" }),
      "caller",
      false
    ],
    AppServerOverloaded: [new AppServerOverloaded({ method: "turn/start", attempts: 4 }), "caller", true],
    AppServerRequestTimeout: [
      new AppServerRequestTimeout({ method: "turn/start", timeoutMs: 60_000 }),
      "caller",
      true
    ],
    AppServerUnexpected: [
      new AppServerUnexpected({ method: "turn/start", problem: "turn.id is missing" }),
      "caller",
      false
    ],
    ThreadNotFound: [new ThreadNotFound({ method: "thread/resume" }), "caller", false],
    ThreadWriterConflict: [new ThreadWriterConflict({ method: "thread/resume" }), "caller", true],
    BorrowerShed: [new BorrowerShed({ threadId: "t", unread: 4096 }), "caller", true],
    AuthRejected: [new AuthRejected({ httpStatus: 401 }), "caller", false],
    ModelNotFound: [new ModelNotFound({}), "caller", false],
    RateLimited: [new RateLimited({ httpStatus: 429 }), "caller", true],
    ProviderUnavailable: [
      new ProviderUnavailable({ problem: "server-error", httpStatus: 500 }),
      "caller",
      true
    ],
    TurnFailed: [new TurnFailed({ info: "other", detail: "the context is full" }), "caller", false],
    TurnCancelled: [new TurnCancelled({}), "caller", false]
  }

/** What a person can do, in the words that messages use for it. */
const remedy = /[Tt]ry|again|Look at|Log in|Name another|Close it there|is corrected|Correct|`holdfast [a-z]+/

/** It is also the problem that `AppServerUnavailable` names when a handshake takes too long, and which says what to do. */
const bare: ReadonlySet<Tag> = new Set(["AppServerRequestTimeout"])

const reasons: { readonly [T in PoisonReason["_tag"]]: Extract<PoisonReason, { _tag: T }> } = {
  exited: { _tag: "exited", code: 1 },
  signalled: { _tag: "signalled", signal: "SIGKILL" },
  "stdio-closed": { _tag: "stdio-closed" },
  "socket-closed": { _tag: "socket-closed", code: null },
  "write-failed": { _tag: "write-failed", code: "EPIPE" },
  "frame-too-large": { _tag: "frame-too-large" },
  unframeable: { _tag: "unframeable", lines: 8 },
  "unknown-responses": { _tag: "unknown-responses", count: 8 },
  stopped: { _tag: "stopped" },
  "probes-missed": { _tag: "probes-missed", count: 3, silentMs: 30_000 },
  "interrupt-unconfirmed": { _tag: "interrupt-unconfirmed", threadId: "t", timeoutMs: 10_000 },
  "thread-indeterminate": { _tag: "thread-indeterminate", method: "thread/start", timeoutMs: 60_000 }
}

const http = (info: string, httpStatusCode: number | null) => ({ [info]: { httpStatusCode } })
const unavailable = (problem: ProviderUnavailable["problem"], httpStatus: number | null = null) =>
  new ProviderUnavailable({ problem, httpStatus })

/** Codex's `codexErrorInfo` and words; the first seven as measured on 0.169.0. */
const turns: ReadonlyArray<readonly [name: string, info: unknown, detail: string, means: AppServerFailure]> =
  [
    ["401", http("httpConnectionFailed", 401), "", new AuthRejected({ httpStatus: 401 })],
    ["403", http("httpConnectionFailed", 403), "", new AuthRejected({ httpStatus: 403 })],
    [
      "404",
      http("httpConnectionFailed", 404),
      "unexpected status 404",
      new TurnFailed({ info: "httpConnectionFailed", detail: "unexpected status 404" })
    ],
    ["no such model", "modelNotFound", "", new ModelNotFound({})],
    ["429", http("responseTooManyFailedAttempts", 429), "", new RateLimited({ httpStatus: 429 })],
    ["500", "internalServerError", "", unavailable("server-error")],
    ["cut stream", "other", "stream disconnected before completion: x", unavailable("stream-cut")],
    ["a login that is none", "unauthorized", "", new AuthRejected({ httpStatus: null })],
    ["used up", "usageLimitExceeded", "", new RateLimited({ httpStatus: null })],
    ["overload", "serverOverloaded", "", unavailable("overloaded")],
    ["503", http("responseTooManyFailedAttempts", 503), "", unavailable("server-error", 503)],
    ["refused", http("httpConnectionFailed", null), "", unavailable("unreachable")],
    ["no stream", http("responseStreamConnectionFailed", null), "", unavailable("unreachable")],
    ["given up", http("responseTooManyFailedAttempts", null), "", unavailable("unreachable")],
    ["disconnected", http("responseStreamDisconnected", null), "", unavailable("stream-cut")],
    [
      "fields of a later codex",
      { later: { httpStatusCode: 401, more: [1] } },
      "",
      new AuthRejected({ httpStatus: 401 })
    ],
    [
      "context full",
      "contextWindowExceeded",
      "d",
      new TurnFailed({ info: "contextWindowExceeded", detail: "d" })
    ],
    ["nothing", null, "d", new TurnFailed({ info: "unknown", detail: "d" })],
    ["an empty object", {}, "d", new TurnFailed({ info: "unknown", detail: "d" })],
    ["a form of its own", [{ x: 1 }], "d", new TurnFailed({ info: "unknown", detail: "d" })]
  ]

const rejections: ReadonlyArray<readonly [detail: string, means: AppServerFailure]> = [
  ["no rollout found for thread id 0199", new ThreadNotFound({ method: "m" })],
  ["thread not found: 0199", new ThreadNotFound({ method: "m" })],
  ["thread 0199 already has an active writer", new ThreadWriterConflict({ method: "m" })],
  [
    "no active turn to interrupt",
    new AppServerRejected({ method: "m", code: -32600, detail: "no active turn to interrupt" })
  ],
  [
    "Invalid request: unknown variant",
    new AppServerRejected({ method: "m", code: -32600, detail: "Invalid request: unknown variant" })
  ]
]

describe("AppServerFailure", () => {
  for (const [tag, [failure, expectedSeverity, retryable]] of Object.entries(members)) {
    it(`${tag} is ${expectedSeverity}, ${retryable ? "retryable" : "not retryable"}, and says what to do`, () => {
      assert.deepStrictEqual(
        { tag: failure._tag, severity: severity(failure), retryable: isRetryable(failure) },
        { tag, severity: expectedSeverity, retryable }
      )
      if (!bare.has(failure._tag)) assert.match(failure.message, remedy)
      assert.notInclude(failure.message, "payload")
      assert.notMatch(failure.message, /undefined|\[object|NaN/)
    })
  }

  it("the table has every member of the union, and only one is poison", () => {
    assert.strictEqual(AppServerFailure.members.length, Object.keys(members).length)
    assert.deepStrictEqual(
      Object.values(members).flatMap(([failure]) => (severity(failure) === "poison" ? [failure._tag] : [])),
      ["AppServerLost"]
    )
  })

  it("every reason to retire a child has a description of its own, which its message names", () => {
    const all = Object.values(reasons)
    assert.strictEqual(new Set(all.map(describePoison)).size, all.length)
    for (const reason of all)
      assert.include(
        new AppServerLost({ generation: 1, reason, stderrTail: "" }).message,
        describePoison(reason)
      )
  })

  it("a message never breaks, however far away its time is", () => {
    const { message } = new LeaseCircuitOpen({ faults: 1, until: Number.MAX_VALUE, problem: "p" })
    assert.include(message, "+275760-09-13")
  })
})

describe("failureOfTurn", () => {
  for (const [name, info, detail, means] of turns)
    it(`${name} is ${means._tag}`, () => {
      assert.deepStrictEqual(failureOfTurn(info, detail), means)
      assert.strictEqual(severity(means), "caller")
    })
})

describe("failureOfRejection", () => {
  for (const [detail, means] of rejections)
    it(`"${detail}" is ${means._tag}`, () => {
      assert.deepStrictEqual(failureOfRejection("m", -32600, detail), means)
    })
})
