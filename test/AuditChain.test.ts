/** The chain of the audit log: what was done to it shows, and where. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as crypto from "node:crypto"
import {
  type AuditHead,
  endCheck,
  genesis,
  linkOf,
  maxFindings,
  nextCheck,
  startCheck,
  type Stored
} from "../src/services/AuditChain.ts"
import { entry } from "../src/testing/AuditLog.ts"

const hash = (text: string): string => crypto.hash("sha256", text, "base64url")

/** `older` rows without a link, then `count` with. */
const chain = (count: number, older = 0): ReadonlyArray<Stored> => {
  let previous = genesis
  return Array.from({ length: older + count }, (_, index): Stored => {
    const row = { ...entry, seq: index + 1, at: index, callId: `call-${index + 1}` }
    previous = linkOf(hash, previous, row)
    return { row, hash: index < older ? null : previous }
  })
}

const headOf = (rows: ReadonlyArray<Stored>): AuditHead => {
  const last = rows.at(-1)!
  return { seq: last.row.seq, rows: rows.length, hash: last.hash! }
}

const check = (rows: ReadonlyArray<Stored>, head: AuditHead | null = null) => {
  const by = new Map(rows.map((stored) => [stored.row.seq, stored.hash]))
  return endCheck(
    rows.reduce((state, stored) => nextCheck(hash, state, stored), startCheck),
    head,
    [],
    (seq) => by.get(seq) ?? null
  )
}

const found = (rows: ReadonlyArray<Stored>, head: AuditHead | null = null) =>
  check(rows, head).findings.map(({ kind, seq }) => `${kind} ${seq}`)

const Where = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 7 }))

describe("the chain of the audit log", () => {
  it("is whole when nothing was done to it, with and without older rows", () => {
    assert.deepStrictEqual(found([], null), [])
    for (const older of [0, 3]) {
      const rows = chain(5, older)
      const verification = check(rows, headOf(rows))
      assert.deepStrictEqual(
        [verification.found, verification.rows, verification.older, verification.last],
        [0, 5 + older, older, headOf(rows)]
      )
    }
  })

  it.effect.prop("a changed field shows at its row, whichever it is", { at: Where }, ({ at }) =>
    Effect.sync(() => {
      const rows = chain(8)
      const { row } = rows[at]!
      for (const over of [
        { verdict: "deny" as const },
        { subject: "rm -rf /" },
        { at: row.at + 1 },
        { votes: [{ policy: "a", verdict: "deny" as const, failed: null }] },
        { sessionId: null }
      ])
        assert.deepStrictEqual(found(rows.with(at, { ...rows[at]!, row: { ...row, ...over } })), [
          `changed ${at + 1}`
        ])
    })
  )

  it.effect.prop("a row that is taken out shows, the last one by the head", { at: Where }, ({ at }) =>
    Effect.sync(() => {
      const rows = chain(8)
      assert.deepStrictEqual(found(rows.toSpliced(at, 1), headOf(rows)), [
        at === 7 ? "cut-off 8" : `missing ${at + 1}`
      ])
    })
  )

  it.effect.prop("two rows that change places show", { at: Where, by: Where }, ({ at, by }) =>
    Effect.sync(() => {
      if (at === by) return
      const rows = chain(8)
      const [a, b] = [rows[at]!, rows[by]!]
      const swapped = rows
        .with(at, { ...b, row: { ...b.row, seq: a.row.seq } })
        .with(by, { ...a, row: { ...a.row, seq: b.row.seq } })
      const seen = found(swapped, headOf(rows))
      assert.include(seen, `changed ${at + 1}`)
      assert.include(seen, `changed ${by + 1}`)
    })
  )

  it("a row that was put in, with or without a hash, shows", () => {
    const rows = chain(4)
    const put = { ...entry, seq: 5, at: 0 }
    assert.deepStrictEqual(found([...rows, { row: put, hash: null }]), ["unchained 5"])
    assert.deepStrictEqual(found([...rows, { row: put, hash: "made up" }]), ["changed 5"])
  })

  it("older rows are held by the first link", () => {
    const rows = chain(2, 3)
    const { row } = rows[1]!
    assert.deepStrictEqual(found(rows.with(1, { row: { ...row, verdict: "deny" }, hash: null })), [
      "changed 4"
    ])
  })

  it("a chain that was made anew from somewhere on does not have the head that was kept", () => {
    const rows = chain(8)
    let previous = rows[3]!.hash!
    const forged = rows.map((stored, index) => {
      if (index < 4) return stored
      const row = { ...stored.row, verdict: "deny" as const }
      previous = linkOf(hash, previous, row)
      return { row, hash: previous }
    })
    assert.deepStrictEqual(found(forged), [])
    assert.deepStrictEqual(found(forged, headOf(rows)), ["head 8"])
  })

  it("shows only so many findings, and how many there are", () => {
    const rows = chain(3 * maxFindings).map(({ row, hash }): Stored => ({
      row: Object.assign({}, row, { at: -1 }),
      hash
    }))
    const verification = check(rows)
    assert.deepStrictEqual([verification.findings.length, verification.found], [maxFindings, 3 * maxFindings])
  })
})
