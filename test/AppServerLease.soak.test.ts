/** The lease's machine against random schedules. Small and seeded here; in full by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import { AppServerLost, AppServerUnavailable } from "../src/services/AppServerFailure.ts"
import type { Intensity } from "../src/services/AppServerLease.ts"
import type { AppServerConnection } from "../src/services/AppServerProcess.ts"
import {
  absentLease,
  isCircuitOpen,
  type LeaseAction,
  type LeaseEvent,
  type LeaseState,
  maxCooldownMs,
  nextLease
} from "../src/services/LeaseState.ts"
import { random } from "./support/random.ts"

/** The least that the full hunt has to run. */
const promised = 100_000
const isFull = Boolean(process.env["HOLDFAST_SOAK"])
const schedules = isFull ? 200_000 : 2_000
const steps = 60
/** Time moves in steps that meet every limit exactly, too. */
const tickMs = 100
const idleMs = 300

const intensity: Intensity = { faults: 2, periodMs: 1000, cooldownMs: 400 }
const next = nextLease(intensity)

const failure = new AppServerUnavailable({ stage: "spawn", problem: "test" })
const lost = (generation: number) =>
  new AppServerLost({ generation, reason: { _tag: "stdio-closed" }, stderrTail: "" })

/** How often things happen, by weight. */
type Weather = Readonly<Record<keyof (typeof weathers)["mixed"], number>>
const weathers = {
  mixed: {
    borrow: 24,
    giveBack: 20,
    start: 11,
    startFails: 5,
    death: 10,
    lateNews: 2,
    exit: 12,
    stuck: 1,
    drain: 4,
    reset: 2,
    timer: 9
  },
  /** Few borrowers: the child is often idle. */
  calm: {
    borrow: 20,
    giveBack: 40,
    start: 20,
    startFails: 0,
    death: 1,
    lateNews: 1,
    exit: 10,
    stuck: 0,
    drain: 1,
    reset: 0,
    timer: 20
  },
  /** Nothing comes up, and an operator keeps saying that the cause is gone. */
  storm: {
    borrow: 20,
    giveBack: 5,
    start: 3,
    startFails: 20,
    death: 5,
    lateNews: 2,
    exit: 20,
    stuck: 3,
    drain: 2,
    reset: 6,
    timer: 14
  }
}
const kinds = Object.values(weathers)
const totalOf = (weather: Weather): number => Object.values(weather).reduce((sum, weight) => sum + weight, 0)

type Timer = { readonly due: number; readonly event: LeaseEvent }

/** What the circuit has to be, reckoned from what happened and not from the lease's state. */
class Reckoning {
  times: Array<number> = []
  openings = 0
  open = false
  until = 0

  fault(at: number, upMs: number): void {
    if (upMs >= intensity.periodMs) this.openings = 0
    this.times = [...this.times.filter((time) => at - time < intensity.periodMs), at]
    if (this.times.length > intensity.faults || this.openings > 0) this.opens(at, true)
  }
  opens(at: number, again: boolean): void {
    if (again) this.openings++
    this.open = true
    this.until = at + Math.min(intensity.cooldownMs * 2 ** (this.openings - 1), maxCooldownMs)
  }
  elapsed(): void {
    this.times = []
    this.open = false
  }
  reset(): void {
    this.elapsed()
    this.openings = 0
  }
}

/** The world a lease lives in: children that start, fail, die and stay, claims, timers that fire late, a clock. */
class World {
  now = 0
  state: LeaseState = absentLease(0)
  readonly reckoning = new Reckoning()
  starting: number | null = null
  /** Up, by the time they came up. */
  readonly running = new Map<number, number>()
  /** Told to stop, and not yet reported as gone or given up. */
  readonly leaving: Array<number> = []
  readonly told = new Set<number>()
  readonly timers: Array<Timer> = []
  readonly open = new Set<number>()
  readonly answered = new Set<number>()
  /** Who was given the child that runs, and has not given it back. */
  readonly held = new Set<number>()
  idleSince = 0
  /** Another key is in use, and nobody has borrowed this child since. */
  unwanted = false
  claims = 0
  lastStarted = 0
  /** One was given up on, and neither a circuit has elapsed nor an operator spoken since. */
  stray = false

  check(ok: boolean, what: string): void {
    if (!ok) assert.fail(`${what} (${JSON.stringify(this.state, (_, v) => (v instanceof Set ? [...v] : v))})`)
  }

  send(event: LeaseEvent): void {
    const [state, actions] = next(this.state, event)
    this.state = state
    for (const action of actions) this.perform(action)
    const { times, openings, open } = this.reckoning
    this.check(isCircuitOpen(state) === open, "the circuit is open when it has to be")
    this.check(state.faults.openings === openings, "it opens again at once only until a child has lasted")
    this.check(
      state.faults.times.join(" ") === times.slice(-(intensity.faults + 1)).join(" "),
      "its faults are those of late"
    )
    if (this.unwanted && this.held.size === 0)
      this.check(
        [...this.running.keys()].every((child) => this.told.has(child)),
        "who is unwanted leaves"
      )
  }

  perform(action: LeaseAction): void {
    switch (action._tag) {
      case "Start":
        this.check(action.generation > this.lastStarted, "generations rise")
        this.check(this.starting === null && this.running.size + this.leaving.length === 0, "one child")
        this.check(!this.stray, "none is started beside one that was given up on")
        this.check(!this.reckoning.open, "none is started while the circuit is open")
        this.lastStarted = action.generation
        this.unwanted = false
        this.starting = action.generation
        return
      case "Stop":
        this.check(!this.told.has(action.generation), "a child is told to stop once")
        this.check(action.generation === this.lastStarted, "what is told to stop runs")
        this.told.add(action.generation)
        this.held.clear()
        this.leaving.push(action.generation)
        return
      case "Grant":
        this.answer(action.claim)
        this.check(this.running.has(action.connection.generation), "what is given runs")
        this.check(!this.told.has(action.connection.generation), "what is given was not told to stop")
        this.held.add(action.claim)
        return
      case "Refuse":
        this.answer(action.claim)
        if (action.error._tag === "LeaseCircuitOpen") {
          this.check(this.reckoning.open, "the circuit refuses while it is open")
          this.check(action.error.until === this.reckoning.until, "it says until when")
        }
        return
      case "StartIdleTimer":
        this.timers.push({ due: this.now + idleMs, event: { ...action, _tag: "IdleElapsed" } })
        return
      case "StartCircuitTimer":
        this.check(action.until === this.reckoning.until, "the circuit cools as long as it says")
        this.timers.push({
          due: action.until,
          event: { _tag: "CircuitElapsed", generation: action.generation }
        })
        return
      case "NoteLost":
        this.check(this.told.has(action.error.generation) === false, "who was told to leave is not lost")
        return
      case "NoteGone":
    }
  }

  answer(claim: number): void {
    this.check(this.open.has(claim), "only who asked is answered")
    this.check(!this.answered.has(claim), "a claim is answered once")
    this.answered.add(claim)
  }

  borrow(): void {
    const claim = ++this.claims
    this.open.add(claim)
    const wasOpen = this.reckoning.open
    this.unwanted = false
    this.send({ _tag: "Borrow", claim })
    if (wasOpen) this.check(this.answered.has(claim), "an open circuit refuses at once")
  }
  giveBack(claim: number): void {
    this.open.delete(claim)
    if (this.held.delete(claim) && this.held.size === 0) this.idleSince = this.now
    this.send({ _tag: "GiveBack", claim })
  }
  started(fails: boolean): void {
    const generation = this.starting
    if (generation === null) return
    this.starting = null
    const at = this.now
    if (fails) {
      this.reckoning.fault(at, 0)
      this.send({ _tag: "StartFailed", generation, error: failure, at })
    } else {
      this.running.set(generation, at)
      this.idleSince = at
      this.send({ _tag: "Started", generation, connection: { generation } as AppServerConnection, at })
    }
  }
  /** Of a child that was told to stop, or has gone long since, this is late news. */
  dies(generation: number): void {
    const since = this.running.get(generation)
    if (since !== undefined && !this.told.has(generation)) this.reckoning.fault(this.now, this.now - since)
    this.send({ _tag: "Lost", generation, error: lost(generation), at: this.now })
  }
  stopped(confirmed: boolean): void {
    const generation = this.leaving.shift()
    if (generation === undefined) return
    // In peace: it was up, and its end was not a fault.
    const inPeace = this.running.delete(generation) && this.state._tag === "Draining"
    if (!confirmed) {
      this.reckoning.opens(this.now, !this.reckoning.open)
      this.stray = true
    } else if (inPeace) this.reckoning.openings = 0
    this.send({
      _tag: "Stopped",
      generation,
      gone: { confirmed, code: null, signal: null },
      at: this.now
    })
  }
  timer(index: number): void {
    const timer = this.timers.splice(index, 1)[0]
    if (!timer) return
    this.now = Math.max(this.now, timer.due)
    const { event } = timer
    if (event._tag === "CircuitElapsed" && this.state._tag === "OpenCircuit") {
      if (event.generation === this.state.generation) {
        this.check(this.now >= this.reckoning.until, "the circuit is not closed before its time")
        this.reckoning.elapsed()
        this.stray = false
      }
    }
    const told = this.told.size
    this.send(event)
    if (this.told.size > told) this.check(this.now - this.idleSince >= idleMs, "an idle child has its grace")
  }
  drainNow(): void {
    this.unwanted = this.starting !== null || [...this.running.keys()].some((child) => !this.told.has(child))
    this.send({ _tag: "Drain" })
  }
  reset(): void {
    this.reckoning.reset()
    if (this.state._tag === "OpenCircuit") this.stray = false
    this.send({ _tag: "Reset" })
  }

  step(roll: () => number, weather: Weather): void {
    const pick = <A>(all: Iterable<A>): A | undefined => {
      const list = [...all]
      return list[Math.floor(roll() * list.length)]
    }
    this.now += tickMs * Math.floor(roll() * 2)
    const claim = pick(this.open)
    const child = pick(this.running.keys())
    let rest = roll() * totalOf(weather)
    const falls = (what: keyof Weather): boolean => (rest -= weather[what]) < 0
    if (falls("borrow")) this.borrow()
    else if (falls("giveBack")) return claim === undefined ? undefined : this.giveBack(claim)
    else if (falls("start")) this.started(false)
    else if (falls("startFails")) this.started(true)
    else if (falls("death")) return child === undefined ? undefined : this.dies(child)
    else if (falls("lateNews")) this.dies(Math.floor(roll() * (this.lastStarted + 1)))
    else if (falls("exit")) this.stopped(true)
    else if (falls("stuck")) this.stopped(false)
    else if (falls("drain")) this.drainNow()
    else if (falls("reset")) this.reset()
    else this.timer(Math.floor(roll() * this.timers.length))
  }

  /** Everything that is under way comes to its end. */
  drain(): void {
    while (this.starting !== null || this.leaving.length > 0) {
      this.started(false)
      this.stopped(true)
    }
  }
}

/** The full hunt takes about half a minute; a loop that hangs is still told from one that works. */
const soakTimeoutMs = 300_000

describe("AppServerLease, by schedules", () => {
  it(
    `in ${schedules} random schedules: one child, told to stop once, each claim answered once, nothing left`,
    () => {
      if (isFull) assert.isAtLeast(schedules, promised)
      const seen = new Map<string, number>()
      for (let seed = 1; seed <= schedules; seed++) {
        const world = new World()
        const roll = random(seed)
        for (let step = 0; step < steps; step++) {
          world.step(roll, kinds[seed % kinds.length]!)
          seen.set(world.state._tag, (seen.get(world.state._tag) ?? 0) + 1)
        }
        world.drain()
        for (const claim of world.open)
          if (!world.answered.has(claim)) assert.fail(`seed ${seed}: claim ${claim} waits`)
        for (const claim of world.open) world.giveBack(claim)
        world.drain()
        while (world.timers.length > 0) world.timer(0)
        world.drain()
        assert.deepStrictEqual(
          { seed, state: world.state._tag, running: world.running.size, leaving: world.leaving.length },
          { seed, state: "Absent", running: 0, leaving: 0 }
        )
      }
      // A hunt that never meets a state proves nothing about it.
      for (const state of ["Absent", "Starting", "Ready", "Draining", "Retired", "OpenCircuit"])
        assert.isAbove(seen.get(state) ?? 0, schedules, state)
    },
    soakTimeoutMs
  )
})
