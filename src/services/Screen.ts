/**
 * Screen: what a run's terminal shows, at a cursor of its log.
 *
 * A snapshot drawn on a fresh terminal of its size, followed by the log from its cursor, gives cell for cell what the whole
 * log gives. Who types into a run asks the screen first, because programs choose how keys and pastes are sent.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { WindowSize } from "./Run.ts"
import type { RunLogReadError } from "./RunLog.ts"

export const ScreenModes = Schema.Struct({
  /** A full-screen program draws on a buffer of its own. */
  alternate: Schema.Boolean,
  applicationCursor: Schema.Boolean,
  applicationKeypad: Schema.Boolean,
  bracketedPaste: Schema.Boolean,
  mouse: Schema.Literals(["none", "x10", "vt200", "drag", "any"]),
  sendFocus: Schema.Boolean,
  cursorVisible: Schema.Boolean
})
export type ScreenModes = typeof ScreenModes.Type

export const ScreenSnapshot = Schema.Struct({
  /** The log goes on from here. Never in the midst of an escape sequence or a character. */
  cursor: Schema.Int,
  size: WindowSize,
  /** Draws the screen, with its scrollback, modes and cursor, on a terminal of that size that was just reset. */
  bytes: Schema.Uint8Array,
  /** What stands on the screen, without colours: one string a row, blanks at the end cut off. */
  rows: Schema.Array(Schema.String),
  /** Column and row of the cursor from 0; the column is the width itself when the next character wraps. */
  at: Schema.Struct({ x: Schema.Int, y: Schema.Int }),
  modes: ScreenModes,
  /** Bytes of the log that were gone before the screen was drawn: it may lack what they drew. */
  missing: Schema.Int
})
export type ScreenSnapshot = typeof ScreenSnapshot.Type

/** Lines above the screen that a snapshot has. Agents draw transcripts of some hundreds; the log has them all. */
export const scrollbackLines = 1_000

/** The size that a run's terminal has until it is told one: what node-pty and xterm start with. */
export const defaultSize: WindowSize = { cols: 80, rows: 24 }

export class ScreenBroken extends Schema.TaggedError<ScreenBroken>()("ScreenBroken", {
  runId: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `The screen of run ${this.runId} cannot be drawn. \`holdfast logs\` shows its output as it is.`
  }
}

export class Screen extends Context.Service<
  Screen,
  {
    /** As of now: everything that had been appended to the log when it was asked for is on it. */
    readonly snapshot: (runId: string) => Effect.Effect<ScreenSnapshot, RunLogReadError | ScreenBroken>
    readonly modes: (runId: string) => Effect.Effect<ScreenModes, RunLogReadError | ScreenBroken>
  }
>()("holdfast/Screen") {}

/** Beginning and end of a paste, as xterm has had them since 2002. */
const pasteBegin = "\x1b[200~"
const pasteEnd = "\x1b[201~"

/**
 * What pasting a text sends. An end marker inside it would let the rest be typed, so it is taken out until none is left,
 * also one that its own removal makes.
 */
export const encodePaste = (text: string, modes: Pick<ScreenModes, "bracketedPaste">): Uint8Array => {
  // The same key that a person would have pressed at the end of each line.
  const lines = text.replaceAll(/\r\n|\n/g, "\r")
  if (!modes.bracketedPaste) return new TextEncoder().encode(lines)
  let inner = lines
  while (markers.test(inner)) inner = inner.replaceAll(markersEverywhere, "")
  return new TextEncoder().encode(pasteBegin + inner + pasteEnd)
}

/** Also with the one-byte CSI, which a terminal in UTF-8 reads as the same. */
const escape = "\x1b"
const markers = new RegExp(`(?:${escape}\\[|\u009b)20[01]~`)
const markersEverywhere = new RegExp(markers, "g")

const isControl = (char: string): boolean => {
  const code = char.charCodeAt(0)
  return code < 0x20 || (code >= 0x7f && code < 0xa0)
}

export class UnknownKey extends Schema.TaggedError<UnknownKey>()("UnknownKey", {
  key: Schema.String
}) {
  override get message(): string {
    const shown = JSON.stringify(this.key.slice(0, 40))
    return `${shown} is no key. Known are ${keyNames.join(" ")}, one character by itself, C-x or ^X with a letter or one of @ [ \\ ] ^ _ ? Space, and M- before any of them and S- before a named one.`
  }
}

type Encoding =
  /** The same bytes always. */
  | { readonly plain: string }
  /** `CSI x`, or `SS3 x` in application cursor mode; `CSI 1 ; m x` with modifiers. */
  | { readonly cursor: string }
  /** `SS3 x`; `CSI 1 ; m x` with modifiers. */
  | { readonly ss3: string }
  /** `CSI n ~`; `CSI n ; m ~` with modifiers. */
  | { readonly tilde: number }

/** As xterm, which is what TERM=xterm-256color promises of us. */
const keys: Readonly<Record<string, Encoding>> = {
  Enter: { plain: "\r" },
  Tab: { plain: "\t" },
  Escape: { plain: "\x1b" },
  Backspace: { plain: "\x7f" },
  Space: { plain: " " },
  Up: { cursor: "A" },
  Down: { cursor: "B" },
  Right: { cursor: "C" },
  Left: { cursor: "D" },
  Home: { cursor: "H" },
  End: { cursor: "F" },
  Insert: { tilde: 2 },
  Delete: { tilde: 3 },
  PageUp: { tilde: 5 },
  PageDown: { tilde: 6 },
  F1: { ss3: "P" },
  F2: { ss3: "Q" },
  F3: { ss3: "R" },
  F4: { ss3: "S" },
  F5: { tilde: 15 },
  F6: { tilde: 17 },
  F7: { tilde: 18 },
  F8: { tilde: 19 },
  F9: { tilde: 20 },
  F10: { tilde: 21 },
  F11: { tilde: 23 },
  F12: { tilde: 24 }
}

/** In the order they are taught in. */
export const keyNames: ReadonlyArray<string> = Object.keys(keys)

const named = new Map(Object.entries(keys).map(([name, encoding]) => [name.toLowerCase(), encoding]))
for (const [other, name] of [
  ["return", "Enter"],
  ["esc", "Escape"],
  ["bspace", "Backspace"],
  ["ins", "Insert"],
  ["ic", "Insert"],
  ["del", "Delete"],
  ["dc", "Delete"],
  ["pgup", "PageUp"],
  ["ppage", "PageUp"],
  ["pgdn", "PageDown"],
  ["npage", "PageDown"]
] as const)
  named.set(other, keys[name]!)

interface Modifiers {
  readonly shift: boolean
  readonly alt: boolean
  readonly control: boolean
}

/** The control character of a key: what the terminals of 1970 made by clearing two bits. */
const controlOf = (char: string): string | null => {
  const upper = char.toUpperCase()
  if (upper === "?") return "\x7f"
  if (upper === " ") return "\0"
  return /^[@A-Z[\\\]^_]$/.test(upper) ? String.fromCharCode(upper.charCodeAt(0) & 0x1f) : null
}

const encodeNamed = (encoding: Encoding, modifiers: Modifiers, applicationCursor: boolean): string | null => {
  const { shift, alt, control } = modifiers
  const parameter = 1 + (shift ? 1 : 0) + (alt ? 2 : 0) + (control ? 4 : 0)
  if ("tilde" in encoding) return `\x1b[${encoding.tilde}${parameter === 1 ? "" : `;${parameter}`}~`
  if ("plain" in encoding) {
    const bytes = encodePlain(encoding.plain, shift, control)
    return bytes === null ? null : (alt ? "\x1b" : "") + bytes
  }
  const final = "cursor" in encoding ? encoding.cursor : encoding.ss3
  if (parameter !== 1) return `\x1b[1;${parameter}${final}`
  return "ss3" in encoding || applicationCursor ? `\x1bO${final}` : `\x1b[${final}`
}

const encodePlain = (plain: string, shift: boolean, control: boolean): string | null => {
  if (plain === "\t" && shift) return control ? null : "\x1b[Z"
  if (!control) return plain
  // Terminals have no word for a control Enter or Tab.
  if (plain === " ") return "\0"
  return plain === "\x7f" ? "\b" : null
}

/** What a key sends. Names are read in any case; a single character is itself. */
export const encodeKey = (
  key: string,
  modes: Pick<ScreenModes, "applicationCursor">
): Result.Result<Uint8Array, UnknownKey> => {
  const unknown = Result.fail(new UnknownKey({ key }))
  const done = (text: string | null): Result.Result<Uint8Array, UnknownKey> =>
    text === null ? unknown : Result.succeed(new TextEncoder().encode(text))
  let rest = key
  let modifiers: Modifiers = { shift: false, alt: false, control: false }
  const add = (name: keyof Modifiers): boolean => {
    if (modifiers[name]) return false
    modifiers = { ...modifiers, [name]: true }
    return true
  }
  for (;;) {
    const prefix = /^(?:([CMSA])-|\^)(?=.)/isu.exec(rest)
    if (prefix === null) break
    const letter = prefix[1]?.toUpperCase() ?? "C"
    if (!add(letter === "C" ? "control" : letter === "S" ? "shift" : "alt")) return unknown
    rest = rest.slice(prefix[0].length)
  }
  const encoding = named.get(rest.toLowerCase())
  if (encoding !== undefined) return done(encodeNamed(encoding, modifiers, modes.applicationCursor))
  // One character, whatever its number of UTF-16 units; a letter's shift is the capital letter itself.
  if ([...rest].length !== 1 || modifiers.shift || isControl(rest)) return unknown
  const bytes = modifiers.control ? controlOf(rest) : rest
  return done(bytes === null ? null : (modifiers.alt ? "\x1b" : "") + bytes)
}

/** All of them, or the first that is no key and nothing. */
export const encodeKeys = (
  names: ReadonlyArray<string>,
  modes: Pick<ScreenModes, "applicationCursor">
): Result.Result<Uint8Array, UnknownKey> =>
  Result.map(Result.all(names.map((name) => encodeKey(name, modes))), (parts) => {
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
    let at = 0
    for (const part of parts) {
      bytes.set(part, at)
      at += part.length
    }
    return bytes
  })
