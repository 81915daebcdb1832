/** The rules of marks: where ranges may lie, who was born between two looks, and how a sweep escalates. */
import { assert, describe, it } from "@effect/vitest"
import {
  bornBetween,
  candidateRange,
  contains,
  isFree,
  type MarkRange,
  MarkUnavailable,
  newestFirst,
  nextSweep,
  overlaps,
  parseForkMark,
  parseLocks,
  rangeOf,
  siblingRange,
  slotsBelow,
  startSweep,
  type SweepPlan,
  type SweepSeen
} from "../src/services/InstanceMark.ts"

const limits = (soft: string, hard: string) =>
  [
    "Limit                     Soft Limit           Hard Limit           Units     ",
    "Max open files            1024                 1048576              files     ",
    `Max file locks            ${soft.padEnd(20)} ${hard.padEnd(20)} locks     `,
    "Max pending signals       15444                15444                signals   ",
    ""
  ].join("\n")

/** mulberry32: a small seeded generator, so that a failure names its seed. */
const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

const within = (inner: MarkRange, outer: MarkRange) => outer.low <= inner.low && inner.high <= outer.high

describe("InstanceMark ranges", () => {
  it("reads the lock limits of a process", () => {
    assert.deepStrictEqual(
      [
        limits("unlimited", "unlimited"),
        limits("17", "4503599627370492"),
        limits("0", "unlimited"),
        "Max open files 1 2 files\n",
        ""
      ].map(parseLocks),
      [{ soft: null, hard: null }, { soft: 17, hard: 4503599627370492 }, { soft: 0, hard: null }, null, null]
    )
  })

  it("a gateway outside every other takes one of a million ranges of 2^32 in the upper half below 2^52, wherever the draw falls", () => {
    const draw = random(1)
    for (const at of [0, 1 - 2 ** -53, ...Array.from({ length: 1_000 }, draw)]) {
      const range = candidateRange(null, at)!
      assert.strictEqual(range.high - range.low, 2 ** 32 - 4)
      assert.isTrue(range.low > 2 ** 51 && range.high < 2 ** 52, `${range.low}..${range.high}`)
      assert.deepStrictEqual(rangeOf(range.high), range)
    }
  })

  it("gateways inside agents nest four deep, each wholly inside the last and below its bound; the fifth gets none", () => {
    const draw = random(2)
    for (let trial = 0; trial < 500; trial++) {
      let outer = candidateRange(null, draw())!
      for (let depth = 1; depth < 4; depth++) {
        const inner = candidateRange(outer.high, draw())!
        assert.isTrue(within(inner, outer) && inner.high < outer.high, `trial ${trial}, depth ${depth}`)
        outer = inner
      }
      assert.isNull(candidateRange(outer.high, draw()))
    }
  })

  it("the edges of the draw keep the nesting", () => {
    for (const outerDraw of [0, 1 - 2 ** -53])
      for (const innerDraw of [0, 1 - 2 ** -53]) {
        const outer = candidateRange(null, outerDraw)!
        const inner = candidateRange(outer.high, innerDraw)!
        assert.isTrue(within(inner, outer) && inner.high < outer.high)
      }
  })

  it("fits below an administrator's limit when there is room, and says so when there is none", () => {
    assert.deepStrictEqual(
      [0, 3, 40, 1_000, 1_000_000, 2 ** 53, 2 ** 62].map((hard) => {
        const range = candidateRange(hard, 0.5)
        return range === null
          ? null
          : { fits: range.high < hard && range.low >= 1, width: range.high - range.low }
      }),
      [
        null,
        null,
        { fits: true, width: 0 },
        { fits: true, width: 0 },
        { fits: true, width: 2 ** 12 - 4 },
        { fits: true, width: 2 ** 32 - 4 },
        { fits: true, width: 2 ** 32 - 4 }
      ]
    )
  })

  it("every level has room: a million gateways, 2047 runs in each, 511 gateways in a run, 1023 runs in each of those", () => {
    const depths: Array<number> = []
    for (let hard: number | null = null, slots = slotsBelow(hard); slots !== null; slots = slotsBelow(hard)) {
      depths.push(slots.count)
      hard = slots.at(slots.count - 1).high
    }
    assert.deepStrictEqual(depths, [2 ** 20 - 1, 2_047, 511, 1_023])
  })

  it("slots side by side never meet, and lie below the limit and inside its range", () => {
    const draw = random(3)
    for (let hard: number | null = null, slots = slotsBelow(hard); slots !== null; slots = slotsBelow(hard)) {
      const count = Math.min(slots.count, 5_000)
      const ranges: ReadonlyArray<MarkRange> = Array.from({ length: count }, (_, i) => slots!.at(i))
      const outer = hard === null ? { low: 1, high: 2 ** 52 } : rangeOf(hard)
      assert.isTrue(ranges.every((range) => within(range, outer) && range.high < outer.high))
      assert.isTrue(ranges.every(({ low }, i) => i === count - 1 || low > ranges[i + 1]!.high))
      hard = slots.at(Math.floor(draw() * slots.count)).high
    }
  })

  it("a sibling is of the same level, wholly below, and inside the same outer range; a gateway always has one", () => {
    const draw = random(4)
    const edge = 1 - 2 ** -53
    const hards = [null, 70, 1_000, 1_000_000, 2 ** 41 + 1, 2 ** 53]
    for (let trial = 0; trial < 400; trial++) {
      let hard = hards[trial % hards.length]!
      for (let range = candidateRange(hard, draw()); range !== null; range = candidateRange(hard, draw())) {
        const outer = hard === null || hard > 2 ** 52 ? { low: 1, high: 2 ** 52 - 1 } : rangeOf(hard)
        for (const at of [0, draw(), edge]) {
          const sibling = siblingRange(range, hard, at)!
          const told = `${JSON.stringify(sibling)} of ${JSON.stringify(range)} under ${hard}`
          assert.deepStrictEqual(rangeOf(sibling.high), sibling, told)
          assert.strictEqual(sibling.high % 4, range.high % 4, told)
          assert.isTrue(sibling.high < range.low && within(sibling, outer), told)
        }
        hard = range.high
      }
    }
  })

  it("the lowest range has no sibling", () => {
    const slots = slotsBelow(null)!
    assert.deepStrictEqual(
      [
        siblingRange(slots.at(slots.count - 1), null, 0.5),
        siblingRange(slots.at(slots.count - 2), null, 0.5)
      ],
      [null, slots.at(slots.count - 1)]
    )
  })

  it("a range is free unless it meets another's below our own limit", () => {
    const outer = candidateRange(null, 0.5)!
    const inner = candidateRange(outer.high, 0.5)!
    const beside = siblingRange(inner, outer.high, 0.9)!
    assert.deepStrictEqual(
      {
        alone: isFree(outer, null, []),
        sameMark: isFree(outer, null, [outer.high]),
        coveredByAnother: isFree(outer, null, [outer.high + 4]),
        coversAnother: isFree(outer, null, [outer.low + 4]),
        farAway: isFree(outer, null, [outer.high + 2 ** 41]),
        insideItsOuter: isFree(inner, outer.high, [outer.high, outer.high + 4]),
        besideItsSibling: isFree(inner, outer.high, [beside.high]),
        onItsSibling: isFree(inner, outer.high, [inner.high])
      },
      {
        alone: true,
        sameMark: false,
        coveredByAnother: false,
        coversAnother: false,
        farAway: true,
        insideItsOuter: true,
        besideItsSibling: true,
        onItsSibling: false
      }
    )
  })

  it("ranges meet at their edges and hold their bounds", () => {
    const range = { low: 10, high: 20 }
    assert.deepStrictEqual(
      {
        meet: [
          [20, 30],
          [0, 10],
          [12, 13],
          [21, 30],
          [0, 9]
        ].map(([low, high]) => overlaps(range, { low: low!, high: high! })),
        hold: [9, 10, 20, 21].map((mark) => contains(range, mark))
      },
      { meet: [true, true, true, false, false], hold: [false, true, true, false] }
    )
  })

  it("the error says why there is no mark and what follows", () => {
    assert.strictEqual(
      new MarkUnavailable({ problem: "there is no prlimit command on PATH (install util-linux)" }).message,
      "This process cannot take an instance mark: there is no prlimit command on PATH (install util-linux). Processes that detach from their agent will not be found."
    )
  })
})

describe("InstanceMark births", () => {
  it("reads the last pid and the count of forks, and trusts neither where they are not kept", () => {
    const stat = "cpu  1 2 3\nctxt 77\nbtime 1700000000\nprocesses 4242\nprocs_running 1\n"
    assert.deepStrictEqual(
      [
        parseForkMark("0.00 0.01 0.05 2/512 31337\n", stat),
        parseForkMark("0.00 0.00 0.00 0/0 0\n", stat),
        parseForkMark("0.00 0.01 0.05 2/512 31337\n", "cpu 1\n"),
        parseForkMark("", "")
      ],
      [{ lastPid: 31337, forks: 4242 }, null, null, null]
    )
  })

  it("names everybody who may have appeared, those who were half born included", () => {
    const from = { lastPid: 1_000, forks: 5_000 }
    const born = (lastPid: number, forks: number) => bornBetween(from, { lastPid, forks })
    assert.deepStrictEqual(
      {
        nobody: born(1_000, 5_000),
        begun: born(1_001, 5_000),
        three: born(1_003, 5_003),
        elsewhere: born(1_000, 5_900),
        startedAgain: born(400, 5_002),
        tooMany: born(1_300, 5_300),
        aroundOnce: born(1_000, 5_000 + 32_768),
        uncounted: [bornBetween(null, from), bornBetween(from, null)],
        atTheBottom: bornBetween({ lastPid: 9, forks: 1 }, { lastPid: 10, forks: 2 })
      },
      {
        nobody: "none",
        begun: "none",
        three: { first: 937, last: 1_003, more: true },
        elsewhere: { first: 937, last: 1_000, more: false },
        startedAgain: "many",
        tooMany: "many",
        aroundOnce: "many",
        uncounted: ["many", "many"],
        atTheBottom: { first: 1, last: 10, more: true }
      }
    )
  })

  it("lists the newest first, also after the numbers started again", () => {
    assert.deepStrictEqual(newestFirst([1, 300, 310, 32_000, 32_700], 305), [300, 1, 32_700, 32_000, 310])
  })
})

const settings = { killGraceMs: 500, sweepTimeoutMs: 10_000 }

/** Runs a plan against what each step meets; time passes only in waits. */
const run = (meet: (plan: SweepPlan, now: number, at: number) => Partial<SweepSeen>, most = 2_000) => {
  const steps: Array<string> = []
  let now = 0
  let plan = startSweep(now, settings)
  while (plan.step._tag !== "Done" && steps.length < most) {
    const { step } = plan
    steps.push(step._tag)
    if (step._tag === "Wait") now += step.ms
    plan = nextSweep(
      plan,
      { members: 0, fresh: 0, proof: null, ...meet(plan, now, steps.length) },
      now,
      settings
    )
  }
  return { steps, now, end: plan.step }
}

describe("InstanceMark escalation", () => {
  it("an empty range is proven without a signal or a wait", () => {
    assert.deepStrictEqual(
      run(({ step }) => (step._tag === "Prove" ? { proof: "proven" } : {})),
      { steps: ["Look", "Prove"], now: 0, end: { _tag: "Done", proven: true } }
    )
  })

  it("members that leave when asked are never frozen, and the grace ends with the last of them", () => {
    assert.deepStrictEqual(
      run(({ step }, now) => (step._tag === "Prove" ? { proof: "proven" } : { members: now < 30 ? 2 : 0 })),
      {
        steps: ["Look", "Ask", "Wait", "Grace", "Wait", "Grace", "Freeze", "Prove"],
        now: 40,
        end: { _tag: "Done", proven: true }
      }
    )
  })

  it("members that stay are frozen until nobody new turns up, then killed", () => {
    let layers = 3
    let alive = 5
    const { steps, now, end } = run(({ step }) => {
      if (step._tag === "Freeze" && alive > 0) return { members: alive, fresh: layers-- > 0 ? 1 : 0 }
      if (step._tag === "Kill") alive = 0
      return step._tag === "Prove" ? { proof: "proven" } : { members: alive }
    })
    const after = steps.slice(steps.lastIndexOf("Grace") + 1)
    assert.deepStrictEqual(
      { after, now, end },
      {
        after: ["Freeze", "Freeze", "Freeze", "Freeze", "Kill", "Wait", "Freeze", "Prove"],
        now: 501,
        end: { _tag: "Done", proven: true }
      }
    )
  })

  it("a tree that outgrows the freezing is killed layer by layer", () => {
    const { steps } = run(({ step }) => ({ members: 1, fresh: step._tag === "Freeze" ? 1 : 0 }), 200)
    const frozen = steps.slice(steps.indexOf("Freeze"), steps.indexOf("Kill"))
    assert.deepStrictEqual([frozen.length, new Set(frozen)], [65, new Set(["Freeze"])])
  })

  it("one that was born during the proof brings the freezing back", () => {
    let proofs = 0
    const { steps, end } = run(({ step }) =>
      step._tag === "Prove" ? { proof: proofs++ === 0 ? "found" : "proven" } : {}
    )
    assert.deepStrictEqual(
      { steps, end },
      { steps: ["Look", "Prove", "Freeze", "Prove"], end: { _tag: "Done", proven: true } }
    )
  })

  it("births that cannot be followed are doubted four times, and then said to be unproven", () => {
    const { steps, end } = run(({ step }) => (step._tag === "Prove" ? { proof: "doubtful" } : {}))
    assert.deepStrictEqual(
      { proofs: steps.filter((step) => step === "Prove").length, end },
      { proofs: 4, end: { _tag: "Done", proven: false } }
    )
  })

  it("one that cannot be killed ends the sweep at its time limit, with pauses of at most 50 ms", () => {
    const { now, end, steps } = run(() => ({ members: 1 }))
    assert.deepStrictEqual(
      { now, end, bounded: steps.length < 1_000 },
      { now: 10_000, end: { _tag: "Done", proven: false }, bounded: true }
    )
  })
})
