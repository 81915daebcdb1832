/** The rules of run logs that need no disk: names, places, gaps, what goes first. */
import { assert, describe, it } from "@effect/vitest"
import {
  decodeMarks,
  encodeMark,
  gapBytes,
  isRunId,
  type KeptLog,
  locate,
  logEnd,
  marksFrom,
  overBudget,
  type ResizeMark,
  rotatedAway,
  type Segment,
  segmentName,
  segmentStart,
  tailLinesOffset
} from "../src/services/RunLog.ts"

const segment = (start: number, bytes: number, modifiedAt = 0): Segment => ({ start, bytes, modifiedAt })
const mark = (cursor: number, cols = 80, rows = 24): ResizeMark => ({ _tag: "resize", cursor, cols, rows })
const log = (runId: string, live: boolean, ...segments: ReadonlyArray<Segment>): KeptLog => ({
  runId,
  live,
  segments
})
const limits = { totalBytes: 100, maxAgeMs: 1_000, finishedLogs: 10 }
const removed = (logs: ReadonlyArray<KeptLog>, now: number, more = {}): ReadonlyArray<string> =>
  overBudget(logs, { ...limits, ...more }, now).map(({ runId, segment }) => `${runId} ${segment.start}`)

describe("RunLog", () => {
  it("a run id names one directory and leads to no other", () => {
    assert.deepStrictEqual(
      ["01HZX", "a_b-c", "", ".", "..", "a/b", "-x", "a.b", "a\0", "x".repeat(65)].map(isRunId),
      [true, true, false, false, false, false, false, false, false, false]
    )
  })

  it("a segment's name says where it starts, and sorts as it does", () => {
    const names = [0, 7, 10, Number.MAX_SAFE_INTEGER].map(segmentName)
    assert.deepStrictEqual(
      [names.toSorted(), names.map(segmentStart), segmentStart("output.marks"), segmentStart("output.1.log")],
      [names, [0, 7, 10, Number.MAX_SAFE_INTEGER], null, null]
    )
  })

  it("a cursor is found in its segment, behind a gap at the next, past the end nowhere", () => {
    const segments = [segment(10, 10), segment(20, 0), segment(25, 5)]
    assert.deepStrictEqual(
      [0, 10, 19, 20, 29, 30].map((cursor) => locate(segments, cursor)?.cursor ?? null),
      [10, 10, 19, 25, 29, null]
    )
    assert.deepStrictEqual([logEnd(segments), gapBytes(segments), logEnd([])], [30, 5, 0])
  })

  it("rotation makes room for a whole segment and never takes the last", () => {
    const segments = [segment(0, 10), segment(10, 10), segment(20, 10)]
    const starts = (bytesPerRun: number) =>
      rotatedAway(segments, { bytesPerRun, segmentBytes: 10 }).map(({ start }) => start)
    assert.deepStrictEqual([40, 39, 30, 20, 1].map(starts), [[], [0], [0], [0, 10], [0, 10]])
  })

  it("what is over longest goes first and whole, then the oldest of the live, but never a live run's last segment", () => {
    const logs = [
      log("new", false, segment(0, 30, 800), segment(30, 30, 900)),
      log("old", false, segment(0, 30, 100), segment(30, 30, 200)),
      log("live", true, segment(0, 30, 10), segment(30, 30, 20), segment(60, 30, 30))
    ]
    assert.deepStrictEqual(removed(logs, 1_000), ["old 0", "old 30", "new 0", "new 30"])
    assert.deepStrictEqual(removed(logs, 1_000, { totalBytes: 40 }), [
      "old 0",
      "old 30",
      "new 0",
      "new 30",
      "live 0",
      "live 30"
    ])
    assert.deepStrictEqual(removed(logs, 1_000, { totalBytes: 1_000 }), [])
  })

  it("what is too old goes without need, and of many finished runs the oldest", () => {
    const logs = [
      log("a", false, segment(0, 1, 100)),
      log("b", false, segment(0, 1, 2_000)),
      log("c", true, segment(0, 1, 100), segment(1, 1, 100))
    ]
    assert.deepStrictEqual(removed(logs, 2_000), ["a 0", "c 0"])
    assert.deepStrictEqual(removed(logs, 0, { finishedLogs: 1 }), ["a 0"])
  })

  it("a torn mark is none, and one past the end stands at the end", () => {
    const text = encodeMark(mark(0)) + encodeMark(mark(50, 100, 30)) + "70 12"
    assert.deepStrictEqual(decodeMarks(text, 40), [mark(0), mark(40, 100, 30)])
  })

  it("of the marks before a place only those in force there count", () => {
    const marks = [mark(0), mark(5), mark(9), mark(9, 1), mark(12)]
    const at = (cursor: number) => marksFrom(marks, cursor).map((mark) => marks.indexOf(mark))
    assert.deepStrictEqual([at(0), at(6), at(9), at(99)], [[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [4]])
  })

  it("lines are counted from the end, where the last newline begins none", () => {
    const piece = Buffer.from("a\nb\nc\n")
    assert.deepStrictEqual(
      [1, 2, 3, 4].map((lines) => tailLinesOffset(piece, lines, true)),
      [
        { offset: 4, left: 0 },
        { offset: 2, left: 0 },
        { offset: null, left: 1 },
        { offset: null, left: 2 }
      ]
    )
    assert.deepStrictEqual(tailLinesOffset(piece, 1, false), { offset: 6, left: 0 })
  })
})
