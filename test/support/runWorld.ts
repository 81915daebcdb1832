/** The world a run lives in, for its model test: processes, sweeps, one alarm, a machine that sleeps, and an operator. */
import { assert } from "@effect/vitest"
import {
  type ExitReason,
  type ExitStatus,
  type RunAction,
  type RunEvent,
  type RunSpec,
  type RunState
} from "../../src/services/Run.ts"
import { isAbnormal, isFinal, pick, reasonOf, type Roll, specOf } from "./runEvents.ts"
import { isOver, lookEveryMs, nextRun, requestedRun, statusWaitMs } from "../../src/services/RunState.ts"

/** An alarm comes so late at most while the machine is awake. */
export const latenessMs = 9_000
/** What a sleep may add to a deadline: the time since the last look, which may itself be late. */
const excessMs = lookEveryMs + latenessMs

/** One attempt as the world knows it. */
const lifeAt = (now: number, slept: number) => ({
  since: now,
  sleptBefore: slept,
  sleeps: 0,
  named: false,
  leaderAlive: false,
  status: null as ExitStatus | null,
  told: false,
  /** What it started and left, the hidden included. */
  others: 0,
  lastOutputAt: null as number | null,
  sleptBeforeOutput: slept,
  warnedInSilence: false,
  reason: null as ExitReason | null,
  sweeps: 0,
  sweptAt: null as number | null,
  sleptBeforeSwept: 0,
  leaderSurvives: false,
  certain: false
})
type Life = ReturnType<typeof lifeAt>

/** Every promise of the machine is checked against what this world did, not against the machine's state. */
export class World {
  now = 0
  slept = 0
  wokeAt = 0
  state: RunState = requestedRun
  readonly spec: RunSpec
  readonly next: ReturnType<typeof nextRun>
  readonly roll: Roll
  attempts = 0
  life: Life | null = null
  spawning = false
  sweeping = false
  alarm: number | null = null
  readonly stale: Array<number> = []
  final = false
  abandoned = false
  finishes = 0
  restarts: Array<number> = []
  /** For the report of what was broken. */
  handling: RunEvent | null = null
  endedReason: ExitReason | null = null
  spawnFailed = false

  constructor(roll: Roll) {
    this.roll = roll
    this.spec = specOf(roll)
    this.next = nextRun(this.spec)
  }

  check(ok: boolean, what: string): void {
    if (!ok)
      assert.fail(
        `${what}\n${JSON.stringify({ now: this.now, slept: this.slept, event: this.handling, state: this.state, life: this.life, spec: this.spec })}`
      )
  }

  send(event: RunEvent): void {
    this.handling = event
    const before = this.state
    const [state, actions] = this.next(before, event)
    this.state = state
    if (isOver(before)) this.check(state === before && actions.length === 0, "what is over stays over")
    for (const action of actions) this.perform(action)
    if (isOver(state) && !isOver(before)) this.over()
    this.punctual()
  }

  perform(action: RunAction): void {
    const { life } = this
    this.check(this.finishes === 0, "nothing follows the end")
    switch (action._tag) {
      case "Spawn":
        return this.spawn(action.attempt)
      case "NoteLeader":
        this.check(life !== null && !life.named && action.attempt === this.attempts, "a leader is noted once")
        this.check(action.leader.pid === this.attempts, "it is the leader of this attempt")
        life!.named = true
        return
      case "Ask":
        this.check(life?.named === true && life.sweeps === 0, "who is asked is known, and not killed yet")
        return
      case "Sweep":
        this.check(!this.sweeping && life?.named === true, "one sweep at a time, of what is known")
        this.check(++life!.sweeps === 1, "an attempt is swept once")
        this.sweeping = true
        return
      case "SetAlarm":
        this.check(action.due >= this.now, "an alarm is never in the past")
        this.check(action.due <= this.now + lookEveryMs, "nor further away than a look")
        if (this.alarm !== null) this.stale.push(this.alarm)
        this.alarm = action.due
        return
      case "Warn": {
        this.check(life !== null && !life.warnedInSilence, "a silence is warned of once")
        this.check(life!.reason === null, "who is ended is not warned")
        this.check(this.silence() >= this.spec.idleTimeoutMs! / 2, "a warning comes at half of the limit")
        life!.warnedInSilence = true
        return
      }
      case "Finish":
        this.finishes++
    }
  }

  spawn(attempt: number): void {
    const { life } = this
    this.check(attempt === ++this.attempts, "attempts rise by one")
    this.check(!this.spawning && !this.sweeping, "nothing of the last attempt is under way")
    this.check(!this.final, "what somebody ended is not started again")
    if (attempt > 1) {
      const { restart, restartLimits } = this.spec
      const reason = this.endedReason!
      this.check(
        restart === "permanent" || (restart === "transient" && isAbnormal(reason)),
        "its policy wants it"
      )
      this.restarts = [...this.restarts, this.now].filter((at) => this.now - at < restartLimits.periodMs)
      this.check(this.restarts.length <= restartLimits.intensity, "within its limits")
      if (!this.spawnFailed) {
        this.check(life?.certain === true && life.others === 0, "nothing of the last attempt may live")
        this.check(!life!.leaderAlive && life!.told, "one leader at a time")
      }
    }
    this.spawning = true
    this.spawnFailed = false
    this.endedReason = null
    this.alarm = null
    this.life = lifeAt(this.now, this.slept)
  }

  over(): void {
    const { life, state, spec } = this
    this.check(this.finishes === 1, "the end is told once")
    if (state._tag === "Lost") return this.check(this.abandoned, "only what is given up is lost")
    if (state._tag !== "Exited") return
    this.check(!this.spawning && !this.sweeping, "nothing is under way at the end")
    this.check(state.attempts === this.attempts, "it says how often it was tried")
    if (life === null) return this.check(state.noRestart === "not-wanted", "it never began")
    this.check(
      JSON.stringify(state.reason) === JSON.stringify(this.endedReason ?? life.reason),
      "the first reason stands"
    )
    const wanted =
      !this.final &&
      !(this.spawnFailed && this.attempts === 1) &&
      (spec.restart === "permanent" || (spec.restart === "transient" && isAbnormal(state.reason)))
    const { intensity, periodMs } = spec.restartLimits
    const spent = this.restarts.filter((at) => this.now - at < periodMs).length >= intensity
    const expected = !wanted ? "not-wanted" : spent ? "gave-up" : "uncertain"
    this.check(state.noRestart === expected, `why it ended is ${expected}`)
    if (this.spawnFailed) return this.check(state.status === null, "what never was has no status")
    if (expected === "uncertain")
      this.check(!life.certain || !life.told, "only a doubt keeps it from a restart")
    this.check(life.sweeps === 1 && life.sweptAt !== null, "what ended was swept")
    this.check(
      JSON.stringify(state.status) === JSON.stringify(life.told ? life.status : null),
      "a status that was told is kept"
    )
    if (!life.told && !life.leaderSurvives)
      this.check(
        this.now - life.sweptAt! - (this.slept - life.sleptBeforeSwept) >= statusWaitMs,
        "a status is waited for"
      )
  }

  /** Milliseconds awake since the last output, or since the start. */
  silence(): number {
    const { lastOutputAt, since, sleptBefore, sleptBeforeOutput } = this.life!
    return lastOutputAt === null
      ? this.now - since - (this.slept - sleptBefore)
      : this.now - lastOutputAt - (this.slept - sleptBeforeOutput)
  }
  elapsed(): number {
    return this.now - this.life!.since - (this.slept - this.life!.sleptBefore)
  }

  /** While it lives no limit was passed by more than lateness and what sleeps may add. */
  punctual(): void {
    const { life, spec } = this
    if (life === null || life.reason !== null || isOver(this.state)) return
    const slack = latenessMs + 1_000 + life.sleeps * excessMs
    const within = (limit: number | null, time: number) => limit === null || time <= limit + slack
    this.check(within(spec.timeoutMs, this.elapsed()), "the overall limit is kept")
    this.check(within(spec.idleTimeoutMs, this.silence()), "the limit of silence is kept")
    if (life.lastOutputAt === null)
      this.check(within(spec.startTimeoutMs, this.elapsed()), "the limit of a start is kept")
  }

  /** Which limit an alarm may have found passed; the one that passed first, if nothing was slept. */
  watchdog(): ExitReason | null {
    const { spec, life } = this
    if (life === null || life.reason !== null) return null
    const silentAt = (life.lastOutputAt ?? life.since) + (spec.idleTimeoutMs ?? 0)
    const due = [
      { limit: spec.timeoutMs, at: life.since + (spec.timeoutMs ?? 0), tag: "overall-timeout" },
      {
        limit: life.lastOutputAt === null ? spec.startTimeoutMs : null,
        at: life.since + (spec.startTimeoutMs ?? 0),
        tag: "startup-timeout"
      },
      { limit: spec.idleTimeoutMs, at: silentAt, tag: "no-output-timeout" }
    ] as const
    const first = due
      .filter(({ limit, at }) => limit !== null && at <= this.now)
      .toSorted((a, b) => a.at - b.at)[0]
    return first === undefined ? null : { _tag: first.tag, timeoutMs: first.limit! }
  }

  deliver(due: number): void {
    const before = this.state
    const first = this.watchdog()
    this.send({ _tag: "Alarm", due, at: this.now })
    const { state, life } = this
    const ending =
      state._tag === "Stopping"
        ? state.reason
        : state._tag === "Spawning"
          ? (state.ending?.reason ?? null)
          : null
    if (life === null || life.reason !== null || before._tag === "Stopping" || ending === null) return
    if (life.sleeps === 0)
      this.check(JSON.stringify(ending) === JSON.stringify(first), "the limit that passed first counts")
    switch (ending._tag) {
      case "overall-timeout":
        this.check(this.elapsed() >= this.spec.timeoutMs!, "the overall limit has passed")
        break
      case "startup-timeout":
        this.check(life.lastOutputAt === null, "a start ends with its first output")
        this.check(this.elapsed() >= this.spec.startTimeoutMs!, "the limit of a start has passed")
        break
      case "no-output-timeout":
        this.check(life.warnedInSilence, "it was warned")
        this.check(this.silence() >= this.spec.idleTimeoutMs!, "the limit of silence has passed")
        break
      default:
        this.check(false, "an alarm ends a run by a limit")
    }
    life.reason = ending
  }

  ring(): void {
    if (this.alarm === null || this.alarm > this.now) return
    const due = this.alarm
    this.alarm = null
    this.deliver(due)
  }

  /** No further than an alarm can be late. */
  advance(ms: number): void {
    const latest = this.alarm === null ? Infinity : Math.max(this.alarm, this.wokeAt) + latenessMs
    this.now = Math.max(this.now, Math.min(this.now + ms, latest))
  }

  sleep(): void {
    if (this.alarm !== null && this.alarm <= this.now) return
    const ms = pick(this.roll, [60_000, 3_600_000, 28_800_000])
    this.now += ms
    this.slept += ms
    this.wokeAt = this.now
    if (this.life !== null) this.life.sleeps++
  }

  spawned(): void {
    if (!this.spawning) return
    this.spawning = false
    const life = this.life!
    life.leaderAlive = life.status === null
    life.others = Math.floor(this.roll() * 3)
    this.send({ _tag: "Spawned", leader: { pid: this.attempts, startToken: "1" }, at: this.now })
  }

  spawnFails(): void {
    if (!this.spawning || this.life!.status !== null) return
    this.spawning = false
    this.spawnFailed = true
    this.endedReason = this.life!.reason ?? { _tag: "spawn-error", problem: "failed", detail: "" }
    this.send({ _tag: "SpawnFailed", problem: "failed", detail: "", at: this.now })
  }

  /** It exits by itself, perhaps before it could be named. */
  exits(): void {
    const { life } = this
    if (life === null || life.status !== null || !(life.leaderAlive || this.spawning)) return
    life.leaderAlive = false
    life.status = pick(this.roll, [
      { code: 0, signal: null },
      { code: 3, signal: null },
      { code: null, signal: "SIGSEGV" }
    ])
  }

  tellExit(): void {
    const { life } = this
    if (life === null || life.status === null || life.told) return
    life.told = true
    life.reason ??= reasonOf(life.status)
    this.endedReason ??= life.reason
    this.send({ _tag: "LeaderExited", status: life.status, at: this.now })
    this.check(!life.named || life.sweeps === 1 || this.abandoned, "whoever exits is swept at once")
  }

  output(): void {
    const { life } = this
    if (life === null || life.told || !(life.leaderAlive || life.status !== null)) return
    life.lastOutputAt = this.now
    life.sleptBeforeOutput = this.slept
    life.warnedInSilence = false
    this.send({ _tag: "Output", at: this.now })
  }

  swept(): void {
    if (!this.sweeping) return
    this.sweeping = false
    const life = this.life!
    const fate = this.roll()
    life.sweptAt = this.now
    life.sleptBeforeSwept = this.slept
    const survivors: Array<number> = []
    if (fate < 0.8) {
      if (life.leaderAlive) life.status = { code: null, signal: "SIGKILL" }
      life.leaderAlive = false
      life.others = 0
      life.certain = true
    } else if (fate < 0.9) {
      if (life.leaderAlive) survivors.push(this.attempts)
      else life.others++
      if (life.others > 0) survivors.push(99)
      life.leaderSurvives = life.leaderAlive
    } else {
      if (life.leaderAlive) life.status = { code: null, signal: "SIGKILL" }
      life.leaderAlive = false
    }
    this.endedReason ??= life.reason
    this.send({ _tag: "Swept", extinction: { proven: fate < 0.8, survivors }, at: this.now })
  }

  end(graceMs: number): void {
    const reason = pick<ExitReason>(this.roll, [
      { _tag: "stopped", by: "operator" },
      { _tag: "replaced", by: "another" },
      { _tag: "gateway-lost" }
    ])
    if (!isOver(this.state)) this.final ||= isFinal(reason)
    if (this.life !== null) this.life.reason ??= reason
    this.send({ _tag: "End", reason, graceMs, at: this.now })
    if (graceMs === 0 && this.life?.named === true && !this.abandoned)
      this.check(this.life.sweeps === 1, "without grace it is swept at once")
  }

  step(): void {
    const { roll } = this
    this.advance(Math.floor(roll() * 8) * 1_000)
    const fate = roll() * 100
    if (fate < 12) return this.spawned()
    if (fate < 16) return this.spawnFails()
    if (fate < 40) return this.ring()
    if (fate < 58) return this.output()
    if (fate < 64) return this.exits()
    if (fate < 74) return this.tellExit()
    if (fate < 84) return this.swept()
    if (fate < 87) return this.end(pick(roll, [0, 2_000, 60_000]))
    if (fate < 92) return this.sleep()
    if (fate < 95) return this.stale.length === 0 ? undefined : this.deliver(this.stale.shift()!)
    if (fate < 99) return this.send({ _tag: "Cleared", at: this.now })
    if (roll() < 0.05) {
      this.abandoned = true
      this.send({ _tag: "Abandoned", reason: "keeper-lost" })
    }
  }

  /** Somebody ends it, and everything that is under way comes to its end. */
  drain(): void {
    this.end(2_000)
    for (let round = 0; !isOver(this.state); round++) {
      this.check(round < 100, "a run that is to end comes to its end")
      this.advance(10_000)
      this.ring()
      this.spawned()
      this.swept()
      if (round % 2 === 1) this.tellExit()
    }
  }
}
