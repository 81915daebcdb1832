/** Guard, live: folds the rows of the audit log, those of the past at its start and each new one as it falls. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as crypto from "node:crypto"
import { AuditLog, maxTailRows } from "../services/AuditLog.ts"
import { Epoch } from "../services/Epoch.ts"
import { canaryMs, Guard, type GuardShape, nextGuards, proofOf, unproven } from "../services/Guard.ts"

export * from "../services/Guard.ts"

/** Canaries that were asked for and not met yet. */
const maxArmed = 64

export const make = Effect.gen(function* () {
  const audit = yield* AuditLog
  const { current } = yield* Epoch
  const armed = new Map<string, number>()
  let guards = unproven
  // Subscribed before the past is read: a row that falls in between is folded twice, which changes nothing.
  yield* Stream.runForEach(audit.live, (row) =>
    Effect.sync(() => {
      guards = nextGuards(guards, row)
    })
  ).pipe(Effect.forkScoped({ startImmediately: true }))
  // A row that cannot be read is no reason not to start; `audit verify` finds it.
  const recent = yield* Effect.orElseSucceed(audit.tail(maxTailRows), () => [])
  const marked = yield* Effect.orElseSucceed(audit.guardRows, () => [])
  const past = [...new Map([...recent, ...marked].map((row) => [row.seq, row])).values()]
  for (const row of past.toSorted((a, b) => a.seq - b.seq)) guards = nextGuards(guards, row)

  const arm = Effect.map(Clock.currentTimeMillis, (now) => {
    for (const [nonce, until] of armed) if (until <= now || armed.size >= maxArmed) armed.delete(nonce)
    const nonce = crypto.randomBytes(16).toString("hex")
    armed.set(nonce, now + canaryMs)
    return nonce
  })
  const mend: GuardShape["mend"] = (provider) => Effect.ignore(audit.append(proofOf(provider, current.epoch)))
  const met: GuardShape["met"] = Effect.fnUntraced(function* (provider, nonce) {
    const until = armed.get(nonce)
    armed.delete(nonce)
    if (until === undefined || until <= (yield* Clock.currentTimeMillis)) return false
    yield* mend(provider)
    return true
  })
  return { states: Effect.sync(() => guards), arm, met, mend }
})

export const layer = Layer.effect(Guard, make)
