/** TlsSessionCache, live: a counted resource per key, and the last target under each label. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as RcMap from "effect/RcMap"
import * as Stream from "effect/Stream"
import { PinStore } from "../services/PinStore.ts"
import {
  idleMs,
  maxSessions,
  TlsSessionCache,
  type TlsSessionChanged,
  TooManyTlsSessions
} from "../services/TlsSessionCache.ts"
import { changedFields, normalizeTarget, targetKey, type TlsTarget } from "../services/TlsTarget.ts"
import { makeTlsSession } from "./internal/tlsSession.ts"

export * from "../services/TlsSessionCache.ts"

/** What a slow reader of `changes` may be behind before it loses the oldest. */
const maxUnread = 64
/** Labels whose last target is remembered; the one that was asked for longest ago is forgotten. */
const maxLabels = 1024

export const make = Effect.gen(function* () {
  const pinStore = yield* PinStore
  const changed = yield* Effect.acquireRelease(PubSub.sliding<TlsSessionChanged>(maxUnread), PubSub.shutdown)
  /** Of each key that is being looked up or held. */
  const targets = new Map<string, TlsTarget>()
  const last = new Map<string, { readonly key: string; readonly target: TlsTarget }>()

  const sessions = yield* RcMap.make({
    lookup: (key: string) => Effect.provideService(makeTlsSession(targets.get(key)!), PinStore, pinStore),
    idleTimeToLive: idleMs,
    capacity: maxSessions
  })

  /** Tells what became another since the label was last used. */
  const noted = (label: string, key: string, target: TlsTarget) =>
    Effect.suspend(() => {
      const before = last.get(label)
      // Taken out and put in, so that the first is the oldest.
      last.delete(label)
      last.set(label, { key, target })
      if (last.size > maxLabels) last.delete(last.keys().next().value!)
      return before === undefined || before.key === key
        ? Effect.void
        : PubSub.publish(changed, {
            _tag: "TlsSessionChanged" as const,
            label,
            fields: changedFields(before.target, target)
          })
    })

  const get = Effect.fnUntraced(function* (given: TlsTarget, label?: string) {
    const target = yield* Effect.fromResult(normalizeTarget(given))
    const key = targetKey(target)
    targets.set(key, target)
    const session = yield* RcMap.get(sessions, key).pipe(
      Effect.mapError(() => new TooManyTlsSessions()),
      Effect.ensuring(Effect.sync(() => targets.delete(key)))
    )
    yield* noted(label ?? target.url, key, target)
    return session
  })

  return TlsSessionCache.of({
    get,
    changes: Stream.fromPubSub(changed)
  })
})

export const layer = Layer.effect(TlsSessionCache, make)
