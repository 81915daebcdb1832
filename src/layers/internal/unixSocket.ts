/** Unix sockets as files: whether a path fits, and whether what lies there still belongs to somebody. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as net from "node:net"
import { maxSocketPathBytes, SocketPathTooLong } from "../../services/Settings.ts"
import { errorCode } from "./errorCode.ts"

/** Refuses a path the kernel would cut: bound to a cut path, a server listens where nobody looks. */
export const checkSocketPath = (path: string): Effect.Effect<void, SocketPathTooLong> =>
  Effect.suspend(() => {
    const bytes = Buffer.byteLength(path)
    const limit = maxSocketPathBytes(process.platform)
    return bytes > limit ? Effect.fail(new SocketPathTooLong({ path, bytes, limit })) : Effect.void
  })

/** Whether somebody accepts connections there. Anything but a plain refusal, a full queue say, means yes. */
const isAnswered = (path: string): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const socket = net.connect(path)
    socket.on("connect", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    })
    socket.on("error", (error) => {
      const code = errorCode(error)
      resume(Effect.succeed(code !== "ECONNREFUSED" && code !== "ENOENT"))
    })
    return Effect.sync(() => socket.destroy())
  })

/** Makes a path free to listen on: a socket that nobody answers is left over from a crash; anything else there stays. */
export const clearStaleSocket = Effect.fnUntraced(function* <E>(
  path: string,
  fail: (problem: "in-use" | "unusable", cause?: unknown) => E
): Effect.fn.Return<void, E> {
  const attempt = <A>(evaluate: () => A): Effect.Effect<A, E> =>
    Effect.try({ try: evaluate, catch: (cause) => fail("unusable", cause) })
  const there = yield* attempt(() => fs.lstatSync(path, { throwIfNoEntry: false }))
  if (there === undefined) return
  if (!there.isSocket()) return yield* Effect.fail(fail("unusable"))
  if (yield* isAnswered(path)) return yield* Effect.fail(fail("in-use"))
  yield* attempt(() => fs.rmSync(path, { force: true }))
})
