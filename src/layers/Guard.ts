/** Guard, live: folds the rows of the audit log, those of the past at its start and each new one as it falls. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { AuditLog, maxTailRows } from "../services/AuditLog.ts"
import { Guard, nextGuards, unproven } from "../services/Guard.ts"

export * from "../services/Guard.ts"

export const make = Effect.gen(function* () {
  const audit = yield* AuditLog
  let guards = unproven
  // Subscribed before the past is read: a row that falls in between is folded twice, which changes nothing.
  yield* Stream.runForEach(audit.live, (row) =>
    Effect.sync(() => {
      guards = nextGuards(guards, row)
    })
  ).pipe(Effect.forkScoped({ startImmediately: true }))
  for (const row of yield* audit.tail(maxTailRows)) guards = nextGuards(guards, row)
  return Guard.of({ states: Effect.sync(() => guards) })
})

export const layer = Layer.effect(Guard, make)
