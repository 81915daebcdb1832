/**
 * Whether an app-server lives. Slow is not dead: any byte it sends, any answer to a probe, and for a while the processor time
 * it uses, are life. Silence is counted in looks and not by the clock, so that a gateway that was itself held up or put to
 * sleep does not take its own absence for its child's.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { PoisonReason } from "../../services/AppServerFailure.ts"
import { switchesOf, type Vitals } from "./procfs.ts"

export interface Life {
  readonly probeIntervalMs: number
  readonly probeTimeoutMs: number
  readonly silentLimitMs: number
  /** Processor time the server has used so far; null when that cannot be known. */
  readonly cpuTimeMs: () => number | null
}

/** A server that works without a word is given this many times the silence of one that does nothing. */
const workingSilenceFactor = 4

export interface Pulse {
  readonly life: Life
  /** Grows with everything that the server sends. */
  readonly heard: () => number
  /** Completes with the next thing that the server sends. */
  readonly nextHeard: Effect.Effect<void>
  /** Asks and waits for the answer, whatever it is. */
  readonly probe: Effect.Effect<void>
}

const advanced = (before: number | null, now: number | null): boolean =>
  before !== null && now !== null && now > before

/** Looks for ever; the first probe goes out after one interval without a word. */
export const untilSilent = Effect.fnUntraced(function* ({ life, heard, probe }: Pulse) {
  const { probeIntervalMs, probeTimeoutMs, silentLimitMs } = life
  let seen = heard()
  let used = life.cpuTimeMs()
  let silentMs = 0
  let idleMs = 0
  let unanswered = 0
  while (true) {
    yield* Effect.sleep(probeIntervalMs)
    const now = life.cpuTimeMs()
    const worked = advanced(used, now)
    used = now
    if (heard() !== seen) {
      seen = heard()
      silentMs = idleMs = unanswered = 0
      continue
    }
    silentMs += probeIntervalMs
    idleMs = worked ? 0 : idleMs + probeIntervalMs
    const waited = unanswered > 0 && unanswered * probeIntervalMs >= probeTimeoutMs
    if (waited && (idleMs >= silentLimitMs || silentMs >= workingSilenceFactor * silentLimitMs))
      return { _tag: "probes-missed", count: unanswered, silentMs } satisfies PoisonReason
    unanswered++
    yield* Effect.forkChild(Effect.timeoutOption(probe, probeTimeoutMs))
  }
})

/** One question, asked at once: whether the server answers, says anything else or works within the time of a probe. */
export const showsLife = ({ life, nextHeard, probe }: Pulse): Effect.Effect<boolean> =>
  Effect.suspend(() => {
    const used = life.cpuTimeMs()
    return Effect.map(
      Effect.timeoutOption(Effect.raceFirst(probe, nextHeard), life.probeTimeoutMs),
      (answered) => Option.isSome(answered) || advanced(used, life.cpuTimeMs())
    )
  })

/** Completes when somebody has stopped it and it stays so; `look` is null while there is nothing to see. */
export const untilStopped = Effect.fnUntraced(function* (
  look: () => (Vitals & { readonly pid: number }) | null,
  everyMs: number
) {
  let before: string | null = null
  while (true) {
    yield* Effect.sleep(everyMs)
    const now = look()
    // Two looks may meet two stops, as when something doses its processor time; in one lasting stop nothing moves.
    const still = now?.state === "T" ? `${switchesOf(now.pid)} ${now.cpuTimeMs}` : null
    if (still !== null && still === before) return
    before = still
  }
})
