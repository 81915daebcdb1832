/** A caller that comes back to its turn after its gateway was lost, and shows nothing twice. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import * as ControlClient from "../../layers/ControlClient.ts"
import { type AgentEvent, type AgentRunError, eventKey } from "../../services/AgentDriver.ts"
import { recordName } from "../../services/BridgeStore.ts"
import { Settings } from "../../services/Settings.ts"

/** How long the next gateway is waited for; a turn waits a little longer for its caller. */
const comeBackMs = 30_000
const lookMs = 200
/** A gateway that is stopped for good removes the record at its end; the next one replaces it within milliseconds. */
const withoutRecordMs = 2_000
/** Events that are known again, some 100 bytes each; past it the oldest may be shown twice. */
const maxSeen = 16_384

type Lost = AgentRunError | ControlClient.GatewayLost

type Governed = Extract<AgentEvent, { readonly _tag: "governed" }>

/** The events of a turn over as many gateways as it takes. */
export const overGateways = <E, R>(
  first: Stream.Stream<AgentEvent, Lost>,
  again: (turn: Governed) => Stream.Stream<AgentEvent, Lost | E, R>
): Stream.Stream<AgentEvent, Lost | E, R> =>
  Stream.suspend(() => {
    const seen = new Set<string>()
    let turn: Governed | null = null
    let over = false
    const isNew = (event: AgentEvent): boolean => {
      if (event._tag === "governed" && event.outlives) turn = event
      over ||= event._tag === "ended"
      const key = eventKey(event)
      if (key === null) return true
      if (seen.has(key)) return false
      if (seen.size >= maxSeen) seen.delete(seen.keys().next().value!)
      seen.add(key)
      return true
    }
    const followed = (
      events: Stream.Stream<AgentEvent, Lost | E, R>
    ): Stream.Stream<AgentEvent, Lost | E, R> =>
      events.pipe(
        Stream.filter(isNew),
        Stream.catchIf(
          (error): error is ControlClient.GatewayLost => error instanceof ControlClient.GatewayLost,
          (lost) =>
            over
              ? Stream.empty
              : turn === null
                ? Stream.fail(lost)
                : Stream.concat(Stream.succeed(waiting), followed(again(turn)))
        )
      )
    return followed(first)
  })

const waiting: AgentEvent = {
  _tag: "notice",
  text: `the gateway is gone; the turn goes on, and the next gateway is waited for (${comeBackMs / 1000} s at most)`
}

/** On a connection of its own to whichever gateway is next; given up where the last one took the turn's record with it. */
export const attachAgain = ({ runId, relayId }: Governed) =>
  Stream.unwrap(
    Effect.gen(function* () {
      const { paths } = yield* Settings
      const record = `${paths.bridges}/${recordName(crypto.hash("sha256", relayId))}`
      let missing = 0
      const client = yield* ControlClient.make.pipe(
        Effect.retry({
          while: () =>
            Effect.sync(() => {
              missing = fs.existsSync(record) ? 0 : missing + 1
              return missing * lookMs < withoutRecordMs
            }),
          schedule: Schedule.spaced(lookMs).pipe(Schedule.upTo({ duration: comeBackMs }))
        })
      )
      return client.AttachCodex({ runId })
    })
  )
