/**
 * Attachment: a person's terminal at a run. How they leave it without ending the run, and what the run has done to the
 * terminal that has to be undone when they leave, by whatever way.
 */
import * as Result from "effect/Result"
import { encodeKey, UnknownKey } from "./Screen.ts"

/** docker's. */
export const defaultDetachKeys = "C-p C-q"

/** Keys that were typed and may be the beginning of the detach keys go on to the run after so long. */
export const holdMs = 500

/** What the terminal may send for one key: its bytes, or the key and its modifiers as numbers. */
type Key = (token: string) => boolean

/**
 * A program may have asked the terminal to spell out its keys: `CSI 112 ; 5 u` for C-p (kitty), `CSI 27 ; 5 ; 112 ~`
 * (xterm's modifyOtherKeys). Agents' own interfaces do.
 */
const spelled = (letter: string): RegExp => {
  const code = letter.toLowerCase().charCodeAt(0)
  // oxlint-disable-next-line no-control-regex -- what terminals send begins with one
  return new RegExp(`^\\u001b\\[(?:${code}(?::\\d*)*;5(?::[12])?u|27;5;${code}~)$`)
}

/** A key let go, as kitty's protocol tells it; nobody means anything by it. */
// oxlint-disable-next-line no-control-regex -- what terminals send begins with one
const released = /^\u001b\[[\d:]*;\d*:3[u~A-S]$/

export type DetachKeys = ReadonlyArray<Key>

/** Names as `send --keys` has them, and as docker writes them (`ctrl-p,ctrl-q`); `none` for no such keys. */
export const parseDetachKeys = (text: string): Result.Result<DetachKeys, UnknownKey> => {
  if (text === "none") return Result.succeed([])
  const names = text.split(/[\s,]+/).map((name) => name.replace(/^ctrl-/i, "C-"))
  return Result.all(
    names.map((name) =>
      Result.flatMap(encodeKey(name, { applicationCursor: false }), (bytes) => {
        const plain = latin1(bytes)
        if (bytes.some((byte) => byte > 0x7f)) return Result.fail(new UnknownKey({ key: name }))
        const letter = /^(?:C-|\^)([A-Za-z])$/i.exec(name)?.[1]
        const other = letter === undefined ? null : spelled(letter)
        return Result.succeed<Key>((token) => token === plain || (other?.test(token) ?? false))
      })
    )
  )
}

const latin1 = (bytes: Uint8Array): string => {
  let text = ""
  for (const byte of bytes) text += String.fromCharCode(byte)
  return text
}

const bytesOf = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0))

/** One key each, as far as bytes show: an escape sequence, or one byte. */
// oxlint-disable-next-line no-control-regex -- what terminals send begins with one
const tokens = /\u001b\[[0-?]*[ -/]*[@-~]|\u001bO[@-~]|[^]/g

/**
 * What a terminal says by itself: an answer to what a program asked of it, or a report of its mouse or focus. X10's mouse
 * report has three bytes behind its final one.
 */
const reports =
  // oxlint-disable-next-line no-control-regex -- what terminals send begins with one
  /^(?:\u001b\[M[^]{3}|\u001b\[[<=>?]?[\d;:]*\$?[IMORcmnty]|\u001b\[\?[\d;:]*u|\u001b[P\]_][^\u0007\u001b]*(?:\u0007|\u001b\\))+$/

/** Nobody has typed this. */
export const isReport = (bytes: Uint8Array): boolean => reports.test(latin1(bytes))

export interface DetachMatcher {
  /** What goes on to the run; the rest is held, for as long as it may become the detach keys. */
  readonly feed: (bytes: Uint8Array) => { readonly forward: Uint8Array; readonly detached: boolean }
  /** Gives up what is held: it was typed for the run after all. */
  readonly flush: () => Uint8Array
  readonly isHolding: () => boolean
}

export const makeDetachMatcher = (keys: DetachKeys): DetachMatcher => {
  let held = ""
  let matched = 0
  const release = (): string => {
    const text = held
    held = ""
    matched = 0
    return text
  }
  return {
    feed: (bytes) => {
      let forward = ""
      for (const [token] of latin1(bytes).matchAll(tokens)) {
        if (keys[matched]?.(token) === true) {
          held += token
          if (++matched === keys.length) {
            release()
            return { forward: bytesOf(forward), detached: true }
          }
        } else if (matched > 0 && released.test(token)) held += token
        else {
          forward += release()
          if (keys[0]?.(token) === true) {
            held = token
            matched = 1
          } else forward += token
        }
      }
      return { forward: bytesOf(forward), detached: false }
    },
    flush: () => bytesOf(release()),
    isHolding: () => matched > 0
  }
}

/** Private modes that a terminal has on by itself: autowrap, autorepeat, the cursor. */
const onByDefault: ReadonlySet<number> = new Set([7, 8, 25])
/** The alternate screen; left last, since some of the rest is kept per screen. */
const alternates: ReadonlySet<number> = new Set([47, 1047, 1049])
/** More private modes than terminals know. */
const maxModes = 64

// oxlint-disable-next-line no-control-regex -- what programs send begins with one
const sequences = /\u001b(?:\[([<=>?]?)([\d;:]*)([ -/]*)([@-~])|([=>c]))/g
/** A sequence that goes on in the next piece; longer ones change no mode. */
// oxlint-disable-next-line no-control-regex -- what programs send begins with one
const begunSequence = /\u001b(?:\[[<=>?]?[\d;:]{0,24}[ -/]*)?$/

const byDefault = (mode: number): string => `\x1b[?${mode}${onByDefault.has(mode) ? "h" : "l"}`

export interface Residue {
  readonly feed: (bytes: Uint8Array) => void
  /** What brings the terminal back to how programs expect to find it. Its content stays, but for the alternate screen's. */
  readonly undo: () => string
}

/** Follows what a program does to its terminal, as far as it outlasts the program. */
export const makeResidue = (): Residue => {
  const changed = new Set<number>()
  let kittyDepth = 0
  let kittySet = false
  let otherKeys = false
  let keypad = false
  let cursorStyle = false
  let region = false
  let rest = ""
  let touched = false

  const setMode = (mode: number, on: boolean): void => {
    if (onByDefault.has(mode) === on) changed.delete(mode)
    else if (changed.size < maxModes) changed.add(mode)
  }
  const forget = (): void => {
    changed.clear()
    kittyDepth = 0
    kittySet = otherKeys = keypad = cursorStyle = region = false
  }
  const apply = (prefix: string, parameters: string, between: string, final: string): void => {
    const numbers = parameters.split(";").map(Number)
    const first = numbers[0] ?? 0
    if (prefix === "?" && (final === "h" || final === "l"))
      for (const mode of numbers) setMode(mode, final === "h")
    else if (final === "u" && prefix === ">") kittyDepth++
    else if (final === "u" && prefix === "<") kittyDepth = Math.max(0, kittyDepth - (first || 1))
    else if (final === "u" && prefix === "=") kittySet = first > 0
    else if (final === "m" && prefix === ">" && first === 4) otherKeys = (numbers[1] ?? 0) > 0
    else if (final === "q" && between === " ") cursorStyle = first > 0
    else if (final === "r" && prefix === "") region = parameters !== ""
  }

  return {
    feed: (bytes) => {
      touched ||= bytes.length > 0
      const text = rest + latin1(bytes)
      for (const [, prefix, parameters, between, final, short] of text.matchAll(sequences)) {
        if (short === "c") forget()
        else if (short !== undefined) keypad = short === "="
        else apply(prefix ?? "", parameters ?? "", between ?? "", final ?? "")
      }
      rest = begunSequence.exec(text)?.[0] ?? ""
    },
    undo: () => {
      if (!touched) return ""
      const modes = [...changed]
      return [
        // CAN ends a sequence that was cut off.
        rest === "" ? "" : "\x18",
        kittyDepth > 0 ? `\x1b[<${kittyDepth}u` : "",
        kittySet ? "\x1b[=0u" : "",
        otherKeys ? "\x1b[>4m" : "",
        keypad ? "\x1b>" : "",
        cursorStyle ? "\x1b[0 q" : "",
        // Setting it moves the cursor.
        region ? "\x1b7\x1b[r\x1b8" : "",
        ...modes.filter((one) => !alternates.has(one)).map(byDefault),
        ...modes.filter((one) => alternates.has(one)).map(byDefault),
        "\x1b[m\x1b(B\x0f"
      ].join("")
    }
  }
}

/**
 * An empty terminal with nothing set, for a screen to be drawn on. What stood on it moves up into its own history first; a
 * full reset would take that too.
 */
export const emptyTerminal = (rows: number): string =>
  `\x1b[!p\x1b[r\x1b[m\x1b(B\x0f\x1b[${rows};1H${"\n".repeat(rows)}\x1b[H\x1b[2J`

/** Below everything that is shown. */
export const belowScreen = (rows: number): string => `\x1b[${rows};1H\r\n`
