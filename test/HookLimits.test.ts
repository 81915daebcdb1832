import { assert, describe, it } from "@effect/vitest"
import { limitProblem, maxDepth, maxNodes, maxStringBytes } from "../src/services/HookLimits.ts"

const problem = (value: unknown) => limitProblem(Buffer.from(JSON.stringify(value)))

const deep = (levels: number): unknown => (levels === 0 ? 1 : [deep(levels - 1)])

describe("HookLimits", () => {
  it("each limit holds to the one that is allowed and refuses the next", () => {
    assert.deepStrictEqual(
      [
        problem(deep(maxDepth)),
        problem(deep(maxDepth + 1)),
        problem(Array.from({ length: maxNodes - 1 }, () => 0)),
        problem(Array.from({ length: maxNodes + 1 }, () => 0)),
        problem({ text: "x".repeat(maxStringBytes - 1) }),
        problem({ text: "x".repeat(maxStringBytes) })
      ],
      [null, "depth", null, "nodes", null, "string"]
    )
  })

  it("what stands in a string counts for nothing but its length", () => {
    assert.isNull(problem({ text: '[[[["\\",,,,::::{{{'.repeat(1_000) }))
    assert.isNull(problem("\\".repeat(1_000)))
    assert.strictEqual(limitProblem(Buffer.from(`"${"x".repeat(maxStringBytes)}`)), "string")
    assert.isNull(limitProblem(Buffer.from('"\\"')))
  })

  it("bytes that are no JSON are read to their end", () => {
    assert.isNull(limitProblem(Buffer.from("]]]]}}}}")))
    assert.isNull(limitProblem(Buffer.alloc(0)))
    assert.strictEqual(limitProblem(Buffer.alloc(5_000_000, "[")), "depth")
  })
})
