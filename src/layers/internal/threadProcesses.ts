/**
 * What interrupted threads' commands left running in sessions of their own, where Codex no longer knows them: processes of
 * this gateway's mark whose environment names the thread. One that has cleared its environment before it was ever seen is
 * found when its app-server ends.
 *
 * However many wait, one fiber looks for all of them at once: /proc is read once a round, an environment once a process.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import type { InstanceMark, Marked, MarkRange } from "../../services/InstanceMark.ts"
import { maxPendingReads, readEnvironment } from "./environ.ts"
import { imageOf, isStill, type Seen, signal } from "./procfs.ts"

/** Codex gives it to every command of the model, measured on 0.169.0; its own helpers and MCP servers do not get it. */
const variable = "CODEX_THREAD_ID"
/** Whoever reads an environment waits so long; the read itself goes on. */
const readTimeoutMs = 250
/** Processes whose environment is remembered, some 200 bytes each; those past it are read in every round. */
const maxKnown = 16_384
/** Between being asked and being killed. */
const graceMs = 200
/** A look at /proc costs all of its time in processor time, so between two the others get this long, and this many times as long as it took. */
const pauseMs = 20
const pauseFactor = 4
/** Signals or looks at a process, 20 microseconds each, before everybody else has a turn. */
const batch = 64
/** A tree that outgrows so many rounds is left to the sweep of its app-server's end. */
const maxRounds = 20

/** The machine's side, which a test without processes brings along. */
export interface Processes {
  readonly imageOf: (pid: number) => string | null
  readonly readEnvironment: (pid: number) => Promise<string>
  /** The look and the signals are one step. */
  readonly signalIfStill: (seen: Seen, ...names: ReadonlyArray<NodeJS.Signals>) => void
}

const linux: Processes = {
  imageOf,
  readEnvironment,
  signalIfStill: (seen, ...names) => {
    if (isStill(seen)) for (const name of names) signal(seen.pid, name)
  }
}

const named = new RegExp(`(?<=^|\\0)${variable}=([^\\0]+)`, "g")
const threadsIn = (environment: string): ReadonlyArray<string> =>
  [...environment.matchAll(named)].map(([, thread]) => thread!)

interface Known {
  readonly image: string | null
  /** Null while it is still read. */
  threads: ReadonlyArray<string> | null
}

/** Which threads a process's environment names, read once for as long as it runs the same program. */
const makeReader = ({ imageOf, readEnvironment }: Processes) => {
  let known = new Map<string, Known>()
  let pending = 0
  /** Whether it was said that reading has come to a halt. */
  let halted = false

  const threadsOf = Effect.fnUntraced(function* (
    { pid, startToken }: Seen,
    kept: Map<string, Known>
  ): Effect.fn.Return<ReadonlyArray<string>> {
    const key = `${pid}/${startToken}`
    const before = known.get(key)
    const image = imageOf(pid)
    // Once a thread's, always: it may have cleared its environment since. Anybody else may have become another program,
    // as everything does that is looked at between its fork and its exec.
    if (before !== undefined && (before.threads?.length || before.image === image)) {
      if (kept.size < maxKnown) kept.set(key, before)
      return before.threads ?? []
    }
    if (pending >= maxPendingReads) {
      if (!halted)
        yield* Effect.logWarning(
          "environments of processes do not answer; what they run is ended with their app-server"
        )
      halted = true
      return []
    }
    halted = false
    const entry: Known = { image, threads: null }
    if (kept.size < maxKnown) kept.set(key, entry)
    pending++
    const reading = readEnvironment(pid).then(
      (environment) => {
        pending--
        entry.threads = threadsIn(environment)
      },
      () => {
        pending--
        entry.threads = []
      }
    )
    yield* Effect.timeoutOption(
      Effect.promise(() => reading),
      readTimeoutMs
    )
    return entry.threads ?? []
  })

  /** Who of them names which thread. What is not among them any more is forgotten. */
  return Effect.fnUntraced(function* (members: ReadonlyArray<Marked>) {
    const found = new Map<string, Array<Seen>>()
    const kept = new Map<string, Known>()
    for (const [index, { identity }] of members.entries()) {
      if (index % batch === batch - 1) yield* Effect.yieldNow
      for (const thread of new Set(yield* threadsOf(identity, kept))) {
        const theirs = found.get(thread)
        if (theirs === undefined) found.set(thread, [identity])
        else theirs.push(identity)
      }
    }
    known = kept
    return found
  })
}

interface Waiting {
  readonly threads: ReadonlySet<string>
  readonly over: Deferred.Deferred<void>
  rounds: number
  /** When its processes are signalled next. */
  dueAt: number
}

/**
 * Ends what carries a mark of the range and names one of the threads: asked first, then killed until nobody is left. Whoever
 * waits when the scope closes is let go, since the sweep of the app-server's end follows.
 */
export const makeThreadEnder = Effect.fnUntraced(function* (
  marks: Pick<InstanceMark["Service"], "members">,
  range: MarkRange | null,
  processes: Processes = linux
): Effect.fn.Return<(threads: ReadonlyArray<string>) => Effect.Effect<void>, never, Scope.Scope> {
  if (range === null) return () => Effect.void
  const waiting = new Set<Waiting>()
  const joined = yield* Latch.make()
  const find = makeReader(processes)
  let closed = false

  const now = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))
  const letGo = (one: Waiting): Effect.Effect<void> =>
    Effect.suspend(() => {
      waiting.delete(one)
      return Effect.asVoid(Deferred.succeed(one.over, undefined))
    })

  /** Their next signals, or their end; whether they were only asked. */
  const proceed = Effect.fnUntraced(function* (one: Waiting, theirs: ReadonlyArray<Seen>, at: number) {
    if (theirs.length > 0 && one.dueAt > at) return false
    const givesUp = theirs.length > 0 && one.rounds === maxRounds
    if (givesUp)
      yield* Effect.logWarning("commands of an interrupted turn still run").pipe(
        Effect.annotateLogs({ threads: [...one.threads] })
      )
    if (givesUp || theirs.length === 0) {
      yield* letGo(one)
      return false
    }
    const asks = one.rounds++ === 0
    for (const [index, seen] of theirs.entries()) {
      if (index % batch === batch - 1) yield* Effect.yieldNow
      if (asks) processes.signalIfStill(seen, "SIGTERM", "SIGCONT")
      else processes.signalIfStill(seen, "SIGKILL")
    }
    return asks
  })

  /** One look for everybody who waits when it begins; how long the others are let run after it. */
  const round = Effect.gen(function* () {
    // Runs that are interrupted together join together.
    yield* Effect.yieldNow
    const asking = [...waiting]
    const before = yield* now
    const members = yield* marks.members(range)
    const tookMs = (yield* now) - before
    const found = yield* find(members.filter(({ identity }) => identity.pid !== process.pid))
    const at = yield* now
    const asked: Array<Waiting> = []
    for (const one of asking)
      if (waiting.has(one)) {
        const theirs = [...one.threads].flatMap((thread) => found.get(thread) ?? [])
        if (yield* proceed(one, [...new Set(theirs)], at)) asked.push(one)
      }
    // Their graces end together, and in one look.
    const dueAt = (yield* now) + graceMs
    for (const one of asked) one.dueAt = dueAt
    return Math.max(pauseMs, tookMs * pauseFactor)
  }).pipe(
    Effect.catchDefect((defect) =>
      Effect.logError("looking for what interrupted turns left running broke", defect).pipe(
        Effect.andThen(Effect.forEach([...waiting], letGo, { discard: true })),
        Effect.as(pauseMs)
      )
    )
  )

  const untilDue = Effect.gen(function* () {
    while (true) {
      const due = Math.min(...[...waiting].map(({ dueAt }) => dueAt))
      const waitMs = due - (yield* now)
      if (waitMs <= 0) return
      joined.closeUnsafe()
      yield* waitMs === Infinity ? joined.await : Effect.timeoutOption(joined.await, waitMs)
    }
  })

  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      closed = true
      return Effect.forEach([...waiting], letGo, { discard: true })
    })
  )
  yield* untilDue.pipe(Effect.andThen(round), Effect.flatMap(Effect.sleep), Effect.forever, Effect.forkScoped)

  return (threads) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const one = { threads: new Set(threads), over: Deferred.makeUnsafe<void>(), rounds: 0, dueAt: 0 }
        if (closed || threads.length === 0) Deferred.doneUnsafe(one.over, Effect.void)
        else waiting.add(one)
        joined.openUnsafe()
        return one
      }),
      ({ over }) => Deferred.await(over),
      (one) => Effect.sync(() => waiting.delete(one))
    )
})
