/**
 * Bounds for what xterm keeps without one: marks on a character, links and their addresses, titles. Far beyond what programs
 * print; a terminal that was flooded with more shows less than xterm would.
 */
import type { Terminal } from "@xterm/headless"
import { partsOf } from "./terminalParts.ts"

/** Unicode's own bound for text that is passed on in pieces is 30. */
const maxMarks = 32

/** Of a title, of a link with its address. Other terminals cut addresses at 2083. */
const maxTextChars = 2_083

/** At once, on screen and scrollback. A listing of a directory makes one a file. */
const maxLinks = 4_096

const isTooLong = (text: string): boolean => text.length > maxTextChars

export const boundTerminal = (terminal: Terminal): void => {
  const { unicodeService, _oscLinkService } = partsOf(terminal)
  const known = unicodeService._activeProvider
  terminal.unicode.register({
    version: "bounded",
    wcwidth: (code) => known.wcwidth(code),
    // Bit 0 says that the character joins the one before, bits 1 and 2 are its width, the rest is ours: how many did.
    charProperties: (code, preceding) => {
      const properties = known.charProperties(code, preceding & 7)
      if ((properties & 1) === 0) return properties
      const marks = (preceding >>> 3) + 1
      return marks > maxMarks ? 0 : (marks << 3) | properties
    }
  })
  terminal.unicode.activeVersion = "bounded"
  for (const title of [0, 1, 2]) terminal.parser.registerOscHandler(title, isTooLong)
  terminal.parser.registerOscHandler(
    8,
    (link) => isTooLong(link) || (link !== ";" && _oscLinkService._dataByLinkId.size >= maxLinks)
  )
}
