/** Who gets what over one connection: nobody another's, nobody held up by another. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { TestClock } from "effect/testing"
import { BorrowerShed } from "../src/services/AppServerFailure.ts"
import { lost, makePeer, reasonNow } from "./support/appServerPeer.ts"
import { random } from "./support/random.ts"

describe("AppServerConnection", () => {
  describe("fairness", () => {
    const delta = (threadId: string, text: string) =>
      JSON.stringify({ method: "item/agentMessage/delta", params: { threadId, itemId: "i", delta: text } })

    it.effect("a borrower with too much unread text is shed, however few messages", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const [slow, quick] = [yield* peer.connection.thread("slow"), yield* peer.connection.thread("quick")]
        const large = "x".repeat(8_000_000)
        for (let n = 0; n < 5; n++) {
          yield* peer.say(delta("slow", large))
          yield* peer.say(delta("quick", large))
          // What is read does not count.
          yield* Queue.take(quick)
        }
        assert.strictEqual((yield* Queue.clear(slow)).length, 4)
        assert.deepStrictEqual(
          yield* Effect.flip(Queue.take(slow)),
          new BorrowerShed({ threadId: "slow", unread: 4 })
        )
        yield* peer.say(delta("quick", "still here"))
        assert.strictEqual((yield* Queue.take(quick)).method, "item/agentMessage/delta")
      })
    )

    it.effect("while one thread's lines are routed, others run between every 32 KB of them", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const flooded = yield* peer.connection.thread("flood")
        const line = `${delta("flood", "x".repeat(240))}\n`
        const lines = 3000
        yield* peer.send(new TextEncoder().encode(line.repeat(lines)))
        let turns = 0
        let most = 0
        for (let seen = 0; seen < lines; turns++) {
          yield* Effect.yieldNow
          const got = (yield* Queue.clear(flooded)).length
          most = Math.max(most, got)
          seen += got
        }
        assert.isAtMost(most * line.length, 33 * 1024)
      })
    )

    it.effect("what a shed thread or a stranger still sends is dropped, but its requests are refused", () =>
      Effect.gen(function* () {
        const peer = yield* makePeer()
        const own = yield* peer.connection.thread("own")
        for (let id = 0; id < 50; id++) {
          yield* peer.say(delta("stranger", '{"id":1}'))
          yield* peer.say({ method: "ask", params: { threadId: "stranger" }, id })
          yield* peer.say(delta("own", "mine"))
        }
        assert.deepStrictEqual(
          (yield* Queue.clear(peer.written)).map(({ id, error }) => [id, error?.code]),
          Array.from({ length: 50 }, (_, id) => [id, -32601])
        )
        assert.strictEqual((yield* Queue.clear(own)).length, 50)
      })
    )
  })

  it.effect("a run that another names as its sub-agent stays its own, also after its end", () =>
    Effect.gen(function* () {
      const peer = yield* makePeer()
      const names = (threadId: string, agentThreadId: string) =>
        peer.say({
          method: "item/started",
          params: { threadId, item: { type: "subAgentActivity", agentThreadId } }
        })
      const a = yield* peer.connection.thread("a")
      const scope = yield* Scope.make()
      yield* Scope.provide(peer.connection.thread("b"), scope)
      yield* names("a", "b")
      yield* names("b", "b1")
      yield* names("b1", "b2")
      yield* Scope.close(scope, Exit.void)
      // Its agents name each other in a circle, and their parent.
      for (const [by, of] of [
        ["b2", "b1"],
        ["b1", "b2"],
        ["b2", "b"],
        ["b1", "b"]
      ] as const)
        yield* names(by, of)
      for (const [id, threadId] of ["b", "b1", "b2"].entries())
        yield* peer.say({ id, method: "ask", params: { threadId } })
      assert.deepStrictEqual(
        (yield* Queue.clear(peer.written)).map(({ id, error }) => [id, error?.code]),
        [
          [0, -32601],
          [1, -32601],
          [2, -32601]
        ]
      )
      assert.strictEqual((yield* Queue.clear(a)).length, 1)
    })
  )

  it.effect("a run takes all generations of its sub-agents along, and none of another run's", () =>
    Effect.gen(function* () {
      const peer = yield* makePeer()
      const names = (threadId: string, agentThreadId: string) =>
        peer.say({
          method: "item/started",
          params: { threadId, item: { type: "subAgentActivity", agentThreadId } }
        })
      const scope = yield* Scope.make()
      yield* Scope.provide(peer.connection.thread("a"), scope)
      yield* names("a", "a1")
      yield* names("a1", "a2")
      yield* names("a2", "a3")
      // One of them is a run of its own by now.
      yield* names("a", "b")
      yield* names("b", "b1")
      const b = yield* peer.connection.thread("b")
      yield* Scope.close(scope, Exit.void)
      // Whoever comes next by that name has not started them.
      const next = yield* peer.connection.thread("a1")
      for (const [id, threadId] of ["a1", "a2", "a3", "b1"].entries())
        yield* peer.say({ id, method: "ask", params: { threadId } })
      assert.deepStrictEqual(
        {
          refused: (yield* Queue.clear(peer.written)).map(({ id }) => id),
          next: (yield* Queue.clear(next)).length,
          b: (yield* Queue.clear(b)).length
        },
        { refused: [1, 2], next: 1, b: 1 }
      )
    })
  )

  it.effect("nothing that came after the poison is acted on", () =>
    Effect.gen(function* () {
      const acted: Array<string> = []
      const peer = yield* makePeer({
        onServerRequest: (method) => Effect.sync(() => acted.push(method))
      })
      yield* peer.say(`log\nlog\nlog\n{"id":0,"method":"fresh","params":{}}`)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* reasonNow(peer), { _tag: "unframeable", lines: 3 })
      assert.deepStrictEqual([acted, yield* Queue.size(peer.written)], [[], 0])
    })
  )

  it.effect.each([1, 2, 3, 4, 5, 6, 7, 8])(
    "nothing crosses threads or generations, however lines, answers and sub-agents mix (seed %s)",
    (seed) =>
      Effect.gen(function* () {
        const next = random(seed)
        const below = (n: number) => Math.floor(next() * n)
        const worlds = yield* Effect.forEach([1, 2], (generation) => makeWorld(generation, below))
        for (let step = 0; step < 3000; step++) yield* worlds[below(2)]!.step
        for (const world of worlds) yield* world.check
      })
  )
})

/** One connection with many runs, and what each of them must have seen: by construction, not by looking at the routes. */
const makeWorld = Effect.fnUntraced(function* (generation: number, below: (n: number) => number) {
  const peer = yield* makePeer({
    generation,
    onServerRequest: (_, params) => Effect.succeed({ ours: params })
  })
  const name = (n: number) => `thread-${n}`
  const roots = Array.from({ length: 24 }, (_, n) => name(n))
  const strangers = ["stranger-0", "stranger-1"]
  const inboxes = yield* Effect.forEach(roots, (root) => peer.connection.thread(root))
  /** Every thread that was introduced, and whose it is; the strangers' have nobody. */
  const owners = new Map<string, string | null>([
    ...roots.map((root) => [root, root] as const),
    ...strangers.map((stranger) => [stranger, null] as const)
  ])
  const known = [...roots]
  const expected = new Map<string, Array<unknown>>(roots.map((root) => [root, []]))
  const replies = new Map<number, unknown>()
  const asked: Array<{ readonly fiber: Fiber.Fiber<unknown, unknown>; readonly tag: string }> = []
  const unanswered: Array<{ readonly id: number; readonly tag: string }> = []
  const encoder = new TextEncoder()
  let held = new Uint8Array()
  let serial = 0
  let serverId = 0

  /** Bytes reach us in pieces that know nothing of lines. */
  const say = (message: object) => {
    const line = encoder.encode(`${JSON.stringify(message)}\n`)
    const bytes = new Uint8Array([...held, ...line])
    const cut = below(bytes.length + 1)
    held = bytes.slice(cut)
    return peer.send(bytes.slice(0, cut))
  }
  const pick = <A>(values: ReadonlyArray<A>): A => values[below(values.length)]!

  const step = Effect.gen(function* () {
    const threadId = pick([...owners.keys()])
    const owner = owners.get(threadId)!
    const tag = `${generation}:${threadId}:${serial++}`
    switch (below(8)) {
      case 0: {
        // A new sub-agent, one that is known already, or its own parent: only the first is news.
        const child = below(3) > 0 ? `agent-${serial}` : pick(known)
        const item = { type: "subAgentActivity", agentThreadId: child, id: "i" }
        if (owner) expected.get(owner)!.push({ threadId, item, tag })
        if (!owners.has(child)) {
          owners.set(child, owner)
          known.push(child)
        }
        return yield* say({ method: "item/started", params: { threadId, item, tag } })
      }
      case 1: {
        const id = serverId++
        if (owner) expected.get(owner)!.push({ threadId, tag })
        replies.set(id, owner ? { result: tag } : { error: -32601 })
        return yield* say({ id, method: "item/commandExecution/requestApproval", params: { threadId, tag } })
      }
      case 2: {
        const id = serverId++
        replies.set(id, { result: { ours: { tag } } })
        return yield* say({ id, method: "account/chatgptAuthTokens/refresh", params: { tag } })
      }
      case 3: {
        if (asked.length >= 200) return yield* Effect.void
        const fiber = yield* Effect.forkChild(peer.connection.request(tag, {}, Schema.Unknown), {
          startImmediately: true
        })
        return asked.push({ fiber, tag })
      }
      case 4: {
        yield* collect
        const [question] = unanswered.splice(below(unanswered.length), 1)
        return question ? yield* say({ id: question.id, result: question.tag }) : undefined
      }
      case 5:
        return yield* Effect.yieldNow
      default: {
        if (owner) expected.get(owner)!.push({ threadId, tag, delta: '{"id":1}' })
        const params = { threadId, tag, delta: '{"id":1}' }
        return yield* say({ method: "item/agentMessage/delta", params, emittedAtMs: serial })
      }
    }
  })

  const written = new Map<number, unknown>()
  const collect = Effect.gen(function* () {
    for (const { id, method, result, error } of yield* Queue.clear(peer.written))
      if (method !== undefined) unanswered.push({ id: id!, tag: method })
      else written.set(id!, error ? { error: error.code } : { result })
  })

  const check = Effect.gen(function* () {
    yield* peer.send(held)
    yield* peer.settle
    const seen = new Map<string, Array<unknown>>()
    for (const [n, inbox] of inboxes.entries()) {
      const messages = yield* Queue.clear(inbox)
      seen.set(
        roots[n]!,
        messages.map(({ params }) => params)
      )
      for (const message of messages)
        if (message._tag === "request")
          yield* message.respond((message.params as { readonly tag: string }).tag)
    }
    assert.deepStrictEqual(seen, expected)
    yield* TestClock.adjust(0)
    yield* collect
    for (const { id, tag } of unanswered) yield* peer.say({ id, result: tag })
    assert.deepStrictEqual(
      yield* Effect.forEach(asked, ({ fiber }) => Fiber.join(fiber)),
      asked.map(({ tag }) => tag)
    )
    assert.deepStrictEqual(new Map([...written].toSorted((a, b) => a[0] - b[0])), replies)
    yield* peer.connection.retire({ _tag: "stopped" })
    assert.deepStrictEqual(
      yield* Effect.forEach(inboxes, (inbox) => Effect.flip(Queue.take(inbox))),
      roots.map(() => lost({ _tag: "stopped" }, generation))
    )
  })
  return { step, check }
})
