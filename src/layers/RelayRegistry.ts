/**
 * RelayRegistry, live: an actor per relay under the supervisor `relays`, its record published for as long as the actor.
 *
 * When the registrant's scope closes the relay lingers, record included, so that a hook already on its way is still
 * decided; then it is gone.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import * as crypto from "node:crypto"
import type { AuditRow } from "../services/AuditLog.ts"
import type { Actor } from "../services/Actor.ts"
import { BridgeStore } from "../services/BridgeStore.ts"
import { Epoch } from "../services/Epoch.ts"
import { HookClients } from "../services/HookClients.ts"
import { eventDirection, type HookEventName, isStrict } from "../services/HookEvent.ts"
import { hookProviders } from "../services/HookProvider.ts"
import { configuredTimeoutMs, hookCommand } from "../services/HookRelay.ts"
import type { Decision } from "../services/Policy.ts"
import {
  type ApprovalCall,
  FenceNotRaised,
  initialRelay,
  maxRelays,
  nextRelay,
  type Fenced,
  type Relay,
  type RelayAction,
  type RelayEntry,
  type RelayEvent,
  type RelayInfo,
  RelayInUse,
  RelayRegistry,
  type RelaySpec,
  type RelayState,
  textOf,
  TooManyRelays
} from "../services/RelayRegistry.ts"
import { Settings } from "../services/Settings.ts"
import { SupervisionTree } from "../services/SupervisionTree.ts"
import { makeDeciding } from "./internal/relayDecide.ts"
import { digestOf, inheritedOf, isUnseen, unseenPatch } from "./internal/relayCall.ts"

export * from "../services/RelayRegistry.ts"

/** Far above what one agent's parallel calls can queue; deciders wait when it is full. */
const mailboxCapacity = 1024
/** What is asked of a relay is a look into memory; one that takes longer is stuck, and its calls are decided anew. */
const askDeadlineMs = 1000
/** Rows kept for a reader of one relay. */
const rowsKept = 1024
/** Milliseconds a relay actor gets to end when it is asked to. */
const shutdownMs = 1000

interface Live {
  readonly spec: RelaySpec
  readonly relayId: string
  readonly generation: number
  readonly token: string
  readonly recordPath: string
  readonly openedAt: number
  readonly actor: Actor<RelayState, RelayEvent>
  readonly entry: RelayEntry
  /** The record and the entry in the map. */
  readonly life: Scope.Closeable
}

const fenceWith =
  (relayId: string, actor: Actor<RelayState, RelayEvent>): Relay["fence"] =>
  (finished) => {
    const ids = new Set([...finished].map(digestOf))
    return Effect.mapError(
      actor.ask<Fenced>((reply) => ({ _tag: "Fence", finished: ids, reply }), askDeadlineMs),
      () => new FenceNotRaised({ relayId })
    )
  }

const leavingOf = ({ leaving }: RelaySpec): Effect.Effect<boolean> => leaving ?? Effect.succeed(false)

const approveWith =
  (
    spec: RelaySpec,
    actor: Actor<RelayState, RelayEvent>,
    { decide, incident }: Pick<Relay, "decide" | "incident">
  ): Relay["approve"] =>
  (call: ApprovalCall) =>
    Effect.gen(function* () {
      const redeemed = yield* actor
        .ask<Decision | null>(
          (reply) => ({ _tag: "Redeem", call, does: digestOf(textOf(call.call)), reply }),
          askDeadlineMs
        )
        .pipe(Effect.orElseSucceed(() => null))
      if (redeemed !== null) return { decision: redeemed, fromHook: true }
      const { callId, ...rest } = call
      if (isUnseen(call)) {
        yield* incident(callId ?? "unknown", unseenPatch.reason)
        return { decision: unseenPatch, fromHook: false }
      }
      const decision = yield* decide(
        {
          ...rest,
          event: "permission_request",
          provider: spec.provider,
          spawnedBy: spec.spawnedBy ?? null,
          callId:
            callId === null
              ? { _tag: "synthesized", id: `approval-${crypto.randomUUID()}` }
              : { _tag: "native", id: callId },
          raw: {}
        },
        "approval"
      )
      return { decision, fromHook: false }
    })

export const make = Effect.gen(function* () {
  const settings = yield* Settings
  const bridges = yield* BridgeStore
  const { decideFor, incidentFor, isDecided } = yield* makeDeciding
  const clients = yield* HookClients
  const { current } = yield* Epoch
  const supervisor = yield* (yield* SupervisionTree).supervisor("relays")
  const layerScope = yield* Effect.scope
  const relays = new Map<string, Live>()
  // Before the first relay: what dead gateways published is gone when this one is ready, and a refused directory is said now.
  const pruned = yield* bridges.prune
  if (pruned.removed > 0)
    yield* Effect.logInfo("pruned bridge records").pipe(Effect.annotateLogs({ ...pruned }))

  const infoOf = (live: Omit<Live, "entry" | "actor" | "life">, state: RelayState): RelayInfo => ({
    relayId: live.relayId,
    generation: live.generation,
    provider: live.spec.provider,
    runId: live.spec.runId,
    spawnedBy: live.spec.spawnedBy ?? null,
    sessionId: state.sessionId,
    state: state.phase,
    events: live.spec.allowedEvents,
    recordPath: live.recordPath,
    openedAt: live.openedAt,
    decided: state.decided,
    refused: state.refused
  })

  const commandsOf = (spec: RelaySpec, recordPath: string): Relay["commands"] =>
    Object.fromEntries(
      spec.allowedEvents.map((event) => [
        event,
        hookCommand({
          client: clients.best,
          recordPath,
          ...eventDirection(settings.directions, event),
          waits: spec.leaving !== undefined,
          providerTimeoutMs:
            hookProviders[spec.provider].timeoutSeconds(event, configuredTimeoutMs(settings.hook, event)) *
            1000
        })
      ])
    )

  const register = Effect.fn("RelayRegistry.register")(function* (spec: RelaySpec) {
    const relayId = spec.relayId ?? `${spec.provider}-${crypto.randomUUID()}`
    const known = relays.get(relayId)
    if (known) {
      if ((yield* known.actor.state).phase === "live") return yield* new RelayInUse({ relayId })
      yield* supervisor.stop(relayId)
      yield* Scope.close(known.life, Exit.void)
    }
    if (relays.size >= maxRelays) return yield* new TooManyRelays()
    const generation = spec.generation ?? 1
    const token = crypto.randomBytes(32).toString("base64url")
    const recordPath = bridges.pathOf(relayId)
    const life = yield* Scope.fork(layerScope)
    const actor = yield* supervisor
      .start<RelayState, RelayEvent, RelayAction, never>(
        { id: relayId, restart: "transient", shutdownMs },
        {
          name: `relay ${relayId}`,
          initial: () => initialRelay(spec.sessionId),
          next: nextRelay(settings.relay.decisionsKept),
          perform: (action, self) => {
            switch (action._tag) {
              case "Answer":
                return Effect.asVoid(Deferred.succeed(action.reply, action.decision))
              case "AnswerFence":
                return Effect.asVoid(Deferred.succeed(action.reply, action.fenced))
              case "StartGrace":
                return Effect.sleep(settings.hook.lateGraceMs).pipe(
                  Effect.andThen(Effect.ignore(self.tell({ _tag: "GraceElapsed" }))),
                  Effect.forkIn(self.scope),
                  Effect.andThen(Deferred.succeed(action.noted, undefined)),
                  Effect.asVoid
                )
              case "End":
                return self.end
            }
          },
          mailbox: { capacity: mailboxCapacity, overflow: "wait" },
          describe: (state) => `${state.phase} ${state.decided} decided`
        }
      )
      .pipe(Effect.catchTag("ChildExists", () => Effect.fail(new RelayInUse({ relayId }))))
    const tell = (event: RelayEvent): Effect.Effect<void> => Effect.ignore(actor.tell(event))
    const rows = yield* Queue.sliding<AuditRow>(rowsKept)
    const decide = decideFor(relayId, spec, rows, actor)
    const incident: Relay["incident"] = (callId, detail) => incidentFor(relayId, spec, rows, callId, detail)
    const facts = { spec, relayId, generation, token, recordPath, openedAt: yield* Clock.currentTimeMillis }
    const live: Live = {
      ...facts,
      actor,
      life,
      entry: {
        token,
        provider: spec.provider,
        attended: spec.attended ?? false,
        info: infoOf(facts, initialRelay(spec.sessionId)),
        allows: (event: HookEventName) => spec.allowedEvents.includes(event),
        decide,
        leaving: leavingOf(spec),
        refused: tell({ _tag: "Refused" })
      }
    }
    relays.set(relayId, live)
    // However the actor ends (grace over, replaced, gateway down), the record and the entry go with it.
    yield* Effect.forkIn(Effect.andThen(actor.stopped, Scope.close(life, Exit.void)), layerScope)
    yield* Scope.addFinalizer(
      life,
      Effect.sync(() => {
        if (relays.get(relayId) === live) relays.delete(relayId)
      })
    )
    yield* bridges
      .publish({
        relayId,
        generation,
        socketPath: settings.paths.hookSocket(current.epoch),
        token,
        leaving: leavingOf(spec)
      })
      .pipe(
        Scope.provide(life),
        Effect.onError(() => supervisor.stop(relayId))
      )
    // Waited for, so that the same thread can come back at once and find its relay free.
    yield* Effect.addFinalizer(() =>
      Effect.ignore(actor.ask<void>((noted) => ({ _tag: "RunEnded", noted }), askDeadlineMs))
    )
    const relay: Relay = {
      relayId,
      generation,
      recordPath,
      commands: commandsOf(spec, recordPath),
      decide,
      approve: approveWith(spec, actor, { decide, incident }),
      fence: (finished) => fenceWith(relayId, actor)(finished),
      incident,
      // Where a hook may fall open, a call that nobody decided is what somebody wanted.
      isDecided: (callId) =>
        isStrict(settings.directions, "pre_tool_use") ? isDecided(relayId, callId) : Effect.succeed(true),
      rows,
      inherit: (rows) => tell({ _tag: "Inherited", kept: rows.flatMap((row) => inheritedOf(row) ?? []) }),
      attachSession: (sessionId) => tell({ _tag: "SessionAttached", sessionId })
    }
    return relay
  }, Effect.uninterruptible)

  return RelayRegistry.of({
    register,
    find: (relayId) =>
      Effect.sync(() => Option.map(Option.fromNullishOr(relays.get(relayId)), (live) => live.entry)),
    list: Effect.suspend(() =>
      Effect.forEach([...relays.values()], (live) =>
        Effect.map(live.actor.state, (state) => infoOf(live, state))
      )
    )
  })
})

export const layer = Layer.effect(RelayRegistry, make)
