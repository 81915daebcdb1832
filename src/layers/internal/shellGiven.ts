/** What is written at a command, read in its shell: words, assignments, redirections, and what it prints for others to read. */
import {
  type ArrayValue,
  type Assignment,
  type Command,
  type CommandNode,
  forEachChild,
  parse,
  type ParsedScript,
  type Redirect,
  type Redirection,
  type SyntaxNode,
  type Word
} from "unbash"
import {
  hereTextOf,
  type Input,
  isInput,
  joined,
  programOf,
  type ShellRedirect
} from "../../services/ShellCommand.ts"
import { commandIndex, type Finding } from "../../services/ShellFinding.ts"
import type { Text } from "../../services/ShellPath.ts"
import { copyOf, setVariable, type Shell } from "./shellState.ts"
import { bodyText, effectsIn, fieldsOf, type Meaning, textOf, unknownPart } from "./shellWords.ts"

const unseen = (reason: string): Finding => ({ verdict: "ask", reason })

/** How words are read where their command is only asked what it prints. */
interface Reading {
  readonly follows?: boolean
  readonly guesses?: boolean
}
const asked: Reading = { follows: false }

/** What an assignment gives: `list` where it makes an array, `guess` where a default would be the value. */
export interface Assigned {
  readonly text: Text
  readonly list?: ReadonlyArray<Text> | null
  readonly guess: Text
}

export const keep = (shell: Shell, assigned: ReadonlyMap<string, Assigned>): void => {
  for (const [name, { text, list, guess }] of assigned) {
    setVariable(shell, name, text)
    if (list !== undefined) shell.arrays.set(name, list)
    if (guess !== null) shell.guesses.set(name, guess)
  }
}

export const textsOf = (assigned: ReadonlyMap<string, Assigned>): Readonly<Record<string, Text>> =>
  Object.fromEntries([...assigned].map(([name, { text }]) => [name, text]))

/** What is quoted in a test: no substitution to the shell, and one to the arithmetic in it. */
const literalsIn = (node: SyntaxNode): string => {
  const found: Array<string> = []
  const visit = (inner: SyntaxNode): void => {
    if (inner.type === "SingleQuoted") found.push(inner.value)
    else forEachChild(inner, visit)
  }
  visit(node)
  return found.join("\n")
}

/** An array that is longer is not known: a line can double it over and over. */
const maxElements = 1_024

/** Words of one command, what parameters and arrays spread to included. */
const maxFields = 4_096

const unknownInput: Input = { _tag: "text", text: null }

/** `readScript` follows what a substitution runs, one level deeper than what it stands in. */
export interface Surroundings {
  readonly home: Text
  readonly note: (finding: Finding) => void
  readonly readScript: (script: ParsedScript, shell: Shell) => void
}

/** What is written, as its shell means it. */
export interface Given {
  readonly meaningIn: (shell: Shell) => Meaning
  readonly wordsOf: (command: Command, shell: Shell, how?: Reading) => ReadonlyArray<Text>
  /** What looks like an assignment behind a command's name is a word of it: `dd of=/dev/sda`, `env A=b`. */
  readonly writtenAsWords: (command: Command, shell: Shell) => ReadonlyArray<Text>
  readonly assign: (assignment: Assignment, shell: Shell, into: Map<string, Assigned>) => void
  readonly inputOf: (redirects: ReadonlyArray<Redirection>, shell: Shell) => Input
  readonly redirectsOf: (redirects: ReadonlyArray<Redirection>, shell: Shell) => ReadonlyArray<ShellRedirect>
  /** What a command writes to its output, where its words say it. */
  readonly outputOf: (command: CommandNode, shell: Shell) => Text
  /** Follows what is run in what has no words: tests, arithmetic, patterns. */
  readonly scan: (node: SyntaxNode, shell: Shell) => void
}

const hereText = (one: Exclude<Redirection, Redirect>, meaning: Meaning): Text => {
  if (one.type === "HereString") return one.target === undefined ? "" : textOf(one.target, meaning)
  const { parts, text } = one.body
  return one.delimiter?.quoted === true ? text : bodyText(parts, text, meaning)
}

export const givenIn = ({ home, note, readScript }: Surroundings): Given => {
  /**
   * `follows`: what a word runs and sets is followed as well; where it was before it is only asked what it comes to.
   * `guesses`: where a value is not known its default counts.
   */
  const meaningIn = (shell: Shell, { follows = true, guesses = false } = {}): Meaning => ({
    home,
    cwd: shell.cwd,
    parameters: shell.parameters,
    separators: shell.variables.get("IFS") ?? null,
    guesses,
    valueOf: (name) => {
      if (name === "0") return shell.self
      if (/^\d+$/.test(name)) {
        if (shell.parameters === null) return null
        const parameter = shell.parameters[Number(name) - 1]
        return parameter === undefined ? "" : parameter
      }
      if (name === "@" || name === "*")
        return shell.parameters === null || shell.parameters.includes(null)
          ? null
          : shell.parameters.join(" ")
      if (name === "PWD") return shell.cwd
      return shell.variables.get(name) ?? (guesses ? (shell.guesses.get(name) ?? null) : null)
    },
    listOf: (name) => {
      const list = shell.arrays.get(name)
      return list === undefined ? [shell.variables.get(name) ?? null] : list
    },
    assigned: (name, text, certain) => {
      if (!follows) return
      setVariable(shell, name, certain ? text : null)
      if (!certain && text !== null) shell.guesses.set(name, text)
    },
    expanded: (text) => {
      if (!follows) return
      if (text === null) note(unseen("a prompt or pattern that may run what it holds"))
      else if (/[`$\\]/.test(text)) readScript(parse(hereTextOf(text)), { ...copyOf(shell) })
    },
    printed: (part) => {
      if (!("script" in part) || part.script === undefined) return null
      const { script } = part
      // What is written into `>(...)` is what it reads.
      const input: Input =
        part.type === "ProcessSubstitution" && part.operator === ">" ? unknownInput : shell.input
      if (follows) readScript(script, { ...copyOf(shell), input })
      return part.type === "CommandExpansion" ? printedBy(script, shell) : null
    }
  })

  /** What a command in `$(...)` prints, where everybody knows. */
  const printedBy = ({ commands: [only, ...more] }: ParsedScript, shell: Shell): Text => {
    if (only === undefined || more.length > 0 || only.command.type !== "Command") return null
    const words = wordsOf(only.command, shell, asked)
    const name = programOf({ words })
    if (shell.functions.has(words[0] ?? "")) return null
    if (name === "mktemp" && words.every((word) => word !== null && !/^-\w*p|^--tmpdir|\//.test(word)))
      return "/tmp/tmp.made"
    if (name === "pwd") return shell.cwd
    return outputOf(only.command, shell, words)?.trimEnd() ?? null
  }

  const outputOf = (
    command: CommandNode,
    shell: Shell,
    words = command.type === "Command" ? wordsOf(command, shell, asked) : []
  ): Text => {
    if (command.type !== "Command") return null
    const name = programOf({ words })
    if (shell.functions.has(words[0] ?? "")) return null
    if (name === "echo") {
      const said = words
        .slice(1)
        .filter((word, index) => index > 0 || word === null || !/^-[neE]+$/.test(word))
      const text = joined(said)
      // Some shells read its escapes without being told to.
      return text === null || /\\[abcefnrtvx0\\]/.test(text) ? null : text
    }
    if (name === "printf") {
      const [format, ...rest] = words.slice(1)
      if (typeof format !== "string" || rest.includes(null)) return null
      const plain = format.replace(/\\n/g, "\n").replace(/\\t/g, "\t")
      if (plain.includes("\\")) return null
      if (!plain.includes("%")) return plain
      return /^%s\n?$/.test(plain) ? rest.join(plain.slice(2)) : null
    }
    if (name === "cat" && words.length === 1) {
      const input = inputOf(command.redirects, shell, asked)
      return input._tag === "text" ? input.text : null
    }
    return null
  }

  const wordsOf = (command: Command, shell: Shell, how: Reading = {}): ReadonlyArray<Text> => {
    const meaning = meaningIn(shell, how)
    const words: Array<Word> = command.name === undefined ? [] : [command.name]
    for (const one of command.suffix) if (one.type === "Word") words.push(one)
    const fields: Array<Text> = []
    for (const word of words) {
      fields.push(...fieldsOf(word, meaning))
      if (fields.length <= maxFields) continue
      note(unseen("the command has too many words to be read"))
      return fields.slice(0, maxFields)
    }
    return fields
  }

  const inputOf = (redirects: ReadonlyArray<Redirection>, shell: Shell, how: Reading = {}): Input =>
    redirects.reduce<Input>((input, one) => {
      const descriptor = one.descriptor?.type === "FileDescriptor" ? one.descriptor.value : 0
      if (one.type !== "Redirect") {
        const text = hereText(one, meaningIn(shell, how))
        // Whoever opened another descriptor than its input may read from either.
        const both = descriptor === 0 || input._tag !== "text" ? text : joined([input.text, text], "\n")
        return { _tag: "text", text: both }
      }
      if (!one.operator.startsWith("<") || descriptor !== 0 || isInput(one.target?.value ?? "")) return input
      const printed = one.target?.parts?.some(({ type }) => type === "ProcessSubstitution") === true
      // A descriptor that was opened before: nobody keeps account of those.
      return printed || one.operator === "<&" ? unknownInput : { _tag: "file" }
    }, shell.input)

  const redirectsOf = (redirects: ReadonlyArray<Redirection>, shell: Shell): ReadonlyArray<ShellRedirect> =>
    redirects.flatMap((one) => {
      if (one.type !== "Redirect" || one.target === undefined) return []
      // Into a command: what that does is judged for itself.
      if (one.target.parts?.some(({ type }) => type === "ProcessSubstitution") === true) {
        textOf(one.target, meaningIn(shell))
        return []
      }
      const known = textOf(one.target, meaningIn(shell))
      // Wherever it leads: the shell itself opens it.
      const target = known ?? (one.target.text.startsWith("/dev/tcp/") ? "/dev/tcp/unknown" : null)
      const duplicates =
        (one.operator === ">&" || one.operator === "<&") && target !== null && /^(?:\d+-?|-)$/.test(target)
      return duplicates ? [] : [{ writes: one.operator !== "<" && one.operator !== "<&", target }]
    })

  const assign = (
    { name, value, append, index }: Assignment,
    shell: Shell,
    into: Map<string, Assigned>
  ): void => {
    if (index !== undefined) fieldsOf(index, meaningIn(shell))
    if (value.type === "ArrayValue") {
      const added = listOf(value, shell)
      const before = append === true ? (into.get(name)?.list ?? meaningIn(shell).listOf(name)) : []
      const isKnown = added !== null && before !== null && added.length + before.length <= maxElements
      const list = isKnown ? [...before, ...added] : null
      // Its name alone is the first element, or in zsh all of them.
      into.set(name, { text: list?.length === 1 ? list[0]! : null, list, guess: null })
      return
    }
    const text = textOf(value, meaningIn(shell))
    if (text !== null && commandIndex.test(text)) note(unseen("an index that runs a command"))
    const isKnown = append !== true && index === undefined
    const guess =
      text === null && isKnown ? textOf(value, meaningIn(shell, { follows: false, guesses: true })) : null
    into.set(name, { text: isKnown ? text : null, guess })
  }

  /** Elements that are put where an index says are not followed. */
  const listOf = ({ elements }: ArrayValue, shell: Shell): ReadonlyArray<Text> | null => {
    const fields = elements.flatMap((element) => fieldsOf(element, meaningIn(shell)))
    if (fields.length > maxElements) return null
    return elements.some(({ text }) => /^\[.*\]\+?=/.test(text)) ? null : fields
  }

  const writtenAsWords = (command: Command, shell: Shell): ReadonlyArray<Text> =>
    command.suffix.flatMap((one) => {
      if (one.type !== "Assignment") return []
      const text = one.value.type === "Word" ? textOf(one.value, meaningIn(shell, asked)) : null
      return [`${one.name}=${text ?? unknownPart}`]
    })

  const scan = (node: SyntaxNode, shell: Shell): void => {
    effectsIn(node, meaningIn(shell))
    const evaluated =
      node.type === "ArithmeticCommand"
        ? node.body.replace(/\$\(\(/g, "").replace(/\\/g, "")
        : node.type === "TestCommand"
          ? literalsIn(node)
          : ""
    // A substitution that the shell sees was followed; this is one that a test or a sum sees.
    if (commandIndex.test(evaluated)) note(unseen("an index that runs a command"))
  }

  return { meaningIn, wordsOf, writtenAsWords, assign, inputOf, redirectsOf, outputOf, scan }
}
