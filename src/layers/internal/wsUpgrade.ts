/** A WebSocket on a TLS connection that was verified already; the library gets a connected socket and no address. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as net from "node:net"
import type * as Tls from "node:tls"
import type WebSocket from "ws"
import { maxMessageBytes } from "./wsLink.ts"

export class WsRefused extends Schema.TaggedError<WsRefused>()("WsRefused", { problem: Schema.String }) {
  override get message(): string {
    return `The other side does not take this connection: ${this.problem}.`
  }
}

const upgradeDeadlineMs = 10_000

export const upgrade = (socket: Tls.TLSSocket, url: string): Effect.Effect<WebSocket, WsRefused> =>
  Effect.gen(function* () {
    const { WebSocket: Client } = yield* Effect.promise(() => import("ws"))
    return yield* Effect.callback<WebSocket, WsRefused>((resume) => {
      const refused = (problem: string): void => resume(Effect.fail(new WsRefused({ problem })))
      const client = new Client(url, {
        // Called once, with nothing to look up or connect to.
        createConnection: (() => socket) as unknown as typeof net.createConnection,
        perMessageDeflate: false,
        maxPayload: maxMessageBytes,
        followRedirects: false
      })
      const failed = (error: Error): void => refused(error.message)
      client.once("error", failed)
      client.once("unexpected-response", (_request, response) => {
        refused(`status ${response.statusCode ?? 0}`)
        client.terminate()
      })
      client.once("close", () => refused("it was closed"))
      client.once("open", () => {
        client.off("error", failed)
        resume(Effect.succeed(client))
      })
      return Effect.sync(() => client.terminate())
    })
  }).pipe(
    Effect.timeoutOrElse({
      duration: upgradeDeadlineMs,
      orElse: () => Effect.fail(new WsRefused({ problem: `no answer within ${upgradeDeadlineMs} ms` }))
    })
  )
