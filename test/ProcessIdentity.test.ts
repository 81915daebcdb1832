/** The rules of identity, and the fake that the other tests rely on. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import {
  gone,
  isPid,
  parsePs,
  parseStat,
  ProcessIdentity,
  type Sighting,
  unreadable,
  verdictOf
} from "../src/services/ProcessIdentity.ts"
import { FakeProcessIdentity, identity, layer } from "../src/testing/ProcessIdentity.ts"

const stat = (command: string, state = "S", threads = 1) =>
  `4711 (${command}) ${state} 17 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 ${threads} 0 998877 1 2 3 18446744073709551615\n`

const running = (command: string): Sighting => ({
  _tag: "Running",
  startToken: "998877",
  parent: 17,
  command
})

describe("ProcessIdentity", () => {
  it("reads the start token behind any command name", () => {
    const names = ["node", "a b", "x) S 1 (y", "((", "))", "tmux: server", "new\nline", "", "4711 (z) R 9"]
    assert.deepStrictEqual(
      names.map((name) => parseStat(stat(name))),
      names.map(running)
    )
  })

  it("takes a zombie and a corpse for dead, and every other state for alive", () => {
    assert.deepStrictEqual(
      ["Z", "X", "x", "R", "S", "D", "T", "t", "I"].map((state) => parseStat(stat("node", state))._tag),
      ["Gone", "Gone", "Gone", "Running", "Running", "Running", "Running", "Running", "Running"]
    )
  })

  it("takes a process whose first thread has ended but whose others run for alive", () => {
    assert.deepStrictEqual(parseStat(stat("python", "Z", 2)), running("python"))
  })

  it("does not guess from a line that is cut short or empty", () => {
    assert.deepStrictEqual(["", "4711 (node", "4711 (node) S 17 4711", "nonsense"].map(parseStat), [
      unreadable,
      unreadable,
      unreadable,
      unreadable
    ])
  })

  it("reads what ps of macOS prints", () => {
    const alive = { _tag: "Running", startToken: "Thu Nov 6 09:08:07 2025", parent: 1, command: "" }
    assert.deepStrictEqual(
      [
        "Thu Nov  6 09:08:07 2025     Ss       1\n",
        "Thu Nov  6 09:08:07 2025     U+  1",
        "Thu Nov  6 09:08:07 2025     Z        1\n",
        "",
        "ps: illegal argument"
      ].map(parsePs),
      [alive, alive, gone, unreadable, unreadable] as ReadonlyArray<Sighting>
    )
  })

  it("judges by boot first, then by namespace, then by what runs", () => {
    const self = identity(1)
    const seen: ReadonlyArray<Sighting> = [
      { _tag: "Running", startToken: "7", parent: 1, command: "" },
      { _tag: "Running", startToken: "8", parent: 1, command: "" },
      gone,
      unreadable
    ]
    const row = (over: Parameters<typeof identity>[1]) =>
      seen.map((sighting) => verdictOf(self, identity(7, over), sighting))
    assert.deepStrictEqual(
      {
        here: row({}),
        otherBoot: row({ bootId: "boot-2" }),
        otherNamespace: row({ pidNamespace: "pid:[2]" }),
        both: row({ bootId: "boot-2", pidNamespace: "pid:[2]" })
      },
      {
        here: ["alive", "dead", "dead", "unknown"],
        otherBoot: ["dead", "dead", "dead", "dead"],
        otherNamespace: ["unknown", "unknown", "unknown", "unknown"],
        both: ["dead", "dead", "dead", "dead"]
      }
    )
  })

  it("never takes a group, everybody or a fraction for a pid", () => {
    assert.deepStrictEqual([1, 4711, 0, -1, -4711, 1.5, Number.NaN, Infinity].map(isPid), [
      true,
      true,
      false,
      false,
      false,
      false,
      false,
      false
    ])
  })

  it.effect("the fake recycles pids, ends processes and says what a test wants", () =>
    Effect.gen(function* () {
      const { of, self, verdict } = yield* ProcessIdentity
      const fake = yield* FakeProcessIdentity
      const first = identity(7)
      const second = identity(7, { startToken: "later" })
      yield* fake.runs(first)
      const before = yield* verdict(first)
      yield* fake.runs(second)
      const recycled = [yield* verdict(first), yield* verdict(second)]
      yield* fake.ends(7)
      const ended = yield* verdict(second)
      yield* fake.says(second, "unknown")
      assert.deepStrictEqual(
        {
          before,
          recycled,
          ended,
          said: yield* verdict(second),
          self: yield* of(self.pid),
          none: yield* of(7),
          asked: (yield* fake.asked).length
        },
        {
          before: "alive",
          recycled: ["dead", "alive"],
          ended: "dead",
          said: "unknown",
          self: Option.some(self),
          none: Option.none(),
          asked: 5
        }
      )
    }).pipe(Effect.provide(layer))
  )
})
