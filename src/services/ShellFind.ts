/** ShellFind: what find deletes, writes and runs, as far as its expression says how much that is. */
import { commandOf, type Follow, programOf, type ShellCommand } from "./ShellCommand.ts"
import { concernOfTree, type Text } from "./ShellPath.ts"

/** Tests that leave most of a directory alone. */
const narrowing =
  /^-(?:i?name|i?path|i?wholename|i?regex|newer\w*|[acm](?:time|min)|empty|size|user|group|perm|links|inum)$/

/** Where a test that leaves most of it alone still finds too much. */
const isOfSystem = (path: string): boolean =>
  concernOfTree(path, { cwd: null, home: null, project: null }) === "deny"

/** What find deletes; and what it runs, with what it finds. */
export const findActions = (
  from: ShellCommand
): {
  readonly deletes: ReadonlyArray<Text>
  readonly writes: ReadonlyArray<Text>
  readonly runs: ReadonlyArray<Follow>
} => {
  const words = from.words.slice(1).filter((word) => word === null || !/^-(?:[HLP]|O\d)$/.test(word))
  const begin = words.findIndex((word) => word !== null && /^[-(!]/.test(word))
  const paths = begin < 0 ? words : words.slice(0, begin)
  const expression = begin < 0 ? [] : words.slice(begin)
  const roots = paths.length === 0 ? ["."] : paths
  const narrow = expression.some((word) => word !== null && narrowing.test(word))
  const found = roots.map((root) =>
    root !== null && narrow && !isOfSystem(root) ? `${root.replace(/\/+$/, "")}/found` : root
  )
  const runs: Array<Follow> = []
  const deletes: Array<Text> = expression.includes("-delete") ? [...found] : []
  const writes: Array<Text> = []
  for (let index = 0; index < expression.length; index++) {
    const word = expression[index]!
    if (word === null) continue
    if (/^-fprint(?:0|f)?$|^-fls$/.test(word)) writes.push(expression[index + 1] ?? null)
    if (!/^-(?:exec|execdir|ok|okdir)$/.test(word)) continue
    const end = expression.findIndex(
      (next, at) => at > index && (next === ";" || (next === "+" && expression[at - 1] === "{}"))
    )
    const run = expression.slice(index + 1, end < 0 ? undefined : end)
    // One by one they are all gone, too.
    if (/^(?:rm|unlink|shred)$/.test(programOf({ words: run }) ?? "")) deletes.push(...found)
    for (const one of found) {
      const filled = run.map((part) =>
        part?.includes("{}") ? (one === null ? null : part.replaceAll("{}", one)) : part
      )
      if (filled.length > 0) runs.push(commandOf(from, filled))
    }
    index = end < 0 ? expression.length : end
  }
  return { deletes, writes, runs }
}
