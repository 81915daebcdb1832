/** A verb that goes on where it was when its gateway is replaced by the next one. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as ControlClient from "../../layers/ControlClient.ts"
import type { NoGateway } from "../../services/Control.ts"

export type Client = ControlClient.ControlClient["Service"]

/** How long a lost gateway's successor is waited for: as long as a keeper keeps its runs by default. */
const reconnectMs = 30_000
/** Between two tries. */
const retryMs = 100
/** A connection that lasted so long was a gateway, and the next loss is another one. */
const settledMs = 1_000

class GatewayGone extends Schema.TaggedError<GatewayGone>()("GatewayGone", { waitedMs: Schema.Int }) {
  override get message(): string {
    return `The gateway was lost, and no other answered within ${this.waitedMs / 1000} s. Start one with \`holdfast up\`; \`holdfast ps -a\` then shows what became of the run.`
  }
}

type Connect = Effect.Effect<Client, NoGateway, Scope.Scope>

/** What this program knows before it asks: that a gateway has answered it a moment ago, or nothing. */
export type Before = "answered" | "nothing"

/**
 * Asks with a connection of its own, and again with the next when that is lost; what was learned so far is the asker's to
 * remember. Without any gateway at first it fails at once, unless there has just been one.
 */
export const throughUpgradesOf =
  (connect: Connect, known: Before) =>
  <A, E, R>(
    ask: (client: Client) => Effect.Effect<A, E | ControlClient.GatewayLost, R>
  ): Effect.Effect<A, Exclude<E, ControlClient.GatewayLost> | NoGateway | GatewayGone, R> =>
    Effect.gen(function* () {
      /** When the gateway was lost that is still to be replaced. */
      let lostAt = known === "answered" ? yield* Clock.currentTimeMillis : null
      for (;;) {
        const before = yield* Clock.currentTimeMillis
        let connectedAt: number | null = null
        const outcome = yield* Effect.scoped(
          Effect.gen(function* () {
            const client = yield* connect
            connectedAt = yield* Clock.currentTimeMillis
            return yield* ask(client)
          })
        ).pipe(
          Effect.map((value) => ({ value })),
          Effect.catchIf(
            (error): error is ControlClient.GatewayLost | NoGateway =>
              error instanceof ControlClient.GatewayLost ||
              (error instanceof ControlClient.NoGateway && (lostAt !== null || connectedAt !== null)),
            () => Effect.succeed(null)
          )
        )
        if (outcome !== null) return outcome.value
        const now = yield* Clock.currentTimeMillis
        if (connectedAt !== null && now - connectedAt > settledMs) lostAt = now
        lostAt ??= before
        if (now - lostAt > reconnectMs) return yield* new GatewayGone({ waitedMs: reconnectMs })
        yield* Effect.sleep(retryMs)
      }
    }) as Effect.Effect<A, Exclude<E, ControlClient.GatewayLost> | NoGateway | GatewayGone, R>

export const throughUpgrades = throughUpgradesOf(ControlClient.make, "nothing")

/** The next question of a verb that has had an answer. */
export const goOn = throughUpgradesOf(ControlClient.make, "answered")
