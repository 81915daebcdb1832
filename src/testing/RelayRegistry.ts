/** RelayRegistry, fake: entries that a test puts, replaces and drops, one decider for all, and a log of what was asked. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type { HookEventName } from "../services/HookEvent.ts"
import type { Decision } from "../services/Policy.ts"
import { type RelayEntry, RelayRegistry } from "../services/RelayRegistry.ts"

export const allowed: Decision = { verdict: { _tag: "allow" }, policy: "default", reason: "", votes: [] }

export const denied = (reason: string): Decision => ({
  verdict: { _tag: "deny" },
  policy: "test",
  reason,
  votes: []
})

export interface FakeRelay {
  readonly relayId: string
  readonly generation: number
  readonly token: string
  readonly events?: ReadonlyArray<HookEventName>
  /** The next gateway takes it over. */
  readonly leaving?: boolean
}

const allows: RelayEntry["decide"] = () => Effect.succeed(allowed)
const nothing = (): void => undefined

export class FakeRelays extends Context.Service<
  FakeRelays,
  {
    /** `find ID`, `decide ID EVENT`, `refused ID`, in the order they came. */
    readonly log: Array<string>
    /** Opens a relay, or replaces the one of that id. */
    readonly put: (relay: FakeRelay) => void
    readonly drop: (relayId: string) => void
    readonly decideWith: (decide: RelayEntry["decide"]) => void
    /** Runs before each look-up is answered. */
    readonly beforeFind: (hook: () => void) => void
  }
>()("holdfast/testing/FakeRelays") {}

export const layer: Layer.Layer<RelayRegistry | FakeRelays> = Layer.effectContext(
  Effect.sync(() => {
    const log: Array<string> = []
    const entries = new Map<string, RelayEntry>()
    let decide = allows
    let beforeFind = nothing

    const put = ({
      relayId,
      generation,
      token,
      events = ["pre_tool_use"],
      leaving = false
    }: FakeRelay): void => {
      entries.set(relayId, {
        info: {
          relayId,
          generation,
          provider: "codex",
          runId: `run of ${relayId}`,
          spawnedBy: null,
          sessionId: null,
          state: "live",
          events,
          recordPath: `/bridges/${relayId}`,
          openedAt: 0,
          decided: 0,
          refused: 0
        },
        provider: "codex",
        attended: false,
        token,
        allows: (event) => events.includes(event),
        decide: (event, source) =>
          Effect.suspend(() => {
            log.push(`decide ${relayId} ${event.event}`)
            return decide(event, source)
          }),
        leaving: Effect.succeed(leaving),
        refused: Effect.sync(() => void log.push(`refused ${relayId}`))
      })
    }

    return Context.empty().pipe(
      Context.add(RelayRegistry, {
        register: () => Effect.die("the fake registers by `put`"),
        find: (relayId) =>
          Effect.sync(() => {
            beforeFind()
            log.push(`find ${relayId}`)
            return Option.fromNullishOr(entries.get(relayId))
          }),
        list: Effect.sync(() => [...entries.values()].map((entry) => entry.info))
      }),
      Context.add(FakeRelays, {
        log,
        put,
        drop: (relayId) => void entries.delete(relayId),
        decideWith: (next) => {
          decide = next
        },
        beforeFind: (hook) => {
          beforeFind = hook
        }
      })
    )
  })
)
