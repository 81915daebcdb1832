/** The attributes of a pen and of cells, and the sequence that sets them. */
import type { Attributes } from "./terminalParts.ts"

export const csi = "\x1b["

const colorMode = 0x3000000
const colorModes = { palette16: 0x1000000, palette256: 0x2000000, rgb: 0x3000000 }

const color = (value: number, base: 30 | 40 | 50): ReadonlyArray<number> => {
  const index = value & 0xff
  switch (value & colorMode) {
    case colorModes.palette16:
      return base === 50 ? [58, 5, index] : [index < 8 ? base + index : base + 52 + index]
    case colorModes.palette256:
      return [base + 8, 5, index]
    case colorModes.rgb:
      return [base + 8, 2, (value >>> 16) & 0xff, (value >>> 8) & 0xff, index]
    default:
      return []
  }
}

const fgFlags = [
  [0x8000000, "1"],
  [0x20000000, "5"],
  [0x4000000, "7"],
  [0x40000000, "8"],
  [0x80000000, "9"]
] as const
const bgFlags = [
  [0x8000000, "2"],
  [0x4000000, "3"],
  [0x40000000, "53"]
] as const
export const underlined = 0x10000000
export const extended = 0x10000000
export const protectedCell = 0x20000000

/** All words for off but that of the underline. */
export const kept = "22;23;25;27;28;29;39;49;55"

/** From nothing each time: what is set says more than what has changed, and several attributes share one word for off. */
export const sgr = ({ fg, bg, extended: more }: Attributes, from: string = "0"): string => {
  const words: Array<string | number> = [from]
  for (const [flag, word] of fgFlags) if (fg & flag) words.push(word)
  for (const [flag, word] of bgFlags) if (bg & flag) words.push(word)
  // What xterm tells of a link is that it is underlined, too; a link says so itself.
  const style = bg & extended ? more.underlineStyle : 0
  if (from === kept) words.push()
  else if (more.urlId === 0 && style > 1) words.push(`4:${style}`)
  else if (fg & underlined || (more.urlId === 0 && style === 1)) words.push("4")
  words.push(...color(fg, 30), ...color(bg, 40), ...color(more.underlineColor, 50))
  return `${csi}${words.join(";")}m`
}

/**
 * Underlined in a way that is none: what restoring a cursor makes of a pen whose underline was taken off in between. Only
 * saving and restoring one gives it.
 */
export const isHidden = ({ fg, bg, extended: more }: Attributes): boolean =>
  (fg & underlined) !== 0 && (bg & extended) !== 0 && more.underlineStyle === 0 && more.urlId === 0

export const plain: Attributes = {
  fg: 0,
  bg: 0,
  extended: { underlineStyle: 0, underlineColor: 0, urlId: 0 }
}

export const sameAttributes = (a: Attributes, b: Attributes): boolean =>
  // As words: those of a pen are signed, those of a cell are not.
  (a.fg ^ b.fg) === 0 &&
  (a.bg ^ b.bg) === 0 &&
  a.extended.underlineStyle === b.extended.underlineStyle &&
  a.extended.underlineColor === b.extended.underlineColor &&
  a.extended.urlId === b.extended.urlId

/** An erased cell has a background and nothing else. */
export const isErased = ({ fg, bg }: Attributes): boolean => fg === 0 && (bg & ~(colorMode | 0xffffff)) === 0

/** An empty cell with more than a background: what was left of a wide character. */
export const isHalf = (cells: ReadonlyArray<Cell>, x: number): boolean => {
  const { chars, width, attributes } = cells[x]!
  return chars === "" && width !== 0 && !isErased(attributes) && (x === 0 || cells[x - 1]!.width !== 2)
}

export const isSecondHalf = (cell: Cell | undefined): boolean => cell?.width === 0 && cell.chars === ""

/** As a cell has them. */
export const shownBy = ({ fg, bg, extended: more }: Attributes): Attributes => ({
  fg,
  bg,
  extended: bg & extended ? more : plain.extended
})

/** The character that ends right before a column, and where it begins; null when there is none. */
export const lastBefore = (
  row: ReadonlyArray<Cell>,
  x: number
): { readonly cell: Cell; readonly x: number } | null => {
  const behind = row[x - 1]
  const from = x > 1 && behind?.width === 0 && behind.chars === "" ? x - 2 : x - 1
  const cell = row[from]
  return cell !== undefined && cell.chars !== "" && from + Math.max(1, cell.width) === x
    ? { cell, x: from }
    : null
}

export interface Cell {
  readonly chars: string
  readonly width: number
  readonly attributes: Attributes
}
