/** Attaching to a session at any byte, against terminals that nothing of ours stands in. */
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { makeScreenModel } from "../../src/layers/internal/screenModel.ts"
import { random } from "./random.ts"
import { differences, rawTerminal, type RawTerminal } from "./rawTerminal.ts"
import { inexpressible } from "./inexpressible.ts"
import { rechunked, type Session } from "./terminalSessions.ts"

/** Less than the sessions print, so that lines leave it. */
const scrollback = 40

export interface Attach {
  readonly session: string
  /** Of the session's pieces, the one it was before, and the one that the two terminals were compared before. */
  readonly at: number
  readonly lookedAt: number
  /** In what they differ, with the first place; empty at the end of a session that they showed alike. */
  readonly differs: ReadonlyMap<string, string>
  /** What the terminal had when it was attached to that no output could give. */
  readonly beyond: ReadonlyArray<string>
}

/**
 * A snapshot at six random points and at the end, each drawn on a terminal of its own that then hears the rest. Compared with
 * the terminal that has heard all at once and at each later point, up to the first difference. Null when xterm itself
 * throws at the session.
 */
export const attachesOf = (session: Session, seed: number): ReadonlyArray<Attach> | null => {
  const next = random(seed)
  const points = Array.from({ length: 6 }, () => Math.floor(next() * session.items.length)).toSorted(
    (a, b) => a - b
  )
  const full = rawTerminal(session, scrollback)
  const model = makeScreenModel(session, scrollback)
  const copies: Array<{ readonly raw: RawTerminal; attach: Attach }> = []
  try {
    for (const [index, point] of [...points, session.items.length].entries()) {
      const items = session.items.slice(points[index - 1] ?? 0, point)
      try {
        full.play(items)
      } catch {
        return null
      }
      for (const item of items)
        if ("bytes" in item) model.feed(item.bytes)
        else model.resize(item)
      const alike = copies.filter(({ attach }) => attach.differs.size === 0)
      for (const { raw } of alike) raw.play(items)
      const raw = rawTerminal(full.size(), scrollback)
      raw.write(model.draw())
      const copy = {
        raw,
        attach: {
          session: session.name,
          at: point,
          lookedAt: point,
          differs: new Map<string, string>(),
          beyond: inexpressible(full)
        }
      }
      copies.push(copy)
      for (const each of [...alike, copy])
        each.attach = { ...each.attach, lookedAt: point, differs: differences(full, each.raw) }
    }
    return copies.map(({ attach }) => attach)
  } finally {
    for (const { raw } of copies) raw.dispose()
    full.dispose()
    model.dispose()
  }
}

const recordings = new URL("../fixtures/terminal/", import.meta.url)

/** What real programs printed on a terminal while they were typed at and resized, in pieces that end anywhere. */
export const recordedSessions: ReadonlyArray<Session> = readdirSync(fileURLToPath(recordings))
  .toSorted()
  .map((file, index) => {
    const { cols, rows, items } = JSON.parse(readFileSync(new URL(file, recordings), "utf8")) as {
      readonly cols: number
      readonly rows: number
      readonly items: ReadonlyArray<string | readonly [cols: number, rows: number]>
    }
    const pieces = items.map((item) =>
      typeof item === "string" ? Buffer.from(item, "latin1") : { cols: item[0], rows: item[1] }
    )
    return { name: file.replace(".session", ""), cols, rows, items: rechunked(pieces, random(index)) }
  })
