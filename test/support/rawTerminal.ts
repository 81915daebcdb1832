/**
 * A terminal that nothing of ours stands in: xterm as it is published, written to and read out down to its last word. What a
 * session leaves in one is what a snapshot of that session has to give.
 */
import xterm from "@xterm/headless"
import type { SessionItem } from "./terminalSessions.ts"

export interface RawLine {
  readonly isWrapped: boolean
  readonly length: number
  /** Three words a cell: content, foreground, background. */
  readonly _data: Uint32Array
  readonly _combined: Record<number, string | undefined>
  readonly _extendedAttrs: Record<number, RawExtended | undefined>
}

export interface RawExtended {
  readonly underlineStyle: number
  readonly underlineColor: number
  readonly urlId: number
}

export interface RawBuffer {
  readonly x: number
  readonly y: number
  readonly ybase: number
  readonly scrollTop: number
  readonly scrollBottom: number
  readonly savedX: number
  readonly savedY: number
  readonly savedCurAttrData: { readonly fg: number; readonly bg: number }
  readonly savedCharset: object | undefined
  readonly tabs: Record<number, boolean | undefined>
  readonly lines: {
    readonly length: number
    readonly maxLength: number
    readonly get: (index: number) => RawLine | undefined
  }
}

interface RawCore {
  readonly writeSync: (bytes: Uint8Array) => void
  readonly buffers: { readonly normal: RawBuffer; readonly alt: RawBuffer; readonly active: RawBuffer }
  readonly coreService: {
    readonly isCursorHidden: boolean
    readonly modes: object
    readonly decPrivateModes: object
  }
  readonly coreMouseService: { readonly activeEncoding: string; readonly activeProtocol: string }
  readonly optionsService: {
    readonly rawOptions: { readonly convertEol: boolean; readonly cursorBlink: boolean }
  }
  readonly _charsetService: {
    readonly charset: object | undefined
    readonly glevel: number
    readonly _charsets: ReadonlyArray<object | undefined>
  }
  readonly _oscLinkService: {
    readonly getLinkData: (id: number) => { readonly id?: string; readonly uri: string } | undefined
  }
  readonly _inputHandler: {
    readonly _windowTitle: string
    readonly _iconName: string
    readonly _curAttrData: { readonly fg: number; readonly bg: number; readonly extended: RawExtended }
    readonly _parser: { readonly precedingJoinState: number; readonly currentState: number }
  }
}

export interface RawTerminal {
  readonly write: (bytes: Uint8Array) => void
  readonly resize: (size: { readonly cols: number; readonly rows: number }) => void
  readonly play: (items: ReadonlyArray<SessionItem>) => void
  readonly size: () => { readonly cols: number; readonly rows: number }
  readonly core: RawCore
  readonly dispose: () => void
}

export const rawTerminal = (
  { cols, rows }: { readonly cols: number; readonly rows: number },
  scrollback: number
): RawTerminal => {
  const terminal = new xterm.Terminal({ cols, rows, scrollback, allowProposedApi: true, logLevel: "off" })
  const core = (terminal as unknown as { readonly _core: RawCore })._core
  // The one fault of xterm 6.0.0 that stops it: it asks for the line below the last one. It gets one that nobody sees.
  terminal.parser.registerCsiHandler({ final: "J" }, ([how]) => {
    const { lines, x, y } = core.buffers.active
    if (how !== 1 || x + 1 < terminal.cols || lines.get(y + 1) !== undefined) return false
    const get = lines.get.bind(lines)
    const patched = lines as { get: RawBuffer["lines"]["get"] }
    patched.get = (index) => {
      if (index !== y + 1) return get(index)
      patched.get = get
      return { isWrapped: false } as RawLine
    }
    return false
  })
  const write = (bytes: Uint8Array): void => core.writeSync(bytes)
  const resize = ({ cols, rows }: { readonly cols: number; readonly rows: number }): void =>
    terminal.resize(cols, rows)
  return {
    write,
    resize,
    play: (items) => {
      for (const item of items)
        if ("bytes" in item) write(item.bytes)
        else resize(item)
    },
    size: () => ({ cols: terminal.cols, rows: terminal.rows }),
    core,
    dispose: () => terminal.dispose()
  }
}

export const hasExtended = 0x10000000
export const underlined = 0x10000000

/** A word of attributes without what is left in it of an earlier colour: of a palette's only the index is ever read. */
const word = (value: number): number => {
  const mode = value & 0x3000000
  if (mode === 0x3000000) return value
  return value & (mode === 0 ? ~0xffffff : ~0xffff00)
}

const linkOf = (core: RawCore, id: number): string => {
  const link = id === 0 ? undefined : core._oscLinkService.getLinkData(id)
  return link === undefined ? "" : `${link.id ?? ""};${link.uri}`
}

const extendedOf = (core: RawCore, bg: number, extended: RawExtended | undefined): string =>
  (bg & hasExtended) === 0 || extended === undefined
    ? ""
    : `${extended.underlineStyle},${word(extended.underlineColor)},${linkOf(core, extended.urlId)}`

/** Each character set is one object of xterm's; what it makes of these two tells them all apart. */
const charsetOf = (charset: object | undefined): string => JSON.stringify(charset ?? null)

const stateOf = (raw: RawTerminal): Readonly<Record<string, unknown>> => {
  const { core } = raw
  const { active, normal, alt } = core.buffers
  const { charset, glevel, _charsets: charsets } = core._charsetService
  const { _curAttrData: pen, _parser: parser, _windowTitle: title, _iconName: icon } = core._inputHandler
  const { cols, rows } = raw.size()
  const saved = (buffer: RawBuffer) => ({
    // Where restoring it puts it.
    at: [Math.min(buffer.savedX, cols - 1), Math.min(Math.max(buffer.savedY - buffer.ybase, 0), rows - 1)],
    pen: [word(buffer.savedCurAttrData.fg), word(buffer.savedCurAttrData.bg)],
    charset: charsetOf(buffer.savedCharset)
  })
  const places = (buffer: RawBuffer) => ({
    margins: [buffer.scrollTop, buffer.scrollBottom],
    tabs: Object.keys(buffer.tabs)
      .map(Number)
      .filter((x) => buffer.tabs[x] === true && x < cols)
  })
  return {
    size: [cols, rows],
    active: active === alt ? "alternate" : "normal",
    cursor: [active.x, active.y],
    "normal length": [normal.lines.length, normal.ybase],
    "normal places": places(normal),
    "alternate places": active === alt ? places(alt) : null,
    "normal saved": saved(normal),
    "alternate saved": saved(alt),
    charset: charsetOf(charset),
    charsets: [glevel, ...[0, 1, 2, 3].map((level) => charsetOf(charsets[level]))],
    modes: { ...core.coreService.modes, ...core.coreService.decPrivateModes },
    mouse: [core.coreMouseService.activeProtocol, core.coreMouseService.activeEncoding],
    hidden: core.coreService.isCursorHidden,
    options: [core.optionsService.rawOptions.convertEol, core.optionsService.rawOptions.cursorBlink],
    pen: [
      word(pen.fg),
      word(pen.bg),
      word(pen.extended.underlineColor),
      extendedOf(core, pen.bg, pen.extended)
    ],
    title,
    icon,
    joins: parser.precedingJoinState !== 0,
    parser: parser.currentState
  }
}

/** The words in which two terminals differ, each with the first place; none when they are the same in all. */
export const differences = (one: RawTerminal, other: RawTerminal): ReadonlyMap<string, string> => {
  const found = new Map<string, string>()
  const differ = (word: string, where: string, a: unknown, b: unknown): void => {
    if (!found.has(word)) found.set(word, `${where}: ${JSON.stringify(a)} and ${JSON.stringify(b)}`)
  }
  const [a, b] = [stateOf(one), stateOf(other)]
  for (const word of Object.keys(a))
    if (JSON.stringify(a[word]) !== JSON.stringify(b[word])) differ(word, "terminal", a[word], b[word])
  const { cols, rows } = one.size()
  const buffers =
    one.core.buffers.active === one.core.buffers.alt ? (["normal", "alt"] as const) : (["normal"] as const)
  for (const name of buffers) {
    const [left, right] = [one.core.buffers[name], other.core.buffers[name]]
    // What an alternate screen keeps above itself is never shown.
    const [first, second] = name === "alt" ? [left.ybase, right.ybase] : [0, 0]
    const count = name === "alt" ? rows : Math.min(left.lines.length, right.lines.length)
    for (let y = 0; y < count; y++) {
      const [l, r] = [left.lines.get(first + y)!, right.lines.get(second + y)!]
      if (l === undefined || r === undefined) {
        if (l !== r) differ("line", `${name} ${y}`, l === undefined, r === undefined)
        continue
      }
      if (l.isWrapped !== r.isWrapped) differ("wrapped", `${name} ${y}`, l.isWrapped, r.isWrapped)
      for (let x = 0; x < cols; x++) {
        const where = `${name} ${y},${x}`
        const [lc, lf, lb] = [l._data[3 * x]!, word(l._data[3 * x + 1]!), word(l._data[3 * x + 2]!)]
        const [rc, rf, rb] = [r._data[3 * x]!, word(r._data[3 * x + 1]!), word(r._data[3 * x + 2]!)]
        if (lc !== rc) {
          if (lc >>> 22 !== rc >>> 22) differ("width", where, lc >>> 22, rc >>> 22)
          else differ("characters", where, lc & 0x3fffff, rc & 0x3fffff)
        }
        if ((lc & 0x200000) !== 0 && l._combined[x] !== r._combined[x])
          differ("characters", where, l._combined[x], r._combined[x])
        if (lf !== rf) differ("foreground", where, lf.toString(16), rf.toString(16))
        if (lb !== rb) differ("background", where, lb.toString(16), rb.toString(16))
        const [le, re] = [
          extendedOf(one.core, lb, l._extendedAttrs[x]),
          extendedOf(other.core, rb, r._extendedAttrs[x])
        ]
        if (le !== re) differ("underline or link", where, le, re)
      }
    }
  }
  return found
}
