/** Keeper: what becomes of an earlier one's row, how often one may be lost, and what it is told at its birth. */
import { assert, describe, it } from "@effect/vitest"
import {
  birthArguments,
  dealingWithKeeper,
  type KeeperBirthShape,
  lossPeriodMs,
  maxLosses,
  mayStart,
  readBirth
} from "../src/services/Keeper.ts"
import { parseArgs } from "node:util"

const mark = { low: 10, high: 20 }
const here = { bootId: "this" }

const birth: KeeperBirthShape = {
  keeperId: "01J",
  epoch: "01E",
  mark,
  socketPath: "/run/k.sock",
  state: "/state",
  runtime: "/run"
}

const read = (args: ReadonlyArray<string>) => {
  const option = { type: "string" } as const
  const options = {
    keeper: option,
    epoch: option,
    socket: option,
    state: option,
    runtime: option,
    mark: option
  }
  return readBirth(parseArgs({ args: [...args], options }).values)
}

describe("Keeper", () => {
  it("goes on with a living one, sweeps a dead one by its mark, and leaves one that cannot be seen", () => {
    assert.deepStrictEqual(
      [
        dealingWithKeeper({ mark, bootId: "this" }, "alive", here),
        dealingWithKeeper({ mark, bootId: "this" }, "dead", here),
        dealingWithKeeper({ mark: null, bootId: "this" }, "dead", here),
        // Its gateway died between the row and the fork, or right after: it holds nothing yet.
        dealingWithKeeper({ mark, bootId: "this" }, null, here),
        dealingWithKeeper({ mark, bootId: "this" }, "unknown", here),
        dealingWithKeeper({ mark, bootId: "earlier" }, "dead", here)
      ],
      ["adopt", "sweep", "close", "sweep", "leave", "close"]
    )
  })

  it("after too many losses in the period none is started, until the oldest of them is past", () => {
    const losses = Array.from({ length: maxLosses }, (_, index) => index)
    assert.deepStrictEqual(
      [mayStart(losses.slice(1), 10), mayStart(losses, 10), mayStart(losses, lossPeriodMs)],
      [true, false, true]
    )
  })

  it("reads at its birth what it was told, with a mark and without, and nothing else", () => {
    assert.deepStrictEqual(
      [
        read(birthArguments(birth)),
        read(birthArguments({ ...birth, mark: null })),
        read(birthArguments({ ...birth, socketPath: "k.sock" })),
        read([...birthArguments({ ...birth, mark: null }), "--mark=x"]),
        read([])
      ],
      [birth, { ...birth, mark: null }, null, null, null]
    )
  })
})
