/** What a connection makes of an overloaded, a slow, a silent and a confused server. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import { TestClock } from "effect/testing"
import {
  AppServerOverloaded,
  AppServerRequestTimeout,
  ThreadNotFound,
  ThreadWriterConflict
} from "../src/services/AppServerFailure.ts"
import { lost, makePeer, type Peer, reasonNow } from "./support/appServerPeer.ts"

const overload = { code: -32001, message: "busy" }

const ask = (peer: Peer, method: string, timeoutMs?: number) =>
  Effect.forkChild(peer.connection.request(method, {}, Schema.Unknown, timeoutMs), { startImmediately: true })

/** The server has answered once, so that it is watched. */
const makeWatched = Effect.fnUntraced(function* (options?: Parameters<typeof makePeer>[0]) {
  const peer = yield* makePeer(options)
  const asking = yield* ask(peer, "initialize")
  yield* peer.say({ id: (yield* Queue.take(peer.written)).id, result: {} })
  yield* Fiber.join(asking)
  return peer
})

const methods = Effect.fnUntraced(function* (peer: Peer) {
  return (yield* Queue.clear(peer.written)).map(({ method }) => method)
})

describe("AppServerConnection", () => {
  describe("requests", () => {
    it.effect("Codex's words about a thread become the errors that say what to do", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const said: Array<unknown> = []
        for (const message of ["no rollout found for thread id x", "thread x already has an active writer"]) {
          const asking = yield* ask(peer, "thread/resume")
          yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: { code: -32600, message } })
          said.push(yield* Effect.flip(Fiber.join(asking)))
        }
        assert.deepStrictEqual(said, [
          new ThreadNotFound({ method: "thread/resume" }),
          new ThreadWriterConflict({ method: "thread/resume" })
        ])
      })
    )

    it.effect("what nobody waits for any more is taken back when its answer comes after all", () =>
      Effect.gen(function* () {
        const peer = yield* makeWatched()
        const late = [
          ["thread/resume", { threadId: "T" }, { thread: { id: "T" } }],
          ["turn/start", { threadId: "T" }, { turn: { id: "U" } }],
          ["hooks/list", { threadId: "T" }, { data: [] }]
        ] as const
        const ids: Array<number> = []
        for (const [method, params] of late) {
          const asking = yield* Effect.forkChild(peer.connection.request(method, params, Schema.Unknown), {
            startImmediately: true
          })
          ids.push((yield* Queue.take(peer.written)).id!)
          yield* Fiber.interrupt(asking)
        }
        for (const [index, [, , result]] of late.entries()) yield* peer.say({ id: ids[index]!, result })
        yield* TestClock.adjust(0)
        const said = yield* Queue.clear(peer.written)
        assert.deepStrictEqual(
          said.map(({ method, params }) => ({ method, params })),
          [
            { method: "thread/unsubscribe", params: { threadId: "T" } },
            { method: "turn/interrupt", params: { threadId: "T", turnId: "U" } }
          ]
        )
        // Their own answers are expected as well.
        for (const { id } of said) yield* peer.say({ id: id!, result: {} })
        assert.strictEqual(yield* reasonNow(peer), null)
      })
    )

    it.effect("a thread that is closing is asked for again until it has closed", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const closing = {
          code: -32600,
          message: "thread T is closing; retry thread/resume after the thread is closed"
        }
        const asking = yield* ask(peer, "thread/resume", 60_000)
        for (let time = 0; time < 3; time++) {
          yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: closing })
          yield* TestClock.adjust(99)
          assert.strictEqual(yield* Queue.size(peer.written), 0)
          yield* TestClock.adjust(1)
        }
        yield* peer.say({ id: (yield* Queue.take(peer.written)).id, result: "resumed" })
        assert.strictEqual(yield* Fiber.join(asking), "resumed")
        const never = yield* ask(peer, "thread/resume", 60_000)
        for (let time = 1; time < 80; time++) {
          yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: closing })
          yield* TestClock.adjust(100)
        }
        yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: closing })
        assert.strictEqual((yield* Effect.flip(Fiber.join(never)))._tag, "AppServerRejected")
      })
    )

    it.effect("an overloaded server is asked again after growing waits with full jitter", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const asking = yield* ask(peer, "m", 60_000)
        for (const wait of [25, 50, 100, 200, 400]) {
          yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: overload })
          yield* TestClock.adjust(wait - 1)
          assert.strictEqual(yield* Queue.size(peer.written), 0)
          yield* TestClock.adjust(1)
        }
        yield* peer.say({ id: (yield* Queue.take(peer.written)).id, result: "at last" })
        assert.strictEqual(yield* Fiber.join(asking), "at last")
      }).pipe(Effect.provideService(Random.Random, { nextDoubleUnsafe: () => 0.5, nextIntUnsafe: () => 0 }))
    )

    it.effect("six refusals as overload are the caller's failure", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const asking = yield* ask(peer, "m", 60_000)
        for (let n = 0; n < 6; n++) {
          yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: overload })
          yield* TestClock.adjust(1000)
        }
        assert.deepStrictEqual(
          yield* Effect.flip(Fiber.join(asking)),
          new AppServerOverloaded({ method: "m", attempts: 6 })
        )
        assert.isNull(yield* reasonNow(peer))
      })
    )

    it.effect("waiting for an overloaded server ends with the request's own deadline", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const asking = yield* ask(peer, "thread/start", 40)
        yield* peer.say({ id: (yield* Queue.take(peer.written)).id, error: overload })
        yield* TestClock.adjust(40)
        assert.deepStrictEqual(
          yield* Effect.flip(Fiber.join(asking)),
          new AppServerOverloaded({ method: "thread/start", attempts: 1 })
        )
        assert.strictEqual(yield* Queue.size(peer.written), 0)
      }).pipe(Effect.provideService(Random.Random, { nextDoubleUnsafe: () => 0.9, nextIntUnsafe: () => 0 }))
    )

    it.effect("answers that nobody asked for are tolerated eight times, and then poison", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        for (let id = 100; id < 108; id++) yield* peer.say({ id, result: {} })
        assert.isNull(yield* reasonNow(peer))
        yield* peer.say({ id: "1", error: { code: 1, message: "no" } })
        assert.deepStrictEqual(yield* peer.connection.lost, lost({ _tag: "unknown-responses", count: 9 }))
      })
    )

    it.effect("a late answer to a request that timed out or was given up is no unknown one", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const late: Array<number> = []
        for (let n = 0; n < 20; n++) {
          const asking = yield* ask(peer, "m")
          late.push((yield* Queue.take(peer.written)).id!)
          if (n % 2) yield* Fiber.interrupt(asking)
          else yield* TestClock.adjust(1000)
        }
        for (const id of late) yield* peer.say({ id, result: {} })
        assert.isNull(yield* reasonNow(peer))
        // Twice is once too often.
        for (const id of late.slice(0, 9)) yield* peer.say({ id, result: {} })
        assert.deepStrictEqual(yield* reasonNow(peer), { _tag: "unknown-responses", count: 9 })
      })
    )
  })

  describe("a request that makes or loads a thread and is not answered in time", () => {
    const overdue = Effect.fnUntraced(function* (peer: Peer, method: string) {
      const asking = yield* ask(peer, method)
      yield* Queue.take(peer.written)
      yield* TestClock.adjust(1000)
      return asking
    })

    it.effect("is the caller's own when the server answers a probe, be it with a refusal", () =>
      Effect.gen(function* () {
        for (const answer of [{ result: {} }, { error: { code: -32600, message: "Not initialized" } }]) {
          const peer = yield* makePeer()
          const asking = yield* overdue(peer, "thread/start")
          const probe = yield* Queue.take(peer.written)
          assert.strictEqual(probe.method, "account/read")
          yield* peer.say({ id: probe.id, ...answer })
          assert.deepStrictEqual(
            yield* Effect.flip(Fiber.join(asking)),
            new AppServerRequestTimeout({ method: "thread/start", timeoutMs: 1000 })
          )
          assert.isNull(yield* reasonNow(peer))
        }
      })
    )

    it.effect("is the caller's own when the server says anything else, or works", () =>
      Effect.gen(function* () {
        let used = 0
        const talking = yield* makePeer()
        const asking = yield* overdue(talking, "thread/resume")
        yield* talking.say({ method: "x", params: { threadId: "other" } })
        const working = yield* makePeer({ cpuTimeMs: () => used })
        const alsoAsking = yield* overdue(working, "thread/resume")
        used += 10
        yield* TestClock.adjust(10_000)
        const timeout = new AppServerRequestTimeout({ method: "thread/resume", timeoutMs: 1000 })
        assert.deepStrictEqual(
          [yield* Effect.flip(Fiber.join(asking)), yield* Effect.flip(Fiber.join(alsoAsking))],
          [timeout, timeout]
        )
        assert.deepStrictEqual([yield* reasonNow(talking), yield* reasonNow(working)], [null, null])
      })
    )

    it.effect("is poison when the server gives no sign of life, and every other borrower is told", () =>
      Effect.gen(function* () {
        for (const method of ["thread/start", "thread/resume", "thread/fork"]) {
          const peer = yield* makePeer({ cpuTimeMs: () => 100 })
          const thread = yield* peer.connection.thread("t")
          const asking = yield* overdue(peer, method)
          yield* TestClock.adjust(9999)
          assert.isNull(yield* reasonNow(peer))
          yield* TestClock.adjust(1)
          const expected = lost({ _tag: "thread-indeterminate", method, timeoutMs: 1000 })
          assert.deepStrictEqual(
            [yield* Effect.flip(Fiber.join(asking)), yield* Effect.flip(Queue.take(thread))],
            [expected, expected]
          )
        }
      })
    )

    it.effect("of any other kind fails at its deadline, and the watch judges the server", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const asking = yield* overdue(peer, "turn/interrupt")
        assert.deepStrictEqual(
          yield* Effect.flip(Fiber.join(asking)),
          new AppServerRequestTimeout({ method: "turn/interrupt", timeoutMs: 1000 })
        )
        assert.strictEqual(yield* Queue.size(peer.written), 0)
      })
    )
  })

  describe("the watch", () => {
    it.effect("retires nothing that answers its probes, and asks at most once per interval", () =>
      Effect.gen(function* () {
        const peer = yield* makeWatched()
        let probes = 0
        for (let look = 0; look < 360; look++) {
          yield* TestClock.adjust(10_000)
          for (const { id } of yield* Queue.clear(peer.written)) {
            probes++
            yield* peer.say({ id, result: {} })
          }
        }
        assert.isNull(yield* reasonNow(peer))
        assert.isAtLeast(probes, 100)
        assert.isAtMost(probes, 360)
      })
    )

    it.effect("does not ask a server that speaks by itself", () =>
      Effect.gen(function* () {
        const peer = yield* makeWatched()
        for (let look = 0; look < 20; look++) {
          yield* peer.say({ method: "x", params: { threadId: "t" } })
          yield* TestClock.adjust(10_000)
        }
        assert.strictEqual(yield* Queue.size(peer.written), 0)
      })
    )

    it.effect("retires a server that does nothing at all for the limit, and then is quiet", () =>
      Effect.gen(function* () {
        const peer = yield* makeWatched({ cpuTimeMs: () => 70 })
        const thread = yield* peer.connection.thread("t")
        yield* TestClock.adjust(29_999)
        assert.isNull(yield* reasonNow(peer))
        yield* TestClock.adjust(1)
        const expected = lost({ _tag: "probes-missed", count: 2, silentMs: 30_000 })
        assert.deepStrictEqual(yield* peer.connection.lost, expected)
        assert.deepStrictEqual(yield* Effect.flip(Queue.take(thread)), expected)
        yield* Queue.clear(peer.written)
        yield* TestClock.adjust(600_000)
        assert.strictEqual(yield* Queue.size(peer.written), 0)
      })
    )

    it.effect("gives a server that works without a word four times as long", () =>
      Effect.gen(function* () {
        let used = 0
        const peer = yield* makeWatched({ cpuTimeMs: () => (used += 10) })
        yield* TestClock.adjust(119_999)
        assert.isNull(yield* reasonNow(peer))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* reasonNow(peer), {
          _tag: "probes-missed",
          count: 11,
          silentMs: 120_000
        })
      })
    )

    it.effect("takes one late word for life, however slow: the count begins anew", () =>
      Effect.gen(function* () {
        const peer = yield* makeWatched()
        for (let n = 0; n < 50; n++) {
          yield* TestClock.adjust(29_000)
          // Half a line is a word too.
          yield* peer.send(new TextEncoder().encode(n % 2 ? '{"method":"x",' : '"params":{}}\n'))
          yield* TestClock.adjust(0)
        }
        assert.isNull(yield* reasonNow(peer))
      })
    )

    it.effect("begins with the first answer: the start has a deadline of its own", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        yield* TestClock.adjust(600_000)
        assert.deepStrictEqual([yield* reasonNow(peer), yield* methods(peer)], [null, []])
      })
    )
  })

  describe("what the server asks about no thread", () => {
    it.effect("is answered with the result, the error, or an error of ours", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer({
          onServerRequest: (method, params) => {
            if (method === "fresh") return Effect.succeed({ token: "t", params })
            if (method === "nothing") return Effect.void
            if (method === "dies") return Effect.die(new Error("api_key=sk-abcdefghijklmnopqrstuvwx"))
            if (method === "hangs") return Effect.never
            return Effect.fail({ code: -32000, message: "no login", extra: "secret" })
          }
        })
        for (const [id, method] of ["fresh", "nothing", "dies", "hangs", "other"].entries())
          yield* peer.say({ id, method, params: { reason: "unauthorized" } })
        yield* TestClock.adjust(9500)
        const answers = yield* Queue.clear(peer.written)
        assert.deepStrictEqual(
          answers.toSorted((a, b) => a.id! - b.id!),
          [
            { id: 0, result: { token: "t", params: { reason: "unauthorized" } } },
            { id: 1, result: null },
            { id: 2, error: { code: -32603, message: "this gateway failed to answer" } },
            { id: 3, error: { code: -32603, message: "this gateway did not find the answer in time" } },
            { id: 4, error: { code: -32000, message: "no login" } }
          ]
        )
      })
    )

    it.effect("is worked on sixteen at a time, holds up no other message, and is refused beyond", () =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void>()
        const peer = yield* makePeer({ onServerRequest: () => Effect.as(Deferred.await(gate), {}) })
        const thread = yield* peer.connection.thread("t")
        for (let id = 0; id < 17; id++) yield* peer.say({ id, method: "fresh", params: {} })
        yield* peer.say({ method: "x", params: { threadId: "t" } })
        assert.strictEqual((yield* Queue.take(thread)).method, "x")
        assert.deepStrictEqual(yield* Queue.clear(peer.written), [
          { id: 16, error: { code: -32001, message: "too many such requests at once" } }
        ])
        yield* Deferred.succeed(gate, undefined)
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(
          (yield* Queue.clear(peer.written)).map(({ id }) => id).toSorted((a, b) => a! - b!),
          Array.from({ length: 16 }, (_, id) => id)
        )
      })
    )
  })
})
