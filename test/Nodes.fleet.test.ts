/** A thousand nodes and a gateway that is started anew, by the machines of both ends and by a clock that nobody waits for. */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberHandle from "effect/FiberHandle"
import * as TestClock from "effect/testing/TestClock"
import * as Actor from "../src/services/Actor.ts"
import {
  type Admission,
  admissionsPerSecond,
  fullAdmission,
  nextAdmission
} from "../src/services/NodeAdmission.ts"
import {
  describeSession,
  healthyMs,
  idleSession,
  nextSession,
  type SessionAction,
  type SessionEvent,
  type SessionState
} from "../src/services/NodeSession.ts"
import { random as seeded } from "./support/random.ts"

const nodes = 1_000
/** From the end of one gateway to the door of the next. */
const closedMs = 2_000
/** By then everybody is back. */
const backMs = 60_000
/** A bucket that was full, and what drips into it within the second. */
const mostInASecond = 2 * admissionsPerSecond

/** The gateway's end: who is in, by node, and everything that it was told. */
const makeDoor = () => {
  let admission: Admission | null = null
  const inside = new Map<number, number>()
  const accepts: Array<number> = []
  const told: Array<string> = []
  let registrations = 0
  return {
    inside,
    accepts,
    told,
    open: (at: number): void => {
      admission = fullAdmission(at)
      registrations = 0
    },
    /** The process is gone, and so is what it knew of who is in; the other end has yet to hear of it. */
    close: (): ReadonlyMap<number, number> => {
      const before = new Map(inside)
      admission = null
      inside.clear()
      return before
    },
    /** What the one at the door makes of it. */
    knock: (node: number, at: number, roll: number): SessionEvent => {
      if (admission === null) return { _tag: "Refused", reason: "nothing answers there", at, roll }
      const [next, isLetIn] = nextAdmission(admission, at)
      admission = next
      if (!isLetIn) return { _tag: "Refused", reason: "closed", at, roll }
      const connectionId = accepts.push(at)
      registrations++
      inside.set(node, connectionId)
      return { _tag: "Opened", connectionId, at }
    },
    /** Since this door was opened; with everybody in once it is as many as there are nodes. */
    registrations: () => registrations
  }
}
type Door = ReturnType<typeof makeDoor>

const mostWithinASecond = (times: ReadonlyArray<number>): number => {
  let [most, first] = [0, 0]
  for (const [index, at] of times.entries()) {
    while (at - times[first]! >= 1000) first++
    most = Math.max(most, index - first + 1)
  }
  return most
}

/** One that is gone has been told of twice, one that stands once, and nothing else of anybody. */
const assertToldOnce = ({ told, accepts, inside }: Door): void => {
  const standing = new Set(inside.values())
  const expected = accepts.flatMap((_, index) =>
    standing.has(index + 1) ? [`+${index + 1}`] : [`+${index + 1}`, `-${index + 1}`]
  )
  assert.deepStrictEqual(told.toSorted(), expected.toSorted())
}

/** Both ends agree on every connection, each node is in once, and it came in once since the door was opened. */
const assertAllIn = (door: Door, states: ReadonlyArray<SessionState>): void => {
  assert.deepStrictEqual(
    states.map((state) => (state._tag === "Connected" ? state.connectionId : describeSession(state))),
    states.map((_, node) => door.inside.get(node) ?? "not in")
  )
  assert.deepStrictEqual([door.inside.size, door.registrations()], [nodes, nodes])
}

const told = (door: Door, action: SessionAction): void => {
  if (action._tag === "Connected") door.told.push(`+${action.connectionId}`)
  else if (action._tag === "Disconnected") door.told.push(`-${action.connectionId}`)
}

const startNode = Effect.fnUntraced(function* (node: number, door: Door, random: () => number) {
  const waiting = yield* FiberHandle.make<void>()
  const now = Clock.currentTimeMillis
  const perform = (action: SessionAction, self: Actor.Self<SessionEvent>): Effect.Effect<void> => {
    const soon = (event: (at: number) => SessionEvent) =>
      Effect.map(now, (at) => void self.tellUnsafe(event(at)))
    switch (action._tag) {
      case "Dial":
        return soon((at) => door.knock(node, at, random()))
      case "Wait":
        return Effect.asVoid(
          FiberHandle.run(
            waiting,
            Effect.delay(
              soon((at) => ({ _tag: "Look", at, roll: random() })),
              action.ms
            )
          )
        )
      case "Ping":
        return soon((at) => ({ _tag: "Heard", connectionId: action.connectionId, at }))
      default:
        return Effect.sync(() => told(door, action))
    }
  }
  return yield* Actor.start<SessionState, SessionEvent, SessionAction, never>({
    name: `node ${node}`,
    initial: () => idleSession,
    next: nextSession,
    perform,
    mailbox: { capacity: 16, overflow: "refuse" },
    describe: describeSession
  })
})

/** The same without fibers, a hundred times as fast: one queue of who looks when. `restarts`: when, in order. */
const play = (seed: number, restarts: ReadonlyArray<number>) => {
  const random = seeded(seed)
  const door = makeDoor()
  const states = Array.from({ length: nodes }, (): SessionState => idleSession)
  const looksAt = states.map(() => -1)
  const queue = new Map<number, Array<number>>()
  const tell = (node: number, event: SessionEvent, at: number): void => {
    const [next, actions] = nextSession(states[node]!, event)
    states[node] = next
    for (const action of actions) {
      if (action._tag === "Dial") tell(node, door.knock(node, at, random()), at)
      else if (action._tag === "Ping")
        tell(node, { _tag: "Heard", connectionId: action.connectionId, at }, at)
      else if (action._tag === "Wait") {
        const due = Math.max(at + action.ms, at + 1)
        looksAt[node] = due
        const others = queue.get(due)
        if (others === undefined) queue.set(due, [node])
        else others.push(node)
      } else told(door, action)
    }
  }
  door.open(0)
  for (const node of states.keys()) tell(node, { _tag: "Start" }, 0)
  for (let at = 0; at <= restarts.at(-1)! + closedMs + backMs; at++) {
    if (restarts.includes(at))
      for (const [node, connectionId] of door.close())
        tell(node, { _tag: "Closed", connectionId, reason: "reset", at, roll: random() }, at)
    if (restarts.includes(at - closedMs)) door.open(at)
    const due = queue.get(at) ?? []
    queue.delete(at)
    for (const node of due) if (looksAt[node] === at) tell(node, { _tag: "Look", at, roll: random() }, at)
  }
  return { door, states, lastAt: door.accepts.at(-1)! - restarts.at(-1)! - closedMs }
}

describe("a thousand nodes", () => {
  it.effect(
    "the gateway ends and comes back: let in at a rate, all within a minute, none twice, each told once",
    () =>
      Effect.gen(function* () {
        const random = seeded(1)
        const door = makeDoor()
        const all = yield* Effect.forEach(Array.from({ length: nodes }).keys(), (node) =>
          startNode(node, door, seeded(random() * 2 ** 32))
        )
        const states = Effect.forEach(all, ({ state }) => state)
        door.open(yield* Clock.currentTimeMillis)
        yield* Effect.forEach(all, ({ tell }) => tell({ _tag: "Start" }))
        yield* TestClock.adjust(backMs)
        assertAllIn(door, yield* states)
        yield* TestClock.adjust(healthyMs)
        assertAllIn(door, yield* states)
        const at = yield* Clock.currentTimeMillis
        for (const [node, connectionId] of door.close())
          yield* all[node]!.tell({ _tag: "Closed", connectionId, reason: "reset", at, roll: random() })
        yield* TestClock.adjust(closedMs)
        assert.isFalse((yield* states).some(({ _tag }) => _tag === "Connected"))
        door.open(yield* Clock.currentTimeMillis)
        yield* TestClock.adjust(backMs)
        assertAllIn(door, yield* states)
        assert.isAtMost(mostWithinASecond(door.accepts), mostInASecond)
        assertToldOnce(door)
      })
  )

  it("with any dice, after a long time and again soon after it", () => {
    const long = backMs + 2 * healthyMs
    for (let seed = 1; seed <= 20; seed++)
      for (const restarts of seed % 4 === 0 ? [[long], [long, long + 22_000]] : [[long]]) {
        const { door, states, lastAt } = play(seed, restarts)
        assertAllIn(door, states)
        assert.isAtMost(lastAt, backMs)
        assert.isAtMost(mostWithinASecond(door.accepts), mostInASecond)
        assertToldOnce(door)
      }
  })
})
