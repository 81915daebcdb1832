/** Epoch on a database in memory, with processes and marks that a test declares. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { layer } from "../src/layers/Epoch.ts"
import {
  dealingWith,
  Epoch,
  type EpochRecord,
  GatewayAlreadyRunning,
  type OpenEpoch
} from "../src/services/Epoch.ts"
import {
  candidateRange,
  type Marked,
  type MarkRange,
  overlaps,
  rangeOf
} from "../src/services/InstanceMark.ts"
import type { Identity, Verdict } from "../src/services/ProcessIdentity.ts"
import { layer as layerMemory } from "../src/testing/Database.ts"
import { record } from "../src/testing/Epoch.ts"
import { FakeInstanceMark, layer as layerMarks, range } from "../src/testing/InstanceMark.ts"
import { FakeProcessIdentity, identity, layer as layerIdentity } from "../src/testing/ProcessIdentity.ts"

const world = Layer.mergeAll(layerMemory, layerMarks, layerIdentity)

/** One life: the layer built in a scope of its own, which is closed after use. */
const life = <A, E, R>(use: Effect.Effect<A, E, R>) => Effect.provide(use, Layer.fresh(layer))

const inLedger = (epoch: string, owner: Identity, mark: MarkRange | null, ended: number | null = null) =>
  Effect.flatMap(
    SqlClient,
    (sql) =>
      sql`INSERT INTO epochs ${sql.insert({
        epoch,
        boot_id: owner.bootId,
        pid_namespace: owner.pidNamespace,
        pid: owner.pid,
        start_token: owner.startToken,
        mark_low: mark?.low ?? null,
        mark_high: mark?.high ?? null,
        started_at: 0,
        ended_at: ended
      })}`
  )

const ledger = Effect.flatMap(
  SqlClient,
  (sql) =>
    sql`SELECT CASE WHEN length(epoch) = 26 THEN 'own' ELSE epoch END AS epoch, pid, mark_high, ended_at, swept_at
      FROM epochs ORDER BY started_at, epoch`
).pipe(Effect.map((rows) => rows.map((row) => ({ ...row }))))

const bearer = (pid: number, mark: number): Marked => ({ identity: identity(pid), mark, command: "sleep" })

const openRow = (over: Partial<EpochRecord>, verdict: Verdict, ended = false): OpenEpoch => ({
  record: record({ mark: range(5), ...over }),
  verdict,
  ended
})

describe("Epoch", () => {
  it.effect("one life is a ULID of its start, a row, a mark and an end", () =>
    Effect.gen(function* () {
      yield* TestClock.setTime(1_700_000_000_000)
      const during = yield* life(
        Effect.gen(function* () {
          const { current, swept, unmarked } = yield* Epoch
          return { current, swept, unmarked, rows: yield* ledger }
        })
      )
      const { epoch, ...rest } = during.current
      assert.match(epoch, /^01HF7YAT00[0-9A-HJKMNP-TV-Z]{16}$/)
      const row = { epoch: "own", pid: 1000, mark_high: range(0).high, swept_at: null }
      assert.deepStrictEqual(
        { rest, swept: during.swept, unmarked: during.unmarked, rows: during.rows, after: yield* ledger },
        {
          rest: { owner: identity(1000), mark: range(0), startedAt: 1_700_000_000_000 },
          swept: [],
          unmarked: null,
          rows: [{ ...row, ended_at: null }],
          after: [{ ...row, ended_at: 1_700_000_000_000 }]
        }
      )
      assert.deepStrictEqual(yield* Effect.flatMap(FakeInstanceMark, ({ log }) => log), [
        "choose",
        `take ${range(0).high}`
      ])
    }).pipe(Effect.provide(world))
  )

  it.effect.each(["alive", "unknown"] as const)(
    "an owner that is %s refuses a second gateway, which leaves no row and takes no mark",
    (verdict) =>
      Effect.gen(function* () {
        yield* inLedger("first", identity(77), range(5))
        yield* Effect.flatMap(FakeProcessIdentity, ({ says }) => says(identity(77), verdict))
        const refusal = yield* Effect.flip(life(Epoch))
        assert.deepStrictEqual(
          {
            refusal,
            rows: (yield* ledger).length,
            log: yield* Effect.flatMap(FakeInstanceMark, ({ log }) => log)
          },
          {
            refusal: new GatewayAlreadyRunning({
              pid: 77,
              state: "/nonexistent/.local/state/holdfast",
              verdict
            }),
            rows: 1,
            log: ["choose"]
          }
        )
      }).pipe(Effect.provide(world))
  )

  it.effect("one live owner among the dead is enough, and then no dead one is touched", () =>
    Effect.gen(function* () {
      yield* inLedger("a-dead", identity(76), range(4))
      yield* inLedger("b-live", identity(77), range(5))
      yield* Effect.flatMap(FakeProcessIdentity, ({ runs }) => runs(identity(77)))
      const before = yield* ledger
      yield* Effect.flip(life(Epoch))
      assert.deepStrictEqual(yield* ledger, before)
    }).pipe(Effect.provide(world))
  )

  it.effect("what dead epochs left is ended after our own mark is taken, and their rows are closed", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      yield* inLedger("a-crashed", identity(76), range(4))
      // Its number runs again, but it is another process.
      yield* Effect.flatMap(FakeProcessIdentity, ({ runs }) => runs(identity(76, { startToken: "later" })))
      yield* inLedger("b-ended-unswept", identity(75), range(5), 0)
      yield* inLedger("c-unmarked", identity(74), null)
      yield* fake.runs(bearer(200, range(4).high))
      yield* fake.runs(bearer(201, range(9).high))
      yield* TestClock.setTime(9)
      const swept = yield* life(Effect.map(Epoch, (epoch) => epoch.swept))
      assert.deepStrictEqual(
        { swept, log: yield* fake.log, rows: (yield* ledger).slice(0, 3) },
        {
          swept: [
            {
              epoch: "a-crashed",
              report: { ended: [bearer(200, range(4).high)], survivors: [], proven: true }
            },
            { epoch: "b-ended-unswept", report: { ended: [], survivors: [], proven: true } }
          ],
          log: ["choose", `take ${range(0).high}`, `sweep ${range(4).high}`, `sweep ${range(5).high}`],
          rows: [
            { epoch: "a-crashed", pid: 76, mark_high: range(4).high, ended_at: 9, swept_at: 9 },
            { epoch: "b-ended-unswept", pid: 75, mark_high: range(5).high, ended_at: 0, swept_at: 9 },
            { epoch: "c-unmarked", pid: 74, mark_high: null, ended_at: 9, swept_at: 9 }
          ]
        }
      )
    }).pipe(Effect.provide(world))
  )

  it.effect("survivors keep their epoch open, and the next start tries again", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      yield* inLedger("stuck", identity(76), range(4))
      yield* fake.runs(bearer(200, range(4).high))
      yield* fake.clings(200)
      const survivors = Effect.map(Epoch, ({ swept }) =>
        swept.filter(({ epoch }) => epoch === "stuck").map(({ report }) => report.survivors)
      )
      const found = [yield* life(survivors), yield* life(survivors)]
      assert.deepStrictEqual(
        { found, row: (yield* ledger).find(({ epoch }) => epoch === "stuck") },
        {
          found: [[[bearer(200, range(4).high)]], [[bearer(200, range(4).high)]]],
          row: { epoch: "stuck", pid: 76, mark_high: range(4).high, ended_at: null, swept_at: null }
        }
      )
    }).pipe(Effect.provide(world))
  )

  it.effect("epochs of another boot are closed without a sweep: their marks may be anybody's now", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      yield* inLedger("other-boot", identity(76, { bootId: "boot-0", pidNamespace: "pid:[9]" }), range(4))
      yield* fake.runs(bearer(200, range(4).high))
      const swept = yield* life(Effect.map(Epoch, (epoch) => epoch.swept))
      assert.deepStrictEqual(
        { swept, log: yield* fake.log, row: (yield* ledger)[0] },
        {
          swept: [],
          log: ["choose", `take ${range(0).high}`],
          row: { epoch: "other-boot", pid: 76, mark_high: range(4).high, ended_at: 0, swept_at: 0 }
        }
      )
    }).pipe(Effect.provide(world))
  )

  it.effect("a gateway started from inside a dead epoch leaves that epoch to a later start", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      yield* inLedger("around-us", identity(76), range(4))
      yield* fake.limitedTo(range(4).high)
      yield* fake.willChoose(...Array.from({ length: 8 }, () => candidateRange(range(4).high, 0.5)!))
      const swept = yield* life(Effect.map(Epoch, (epoch) => epoch.swept))
      assert.deepStrictEqual(
        {
          swept,
          swept_at: (yield* ledger)[0]?.["swept_at"],
          sweeps: (yield* fake.log).filter((l) => /sweep/.test(l))
        },
        { swept: [], swept_at: null, sweeps: [] }
      )
    }).pipe(Effect.provide(world))
  )

  it.effect("a range that is still to be swept is drawn again", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      yield* inLedger("dead", identity(76), range(4))
      yield* fake.willChoose(range(4), range(4), range(6))
      const mark = yield* life(Effect.map(Epoch, ({ current }) => current.mark))
      assert.deepStrictEqual(mark, range(6))
    }).pipe(Effect.provide(world))
  )

  it.effect.each(["choose", "take"] as const)(
    "a mark that cannot be had (%s) is said, and the gateway starts",
    (what) =>
      Effect.gen(function* () {
        const fake = yield* FakeInstanceMark
        yield* fake.refuses(what, "there is none")
        const { mark, unmarked, own } = yield* life(
          Effect.gen(function* () {
            const { current, sweepOwn, unmarked } = yield* Epoch
            return { mark: current.mark, unmarked, own: yield* sweepOwn }
          })
        )
        assert.deepStrictEqual(
          { mark, unmarked, own, mark_high: (yield* ledger)[0]?.["mark_high"] },
          {
            mark: null,
            unmarked:
              "This process cannot take an instance mark: there is none. Processes that detach from their agent will not be found.",
            own: { ended: [], survivors: [], proven: false },
            mark_high: null
          }
        )
      }).pipe(Effect.provide(world))
  )

  it.effect("children get ranges of their own, inside the epoch's and below its mark", () =>
    Effect.gen(function* () {
      const { current, claimed } = yield* life(
        Effect.gen(function* () {
          const { claimMark, current } = yield* Epoch
          return {
            current,
            claimed: yield* Effect.scoped(Effect.all(Array.from({ length: 64 }, () => claimMark)))
          }
        })
      )
      const ranges = claimed.flatMap((range) => range ?? [])
      assert.strictEqual(ranges.length, 64)
      assert.isTrue(ranges.every(({ low, high }) => current.mark!.low <= low && high < current.mark!.high))
      assert.deepStrictEqual(
        ranges.filter((one) => ranges.some((other) => other !== one && overlaps(one, other))),
        []
      )
    }).pipe(Effect.provide(world), Random.withSeed("claims"))
  )

  it.effect("a child's range is open while its scope is, and somebody vouches for it so long", () =>
    life(
      Effect.gen(function* () {
        const { claimMark, claimed } = yield* Epoch
        const open = yield* Effect.scoped(
          Effect.gen(function* () {
            const range = yield* claimMark
            return [range, yield* claimed]
          })
        )
        assert.deepStrictEqual([open[1], yield* claimed], [[open[0]], []])
      })
    ).pipe(Effect.provide(world))
  )

  it.effect("there is no range for a child without a mark, or in an epoch as deep as marks go", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      const claim = life(Effect.scoped(Effect.flatMap(Epoch, ({ claimMark }) => claimMark)))
      yield* fake.willChoose(rangeOf(2 ** 41 + 3))
      const deepest = yield* claim
      yield* fake.refuses("choose", "there is none")
      assert.deepStrictEqual([deepest, yield* claim], [null, null])
    }).pipe(Effect.provide(world))
  )

  it.effect("an epoch that swept its own range at its end is closed for good; with survivors it is not", () =>
    Effect.gen(function* () {
      const fake = yield* FakeInstanceMark
      const end = life(Effect.flatMap(Epoch, ({ sweepOwn }) => sweepOwn))
      yield* fake.runs(bearer(200, range(0).high))
      const first = yield* end
      yield* fake.runs(bearer(201, range(1).high))
      yield* fake.clings(201)
      const second = yield* end
      assert.deepStrictEqual(
        {
          first,
          second,
          rows: (yield* ledger).map(({ mark_high, swept_at }) => ({ mark_high, swept_at })).toSorted()
        },
        {
          first: { ended: [bearer(200, range(0).high)], survivors: [], proven: true },
          second: { ended: [], survivors: [bearer(201, range(1).high)], proven: false },
          rows: [
            { mark_high: range(0).high, swept_at: 0 },
            { mark_high: range(1).high, swept_at: null }
          ]
        }
      )
    }).pipe(Effect.provide(world))
  )

  it.effect("a second epoch of the same process is refused while the first lasts, and starts after it", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      yield* Layer.buildWithScope(Layer.fresh(layer), scope)
      const refused = yield* Effect.flip(life(Epoch))
      yield* Scope.close(scope, Exit.void)
      const { current } = yield* life(Epoch)
      assert.deepStrictEqual([refused._tag, current.owner.pid], ["GatewayAlreadyRunning", 1000])
    }).pipe(Effect.provide(world))
  )

  it.effect("a ledger that cannot be read is an error of its own, and nothing was started", () =>
    Effect.gen(function* () {
      yield* Effect.flatMap(SqlClient, (sql) => sql`DROP TABLE epochs`)
      const error = yield* Effect.flip(life(Epoch))
      assert.deepStrictEqual(
        [error._tag, error.message, yield* Effect.flatMap(FakeInstanceMark, ({ log }) => log)],
        [
          "EpochLedgerError",
          "The ledger of gateways in /nonexistent/.local/state/holdfast could not be read or written, so none was started. Check the directory's owner and free space, and try again.",
          []
        ]
      )
    }).pipe(Effect.provide(world))
  )

  it("deals with each row by its owner, its boot and who is alive inside its range", () => {
    const start = { bootId: "boot-1", mark: range(0), hard: null }
    const dead = openRow({}, "dead")
    const deal = (
      one: OpenEpoch,
      beside: ReadonlyArray<OpenEpoch> = [],
      over: Partial<typeof start> | { hard: number } = {}
    ) => dealingWith(one, [one, ...beside], { ...start, ...over })
    assert.deepStrictEqual(
      {
        running: [deal(openRow({}, "alive")), deal(openRow({}, "unknown"))],
        endedButAlive: [deal(openRow({}, "alive", true)), deal(openRow({}, "unknown", true))],
        dead: [deal(dead), deal(openRow({}, "dead", true))],
        unmarked: deal(openRow({ mark: null }, "dead")),
        otherBoot: deal(openRow({ owner: identity(9, { bootId: "boot-0" }) }, "dead")),
        meetsOurs: deal(dead, [], { mark: range(5) }),
        insideIt: deal(dead, [], { hard: range(5).high - 4 }),
        besideIt: deal(dead, [], { hard: range(5).high + 4 }),
        meetsOneAlive: deal(dead, [openRow({ epoch: "b" }, "alive", true)]),
        meetsOneDead: deal(dead, [openRow({ epoch: "b" }, "dead", true)])
      },
      {
        running: ["blocks", "blocks"],
        endedButAlive: ["leave", "leave"],
        dead: ["sweep", "sweep"],
        unmarked: "close",
        otherBoot: "close",
        meetsOurs: "leave",
        insideIt: "leave",
        besideIt: "sweep",
        meetsOneAlive: "leave",
        meetsOneDead: "sweep"
      }
    )
  })
})
