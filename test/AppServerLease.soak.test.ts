/** The lease's machine against random schedules. Small and seeded here; in full by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import {
  absentLease,
  type LeaseAction,
  type LeaseEvent,
  type LeaseState,
  nextLease
} from "../src/services/AppServerLease.ts"
import {
  type AppServerConnection,
  AppServerLost,
  AppServerUnavailable
} from "../src/services/AppServerProcess.ts"
import { random } from "./support/random.ts"

const schedules = process.env["HOLDFAST_SOAK"] ? 200_000 : 2_000
const steps = 40

const failure = new AppServerUnavailable({ stage: "spawn", problem: "test" })
const lost = (generation: number) =>
  new AppServerLost({ generation, reason: { _tag: "stdio-closed" }, stderrTail: "" })

/** The world a lease lives in: children that start, fail and die, claims that come and go, timers that fire late. */
class World {
  state: LeaseState = absentLease(0)
  readonly starting: Array<number> = []
  readonly running = new Set<number>()
  readonly stopping: Array<number> = []
  readonly timers: Array<{ readonly generation: number; readonly idleTimer: number }> = []
  readonly open = new Set<number>()
  readonly answered = new Map<number, number>()
  claims = 0
  lastStarted = 0

  send(event: LeaseEvent): void {
    const [state, actions] = nextLease(this.state, event)
    this.state = state
    for (const action of actions) this.perform(action)
  }

  perform(action: LeaseAction): void {
    switch (action._tag) {
      case "Start":
        assert.isAbove(action.generation, this.lastStarted, "generations rise")
        assert.strictEqual(this.starting.length + this.running.size + this.stopping.length, 0, "one child")
        this.lastStarted = action.generation
        this.starting.push(action.generation)
        return
      case "Stop":
        this.running.delete(action.generation)
        this.stopping.push(action.generation)
        return
      case "Grant":
        assert.isTrue(this.open.has(action.claim), "only who asked is given")
        assert.isFalse(this.answered.has(action.claim), "a claim is answered once")
        assert.isTrue(this.running.has(action.connection.generation), "what is given runs")
        this.answered.set(action.claim, action.connection.generation)
        return
      case "Refuse":
        assert.isTrue(this.open.has(action.claim), "only who asked is refused")
        assert.isFalse(this.answered.has(action.claim), "a claim is answered once")
        this.answered.set(action.claim, 0)
        return
      case "StartIdleTimer":
        this.timers.push({ generation: action.generation, idleTimer: action.idleTimer })
        return
      case "NoteLost":
    }
  }

  borrow(): void {
    this.open.add(++this.claims)
    this.send({ _tag: "Borrow", claim: this.claims })
  }
  giveBack(claim: number): void {
    this.open.delete(claim)
    this.send({ _tag: "GiveBack", claim })
  }
  started(fails: boolean): void {
    const generation = this.starting.shift()
    if (generation === undefined) return
    this.running.add(generation)
    if (fails) this.send({ _tag: "StartFailed", generation, error: failure })
    else this.send({ _tag: "Started", generation, connection: { generation } as AppServerConnection })
  }
  dies(generation: number): void {
    this.send({ _tag: "Lost", generation, error: lost(generation) })
  }
  stopped(): void {
    const generation = this.stopping.shift()
    if (generation !== undefined) this.send({ _tag: "Stopped", generation })
  }
  timer(index: number): void {
    const timer = this.timers.splice(index, 1)[0]
    if (timer) this.send({ _tag: "IdleElapsed", ...timer })
  }

  step(next: () => number): void {
    const pick = <A>(all: Iterable<A>): A | undefined => {
      const list = [...all]
      return list[Math.floor(next() * list.length)]
    }
    const roll = next()
    const claim = pick(this.open)
    const child = pick(this.running)
    if (roll < 0.25) this.borrow()
    else if (roll < 0.5 && claim !== undefined) this.giveBack(claim)
    else if (roll < 0.65) this.started(next() < 0.3)
    else if (roll < 0.75 && child !== undefined) this.dies(child)
    else if (roll < 0.9) this.stopped()
    else if (this.timers.length > 0) this.timer(Math.floor(next() * this.timers.length))
  }

  /** Everything that is under way comes to its end. */
  drain(): void {
    while (this.starting.length + this.stopping.length > 0) {
      this.started(false)
      this.stopped()
    }
  }
}

/** The full hunt takes about twenty seconds; a loop that hangs is still told from one that works. */
const soakTimeoutMs = 300_000

describe("AppServerLease, by schedules", () => {
  it(
    `in ${schedules} random schedules: one child, each claim answered once, nothing left`,
    () => {
      for (let seed = 1; seed <= schedules; seed++) {
        const world = new World()
        const next = random(seed)
        for (let step = 0; step < steps; step++) world.step(next)
        world.drain()
        for (const claim of world.open)
          assert.isTrue(world.answered.has(claim), `seed ${seed}: claim ${claim} waits`)
        for (const claim of world.open) world.giveBack(claim)
        world.drain()
        while (world.timers.length > 0) world.timer(0)
        world.drain()
        assert.deepStrictEqual(
          { seed, state: world.state._tag, running: world.running.size, stopping: world.stopping.length },
          { seed, state: "Absent", running: 0, stopping: 0 }
        )
      }
    },
    soakTimeoutMs
  )
})
