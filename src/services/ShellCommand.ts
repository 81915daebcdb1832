/**
 * ShellCommand: one command as a shell would run it, its words read as its program reads them.
 *
 * Where a word that decides what runs is not known, that is said.
 */
import type { Text } from "./ShellPath.ts"

/** Where a command reads from: nothing that the line says, a text that it says, or something that another command prints. */
export type Input =
  { readonly _tag: "inherited" } | { readonly _tag: "file" } | { readonly _tag: "text"; readonly text: Text }

export interface ShellRedirect {
  readonly writes: boolean
  readonly target: Text
}

/** `words` has the program first. Whatever is not known before it runs is null. */
export interface ShellCommand {
  readonly words: ReadonlyArray<Text>
  readonly variables: Readonly<Record<string, Text>>
  readonly redirects: ReadonlyArray<ShellRedirect>
  readonly input: Input
  readonly cwd: Text
}

/** What a command runs. `script` is a shell's text; `here`: by the shell that reads it, with its variables. */
export type Follow =
  | { readonly _tag: "command"; readonly command: ShellCommand }
  | {
      readonly _tag: "script"
      readonly text: Text
      readonly args: ReadonlyArray<Text>
      readonly here: boolean
    }
  /** Code that this reader does not know: of another language, or of a word that is not known. */
  | { readonly _tag: "unknown"; readonly what: string }
  /** It runs as somebody else. */
  | { readonly _tag: "raised" }

/** GNU's programs where others have the names: `grm`. */
const ofGnu =
  /^g(?=(?:rm|cp|mv|ln|dd|tee|env|find|sort|chmod|chown|chgrp|chroot|install|link|mkdir|mkfifo|nice|nohup|rmdir|shred|split|stdbuf|tar|timeout|touch|truncate|unlink|xargs|make|sed)$)/

export const programOf = ({ words }: Pick<ShellCommand, "words">): Text => {
  const [first = null] = words
  return first === null ? null : (first.split("/").at(-1) ?? first).replace(ofGnu, "")
}

/** How a program's options look: which take a value, and how many words come before the command that it runs. */
export interface Options {
  /** Letters. */
  readonly short?: string
  readonly long?: ReadonlyArray<string>
  readonly before?: number
}

/** The words that are no options, where the first of them ends the options. Null: one that decides about it is unknown. */
export const afterOptions = (words: ReadonlyArray<Text>, options: Options): ReadonlyArray<Text> | null => {
  let index = 0
  while (index < words.length) {
    const word = words[index]!
    if (word === null) return null
    if (word === "--") return words.slice(index + 1)
    if (!word.startsWith("-") || word === "-") return words.slice(index)
    index += takesNext(word, options) ? 2 : 1
  }
  return []
}

const takesNext = (word: string, { short = "", long = [] }: Options): boolean => {
  if (word.startsWith("--"))
    return long.some((name) => name === word.slice(2) || isShortFor(word.slice(2), name))
  // Of -abVALUE the first letter that takes a value has the rest of the word, where there is one.
  for (let at = 1; at < word.length; at++) if (short.includes(word[at]!)) return at === word.length - 1
  return false
}

/** Options and operands of a program that takes them in any order. */
export interface Arguments {
  /** By their letters and long names; of these an unambiguous beginning counts as well. */
  readonly has: (...names: ReadonlyArray<string>) => boolean
  /** The last value of each option that takes one. */
  readonly values: Readonly<Record<string, Text>>
  /** All values of these options. */
  readonly all: (...names: ReadonlyArray<string>) => ReadonlyArray<Text>
  readonly operands: ReadonlyArray<Text>
}

/** GNU's programs take any beginning of a long name; two letters are the shortest that anybody would write. */
const isShortFor = (given: string, name: string): boolean =>
  given.length > 1 && name.length > 1 && name.startsWith(given)

export const argumentsOf = (words: ReadonlyArray<Text>, options: Options = {}): Arguments => {
  const flags = new Set<string>()
  const found: Array<readonly [string, Text]> = []
  const operands: Array<Text> = []
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!
    if (word === null || word === "-" || !word.startsWith("-")) operands.push(word)
    else if (word === "--") {
      operands.push(...words.slice(index + 1))
      break
    } else if (word.startsWith("--")) {
      const [given = "", ...rest] = word.slice(2).split("=")
      const name =
        options.long?.includes(given) === true
          ? given
          : (options.long?.find((long) => isShortFor(given, long)) ?? given)
      flags.add(name)
      if (rest.length > 0) found.push([name, rest.join("=")])
      else if (options.long?.includes(name) === true) found.push([name, words[++index] ?? null])
    } else {
      for (let at = 1; at < word.length; at++) {
        const letter = word[at]!
        flags.add(letter)
        if (options.short?.includes(letter) !== true) continue
        found.push([letter, at < word.length - 1 ? word.slice(at + 1) : (words[++index] ?? null)])
        break
      }
    }
  }
  const has = (...names: ReadonlyArray<string>): boolean =>
    names.some((name) => flags.has(name) || [...flags].some((given) => isShortFor(given, name)))
  const all = (...names: ReadonlyArray<string>): ReadonlyArray<Text> =>
    found.flatMap(([name, value]) => (names.includes(name) ? [value] : []))
  return { has, all, values: Object.fromEntries(found), operands }
}

/** Names under which a process reads its own input. */
export const isInput = (file: string): boolean =>
  /^\/(?:dev\/(?:stdin|fd\/\d+)|proc\/(?:self|\d+)\/fd\/\d+)$/.test(file)

export const commandOf = (from: ShellCommand, words: ReadonlyArray<Text>): Follow =>
  words.length > 0 && words[0] === null
    ? { _tag: "unknown", what: "a program whose name is not known before it runs" }
    : { _tag: "command", command: { ...from, words, redirects: [] } }

export const scriptOf = (text: Text, args: ReadonlyArray<Text> = [], here = false): Follow => ({
  _tag: "script",
  text,
  args,
  here
})

export const unseen = (what: string): Follow => ({ _tag: "unknown", what })

/** One text of many words, as `eval`, `ssh` and `watch` make it. */
export const joined = (words: ReadonlyArray<Text>, between = " "): Text =>
  words.some((word) => word === null) ? null : words.join(between)

/** What a prompt's reader makes a sign of expansions of: an escape of it, or its number. */
const promptEscape = /\\(?=[$`])|\\0?44(?=[({])|\\140/g

/** A script that expands a text as a prompt is expanded, where quotes count for nothing. */
export const hereTextOf = (text: string): string => {
  const plain = text.replace(promptEscape, (is) => (is === "\\" ? "" : is === "\\140" ? "`" : "$"))
  return `: <<HOLDFAST\n${plain.replace(/^HOLDFAST$/gm, "")}\nHOLDFAST`
}
