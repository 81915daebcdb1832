/** A way between two machines that can be cut: everything on it is closed, and nobody gets through until it is mended. */
import * as Effect from "effect/Effect"
import * as net from "node:net"

interface Cutter {
  readonly port: number
  readonly cut: Effect.Effect<void>
  readonly mend: Effect.Effect<void>
  /** From now on what the dialling side says is lost, and what it is told is not. */
  readonly muteNear: Effect.Effect<void>
  /** Connections that were let through. */
  readonly passed: () => number
}

/** From a port of its own to another one of this machine. */
export const makeCutter = (to: number) =>
  Effect.gen(function* () {
    const open = new Set<net.Socket>()
    let isCut = false
    let isMute = false
    let passed = 0
    const server = net.createServer((near) => {
      if (isCut) return void near.destroy()
      passed++
      const far = net.connect(to, "127.0.0.1")
      for (const [one, other] of [
        [near, far],
        [far, near]
      ] as const) {
        open.add(one)
        one.on("error", () => undefined)
        one.on("data", (bytes) => {
          if (one === far || !isMute) other.write(bytes)
        })
        one.on("close", () => {
          open.delete(one)
          other.destroy()
        })
      }
    })
    const port = yield* Effect.acquireRelease(
      Effect.callback<number>((resume) => {
        server.listen(0, "127.0.0.1", () =>
          resume(Effect.succeed((server.address() as net.AddressInfo).port))
        )
      }),
      () =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of open) socket.destroy()
        })
    )
    return {
      port,
      cut: Effect.sync(() => {
        isCut = true
        for (const socket of open) socket.destroy()
      }),
      mend: Effect.sync(() => {
        isCut = false
        isMute = false
      }),
      muteNear: Effect.sync(() => {
        isMute = true
      }),
      passed: () => passed
    } satisfies Cutter
  })
