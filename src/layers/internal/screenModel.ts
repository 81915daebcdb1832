/** A headless terminal that follows one log: it is fed bytes and sizes, and can be drawn at any byte. */
import xterm, { type Terminal } from "@xterm/headless"
import type { WindowSize } from "../../services/Run.ts"
import type { ScreenModes } from "../../services/Screen.ts"
import { makeEscapeState } from "./escapeState.ts"
import { boundTerminal } from "./screenBounds.ts"
import { drawTerminal } from "./screenDraw.ts"
import { type BufferParts, charsetLetters, partsOf } from "./terminalParts.ts"

export interface ScreenModel {
  readonly terminal: Terminal
  /** At once: 64 KB take 2 ms. Throws when xterm does; the model is of no use then. */
  readonly feed: (bytes: Uint8Array) => void
  readonly resize: (size: WindowSize) => void
  /** Draws it on a terminal that was just reset, and leaves that in the midst of the same sequence. */
  readonly draw: () => Uint8Array
  readonly rows: () => ReadonlyArray<string>
  readonly modes: () => ScreenModes
  readonly dispose: () => void
}

const terminalOf = ({ cols, rows }: WindowSize, scrollback: number): Terminal =>
  // xterm has no terminal of one column.
  new xterm.Terminal({ cols: Math.max(2, cols), rows, scrollback, allowProposedApi: true, logLevel: "off" })

export const makeScreenModel = (size: WindowSize, scrollback: number): ScreenModel => {
  const terminal = terminalOf(size, scrollback)
  const parts = partsOf(terminal)
  const state = makeEscapeState()
  boundTerminal(terminal)
  // xterm 6.0.0 throws when a program erases up to the last cell of a screen that has no line below.
  terminal.parser.registerCsiHandler({ final: "J" }, ([how]) => {
    const { x, y, lines } = parts.buffers.active
    if (how !== 1 || lines.get(y + 1) !== undefined) return false
    parts._inputHandler._eraseInBufferLine(y, 0, x + 1, true)
    for (let above = 0; above < y; above++) parts._inputHandler._resetBufferLine(above)
    return true
  })
  return {
    terminal,
    // Not by `write`, which calls back from a timer: what it throws there would end the process.
    feed: (bytes) => {
      state.feed(bytes)
      parts._inputHandler.parse(bytes)
    },
    resize: ({ cols, rows }) => {
      terminal.resize(Math.max(2, cols), rows)
      for (const buffer of [parts.buffers.normal, parts.buffers.alt]) fill(buffer, rows)
    },
    draw: () => {
      const charsets = parts._charsetService
      const inUse =
        charsets.charset !== undefined ||
        charsets._charsets.some((charset) => charset !== undefined) ||
        parts.buffers.normal.savedCharset !== undefined ||
        parts.buffers.alt.savedCharset !== undefined
      const letters = inUse ? lettersOf() : new Map<never, never>()
      return Buffer.concat([Buffer.from(drawTerminal(terminal, letters)), state.partial()])
    },
    rows: () => {
      const { active } = terminal.buffer
      return Array.from(
        { length: terminal.rows },
        (_, y) => active.getLine(active.baseY + y)?.translateToString(true) ?? ""
      )
    },
    modes: () => {
      const modes = terminal.modes
      return {
        alternate: terminal.buffer.active.type === "alternate",
        applicationCursor: modes.applicationCursorKeysMode,
        applicationKeypad: modes.applicationKeypadMode,
        bracketedPaste: modes.bracketedPasteMode,
        mouse: modes.mouseTrackingMode,
        sendFocus: modes.sendFocusMode,
        cursorVisible: !parts.coreService.isCursorHidden
      }
    },
    dispose: () => terminal.dispose()
  }
}

/** xterm 6.0.0 throws at what is printed on a line that a resize took and did not give back. */
const fill = (buffer: BufferParts, rows: number): void => {
  const { lines, ybase } = buffer
  if (lines.length === 0) return
  const wanted = Math.min(ybase + rows, lines.maxLength)
  while (lines.length < wanted) lines.push(buffer.getBlankLine(erased))
}

const erased = { fg: 0, bg: 0, extended: { underlineStyle: 0, underlineColor: 0, urlId: 0 } }

const lettersOf = (): ReturnType<typeof charsetLetters> => {
  const scratch = terminalOf({ cols: 2, rows: 1 }, 0)
  try {
    return charsetLetters(scratch)
  } finally {
    scratch.dispose()
  }
}
