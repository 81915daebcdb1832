/**
 * Follows a command line as a shell would, without running anything: every command that it could come to is judged, with the
 * directory and the variables that it would have there.
 *
 * Where both ways are possible both are gone; what differs between them is not known after. Whatever cannot be parsed or
 * followed to its end is a question to a person.
 */
import {
  type Assignment,
  type Command,
  type CommandNode,
  type CompoundList,
  forEachChild,
  parse,
  type ParsedScript,
  type Pipeline,
  type PipelineNode,
  type Statement,
  type SyntaxNode,
  type Word
} from "unbash"
import type { Input, ShellCommand } from "../../services/ShellCommand.ts"
import type { Text, Whereabouts } from "../../services/ShellPath.ts"
import { type Finding, judge } from "../../services/ShellRules.ts"
import { type Assigned, givenIn, keep, textsOf } from "./shellGiven.ts"
import { runIn, suspected, unseen } from "./shellRun.ts"
import { type Body, copyOf, declares, join, setVariable, type Shell } from "./shellState.ts"
import { fieldsOf } from "./shellWords.ts"

/** A longer line is a program. It bounds the time, too: some hundred microseconds for this. */
export const maxLineLength = 65_536
/** Scripts in scripts, and functions in functions. */
const maxDepth = 24
/** Commands of one line, those of every turn of a loop included. */
const maxCommands = 2_048
/** Turns of a loop over known words. */
const maxTurns = 32

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
    if (node.type === "Assignment") setVariable(shell, node.name, null)
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

  const readCommand = (command: Command, shell: Shell): void => {
    const redirects = redirectsOf(command.redirects, shell)
    const assignments = command.prefix.filter((one): one is Assignment => one.type === "Assignment")
    const words = wordsOf(command, shell)
    const own = new Map<string, Assigned>()
    for (const one of assignments) assign(one, shell, own)
    if (command.name === undefined || words.length === 0) {
      keep(shell, own)
      return run(
        { words: [":"], variables: textsOf(own), redirects, input: shell.input, cwd: shell.cwd },
        shell,
        true
      )
    }
    for (const one of command.suffix) if (one.type === "Assignment") assign(one, shell, own)
    const said: ShellCommand = {
      words: [...words, ...writtenAsWords(command, shell)],
      variables: textsOf(own),
      redirects,
      input: inputOf(command.redirects, shell),
      cwd: shell.cwd
    }
    if (words.includes(null)) {
      const guessed = wordsOf(command, shell, { follows: false, guesses: true })
      if (guessed.some((word, index) => word !== words[index]))
        run({ ...said, words: guessed }, copyOf(shell))
    }
    run(said, shell)
    // What it declares counts as it is written; a name for another variable is none of them.
    if (declares.has(words[0] ?? "") && !words.some((word) => /^-\w*n/.test(word ?? ""))) keep(shell, own)
  }

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
        if (isTooLong()) return
        setVariable(inner, name, value)
        readList(body, inner)
      }
    })
  }

  const readBody = (node: Body, shell: Shell): void =>
    node.type === "CompoundList"
      ? readList(node, shell)
      : node.type === "Script"
        ? readScript(node, shell)
        : readNode(node, shell)

  const readNode = (node: PipelineNode, shell: Shell): void => {
    if (!counts()) return
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
        return withInput(shell, inputOf(node.redirects, shell), () => readNode(node.command, shell))
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
          // What a command sets, as `read` does, is not known in the second turn.
          for (let turn = 0; turn < 2; turn++) {
            readList(node.clause, inner)
            readList(node.body, inner)
          }
        })
      case "For":
      case "Select":
        return readLoop(node.name.value, node.wordlist, node.body, shell)
      case "ArithmeticFor":
        scan(node, shell)
        return readWays(shell, (inner) => {
          forget(node.body, inner)
          for (let turn = 0; turn < 2; turn++) readList(node.body, inner)
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
        // Whatever is not found calls it, with its words.
        if (/^command_not_found_handler?$/.test(node.name.value))
          deeper(() => readBody(node.body, { ...copyOf(shell), parameters: null }))
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

  const { meaningIn, wordsOf, writtenAsWords, assign, inputOf, redirectsOf, outputOf, scan } = givenIn({
    home: at.home,
    note,
    readScript: (script, shell) => deeper(() => readScript(script, shell))
  })
  const isRefused = (what: () => void, asked: boolean): boolean => {
    const before = findings.length
    what()
    return findings.splice(before).some((one) => asked || one.verdict === "deny" || one === suspected)
  }
  const isTooLong = (): boolean => commands > maxCommands
  const counts = (): boolean => ++commands <= maxCommands
  const traps: Array<{ readonly text: string; readonly shell: Shell }> = []
  const run = runIn({ at, note, traps, isRefused, deeper, counts, readScript, readBody })

  const shell: Shell = {
    variables: new Map<string, Text>([
      ["HOME", at.home],
      ["IFS", " \t\n"]
    ]),
    arrays: new Map(),
    guesses: new Map(),
    functions: new Map(),
    cwd: at.project,
    self: "bash",
    parameters: [],
    input: { _tag: "inherited" }
  }
  readScript(parse(line), shell)
  // With what their shells know at their end, too.
  for (const { text, shell: trapped } of traps) readScript(parse(text), trapped)
  if (isTooLong()) note(unseen("the command is too long to be followed"))
  return findings
}
