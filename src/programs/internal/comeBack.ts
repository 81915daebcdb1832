/** A caller that comes back to its turn after its gateway was lost, and shows nothing twice. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as ControlClient from "../../layers/ControlClient.ts"
import { type AgentEvent, type AgentRunError, eventKey } from "../../services/AgentDriver.ts"

/** How long the next gateway is waited for; a turn waits a little longer for its caller. */
const comeBackMs = 30_000
const lookMs = 200
/** Events that are known again, some 100 bytes each; past it the oldest may be shown twice. */
const maxSeen = 16_384

type Lost = AgentRunError | ControlClient.GatewayLost

/** The events of a turn over as many gateways as it takes. */
export const overGateways = <E, R>(
  first: Stream.Stream<AgentEvent, Lost>,
  again: (runId: string) => Stream.Stream<AgentEvent, Lost | E, R>
): Stream.Stream<AgentEvent, Lost | E, R> =>
  Stream.suspend(() => {
    const seen = new Set<string>()
    let runId: string | null = null
    let over = false
    const isNew = (event: AgentEvent): boolean => {
      if (event._tag === "governed" && event.outlives) runId = event.runId
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
          (lost) => (over ? Stream.empty : runId === null ? Stream.fail(lost) : followed(again(runId)))
        )
      )
    return followed(first)
  })

/** On a connection of its own to whichever gateway is next. */
export const attachAgain = (runId: string) =>
  Stream.unwrap(
    ControlClient.make.pipe(
      Effect.retry(Schedule.spaced(lookMs).pipe(Schedule.upTo({ duration: comeBackMs }))),
      Effect.map((client) => client.AttachCodex({ runId }))
    )
  )
