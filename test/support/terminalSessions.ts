/**
 * Terminal sessions, the same ones in every run: what programs print in a few hundred steps, in chunks that end anywhere,
 * with resizes between.
 */
import { random } from "./random.ts"

export type SessionItem = { readonly bytes: Uint8Array } | { readonly cols: number; readonly rows: number }

export interface Session {
  readonly name: string
  readonly cols: number
  readonly rows: number
  readonly items: ReadonlyArray<SessionItem>
}

const styles = [
  "0",
  "1",
  "2",
  "3",
  "4",
  "4:3",
  "5",
  "7",
  "8",
  "9",
  "53",
  "22",
  "23",
  "24",
  "25",
  "27",
  "1;2",
  "21"
]
const colors = [
  "31",
  "39",
  "42",
  "49",
  "95",
  "104",
  "38;5;9",
  "48;5;200",
  "38;2;1;2;3",
  "48;2;250;128;1",
  "0;4;58;5;3"
]
const words = [
  "agent",
  "naïve",
  "日本語",
  "e\u0301",
  "😀",
  "┌─┐",
  "-----",
  "x",
  "x\u200by",
  "한글",
  "the quick brown fox jumps",
  "  "
]
const modes = [
  "?1",
  "?7",
  "?25",
  "?66",
  "?1000",
  "?1002",
  "?1003",
  "?1004",
  "?1006",
  "?2004",
  "?45",
  "4",
  "20"
]

/** Full of everything, in no sensible order: a program would do most of it. */
export const generatedSession = (seed: number): Session => {
  const next = random(seed)
  const upTo = (n: number): number => Math.floor(next() * n)
  const one = <A>(all: ReadonlyArray<A>): A => all[upTo(all.length)]!
  let cols = 4 + upTo(60)
  let rows = 2 + upTo(24)
  const start = { cols, rows }
  const csi = (final: string, ...parameters: ReadonlyArray<number>): string =>
    `\x1b[${parameters.join(";")}${final}`
  const steps: ReadonlyArray<readonly [number, () => string]> = [
    [30, () => `${one(words)} `],
    [10, () => one(words).repeat(1 + upTo(12))],
    [14, () => "\r\n"],
    [3, () => one(["\n", "\r", "\b", "\t", "\x07", "\x0b"])],
    [10, () => csi("H", 1 + upTo(rows + 2), 1 + upTo(cols + 2))],
    [6, () => csi(one(["A", "B", "C", "D", "E", "F", "G", "d"]), 1 + upTo(5))],
    [12, () => `\x1b[${one([...styles, ...colors])}m`],
    [4, () => `\x1b[0;${one(styles)};${one(colors)};${one(colors)}m`],
    [3, () => csi(one(["J", "K"]))],
    // Behind a full line these leave a cursor that waits for a wrap on an empty cell, where no output can put it.
    [3, () => csi(one(["J", "K"]), 1 + upTo(2)) + one(["\r", csi("H"), "\r\n"])],
    [1, () => csi("J", 3)],
    [6, () => csi(one(["@", "P", "X", "L", "M", "S", "T", "b"]), 1 + upTo(4))],
    [
      3,
      () => {
        const top = 1 + upTo(rows - 1)
        return csi("r", top, top + 1 + upTo(rows - top))
      }
    ],
    [1, () => csi("r")],
    [2, () => one(["\x1bD", "\x1bE", "\x1bM"])],
    [3, () => one(["\x1b7", "\x1b8", "\x1b[s", "\x1b[u"])],
    [2, () => one(["\x1b(0", "\x1b(B", "\x1b)0", "\x0e", "\x0f", "\x1b(A"]) + "lqqk"],
    [2, () => one([`${csi("G", 1 + upTo(cols))}\x1bH`, "\x1b[g", "\x1b[3g", "\t\t", "\x1b[2I", "\x1b[Z"])],
    [5, () => csi(one(["h", "l"])).replace("[", `[${one(modes)}`)],
    [1, () => csi(one(["h", "l"])).replace("[", "[?6")],
    [2, () => csi(one(["h", "l"])).replace("[", `[${one(["?1049", "?47", "?1047"])}`)],
    [1, () => `\x1b]${one(["0;title", "52;c;" + "QQ==".repeat(40)])}${one(["\x07", "\x1b\\"])}`],
    [1, () => `\x1b[0m\x1b]8;${one(["", "id=7"])};http://example.org/a;b\x07${one(words)}\x1b]8;;\x1b\\`],
    [
      1,
      () => one(["\x1bPq#0;2;0;0;0\x1b\\", "\x1b_ignored\x1b\\", "\x1b[?$p", "\x1b[6n", "\x1b[1;2", "\x1b["])
    ],
    [1, () => one(["\x1b[!p", "\x1b#8", "\x1b[2 q", "\x1b[5 q", '\x1b[1"q', '\x1b[0"q', "\x1b[?2J\r"])]
  ]
  const total = steps.reduce((sum, [weight]) => sum + weight, 0)
  const pieces: Array<Uint8Array | { readonly cols: number; readonly rows: number }> = []
  for (let i = 0, count = 200 + upTo(500); i < count; i++) {
    if (upTo(60) === 0) {
      cols = 2 + upTo(80)
      rows = 2 + upTo(30)
      pieces.push({ cols, rows })
    }
    let at = upTo(total)
    const step = steps.find(([weight]) => (at -= weight) < 0)!
    pieces.push(Buffer.from(step[1]()))
    if (upTo(100) === 0) pieces.push(Uint8Array.from([one([0xff, 0xe4, 0xc3, 0x9b, 0xf0])]))
  }
  return { name: `generated ${seed}`, ...start, items: rechunked(pieces, next) }
}

/** In chunks that have nothing to do with what is in them. */
export const rechunked = (
  pieces: ReadonlyArray<Uint8Array | { readonly cols: number; readonly rows: number }>,
  next: () => number
): ReadonlyArray<SessionItem> => {
  const items: Array<SessionItem> = []
  let waiting = Buffer.alloc(0)
  const flush = (atLeast: number): void => {
    while (waiting.length > atLeast) {
      const size = Math.min(waiting.length, 1 + Math.floor(next() * next() * 300))
      items.push({ bytes: waiting.subarray(0, size) })
      waiting = waiting.subarray(size)
    }
  }
  for (const piece of pieces) {
    if (piece instanceof Uint8Array) {
      waiting = Buffer.concat([waiting, piece])
      flush(300)
    } else {
      // As a window that is dragged: in the midst of whatever is printed.
      flush(Math.floor(next() * 20))
      items.push(piece)
    }
  }
  flush(0)
  return items
}
