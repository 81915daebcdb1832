/**
 * Follows a command line as a shell would, without running anything: every command that it could come to is judged, with the
 * directory and the variables that it would have there.
 *
 * Where both ways are possible both are gone; what differs between them is not known after. Whatever cannot be parsed or
 * followed to its end is a question to a person.
 */
import {
  type ArrayValue,
  type Assignment,
  type Command,
  type CommandNode,
  type CompoundList,
  forEachChild,
  parse,
  type ParsedScript,
  type Pipeline,
  type PipelineNode,
  type Redirection,
  type Statement,
  type SyntaxNode,
  type Word
} from "unbash"
import {
  type Follow,
  type Input,
  isInput,
  programOf,
  type ShellCommand,
  type ShellRedirect
} from "../../services/ShellCommand.ts"
import { follow } from "../../services/ShellFollow.ts"
import type { Text, Whereabouts } from "../../services/ShellPath.ts"
import { type Finding, judge } from "../../services/ShellRules.ts"
import { applyBuiltin, type Body, copyOf, declares, join, type Named, type Shell } from "./shellState.ts"
import { bodyText, fieldsOf, type Meaning, substitutionsIn, textOf, unknownPart } from "./shellWords.ts"

/** A longer line is a program. It bounds the time, too: some hundred microseconds for this. */
export const maxLineLength = 65_536
/** Scripts in scripts, and functions in functions. */
const maxDepth = 24
/** Commands of one line, those of every turn of a loop included. */
const maxCommands = 2_048
/** Turns of a loop over known words. */
const maxTurns = 32

const unknownInput: Input = { _tag: "text", text: null }

const unseen = (reason: string): Finding => ({ verdict: "ask", reason })

/** Bodies that may run or not, or in turns. */
const readWays = (shell: Shell, ...ways: ReadonlyArray<(inner: Shell) => void>): void => {
  const ends = ways.map((way) => {
    const inner = copyOf(shell)
    way(inner)
    return inner
  })
  join(shell, [copyOf(shell), ...ends])
}

/** What a loop sets is not known in its next turn. */
const forget = (body: CompoundList, shell: Shell): void => {
  const visit = (node: SyntaxNode): void => {
    if (node.type === "Assignment") shell.variables.set(node.name, null)
    if (node.type === "Command" && /^(?:cd|pushd|popd)$/.test(node.name?.value ?? "")) shell.cwd = null
    forEachChild(node, visit)
  }
  visit(body)
}

const withInput = (shell: Shell, input: Input, read: () => void): void => {
  const outer = shell.input
  shell.input = input
  read()
  shell.input = outer
}

export const readShell = (
  line: string,
  at: Pick<Whereabouts, "home" | "project">
): ReadonlyArray<Finding> => {
  if (line.length > maxLineLength) return [unseen("the command is too long to be read")]
  const findings: Array<Finding> = []
  let commands = 0
  let depth = 0
  const note = (...found: ReadonlyArray<Finding>): void => void findings.push(...found)

  const deeper = (what: () => void): void => {
    if (depth >= maxDepth) return note(unseen("the command goes too deep to be followed"))
    depth++
    what()
    depth--
  }

  /** `follows`: what a word runs is followed as well; where it was before it is only asked what it prints. */
  const meaningIn = (shell: Shell, follows = true): Meaning => ({
    home: at.home,
    parameters: shell.parameters,
    separators: shell.variables.get("IFS") ?? null,
    valueOf: (name) => {
      if (name === "0") return shell.self
      if (/^\d+$/.test(name))
        return shell.parameters?.[Number(name) - 1] ?? (shell.parameters === null ? null : "")
      if (name === "@" || name === "*")
        return shell.parameters === null || shell.parameters.includes(null)
          ? null
          : shell.parameters.join(" ")
      if (name === "PWD") return shell.cwd
      return shell.variables.get(name) ?? null
    },
    printed: (part) => {
      if (!("script" in part) || part.script === undefined) return null
      const { script } = part
      // What is written into `>(...)` is what it reads.
      const input: Input =
        part.type === "ProcessSubstitution" && part.operator === ">" ? unknownInput : shell.input
      if (follows) deeper(() => readScript(script, { ...copyOf(shell), input }))
      return part.type === "CommandExpansion" ? printedBy(script, shell) : null
    }
  })

  /** What a command in `$(...)` prints, where everybody knows. */
  const printedBy = ({ commands: [only, ...more] }: ParsedScript, shell: Shell): Text => {
    if (only === undefined || more.length > 0 || only.command.type !== "Command") return null
    const words = wordsOf(only.command, shell, false)
    const name = programOf({ words })
    if (name === "mktemp" && words.every((word) => word !== null && !/^-\w*p|^--tmpdir|\//.test(word)))
      return "/tmp/tmp.made"
    if (name === "pwd") return shell.cwd
    return outputOf(only.command, shell, words)?.trimEnd() ?? null
  }

  /** What a command writes to its output, where its words say it. */
  const outputOf = (
    command: CommandNode,
    shell: Shell,
    words = command.type === "Command" ? wordsOf(command, shell, false) : []
  ): Text => {
    if (command.type !== "Command") return null
    const name = programOf({ words })
    if (name === "echo") {
      const said = words
        .slice(1)
        .filter((word, index) => index > 0 || word === null || !/^-[neE]+$/.test(word))
      return said.includes(null) ? null : said.join(" ")
    }
    if (name === "printf") {
      const [format, ...rest] = words.slice(1)
      if (typeof format !== "string" || rest.includes(null)) return null
      const plain = format.replace(/\\n/g, "\n").replace(/\\t/g, "\t")
      if (!plain.includes("%")) return plain
      return /^%[sb]\n?$/.test(plain) ? rest.join("\n") : null
    }
    if (name === "cat" && words.length === 1) {
      const input = inputOf(command.redirects, shell, shell.input, false)
      return input._tag === "text" ? input.text : null
    }
    return null
  }

  const wordsOf = (command: Command, shell: Shell, follows = true): ReadonlyArray<Text> => {
    const meaning = meaningIn(shell, follows)
    const words: Array<Word> = command.name === undefined ? [] : [command.name]
    for (const one of command.suffix) if (one.type === "Word") words.push(one)
    return words.flatMap((word) => fieldsOf(word, meaning))
  }

  const inputOf = (
    redirects: ReadonlyArray<Redirection>,
    shell: Shell,
    given: Input,
    follows = true
  ): Input =>
    redirects.reduce<Input>((input, one) => {
      if (one.type === "HereDoc")
        return {
          _tag: "text",
          text:
            one.delimiter?.quoted === true
              ? one.body.text
              : bodyText(one.body.parts, one.body.text, meaningIn(shell, follows))
        }
      if (one.type === "HereString")
        return {
          _tag: "text",
          text: one.target === undefined ? "" : textOf(one.target, meaningIn(shell, follows))
        }
      const descriptor = one.descriptor?.type === "FileDescriptor" ? one.descriptor.value : 0
      if (!one.operator.startsWith("<") || descriptor !== 0 || isInput(one.target?.value ?? "")) return input
      const printed = one.target?.parts?.some(({ type }) => type === "ProcessSubstitution") === true
      // A descriptor that was opened before: nobody keeps account of those.
      return printed || one.operator === "<&" ? unknownInput : { _tag: "file" }
    }, given)

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
    into: Map<string, Text>
  ): void => {
    const text = value.type === "Word" ? textOf(value, meaningIn(shell)) : arrayText(value, shell)
    if (index !== undefined) fieldsOf(index, meaningIn(shell))
    into.set(name, append === true || index !== undefined || value.type !== "Word" ? null : text)
  }

  const arrayText = ({ elements }: ArrayValue, shell: Shell): Text => {
    for (const element of elements) fieldsOf(element, meaningIn(shell))
    return null
  }

  const readFollow = (one: Follow, from: ShellCommand, shell: Shell): void => {
    switch (one._tag) {
      case "command":
        return dispatch(one.command, shell, true)
      case "unknown":
        return note(unseen(one.what))
      case "raised":
        return note(unseen("it runs with the rights of somebody else"))
      case "script": {
        const { text } = one
        if (text === null) return note(unseen("a shell would run a text that is not known before"))
        if (one.here) return deeper(() => readScript(parse(text), shell))
        const inner: Shell = { ...copyOf(shell), input: from.input }
        for (const [name, value] of Object.entries(from.variables)) inner.variables.set(name, value)
        const [self = "sh", ...parameters] = one.args
        inner.self = self
        inner.parameters = parameters
        return deeper(() => readScript(parse(text), inner))
      }
    }
  }

  const callNamed = ({ bodies }: Named, command: ShellCommand, shell: Shell): void => {
    const ends = bodies.map((body) => {
      const inner: Shell = { ...copyOf(shell), parameters: command.words.slice(1), input: command.input }
      deeper(() => readBody(body, inner))
      return inner
    })
    const { parameters, input } = shell
    join(shell, ends)
    shell.parameters = parameters
    shell.input = input
  }

  /** One command with its words: what it runs, and what it is. `plain`: by a program, which knows no functions. */
  const dispatch = (command: ShellCommand, shell: Shell, plain = false): void => {
    if (commands > maxCommands) return
    const named = plain ? undefined : shell.functions.get(command.words[0] ?? "")
    if (named !== undefined) callNamed(named, command, shell)
    if (named?.certain === true) return
    note(...judge(command, at))
    deeper(() => {
      for (const one of follow(command)) readFollow(one, command, shell)
    })
    applyBuiltin(command, shell, at.home)
  }

  const readCommand = (command: Command, shell: Shell): void => {
    const redirects = redirectsOf(command.redirects, shell)
    const assignments = command.prefix.filter((one): one is Assignment => one.type === "Assignment")
    const words = wordsOf(command, shell)
    if (command.name === undefined || words.length === 0) {
      const set = new Map<string, Text>()
      for (const one of assignments) assign(one, shell, set)
      for (const [name, value] of set) shell.variables.set(name, value)
      const variables = Object.fromEntries(set)
      note(...judge({ words: [":"], variables, redirects, input: shell.input, cwd: shell.cwd }, at))
      return
    }
    const own = new Map<string, Text>()
    for (const one of assignments) assign(one, shell, own)
    for (const one of command.suffix) if (one.type === "Assignment") assign(one, shell, own)
    if (declares.has(words[0] ?? "")) for (const [name, value] of own) shell.variables.set(name, value)
    // An array is no array to a command, but a word that is written like one.
    dispatch(
      {
        words: [...words, ...writtenAsWords(command, shell)],
        variables: Object.fromEntries(own),
        redirects,
        input: inputOf(command.redirects, shell, shell.input),
        cwd: shell.cwd
      },
      shell
    )
  }

  /** `dd of=/dev/sda`, `env A=b`: what looks like an assignment behind a command's name is a word of it. */
  const writtenAsWords = (command: Command, shell: Shell): ReadonlyArray<Text> =>
    command.suffix.flatMap((one) => {
      if (one.type !== "Assignment") return []
      const text = one.value.type === "Word" ? textOf(one.value, meaningIn(shell)) : null
      return [`${one.name}=${text ?? unknownPart}`]
    })

  const readPipeline = ({ commands: parts }: Pipeline, shell: Shell): void => {
    let before: CommandNode | null = null
    for (const part of parts) {
      const inner = parts.length === 1 ? shell : copyOf(shell)
      if (before === null) readNode(part, inner)
      else
        withInput(inner, { _tag: "text", text: outputOf(before, copyOf(shell)) }, () => readNode(part, inner))
      before = part
    }
  }

  const readChain = (
    parts: ReadonlyArray<PipelineNode>,
    operators: ReadonlyArray<string>,
    shell: Shell
  ): void => {
    const begin = copyOf(shell)
    parts.forEach((part, index) => {
      if (operators[index - 1] !== "||") return readNode(part, shell)
      const other = copyOf(shell)
      readNode(part, other)
      join(shell, [copyOf(shell), other])
    })
    // Each of them may have been the last.
    if (parts.length > 1) join(shell, [begin, copyOf(shell)])
  }

  const readList = ({ commands: list }: Pick<CompoundList, "commands">, shell: Shell): void => {
    for (const statement of list) readStatement(statement, shell)
  }

  const readStatement = ({ command, background }: Statement, shell: Shell): void => {
    const inner = background === true ? copyOf(shell) : shell
    if (command.type === "AndOr") readChain(command.commands, command.operators, inner)
    else readNode(command, inner)
  }

  const readLoop = (
    name: string,
    wordlist: ReadonlyArray<Word> | undefined,
    body: CompoundList,
    shell: Shell
  ): void => {
    const values = wordlist?.flatMap((word) => fieldsOf(word, meaningIn(shell))) ?? shell.parameters ?? [null]
    readWays(shell, (inner) => {
      forget(body, inner)
      for (const value of values.length > maxTurns ? [null] : values) {
        if (commands > maxCommands) return
        inner.variables.set(name, value)
        readList(body, inner)
      }
    })
  }

  const readBody = (node: Body, shell: Shell): void =>
    node.type === "CompoundList" ? readList(node, shell) : readNode(node, shell)

  const scan = (node: SyntaxNode, shell: Shell): void =>
    substitutionsIn(node, (part) => void meaningIn(shell).printed(part))

  const readNode = (node: PipelineNode, shell: Shell): void => {
    if (++commands > maxCommands) return
    switch (node.type) {
      case "Command":
        return readCommand(node, shell)
      case "Pipeline":
        return readPipeline(node, shell)
      case "Redirected":
        note(
          ...judge(
            {
              words: [":"],
              variables: {},
              redirects: redirectsOf(node.redirects, shell),
              input: shell.input,
              cwd: shell.cwd
            },
            at
          )
        )
        return withInput(shell, inputOf(node.redirects, shell, shell.input), () =>
          readNode(node.command, shell)
        )
      case "Subshell":
        return readList(node.body, copyOf(shell))
      case "BraceGroup":
        return readList(node.body, shell)
      case "If":
        readList(node.clause, shell)
        return readWays(
          shell,
          (inner) => readList(node.then, inner),
          ...node.elif.map(({ clause, then }) => (inner: Shell) => {
            readList(clause, inner)
            readList(then, inner)
          }),
          (inner) => (node.else === undefined ? undefined : readList(node.else, inner))
        )
      case "While":
        return readWays(shell, (inner) => {
          forget(node.body, inner)
          readList(node.clause, inner)
          readList(node.body, inner)
        })
      case "For":
      case "Select":
        return readLoop(node.name.value, node.wordlist, node.body, shell)
      case "ArithmeticFor":
        scan(node, shell)
        return readWays(shell, (inner) => {
          forget(node.body, inner)
          readList(node.body, inner)
        })
      case "Case":
        scan(node.word, shell)
        return readWays(
          shell,
          ...node.items.map((item) => (inner: Shell) => {
            for (const pattern of item.pattern) scan(pattern, inner)
            readList(item.body, inner)
          })
        )
      case "Function":
        shell.functions.set(node.name.value, { bodies: [node.body], certain: true })
        return
      case "Coproc":
        return readBody(node.body, copyOf(shell))
      case "TestCommand":
      case "ArithmeticCommand":
        return scan(node, shell)
    }
  }

  const readScript = (script: ParsedScript, shell: Shell): void => {
    if ((script.errors?.length ?? 0) > 0) note(unseen("the command cannot be parsed"))
    readList(script, shell)
  }

  const shell: Shell = {
    variables: new Map<string, Text>([
      ["HOME", at.home],
      ["IFS", " \t\n"]
    ]),
    functions: new Map(),
    cwd: at.project,
    self: "bash",
    parameters: [],
    input: { _tag: "inherited" }
  }
  readScript(parse(line), shell)
  if (commands > maxCommands) note(unseen("the command is too long to be followed"))
  return findings
}
