/** What a terminal may have that no output can give to another one of its size, each kind by a name. */
import {
  hasExtended,
  type RawBuffer,
  type RawExtended,
  type RawLine,
  type RawTerminal,
  underlined
} from "./rawTerminal.ts"

const contentOf = (line: RawLine, x: number): number => line._data[3 * x]! & 0x3fffff
const widthOf = (line: RawLine, x: number): number => line._data[3 * x]! >>> 22

/** A wide character without its second half, or a second half without its character. */
const isTorn = (line: RawLine, cols: number): boolean => {
  for (let x = 0; x < cols; x++) {
    if (widthOf(line, x) === 2) {
      if (x + 1 >= cols || widthOf(line, x + 1) !== 0 || contentOf(line, x + 1) !== 0) return true
      x++
    } else if (widthOf(line, x) === 0 && contentOf(line, x) === 0) return true
  }
  return false
}

/** What of its state no output can give to another terminal of its size; none where a copy can be perfect. */
export const inexpressible = (raw: RawTerminal): ReadonlyArray<string> => {
  const { core } = raw
  const { cols, rows } = raw.size()
  const { active, normal, alt } = core.buffers
  const found: Array<string> = []
  const linesOf = (buffer: RawBuffer): ReadonlyArray<RawLine | undefined> =>
    Array.from({ length: buffer.lines.length }, (_, y) => buffer.lines.get(y))
  if (active === alt) {
    if (linesOf(alt).some((line) => line !== undefined && line.length > cols))
      found.push("cells beyond the width of the alternate screen")
    if (alt.ybase > 0 || alt.lines.length > rows) found.push("lines above or below the alternate screen")
  }
  if (alt.lines.maxLength > rows) found.push("room for lines above the alternate screen")
  if (normal.lines.length > normal.ybase + rows) found.push("lines below the screen")
  if (
    [normal, ...(active === alt ? [alt] : [])].some((buffer) =>
      linesOf(buffer).some((line) => line !== undefined && isTorn(line, cols))
    )
  )
    found.push("half of a wide character")
  for (const buffer of [normal, alt]) {
    if (buffer.savedX > cols || buffer.savedY > buffer.ybase + rows - 1)
      found.push("a saved cursor outside the screen")
    const stops = Object.keys(buffer.tabs)
      .map(Number)
      .filter((x) => buffer.tabs[x] === true)
    if (stops.some((x) => x >= cols)) found.push("a tab stop beyond the width")
  }
  const shown = [normal, ...(active === alt ? [alt] : [])]
  const isGone = ({ urlId }: RawExtended): boolean =>
    urlId !== 0 && core._oscLinkService.getLinkData(urlId) === undefined
  const isHidden = (fg: number, bg: number, extended: RawExtended | undefined): boolean =>
    (fg & underlined) !== 0 && (bg & hasExtended) !== 0 && extended?.underlineStyle === 0
  for (const buffer of shown) {
    const cells = linesOf(buffer).flatMap((line, y) =>
      line === undefined
        ? []
        : Object.entries(line._extendedAttrs)
            .filter(([x]) => Number(x) < cols && (line._data[3 * Number(x) + 2]! & hasExtended) !== 0)
            .map(([x, extended]) => ({
              y,
              extended,
              fg: line._data[3 * Number(x) + 1]!,
              bg: line._data[3 * Number(x) + 2]!
            }))
    )
    if (cells.some(({ extended }) => extended !== undefined && isGone(extended)))
      found.push("a link whose lines have gone")
    if (
      buffer.savedY < buffer.ybase &&
      cells.some(({ y, fg, bg, extended }) => y >= buffer.savedY && isHidden(fg, bg, extended))
    )
      found.push(
        "an underline that a restored cursor has hidden, below a saved cursor that has left the screen"
      )
  }
  const { charset, glevel, _charsets: charsets } = core._charsetService
  if (charset !== charsets[glevel] && charset !== active.savedCharset)
    found.push("a character set that neither is designated nor saved")
  const { _curAttrData: pen } = core._inputHandler
  if (
    isHidden(pen.fg, pen.bg, pen.extended) &&
    !((active.savedCurAttrData.fg & underlined) !== 0 && (active.savedCurAttrData.bg & hasExtended) !== 0)
  )
    found.push("a pen whose underline a cursor has hidden that is no longer saved")
  const line = active.lines.get(active.ybase + active.y)
  if (line !== undefined) {
    const behind = active.x - 1
    const printed = behind >= 0 && (contentOf(line, behind) !== 0 || widthOf(line, behind) === 0)
    if (active.x >= cols && !printed) found.push("a cursor that waits for a wrap behind an empty cell")
    const isPen =
      behind >= 0 &&
      line._data[3 * behind + 1] === pen.fg >>> 0 &&
      line._data[3 * behind + 2] === pen.bg >>> 0
    if (core._inputHandler._parser.precedingJoinState !== 0 && !(printed && isPen))
      found.push("a last character that is not before the cursor")
  }
  return found
}
