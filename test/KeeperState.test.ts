/** KeeperState: when a keeper ends whom, and when it leaves, by tables and by random lives. */
import { assert, describe, it } from "@effect/vitest"
import {
  firstAttachMs,
  endingLookMs,
  freshKeeper,
  type HeldRun,
  type KeeperAction,
  type KeeperEvent,
  type KeeperState,
  nextKeeper
} from "../src/services/KeeperState.ts"
import { random as seeded } from "./support/random.ts"

const adopt = (runId: string, adoptGraceMs = 30_000): HeldRun => ({
  runId,
  onGatewayLoss: "adopt",
  adoptGraceMs,
  ending: false
})
const kill = (runId: string): HeldRun => ({ ...adopt(runId), onGatewayLoss: "kill" })

const after = (events: ReadonlyArray<KeeperEvent>, from: KeeperState = freshKeeper(0)[0]) => {
  let state = from
  let actions: ReadonlyArray<KeeperAction> = []
  for (const event of events) [state, actions] = nextKeeper(state, event)
  return { state: state._tag, actions }
}

const attached: KeeperEvent = { _tag: "Attached", session: 1 }
const lost = (at: number, session = 1): KeeperEvent => ({ _tag: "Lost", session, at })
const looked = (at: number, ...runs: ReadonlyArray<HeldRun>): KeeperEvent => ({ _tag: "Looked", runs, at })

describe("KeeperState", () => {
  it("a keeper that nobody attaches to leaves after its first wait, and not before", () => {
    assert.deepStrictEqual(
      [after([looked(firstAttachMs - 1)]), after([looked(firstAttachMs)])],
      [
        { state: "Unattended", actions: [{ _tag: "Look", due: firstAttachMs }] },
        { state: "Leaving", actions: [{ _tag: "Leave" }] }
      ]
    )
  })

  it("with a gateway nothing ends and nobody looks", () => {
    assert.deepStrictEqual(after([attached, looked(1_000_000, kill("a"), adopt("b", 1))]), {
      state: "Attended",
      actions: []
    })
  })

  it("a lost gateway ends at once what is to be killed then, and once", () => {
    const events = [attached, lost(100), looked(100, kill("a"), adopt("b", 500))]
    assert.deepStrictEqual(
      [after(events), after([...events, looked(350, { ...kill("a"), ending: true }, adopt("b", 500))])],
      [
        {
          state: "Unattended",
          actions: [
            { _tag: "EndLost", runId: "a" },
            { _tag: "Look", due: 100 + endingLookMs }
          ]
        },
        { state: "Unattended", actions: [{ _tag: "Look", due: 350 + endingLookMs }] }
      ]
    )
  })

  it("each of the others has its own grace from the loss on", () => {
    const events = [attached, lost(0), looked(0, adopt("a", 300), adopt("b", 900))]
    assert.deepStrictEqual(
      [299, 300, 900].map((at) =>
        after([...events, looked(at, adopt("a", 300), adopt("b", 900))])
          .actions.map(({ _tag }) => _tag)
          .join()
      ),
      ["Look", "EndLost,Look", "EndLost,EndLost,Look"]
    )
  })

  it("the next gateway in time keeps them all, and its own loss begins a grace anew", () => {
    const events: ReadonlyArray<KeeperEvent> = [
      attached,
      lost(0),
      looked(0, adopt("a", 300)),
      { _tag: "Attached", session: 2 },
      looked(10_000, adopt("a", 300))
    ]
    assert.deepStrictEqual(
      [after(events), after([...events, lost(20_000, 2), looked(20_299, adopt("a", 300))])],
      [
        { state: "Attended", actions: [] },
        { state: "Unattended", actions: [{ _tag: "Look", due: 20_300 }] }
      ]
    )
  })

  it("the loss of a gateway that another has followed is nobody's", () => {
    assert.strictEqual(after([attached, { _tag: "Attached", session: 2 }, lost(5, 1)]).state, "Attended")
  })

  it("leaves when all that it held has ended, and when it is told to", () => {
    assert.deepStrictEqual(
      [after([attached, lost(7), looked(7)]), after([attached, { _tag: "Down" }])],
      [
        { state: "Leaving", actions: [{ _tag: "Leave" }] },
        { state: "Leaving", actions: [{ _tag: "Leave" }] }
      ]
    )
  })

  it("in random lives nobody is ended beside a gateway, no grace is cut short, nobody is told twice, and every life ends", () => {
    const random = seeded(20_261_128)
    const broken: Array<string> = []
    for (let life = 0; life < 2_000; life++) {
      const runs = new Map(
        Array.from({ length: Math.floor(random() * 6) }, (_, index) => {
          const one =
            random() < 0.3 ? kill(`r${index}`) : adopt(`r${index}`, 1 + Math.floor(random() * 2_000))
          return [one.runId, one] as const
        })
      )
      let at = 0
      let lostAt = 0
      let session = 0
      let [state, actions] = freshKeeper(0)
      let told = new Set<string>()
      const end = { left: false }
      const step = (event: KeeperEvent) => {
        ;[state, actions] = nextKeeper(state, event)
        for (const action of actions) {
          if (action._tag === "Leave") end.left = true
          if (action._tag !== "EndLost") continue
          const run = runs.get(action.runId)
          if (state._tag === "Attended") broken.push(`life ${life}: ended beside a gateway`)
          if (told.has(action.runId)) broken.push(`life ${life}: told twice`)
          if (run?.onGatewayLoss === "adopt" && at < lostAt + run.adoptGraceMs)
            broken.push(`life ${life}: too early`)
          told.add(action.runId)
          if (random() < 0.9) runs.delete(action.runId)
        }
      }
      for (let turn = 0; turn < 400 && !end.left; turn++) {
        at += Math.floor(random() * 200)
        const dice = turn < 200 ? random() : 1
        if (dice < 0.05) {
          step({ _tag: "Attached", session: ++session })
          told = new Set()
        } else if (dice < 0.1 || (turn === 200 && session > 0)) {
          lostAt = state._tag === "Attended" ? at : lostAt
          step({ _tag: "Lost", session, at })
        } else step({ _tag: "Looked", runs: [...runs.values()], at })
        if (turn > 300) runs.clear()
      }
      if (!end.left) broken.push(`life ${life}: never left`)
    }
    assert.deepStrictEqual(broken, [])
  })
})
