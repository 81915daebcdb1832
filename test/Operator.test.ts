/** Whose word counts: the rule about a chain of processes. */
import { assert, describe, it } from "@effect/vitest"
import { type Link, standingOf } from "../src/services/Operator.ts"

const gateway = { pid: 100, outer: null, marked: true }
const link = (pid: number, over: Partial<Link> = {}): Link => ({ pid, mark: null, named: false, ...over })
const shell = [link(7), link(6), link(1)]

describe("an operator", () => {
  it("is a process outside of every mark, that names no run and descends from no gateway", () => {
    assert.isNull(standingOf(shell, gateway))
  })

  it("is nobody who carries a finite limit, ours or lowered or another gateway's, nor whose ancestor does", () => {
    for (const mark of [1, 1000, 2 ** 40]) {
      assert.strictEqual(standingOf([link(7, { mark }), link(1)], gateway), "marked")
      assert.strictEqual(standingOf([link(7), link(6, { mark }), link(1)], gateway), "marked")
    }
  })

  it("has the limit that a nested gateway was started with, or a higher one", () => {
    const nested = { ...gateway, outer: 5000 }
    assert.isNull(standingOf([link(7, { mark: 5000 })], nested))
    assert.isNull(standingOf([link(7, { mark: 6000 })], nested))
    assert.isNull(standingOf([link(7)], nested))
    assert.strictEqual(standingOf([link(7, { mark: 4999 })], nested), "marked")
  })

  it("names no run, nor does any of its ancestors", () => {
    assert.strictEqual(standingOf([link(7, { named: true })], gateway), "named")
    assert.strictEqual(standingOf([link(7), link(6, { named: true })], gateway), "named")
  })

  it("does not descend from the gateway, also where there are no marks", () => {
    const unmarked = { ...gateway, marked: false }
    assert.strictEqual(standingOf([link(7), link(100), link(1)], unmarked), "descends")
    assert.isNull(standingOf([link(7, { mark: 12 })], unmarked))
  })
})
