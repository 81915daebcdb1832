/**
 * InstanceMark, live on Linux: RLIMIT_LOCKS through prlimit(1) of util-linux, members and counters from /proc.
 *
 * Every signal follows a look at that very process's start and mark; the sweep itself forks nothing. Who looks at every
 * process does so in slices, and one at a time, so that nobody else waits for long. Elsewhere there is no mark, and nothing
 * is ever found or ended by one.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Semaphore from "effect/Semaphore"
import { execFile } from "node:child_process"
import {
  bornBetween,
  candidateRange,
  contains,
  type ForkMark,
  InstanceMark,
  isFree,
  type Marked,
  type MarkRange,
  MarkUnavailable,
  newestFirst,
  nextSweep,
  startSweep,
  type SweepReport,
  type SweepSeen,
  type SweepStep
} from "../services/InstanceMark.ts"
import { type Identity, identityOf, ProcessIdentity, processKey } from "../services/ProcessIdentity.ts"
import { Settings, type SettingsShape } from "../services/Settings.ts"
import { ancestorsOf, forkMark, isListed, isThread, markOf, pids, sight, signal } from "./internal/procfs.ts"
import { makeSlices } from "./internal/slices.ts"

export * from "../services/InstanceMark.ts"

/** Of util-linux, whichever PATH has; BusyBox has none. */
const command = "prlimit"
/** prlimit(1) takes 3 ms; one that hangs must not keep a gateway from starting without a mark. */
const prlimitTimeoutMs = 5_000
/** A range is free at the first draw unless a million gateways run; a machine that refuses so many draws is full. */
const draws = 64
/** Rounds of following the newborn before the next whole scan: under 30 ms at 400 microseconds a round. */
const chaseRounds = 64
/** A report names so many; a fork bomb has more, and they are ended all the same. */
const namedMost = 4_096

export const make = Effect.gen(function* () {
  const { self } = yield* ProcessIdentity
  const { mark } = yield* Settings
  if (process.platform !== "linux") return none
  const own = Effect.sync(ownLimit)
  const look = makeLooks(self)
  return InstanceMark.of({
    own,
    choose: Effect.gen(function* () {
      const hard = yield* own
      const inUse = (yield* look(everything)).members.map((member) => member.mark)
      for (let draw = 0; draw < draws; draw++) {
        const range = candidateRange(hard, yield* Random.next)
        if (range === null)
          return yield* new MarkUnavailable({ problem: `its own limit of ${hard} leaves no room below` })
        if (isFree(range, hard, inUse)) return range
      }
      return yield* new MarkUnavailable({ problem: "every range that was tried is in use" })
    }).pipe(Effect.withSpan("InstanceMark.choose")),
    take: Effect.fn("InstanceMark.take")(function* ({ high }: MarkRange) {
      const before = yield* own
      // A privileged process could raise its limit, and would leave the range of the gateway it runs under.
      if (before !== null && before < high)
        return yield* new MarkUnavailable({ problem: `its limit is ${before} already, below ${high}` })
      yield* prlimit(high)
      const after = yield* own
      if (after !== high)
        return yield* new MarkUnavailable({
          problem: `prlimit set ${high} but /proc says ${after ?? "unlimited"}`
        })
    }),
    members: Effect.fn("InstanceMark.members")(function* (range: MarkRange) {
      return (yield* look(range)).members
    }),
    sweep: Effect.fn("InstanceMark.sweep")(function* (range: MarkRange) {
      return yield* sweep(makeSweeper(self, range, look), mark)
    })
  })
})

export const layer = Layer.effect(InstanceMark, make)

const unavailable = Effect.suspend(() =>
  Effect.fail(new MarkUnavailable({ problem: `${process.platform} has no RLIMIT_LOCKS in /proc` }))
)

const none = InstanceMark.of({
  own: Effect.succeed(null),
  choose: unavailable,
  take: () => unavailable,
  members: () => Effect.succeed([]),
  sweep: () => Effect.succeed({ ended: [], survivors: [], proven: false })
})

const everything: MarkRange = { low: 0, high: Number.MAX_SAFE_INTEGER }

const ownLimit = (): number | null => {
  const mark = markOf(process.pid)
  return typeof mark === "number" ? mark : null
}

const prlimit = (high: number): Effect.Effect<void, MarkUnavailable> =>
  Effect.callback((resume) => {
    const args = ["--pid", String(process.pid), `--locks=${high}:${high}`]
    const child = execFile(command, args, { timeout: prlimitTimeoutMs }, (error, _stdout, stderr) => {
      const problem =
        error?.code === "ENOENT"
          ? "there is no prlimit command on PATH (install util-linux)"
          : `prlimit failed (${stderr.trim() || error?.message})`
      resume(error === null ? Effect.void : Effect.fail(new MarkUnavailable({ problem })))
    })
    return Effect.sync(() => child.kill("SIGKILL"))
  })

interface Scan {
  readonly members: ReadonlyArray<Marked>
  /** Every process of the list could be looked at. */
  readonly complete: boolean
  /** When it began. */
  readonly before: ForkMark | null
}

/** Marks are read first, because they rule out all but a few. */
const identified = (self: Identity, pid: number, mark: number): Marked | "other" | "unreadable" => {
  const seen = sight(pid)
  if (seen._tag === "Unreadable") return "unreadable"
  return Option.match(identityOf(self, pid, seen), {
    onNone: () => "other" as const,
    onSome: (identity) => ({ identity, mark, command: seen._tag === "Running" ? seen.command : "" })
  })
}

/** One pid's membership. */
const memberAt = (self: Identity, range: MarkRange, pid: number): Marked | "other" | "unreadable" => {
  const mark = markOf(pid)
  if (mark === "unreadable") return "unreadable"
  return mark === "none" || !contains(range, mark) ? "other" : identified(self, pid, mark)
}

interface Look {
  readonly range: MarkRange
  /** Told of each member at once, while the pass goes on. */
  readonly meet: (member: Marked) => void
}

/** One pass over /proc for everybody who looks now, in slices. */
const pass = Effect.fnUntraced(function* (
  self: Identity,
  looks: ReadonlyArray<Look>
): Effect.fn.Return<ReadonlyArray<Scan>> {
  const turn = yield* makeSlices
  const before = forkMark()
  const list = pids()
  let complete = list !== null
  const members: ReadonlyArray<Array<Marked>> = looks.map(() => [])
  for (const pid of newestFirst(list ?? [], before?.lastPid ?? 0)) {
    const mark = markOf(pid)
    if (mark === "unreadable") complete = false
    if (typeof mark !== "number" || !looks.some(({ range }) => contains(range, mark))) continue
    const found = identified(self, pid, mark)
    if (found === "unreadable") complete = false
    if (typeof found !== "string")
      for (const [index, { range, meet }] of looks.entries())
        if (contains(range, mark)) {
          meet(found)
          members[index]!.push(found)
        }
    yield* turn
  }
  return members.map((members) => ({ members, complete, before }))
})

/**
 * A pass takes 20 microseconds for each process of the machine, so those who look at the same time share one: the stops of
 * many runs would otherwise take the product of their number and that of all processes. Who comes while one is under way
 * waits for the next, with everybody else who did.
 */
const makeLooks = (self: Identity) => {
  let waiting: ReadonlyArray<Look & { scan: Scan | null }> = []
  const one = Semaphore.makeUnsafe(1)
  return Effect.fnUntraced(function* (range: MarkRange, meet: Look["meet"] = nobody) {
    const look: Look & { scan: Scan | null } = { range, meet, scan: null }
    waiting = [...waiting, look]
    const looked = Effect.gen(function* () {
      if (look.scan !== null) return look.scan
      // Of a pass that was interrupted nobody has an answer, and each of its looks is here again.
      const looks = waiting.includes(look) ? waiting : [...waiting, look]
      waiting = []
      const scans = yield* pass(self, looks)
      for (const [index, scan] of scans.entries()) looks[index]!.scan = scan
      return scans[looks.indexOf(look)]!
    })
    return yield* Effect.ensuring(
      one.withPermits(1)(looked),
      Effect.sync(() => {
        waiting = waiting.filter((other) => other !== look)
      })
    )
  })
}

const nobody = (): void => undefined

const keyOf = ({ identity }: Marked): string => processKey(identity)

const proofSeen = (proof: SweepSeen["proof"]): SweepSeen => ({ members: 0, fresh: 0, proof })

/** The hands of one sweep: nothing of ours happens between a check and its signal. */
const makeSweeper = (self: Identity, range: MarkRange, lookAt: ReturnType<typeof makeLooks>) => {
  const named = new Map<string, Marked>()
  const frozen = new Set<string>()
  /** Not ours to end: another user's, or a process that we are a child of. */
  const spared = new Map<string, Marked>()
  let members: ReadonlyArray<Marked> = []
  let complete = false
  let before: ForkMark | null = null

  const stands = (member: Marked): boolean => {
    const now = memberAt(self, range, member.identity.pid)
    return typeof now === "object" && keyOf(now) === keyOf(member)
  }

  const send = (member: Marked, name: NodeJS.Signals): boolean => {
    if (!stands(member)) return false
    const sent = signal(member.identity.pid, name)
    if (sent === "refused") spared.set(keyOf(member), member)
    return sent === "sent"
  }

  const freeze = (member: Marked): boolean => {
    const key = keyOf(member)
    if (frozen.has(key) || spared.has(key) || !send(member, "SIGSTOP")) return false
    // The number may have changed hands between the look and the signal: then a stranger was stopped, and goes on.
    if (!stands(member)) {
      signal(member.identity.pid, "SIGCONT")
      return false
    }
    frozen.add(key)
    return true
  }

  const look = Effect.fnUntraced(function* (freezing: boolean): Effect.fn.Return<SweepSeen> {
    const never = new Set([1, ...ancestorsOf(self.pid)])
    let fresh = 0
    const seen = yield* lookAt(range, (member) => {
      const { pid } = member.identity
      if (pid === self.pid) return
      if (never.has(pid)) spared.set(keyOf(member), member)
      if (named.size < namedMost) named.set(keyOf(member), member)
      if (freezing && freeze(member)) fresh++
    })
    before = seen.before
    complete = seen.complete
    members = seen.members.filter((member) => member.identity.pid !== self.pid && !spared.has(keyOf(member)))
    return { members: members.length, fresh, proof: null }
  })

  /** One after the other, which a thousand of them take 20 milliseconds for. */
  const each = Effect.fnUntraced(function* (use: (member: Marked) => boolean) {
    const turn = yield* makeSlices
    const yes: Array<Marked> = []
    for (const member of members) {
      if (use(member)) yes.push(member)
      yield* turn
    }
    return yes
  })

  /** After an empty scan: looks at whoever was born since it began, until a look during which nobody was. */
  const prove = Effect.fnUntraced(function* (): Effect.fn.Return<SweepSeen> {
    const turn = yield* makeSlices
    if (!complete) return proofSeen("doubtful")
    for (let round = 0; round < chaseRounds; round++) {
      const now = forkMark()
      const born = bornBetween(before, now)
      if (born === "many") return proofSeen("doubtful")
      if (born === "none") return proofSeen("proven")
      let found = false
      for (let pid = born.last; pid >= born.first; pid--) {
        const member = pid === self.pid || !isListed(pid) ? "other" : memberAt(self, range, pid)
        if (member === "unreadable") return proofSeen("doubtful")
        if (member === "other" || spared.has(keyOf(member)) || isThread(pid)) continue
        if (named.size < namedMost) named.set(keyOf(member), member)
        freeze(member)
        found = true
      }
      if (found) return proofSeen("found")
      if (!born.more) return proofSeen("proven")
      before = now
      yield* turn
    }
    return proofSeen("doubtful")
  })

  const act = Effect.fnUntraced(function* (step: SweepStep): Effect.fn.Return<SweepSeen> {
    switch (step._tag) {
      case "Look":
      case "Freeze":
        return yield* look(step._tag === "Freeze")
      case "Ask":
        yield* each((member) => send(member, "SIGTERM") && send(member, "SIGCONT"))
        members = members.filter((member) => !spared.has(keyOf(member)))
        break
      case "Grace":
        members = yield* each(stands)
        break
      case "Kill":
        yield* each((member) => send(member, "SIGKILL"))
        break
      case "Prove":
        return yield* prove()
      case "Wait":
      case "Done":
        break
    }
    return { members: members.length, fresh: 0, proof: null }
  })

  const report = (proven: boolean): SweepReport => {
    const left = new Map([...members.map((member) => [keyOf(member), member] as const), ...spared])
    const survivors = [...left.values()].filter(stands)
    const surviving = new Set(survivors.map(keyOf))
    return {
      ended: [...named.values()].filter((member) => !surviving.has(keyOf(member))),
      survivors,
      proven: proven && survivors.length === 0
    }
  }

  return { look, act, report }
}

const sweep = Effect.fnUntraced(function* (
  { act, report }: ReturnType<typeof makeSweeper>,
  settings: SettingsShape["mark"]
) {
  // Monotonic: a clock that is set must not end a sweep early, nor keep it going.
  const now = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos / 1_000_000n))
  let plan = startSweep(yield* now, settings)
  while (plan.step._tag !== "Done") {
    const { step } = plan
    if (step._tag === "Wait") yield* Effect.sleep(step.ms)
    else yield* Effect.yieldNow
    plan = nextSweep(plan, yield* act(step), yield* now, settings)
  }
  return report(plan.step.proven)
})
