/** Attaching to sessions full of everything in no sensible order. Few here; four hundred by `npm run soak`. */
import { assert, describe, it } from "@effect/vitest"
import { type Attach, attachesOf } from "./support/attaches.ts"
import { generatedSession } from "./support/terminalSessions.ts"

const soak = process.env["HOLDFAST_SOAK"] !== undefined
const seeds = soak ? 400 : 20
const soakTimeoutMs = 300_000

/** A hidden tab stop shows only in where the tab stops are, once the terminal is wide again. */
const isExplained = ({ beyond, differs }: Attach): boolean =>
  beyond.some(
    (kind) =>
      kind !== "a tab stop beyond the width" || [...differs.keys()].some((word) => word.endsWith("places"))
  )

describe("Screen, attached to at random", () => {
  it(
    `of ${seeds} generated sessions, what a snapshot does not give is what no output can`,
    () => {
      const sessions = Array.from({ length: seeds }, (_, seed) => ({
        seed,
        attaches: attachesOf(generatedSession(seed), seed + 1000)
      }))
      const attaches = sessions.flatMap(({ attaches }) => attaches ?? [])
      const differing = attaches.filter(({ differs }) => differs.size > 0)
      const words = new Map<string, number>()
      for (const word of differing.flatMap(({ differs }) => [...differs.keys()]))
        words.set(word, (words.get(word) ?? 0) + 1)
      const found = {
        "sessions at which xterm throws": sessions.filter(({ attaches }) => attaches === null).length,
        attaches: attaches.length,
        "that differ at once": differing.filter(({ at, lookedAt }) => at === lookedAt).length,
        "that differ later": differing.filter(({ at, lookedAt }) => at !== lookedAt).length,
        "sessions in which some differ": new Set(differing.map(({ session }) => session)).size,
        "attaches that differ though all could be given": differing
          .filter((attach) => !isExplained(attach))
          .map(({ session, at, differs }) => `${session} at ${at}: ${[...differs.keys()].join(", ")}`),
        words: Object.fromEntries([...words].toSorted())
      }
      assert.deepStrictEqual(found, soak ? (expected.soak as typeof found) : (expected.few as typeof found))
    },
    soakTimeoutMs
  )
})

/** The sessions and xterm are the same ones in every run, and so are these: better is as much a change as worse. */
const expected = {
  few: {},
  soak: {}
}
