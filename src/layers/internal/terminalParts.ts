/**
 * The parts of a headless xterm that its interface does not show and a faithful copy needs: margins, tab stops, saved
 * cursors, character sets, the pen. For version 6.0.0 exactly; a test compares copy and original cell for cell.
 */
import type { IBufferCell, Terminal } from "@xterm/headless"

export interface Attributes {
  readonly fg: number
  readonly bg: number
  readonly extended: {
    readonly underlineStyle: number
    readonly underlineColor: number
    readonly urlId: number
  }
}

/** A set of replacement characters; xterm has one object for each. */
export type Charset = object | undefined

interface LineParts {
  readonly resize: (cols: number, fill: object) => void
  readonly getWidth: (x: number) => number
  readonly hasContent: (x: number) => number
  readonly setCellFromCodepoint: (x: number, code: number, width: number, attributes: Attributes) => void
}

export interface BufferParts {
  readonly x: number
  readonly y: number
  readonly ybase: number
  readonly scrollTop: number
  readonly scrollBottom: number
  readonly tabs: Record<number, boolean | undefined>
  savedX: number
  savedY: number
  readonly savedCurAttrData: Attributes
  readonly savedCharset: Charset
  readonly getNullCell: (attributes: Attributes) => object
  readonly getBlankLine: (attributes: Attributes) => LineParts
  readonly lines: {
    readonly length: number
    maxLength: number
    readonly push: (line: LineParts) => void
    readonly pop: () => void
    readonly get: (index: number) => LineParts | undefined
  }
}

interface Parts {
  readonly buffers: { readonly normal: BufferParts; readonly alt: BufferParts; readonly active: BufferParts }
  readonly _inputHandler: {
    readonly _windowTitle: string
    readonly _iconName: string
    readonly _curAttrData: Attributes
    readonly parse: (data: string | Uint8Array) => void
    readonly _eraseInBufferLine: (y: number, start: number, end: number, clearWrap: boolean) => void
    readonly _resetBufferLine: (y: number) => void
    readonly _parser: { readonly precedingJoinState: number; readonly currentState: number }
  }
  readonly _charsetService: {
    readonly charset: Charset
    readonly glevel: number
    readonly _charsets: ReadonlyArray<Charset>
  }
  readonly coreService: {
    readonly isCursorHidden: boolean
    readonly decPrivateModes: {
      readonly cursorStyle: "block" | "underline" | "bar" | undefined
      readonly cursorBlink: boolean | undefined
    }
  }
  readonly coreMouseService: { readonly activeEncoding: string }
  readonly unicodeService: {
    readonly _activeProvider: {
      readonly wcwidth: (code: number) => 0 | 1 | 2
      readonly charProperties: (code: number, preceding: number) => number
    }
  }
  readonly _oscLinkService: {
    readonly _dataByLinkId: ReadonlyMap<number, unknown>
    readonly getLinkData: (id: number) => { readonly id?: string; readonly uri: string } | undefined
  }
  readonly optionsService: { readonly rawOptions: { readonly convertEol: boolean } }
}

export const partsOf = (terminal: Terminal): Parts => {
  const { _core: core } = terminal as unknown as { readonly _core?: Parts }
  if (
    core?._inputHandler?._curAttrData === undefined ||
    core._charsetService?._charsets === undefined ||
    core._oscLinkService?._dataByLinkId === undefined ||
    core.unicodeService?._activeProvider === undefined ||
    core.buffers?.active?.tabs === undefined
  )
    throw new Error("this version of @xterm/headless is not the one that this program was made with")
  return core
}

/** A cell of the interface is its own attributes. */
export const attributesOf = (cell: IBufferCell): Attributes => cell as unknown as Attributes

const designators = ["0", "A", "4", "C", "R", "Q", "K", "Y", "E", "Z", "H", "="] as const

/** The escape sequence's letter of each character set but the first. */
export const charsetLetters = (scratch: Terminal): ReadonlyMap<Charset, string> => {
  const parts = partsOf(scratch)
  const known = new Map<Charset, string>()
  for (const letter of designators) {
    parts._inputHandler.parse(`\x1b(${letter}`)
    known.set(parts._charsetService.charset, letter)
  }
  return known
}
