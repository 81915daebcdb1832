/**
 * Draws a terminal on another one that was just reset: escape sequences after which it has the same cells, the same lines
 * that flow into one another, and the same margins, tabs, saved cursors, character sets, modes, pen and cursor.
 *
 * The serializer that xterm offers leaves out all that its interface does not show, and takes colours for others: of 174
 * attaches in the tests it drew 29 right. What no output can make is drawn as the nearest that some can: a cursor that
 * waits for a wrap on an erased cell, the half of a wide character that insertion has torn off, an underline style that a
 * restored cursor has hidden.
 */
import type { IBuffer, IBufferCell, Terminal } from "@xterm/headless"
import { type Attributes, attributesOf, type BufferParts, type Charset, partsOf } from "./terminalParts.ts"

const csi = "\x1b["

/** Two columns wide: it wraps from the last column and leaves that cell empty, in the pen's attributes. */
const wide = "\u3000"

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
const underlined = 0x10000000
const extended = 0x10000000
const protectedCell = 0x20000000

/** From nothing each time: what is set says more than what has changed, and several attributes share one word for off. */
const sgr = ({ fg, bg, extended: more }: Attributes): string => {
  const words: Array<string | number> = [0]
  for (const [flag, word] of fgFlags) if (fg & flag) words.push(word)
  for (const [flag, word] of bgFlags) if (bg & flag) words.push(word)
  // What xterm tells of a link is that it is underlined, too; a link says so itself.
  const style = bg & extended ? more.underlineStyle : 0
  if (more.urlId === 0 && style > 1) words.push(`4:${style}`)
  else if (fg & underlined || (more.urlId === 0 && style === 1)) words.push("4")
  words.push(...color(fg, 30), ...color(bg, 40), ...color(more.underlineColor, 50))
  return `${csi}${words.join(";")}m`
}

const plain: Attributes = { fg: 0, bg: 0, extended: { underlineStyle: 0, underlineColor: 0, urlId: 0 } }

const sameAttributes = (a: Attributes, b: Attributes): boolean =>
  a.fg === b.fg &&
  a.bg === b.bg &&
  a.extended.underlineStyle === b.extended.underlineStyle &&
  a.extended.underlineColor === b.extended.underlineColor &&
  a.extended.urlId === b.extended.urlId

/** An erased cell has a background and nothing else. */
const isErased = ({ fg, bg }: Attributes): boolean => fg === 0 && (bg & ~(colorMode | 0xffffff)) === 0

/** An empty cell with more than a background: what was left of a wide character. */
const isHalf = (cells: ReadonlyArray<Cell>, x: number): boolean => {
  const { chars, width, attributes } = cells[x]!
  return chars === "" && width !== 0 && !isErased(attributes) && (x === 0 || cells[x - 1]!.width !== 2)
}

/** Ever, as far as it makes a difference. */
const isSaved = ({ savedX, savedY, savedCurAttrData: { fg, bg }, savedCharset }: BufferParts): boolean =>
  savedX !== 0 || savedY !== 0 || fg !== 0 || bg !== 0 || savedCharset !== undefined

export const drawTerminal = (terminal: Terminal, letters: ReadonlyMap<Charset, string>): string => {
  const parts = partsOf(terminal)
  const { cols, rows } = terminal
  const out: Array<string> = []
  let pen = plain

  const links = (id: number): string => {
    const link = id === 0 ? undefined : parts._oscLinkService.getLinkData(id)
    if (link === undefined) return "\x1b]8;;\x1b\\"
    return `\x1b]8;${link.id === undefined ? "" : `id=${link.id}`};${link.uri}\x1b\\`
  }

  const take = ({ fg, bg, extended: { underlineStyle, underlineColor, urlId } }: Attributes): void => {
    const next = { fg, bg, extended: { underlineStyle, underlineColor, urlId } }
    if (sameAttributes(pen, next)) return
    if ((pen.bg & protectedCell) !== (bg & protectedCell)) out.push(`${csi}${bg & protectedCell ? 1 : 0}"q`)
    if (pen.extended.urlId !== urlId) out.push(links(urlId))
    out.push(sgr(next))
    pen = next
  }

  const column = (x: number): void => {
    out.push(`${csi}${x + 1}G`)
  }

  const copyOf = (cell: IBufferCell): Attributes => {
    const { fg, bg, extended: more } = attributesOf(cell)
    // A cell object that is used again keeps the last ones.
    if (!(bg & extended)) return { fg, bg, extended: plain.extended }
    const { underlineStyle, underlineColor, urlId } = more
    // Of a link whose lines have all gone only its looks are left.
    const known = urlId !== 0 && parts._oscLinkService.getLinkData(urlId) !== undefined
    return { fg, bg, extended: { underlineStyle, underlineColor, urlId: known ? urlId : 0 } }
  }

  /**
   * An empty cell with more than a background is what is left of a wide character when half of it is overwritten. From left
   * to right: each spoils the next one, the last of the row the one before.
   */
  const drawHalves = (cells: ReadonlyArray<Cell>): void => {
    for (let i = 0; i < cols; i++) {
      const x = (i + cols - 1) % cols
      if (!isHalf(cells, x)) continue
      take(cells[x]!.attributes)
      column(Math.min(x, cols - 2))
      out.push(wide)
      column(spoiltBy(x))
      out.push(" ")
    }
  }

  const spoiltBy = (x: number): number => (x === cols - 1 ? cols - 2 : x + 1)

  const drawRow = (cells: ReadonlyArray<Cell>, flowsOn: boolean): void => {
    drawHalves(cells)
    out.push("\r")
    let at = 0
    let previous: Cell | undefined
    for (let x = 0; x < cells.length; x++) {
      const cell = cells[x]!
      if (cell.chars === "" && cell.width === 0) continue
      if (cell.chars !== "") {
        take(cell.attributes)
        // After a movement no character joins the one before it.
        if (at !== x || cell.width === 0 || previous?.width === 0) column(x)
        out.push(cell.chars)
        at = x + cell.width
        if (cell.width === 0) at = -1
        previous = cell
        const half = cells[cols - 1]!
        if (x === cols - 2 && cell.width === 2 && half.width !== 0) {
          // Without wrapping the next character goes on the last half of this one, and a wide one only breaks it.
          out.push(`${csi}?7l`)
          take(half.attributes)
          out.push(half.chars === "" ? wide : half.chars, `${csi}?7h`)
          at = -1
          break
        }
        continue
      }
      previous = undefined
      if (!isErased(cell.attributes)) continue
      let end = x + 1
      while (
        end < cells.length &&
        cells[end]!.chars === "" &&
        cells[end]!.width === 1 &&
        sameAttributes(cells[end]!.attributes, cell.attributes)
      )
        end++
      take(cell.attributes)
      const fresh = cell.attributes.bg === 0 && !spoilt(cells, x, end)
      if (!fresh) {
        column(x)
        out.push(`${csi}${end - x}X`)
      }
      at = -1
      x = end - 1
    }
    if (!flowsOn) return
    const last = cells.at(-1)!
    if (last.chars === "" && last.width !== 0) {
      take(last.attributes)
      column(cols - 1)
      out.push(wide)
    } else if (at === cols) {
      // Before the character: a line that scrolls in is filled with the pen's background.
      take(plain)
      out.push(" ")
    } else {
      // Its half must be printed again, to stand behind it.
      const x = last.width === 0 && last.chars === "" ? cols - 2 : cols - 1
      take(cells[x]!.attributes)
      column(x)
      out.push(cells[x]!.chars)
      take(plain)
      out.push(" ")
    }
    take(plain)
    out.push(`\r${csi}${cols}X`)
  }

  /** `drawHalves` has printed on one of these. */
  const spoilt = (cells: ReadonlyArray<Cell>, from: number, to: number): boolean =>
    cells.some((_, x) => isHalf(cells, x) && spoiltBy(x) >= from && spoiltBy(x) < to)

  const rowOf = (buffer: IBuffer, index: number): ReadonlyArray<Cell> => {
    const line = buffer.getLine(index)
    const cells: Array<Cell> = []
    let cell: IBufferCell | undefined
    for (let x = 0; x < cols; x++) {
      cell = line?.getCell(x, cell)
      cells.push(
        cell === undefined
          ? { chars: "", width: 1, attributes: plain }
          : { chars: cell.getChars(), width: cell.getWidth(), attributes: copyOf(cell) }
      )
    }
    return cells
  }

  const drawLines = (buffer: IBuffer, parts: BufferParts): void => {
    // An alternate screen that was resized while it was away may hold lines above it, which nobody sees.
    const first = buffer.type === "alternate" ? buffer.baseY : 0
    const count = buffer.type === "alternate" ? rows : buffer.length
    // The line before the first has gone, and this one goes on from it.
    const headless = buffer.getLine(first)?.isWrapped === true
    // The place of the saved cursor is a line's, and goes with it: it is saved as that line is drawn.
    const saved = isSaved(parts) ? Math.min(Math.max(parts.savedY - first, 0), count - 1) : null
    const saveAt = saved !== null && headless && saved < rows - 1 ? saved - 1 : saved
    if (headless) {
      if (saveAt === -1) save(parts)
      out.push(" ".repeat(cols + 1), `\r${csi}${cols}X`)
    }
    for (let y = 0; y < count; y++) {
      // As many lines as the screen has came after the one before the first, which has left the screen: it goes.
      if (headless && y === rows - 1) out.push(`${csi}3J`)
      if (y === saveAt) save(parts)
      const flowsOn = y + 1 < count && buffer.getLine(first + y + 1)?.isWrapped === true
      drawRow(rowOf(buffer, first + y), flowsOn)
      take(plain)
      if (!flowsOn && y < count - 1) out.push("\r\n")
    }
  }

  const designate = (level: number, charset: Charset): void => {
    out.push(`\x1b${"()*+"[level]}${letters.get(charset) ?? "B"}`)
  }

  /** Saves a cursor of this line. */
  const save = ({ savedX, savedCurAttrData, savedCharset }: BufferParts): void => {
    take({ ...savedCurAttrData, extended: plain.extended })
    if (savedCharset !== undefined) designate(0, savedCharset)
    column(savedX)
    // Saved is that there is more, and not what: a link is more and shows in nothing else.
    const more = (savedCurAttrData.bg & extended) !== 0 && !(savedCurAttrData.fg & underlined)
    if (more) out.push("\x1b]8;;saved\x1b\\")
    out.push("\x1b7")
    if (more) out.push(links(0))
    if (savedCharset !== undefined) designate(0, undefined)
    take(plain)
    out.push("\r")
  }

  const goTo = (x: number, y: number): void => {
    out.push(`${csi}${Math.max(0, y) + 1};${x + 1}H`)
  }

  const drawMargins = ({ scrollTop, scrollBottom, tabs }: BufferParts): void => {
    if (scrollTop !== 0 || scrollBottom !== rows - 1) out.push(`${csi}${scrollTop + 1};${scrollBottom + 1}r`)
    const stops = Object.keys(tabs)
      .map(Number)
      .filter((x) => tabs[x] === true && x < cols)
    if (stops.length === Math.ceil(cols / 8) && stops.every((x) => x % 8 === 0)) return
    out.push(`${csi}3g`)
    for (const x of stops) {
      column(x)
      out.push("\x1bH")
    }
  }

  const { normal, alt, active } = parts.buffers
  const { charset, glevel, _charsets: charsets } = parts._charsetService
  const modes = terminal.modes

  if (active !== alt && isSaved(alt)) {
    out.push(`${csi}?47h`)
    goTo(0, alt.savedY - alt.ybase)
    save(alt)
    out.push(`${csi}H${csi}?47l`)
  }
  drawLines(terminal.buffer.normal, normal)
  drawMargins(normal)
  if (active === alt) {
    goTo(normal.x, normal.y)
    out.push(`${csi}?47h${csi}H`)
    drawLines(terminal.buffer.alternate, alt)
    drawMargins(alt)
  }

  // A restored cursor can have what nothing else gives: a set that is not designated, a place outside the margins.
  const outside = modes.originMode && (active.y < active.scrollTop || active.y > active.scrollBottom)
  if (outside) {
    take({ ...active.savedCurAttrData, extended: plain.extended })
    goTo(active.x, active.y)
    out.push(`\x1b7${csi}?6h\x1b8`)
  }
  for (let level = 0; level < 4; level++) if (charsets[level] !== undefined) designate(level, charsets[level])
  if (glevel > 0) out.push(["", "\x0e", "\x1bn", "\x1bo"][glevel]!)
  if (charset !== charsets[glevel] && !outside) {
    out.push("\x1b8")
    pen = { ...active.savedCurAttrData, extended: pen.extended }
  }

  const privateModes: ReadonlyArray<readonly [boolean, string]> = [
    [modes.applicationCursorKeysMode, "?1h"],
    [modes.applicationKeypadMode, "?66h"],
    [modes.bracketedPasteMode, "?2004h"],
    [modes.sendFocusMode, "?1004h"],
    [modes.reverseWraparoundMode, "?45h"],
    [modes.mouseTrackingMode === "x10", "?9h"],
    [modes.mouseTrackingMode === "vt200", "?1000h"],
    [modes.mouseTrackingMode === "drag", "?1002h"],
    [modes.mouseTrackingMode === "any", "?1003h"],
    [parts.coreMouseService.activeEncoding === "SGR", "?1006h"],
    [parts.coreMouseService.activeEncoding === "SGR_PIXELS", "?1016h"],
    [parts.coreService.isCursorHidden, "?25l"],
    [parts.optionsService.rawOptions.convertEol, "20h"],
    [!modes.wraparoundMode, "?7l"],
    [modes.insertMode, "4h"],
    [modes.originMode && !outside, "?6h"],
    [modes.synchronizedOutputMode, "?2026h"]
  ]
  for (const [on, sequence] of privateModes) if (on) out.push(csi + sequence)
  const { cursorStyle, cursorBlink } = parts.coreService.decPrivateModes
  if (cursorStyle !== undefined)
    out.push(`${csi}${{ block: 2, underline: 4, bar: 6 }[cursorStyle] - (cursorBlink ? 1 : 0)} q`)

  if (!outside) {
    const y = modes.originMode ? active.y - active.scrollTop : active.y
    const joins = parts._inputHandler._parser.precedingJoinState !== 0
    const row = rowOf(terminal.buffer.active, active.ybase + active.y)
    const behind = active.x - 1
    const from = behind > 0 && row[behind]?.width === 0 && row[behind]?.chars === "" ? behind - 1 : behind
    const last = row[from]
    const isLast = last !== undefined && last.chars !== "" && from + last.width === active.x
    if (isLast && (joins || active.x === cols)) {
      // Printed again, so that the next character wraps, joins or repeats it as it would have.
      goTo(from, y)
      take(last.attributes)
      if (modes.insertMode) out.push(`${csi}${Math.max(1, last.width)}P`)
      out.push(last.chars)
      if (!joins) out.push(sgr(pen))
    } else goTo(Math.min(active.x, cols - 1), y)
  }
  const current = parts._inputHandler._curAttrData
  const { underlineColor } = current.extended
  take(current.bg & extended ? current : { ...current, extended: { ...plain.extended, underlineColor } })
  return out.join("")
}

interface Cell {
  readonly chars: string
  readonly width: number
  readonly attributes: Attributes
}
