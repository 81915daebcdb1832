/** The connection over two queues: no process, the same protocol. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import {
  AppServerRejected,
  AppServerRequestTimeout,
  AppServerUnexpected,
  BorrowerShed,
  severity
} from "../src/services/AppServerFailure.ts"
import { threadQueueCapacity } from "../src/services/AppServerProcess.ts"
import { lost, makePeer } from "./support/appServerPeer.ts"

const Answer = Schema.Struct({ n: Schema.Int })

describe("AppServerProcess", () => {
  it.effect("answers find their requests in any order", () =>
    Effect.gen(function* () {
      const { connection, say, written } = yield* makePeer()
      const a = yield* Effect.forkChild(connection.request("a", {}, Answer), { startImmediately: true })
      const b = yield* Effect.forkChild(connection.request("b", {}, Answer), { startImmediately: true })
      const [first, second] = [yield* Queue.take(written), yield* Queue.take(written)]
      yield* say({ id: second.id, result: { n: 2 } })
      yield* say({ id: first.id, result: { n: 1 } })
      assert.deepStrictEqual([yield* Fiber.join(a), yield* Fiber.join(b)], [{ n: 1 }, { n: 2 }])
    })
  )

  it.effect("a refusal, an unknown form and a deadline are the caller's alone, and typed", () =>
    Effect.gen(function* () {
      const { connection, say, written } = yield* makePeer()
      const ask = Effect.forkChild(Effect.flip(connection.request("m", {}, Answer)), {
        startImmediately: true
      })
      const refused = yield* ask
      yield* say({ id: (yield* Queue.take(written)).id, error: { code: -32600, message: "token=abc no" } })
      const odd = yield* ask
      yield* say({ id: (yield* Queue.take(written)).id, result: { n: "x" } })
      const late = yield* ask
      yield* TestClock.adjust(1000)
      const failures = [yield* Fiber.join(refused), yield* Fiber.join(odd), yield* Fiber.join(late)]
      assert.deepStrictEqual(
        failures[0],
        new AppServerRejected({ method: "m", code: -32600, detail: "token=[redacted] no" })
      )
      assert.instanceOf(failures[1], AppServerUnexpected)
      assert.deepStrictEqual(failures[2], new AppServerRequestTimeout({ method: "m", timeoutMs: 1000 }))
      assert.deepStrictEqual(failures.map(severity), ["caller", "caller", "caller"])
    })
  )

  it.effect("a loss fails every request and every thread at once, with one reason and no secret", () =>
    Effect.gen(function* () {
      const { connection, hangUp } = yield* makePeer()
      const thread = yield* connection.thread("t")
      const asking = yield* Effect.forkChild(Effect.flip(connection.request("m", {}, Answer)), {
        startImmediately: true
      })
      yield* hangUp
      const expected = lost({ _tag: "stdio-closed" })
      assert.deepStrictEqual(yield* Fiber.join(asking), expected)
      assert.deepStrictEqual(yield* Effect.flip(Queue.take(thread)), expected)
      assert.deepStrictEqual(yield* connection.lost, expected)
      assert.deepStrictEqual(yield* Effect.flip(connection.request("m", {}, Answer)), expected)
      assert.deepStrictEqual(yield* Effect.flip(Queue.take(yield* connection.thread("u"))), expected)
      assert.strictEqual(severity(expected), "poison")
    })
  )

  it.effect("a broken pipe is poison", () =>
    Effect.gen(function* () {
      const { breakPipe, connection } = yield* makePeer()
      breakPipe()
      assert.deepStrictEqual(
        yield* Effect.flip(connection.request("m", {}, Answer)),
        lost({ _tag: "write-failed", code: "EPIPE" })
      )
    })
  )

  it.effect("a stray line is noise; three in a row are poison", () =>
    Effect.gen(function* () {
      const { connection, say, written } = yield* makePeer()
      for (const line of ["log", "log"]) yield* say(line)
      const asking = yield* Effect.forkChild(connection.request("m", {}, Answer), { startImmediately: true })
      yield* say({ id: (yield* Queue.take(written)).id, result: { n: 1 } })
      assert.deepStrictEqual(yield* Fiber.join(asking), { n: 1 })
      for (const line of ["log", "log", "log"]) yield* say(line)
      assert.deepStrictEqual(yield* connection.lost, lost({ _tag: "unframeable", lines: 3 }))
    })
  )

  it.effect("messages go to their thread, a sub-agent's to its parent's, and never to another's", () =>
    Effect.gen(function* () {
      const { connection, say } = yield* makePeer()
      const [a, b] = [yield* connection.thread("a"), yield* connection.thread("b")]
      yield* say({ method: "x", params: { threadId: "a" } })
      yield* say({
        method: "item/started",
        params: { threadId: "b", item: { type: "subAgentActivity", agentThreadId: "b1" } }
      })
      yield* say({
        method: "item/started",
        params: { threadId: "b1", item: { type: "subAgentActivity", agentThreadId: "b2" } }
      })
      yield* say({ method: "y", params: { threadId: "b2" } })
      yield* say({ method: "z", params: { threadId: "nobody" } })
      const methods = Effect.fnUntraced(function* (queue: typeof a) {
        return (yield* Queue.clear(queue)).map(({ method }) => method)
      })
      assert.deepStrictEqual(yield* methods(a), ["x"])
      assert.deepStrictEqual(yield* methods(b), ["item/started", "item/started", "y"])
    })
  )

  it.effect("a request of a thread nobody owns is refused, so what it asks for is not done", () =>
    Effect.gen(function* () {
      const { say, written } = yield* makePeer()
      yield* say({ id: 0, method: "item/commandExecution/requestApproval", params: { threadId: "nobody" } })
      const answer = yield* Queue.take(written)
      assert.strictEqual(answer.id, 0)
      assert.deepInclude(answer["error"] as object, { code: -32601 })
    })
  )

  it.effect("a thread that is given back takes its sub-agents along: what they still ask is refused", () =>
    Effect.gen(function* () {
      const { connection, say, written } = yield* makePeer()
      const scope = yield* Scope.make()
      const ended = yield* Scope.provide(connection.thread("a"), scope)
      const spawned = { type: "subAgentActivity", agentThreadId: "a1" }
      yield* say({ method: "item/started", params: { threadId: "a", item: spawned } })
      yield* say({ id: 1, method: "ask", params: { threadId: "a1" } })
      assert.deepStrictEqual(
        (yield* Queue.clear(ended)).map(({ _tag }) => _tag),
        ["notification", "request"]
      )
      yield* Scope.close(scope, Exit.void)
      yield* say({ id: 2, method: "ask", params: { threadId: "a" } })
      // Its id comes back, for a run that never had that sub-agent.
      const next = yield* connection.thread("a")
      yield* say({ id: 3, method: "ask", params: { threadId: "a1" } })
      assert.deepStrictEqual(
        (yield* Queue.clear(written)).map((answer) => [
          answer.id,
          (answer["error"] as { readonly code: number }).code
        ]),
        [
          [2, -32601],
          [3, -32601]
        ]
      )
      assert.strictEqual(yield* Queue.size(next), 0)
    })
  )

  it.effect("a borrower that does not read is shed, and the others do not notice", () =>
    Effect.gen(function* () {
      const { connection, say, written } = yield* makePeer()
      const [slow, quick] = [yield* connection.thread("slow"), yield* connection.thread("quick")]
      const flood = Array.from({ length: threadQueueCapacity }, () =>
        JSON.stringify({ method: "x", params: { threadId: "slow" } })
      ).join("\n")
      yield* say(flood)
      yield* say({ method: "x", params: { threadId: "quick" } })
      yield* Queue.take(quick)
      assert.strictEqual(yield* Queue.size(slow), threadQueueCapacity)
      // The one too many is a request, which the server waits for: it is refused like any that nobody answers.
      yield* say({ id: 5, method: "ask", params: { threadId: "slow" } })
      const refusal = yield* Queue.take(written)
      assert.strictEqual(refusal.id, 5)
      assert.deepInclude(refusal["error"] as object, { code: -32601 })
      yield* say({ method: "y", params: { threadId: "quick" } })
      assert.strictEqual((yield* Queue.take(quick)).method, "y")
      yield* Queue.takeN(slow, threadQueueCapacity)
      assert.deepStrictEqual(
        yield* Effect.flip(Queue.take(slow)),
        new BorrowerShed({ threadId: "slow", unread: threadQueueCapacity })
      )
    })
  )
})
