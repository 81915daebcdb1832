import { assert, describe, it } from "@effect/vitest"
import {
  backoffCapMs,
  backoffMs,
  deadMs,
  describeSession,
  healthyMs,
  idleSession,
  lookMs,
  nextSession,
  type SessionAction,
  type SessionEvent,
  type SessionState,
  unresponsiveMs
} from "../src/services/NodeSession.ts"
import { random as seeded } from "./support/random.ts"

const play = (events: ReadonlyArray<SessionEvent>, from: SessionState = idleSession) => {
  let state = from
  const actions: Array<SessionAction> = []
  for (const event of events) {
    const [next, more] = nextSession(state, event)
    state = next
    actions.push(...more)
  }
  return { state, actions, tags: actions.map(({ _tag }) => _tag) }
}

const opened = (at = 0): ReadonlyArray<SessionEvent> => [
  { _tag: "Start" },
  { _tag: "Opened", connectionId: 1, at }
]

describe("NodeSession", () => {
  it("connects, and says so once; what comes of another connection is dropped", () => {
    const { state, tags } = play([
      ...opened(),
      { _tag: "Start" },
      { _tag: "Closed", connectionId: 7, reason: "late", at: 5, roll: 0 },
      { _tag: "Heard", connectionId: 7, at: 9 },
      { _tag: "Opened", connectionId: 2, at: 6 }
    ])
    assert.deepStrictEqual(tags, ["Dial", "Connected", "Wait", "Close"])
    assert.deepStrictEqual([state._tag, describeSession(state)], ["Connected", "connected"])
    assert.strictEqual(state._tag === "Connected" && state.heardAt, 0)
  })

  it("a try that failed waits for anything up to a bound that doubles, and the cap is the cap", () => {
    assert.deepStrictEqual(
      [0, 1, 2, 5, 6, 60].map((attempt) => backoffMs(attempt, 0.999_999_9)),
      [499, 999, 1999, 15_999, 29_999, 29_999]
    )
    assert.strictEqual(backoffMs(60, 0), 0)
    const { state, actions } = play([
      { _tag: "Start" },
      { _tag: "Refused", reason: "nothing answers there", at: 100, roll: 0.5 },
      { _tag: "Look", at: 300, roll: 0 },
      { _tag: "Look", at: 600, roll: 0 },
      { _tag: "Refused", reason: "busy", at: 700, roll: 0.5 }
    ])
    assert.deepStrictEqual(actions, [
      { _tag: "Dial", attempt: 0 },
      { _tag: "Wait", ms: 500 },
      { _tag: "Wait", ms: 300 },
      { _tag: "Dial", attempt: 1 },
      { _tag: "Wait", ms: 1000 }
    ])
    assert.strictEqual(describeSession(state), "waits for try 3: busy")
  })

  it("a minute of health makes the next try a first one; less does not", () => {
    const attemptAfter = (at: number): number => {
      const { state } = play([{ _tag: "Closed", connectionId: 1, reason: "reset", at, roll: 0 }], {
        _tag: "Connected",
        connectionId: 1,
        since: 0,
        heardAt: at,
        lookedAt: at,
        health: "healthy",
        attempt: 7
      })
      return state._tag === "Backoff" ? state.attempt : -1
    }
    assert.deepStrictEqual([attemptAfter(healthyMs - 1), attemptAfter(healthyMs)], [8, 1])
  })

  it("silence is asked about, then shown, then deadly; one frame makes it well again", () => {
    const looks = (to: number): ReadonlyArray<SessionEvent> =>
      Array.from({ length: Math.floor(to / lookMs) }, (_, i) => ({
        _tag: "Look" as const,
        at: (i + 1) * lookMs,
        roll: 0
      }))
    const shown = play([...opened(), ...looks(unresponsiveMs + 5000)])
    assert.strictEqual(describeSession(shown.state), "connected, but unresponsive")
    assert.strictEqual(shown.tags.filter((tag) => tag === "Ping").length, 3)
    const well = play([{ _tag: "Heard", connectionId: 1, at: 31_000 }], shown.state)
    assert.strictEqual(describeSession(well.state), "connected")
    const dead = play([...opened(), ...looks(deadMs + 5000)])
    assert.deepStrictEqual(dead.tags.slice(-3), ["Close", "Disconnected", "Wait"])
    assert.strictEqual(dead.state._tag, "Backoff")
  })

  it("a machine that slept for an hour is not silent, and is asked first", () => {
    const { state, tags } = play([
      ...opened(),
      { _tag: "Look", at: lookMs, roll: 0 },
      { _tag: "Look", at: lookMs + 3_600_000, roll: 0 }
    ])
    assert.deepStrictEqual([state._tag, tags.at(-2)], ["Connected", "Ping"])
    const { state: gone } = play(
      [1, 2].map((i) => ({ _tag: "Look" as const, at: 3_600_000 + (i + 1) * lookMs, roll: 0 })),
      state
    )
    assert.strictEqual(gone._tag, "Backoff")
  })

  it("what nobody can mend by trying ends the trying, until it is started again", () => {
    const { state, tags } = play([
      ...opened(),
      { _tag: "Fatal", reason: "revoked" },
      { _tag: "Look", at: 9, roll: 0 },
      { _tag: "Refused", reason: "late", at: 9, roll: 0 },
      { _tag: "Fatal", reason: "again" }
    ])
    assert.deepStrictEqual(tags.slice(3), ["Disconnected", "Close", "GiveUp"])
    assert.strictEqual(describeSession(state), "gave up: revoked")
    assert.strictEqual(play([{ _tag: "Start" }], state).state._tag, "Connecting")
    assert.deepStrictEqual(play([...opened(), { _tag: "Stop" }]).tags.slice(3), ["Disconnected", "Close"])
  })

  it("in any order of events: told of each connection once, and never two at a time", () => {
    const random = seeded(11)
    for (let trial = 0; trial < 2_000; trial++) {
      let state: SessionState = idleSession
      let at = 0
      let ids = 0
      let open: number | null = null
      const told: Array<string> = []
      for (let step = 0; step < 60; step++) {
        at += Math.floor(random() * 20_000)
        const roll = random()
        const any = Math.ceil(random() * (ids + 1))
        const events: ReadonlyArray<SessionEvent> = [
          { _tag: "Start" },
          { _tag: "Opened", connectionId: ++ids, at },
          { _tag: "Refused", reason: "r", at, roll },
          { _tag: "Closed", connectionId: any, reason: "c", at, roll },
          { _tag: "Heard", connectionId: any, at },
          { _tag: "Look", at, roll },
          { _tag: "Look", at, roll },
          { _tag: random() < 0.1 ? "Stop" : "Start" }
        ]
        const [next, actions] = nextSession(state, events[Math.floor(random() * events.length)]!)
        state = next
        for (const action of actions) {
          if (action._tag === "Connected") {
            assert.isNull(open)
            open = action.connectionId
            told.push(`+${open}`)
          }
          if (action._tag === "Disconnected") {
            assert.strictEqual(action.connectionId, open)
            told.push(`-${action.connectionId}`)
            open = null
          }
          if (action._tag === "Wait") assert.isTrue(action.ms >= 0 && action.ms <= backoffCapMs)
        }
        assert.strictEqual(state._tag === "Connected", open !== null)
      }
      assert.strictEqual(new Set(told).size, told.length)
    }
  })
})
