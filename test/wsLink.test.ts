/** One WebSocket and its two conversations: what comes at once is told apart by its number. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { EventEmitter } from "node:events"
import type WebSocket from "ws"
import { makeWsLink } from "../src/layers/internal/wsLink.ts"

/** A socket that is open, and whose other side is the test. */
const fakeSocket = () => {
  const closes: Array<string> = []
  const socket = Object.assign(new EventEmitter(), {
    OPEN: 1,
    readyState: 1,
    bufferedAmount: 0,
    isPaused: false,
    pause: () => undefined,
    resume: () => undefined,
    ping: () => undefined,
    terminate: () => socket.emit("close", 1006, Buffer.from("")),
    close: (code: number, reason: string) => {
      closes.push(reason)
      socket.emit("close", code, Buffer.from(reason))
    },
    send: (_text: string, done: () => void) => done()
  })
  const says = (text: string, isBinary = false) => socket.emit("message", Buffer.from(text), isBinary)
  return { socket: socket as unknown as WebSocket, says, closes }
}

describe("a link of two conversations", () => {
  it.effect("a frame that comes with the last greeting is kept for its conversation", () =>
    Effect.gen(function* () {
      const { socket, says } = fakeSocket()
      const link = yield* makeWsLink(socket, 2)
      for (const text of ["challenge", "welcome", "gfirst", "nsecond"]) says(text)
      assert.deepStrictEqual([yield* link.greeting, yield* link.greeting], ["challenge", "welcome"])
      const { pull } = yield* link.lane("g").reader
      const other = yield* link.lane("n").reader
      assert.deepStrictEqual([yield* pull, yield* other.pull], [["first"], ["second"]])
    })
  )

  it.effect("what belongs to no conversation ends it, and so does a binary frame", () =>
    Effect.gen(function* () {
      for (const [text, isBinary] of [
        ["x", false],
        ["", false],
        ["gx", true]
      ] as const) {
        const { socket, says, closes } = fakeSocket()
        const link = yield* makeWsLink(socket, 1)
        says("hello")
        says(text, isBinary)
        assert.lengthOf(closes, 1)
        assert.strictEqual((yield* link.closed).reason, closes[0])
      }
    })
  )
})
