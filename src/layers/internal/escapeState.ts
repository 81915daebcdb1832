/**
 * Where in the terminal's language a stream of bytes stands: between two characters or sequences, or in the midst of one,
 * and then with which bytes. Follows xterm's reading of the VT500 parser, UTF-8 included.
 */

/** Of an unfinished sequence so much is kept. What is longer is a string (a clipboard, a picture), never a command. */
const maxPartialBytes = 4096

type State =
  | "ground"
  | "escape"
  | "escape-intermediate"
  | "csi-entry"
  | "csi"
  | "csi-intermediate"
  | "csi-ignore"
  | "osc"
  | "dcs-entry"
  | "dcs"
  | "dcs-intermediate"
  | "dcs-string"
  | "ignored-string"

export interface EscapeState {
  readonly feed: (bytes: Uint8Array) => void
  /** What puts a terminal that stands between two sequences where this stream stands; empty when it stands there too. */
  readonly partial: () => Uint8Array
}

/** Reopen a string of their kind, for whose beginning is not kept. */
const openers: Partial<Record<State, string>> = {
  osc: "\x1b]",
  "dcs-entry": "\x1bP",
  dcs: "\x1bP",
  "dcs-intermediate": "\x1bP",
  "dcs-string": "\x1bPz",
  "ignored-string": "\x1b_"
}

const within = (code: number, from: number, to: number): boolean => code >= from && code <= to

/** The state after a code point. */
const after = (state: State, code: number): State => {
  if (code === 0x1b) return "escape"
  if (code === 0x18 || code === 0x1a) return "ground"
  if (within(code, 0x80, 0x9f)) {
    if (code === 0x9b) return "csi-entry"
    if (code === 0x9d) return "osc"
    if (code === 0x90) return "dcs-entry"
    return code === 0x98 || code === 0x9e || code === 0x9f ? "ignored-string" : "ground"
  }
  const foreign = code >= 0xa0
  switch (state) {
    case "ground":
      return "ground"
    case "escape":
      if (code < 0x20 || code === 0x7f) return state
      if (within(code, 0x20, 0x2f)) return "escape-intermediate"
      if (code === 0x5b) return "csi-entry"
      if (code === 0x5d) return "osc"
      if (code === 0x50) return "dcs-entry"
      return code === 0x58 || code === 0x5e || code === 0x5f ? "ignored-string" : "ground"
    case "escape-intermediate":
      return code < 0x30 || code === 0x7f ? state : "ground"
    case "csi-entry":
    case "csi":
      if (within(code, 0x20, 0x2f)) return "csi-intermediate"
      if (within(code, 0x3c, 0x3f)) return state === "csi" ? "csi-ignore" : "csi"
      if (within(code, 0x30, 0x3b)) return "csi"
      return code < 0x40 || code === 0x7f ? state : "ground"
    case "csi-intermediate":
      if (within(code, 0x30, 0x3f)) return "csi-ignore"
      return code < 0x30 || code === 0x7f ? state : "ground"
    case "csi-ignore":
      return code < 0x40 || foreign || code === 0x7f ? state : "ground"
    case "osc":
      return code === 0x07 ? "ground" : state
    case "dcs-entry":
    case "dcs":
      if (within(code, 0x20, 0x2f)) return "dcs-intermediate"
      if (within(code, 0x3c, 0x3f)) return state === "dcs" ? "dcs-string" : "dcs"
      if (within(code, 0x30, 0x3b)) return "dcs"
      if (within(code, 0x40, 0x7e)) return "dcs-string"
      return foreign ? "ground" : state
    case "dcs-intermediate":
      // A digit here makes it one that is ignored, up to the same end.
      if (within(code, 0x30, 0x7e)) return "dcs-string"
      return foreign ? "ground" : state
    case "dcs-string":
      return state
    case "ignored-string":
      return foreign ? "ground" : state
  }
}

export const makeEscapeState = (): EscapeState => {
  let state: State = "ground"
  let partial: Array<number> = []
  /** Of the sequence, more bytes than are kept. */
  let cut = false
  /** A character that is not complete: bytes that it still needs, and what they have given so far. */
  let needed = 0
  let length = 0
  let code = 0

  const step = (code: number): void => {
    state = after(state, code)
  }

  const one = (byte: number): void => {
    if (needed > 0) {
      if ((byte & 0xc0) === 0x80) {
        code = (code << 6) | (byte & 0x3f)
        needed--
        const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000
        // What is no character is dropped without a trace.
        const isCharacter =
          code >= least && code <= 0x10ffff && !within(code, 0xd800, 0xdfff) && code !== 0xfeff
        if (needed === 0 && isCharacter) step(code)
        return
      }
      needed = 0
    }
    if (byte < 0x80) return step(byte)
    if ((byte & 0xe0) === 0xc0) [length, code] = [2, byte & 0x1f]
    else if ((byte & 0xf0) === 0xe0) [length, code] = [3, byte & 0x0f]
    else if ((byte & 0xf8) === 0xf0) [length, code] = [4, byte & 0x07]
    else return
    needed = length - 1
  }

  return {
    feed: (bytes) => {
      for (const byte of bytes) {
        // Most of what programs print.
        if (state === "ground" && needed === 0 && byte !== 0x1b && byte < 0x80) continue
        const was = state
        if (byte === 0x1b || (state === "ground" && needed === 0)) {
          partial = []
          cut = false
        }
        // What a terminal does at once, even within a sequence, it has done.
        const done = byte < 0x20 && byte !== 0x1b && !(state in openers)
        if (partial.length >= maxPartialBytes) cut = true
        else if (!done) partial.push(byte)
        one(byte)
        if (state === "ground" && needed === 0) partial = []
        // The character in the midst of which a sequence began is none.
        else if (was === "ground" && state === "escape") partial = [0x1b]
      }
    },
    partial: () => {
      if (!cut) return Uint8Array.from(partial)
      const opener = openers[state]
      return opener === undefined ? new Uint8Array(0) : new TextEncoder().encode(opener)
    }
  }
}
