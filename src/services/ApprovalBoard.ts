/**
 * ApprovalBoard: the screen on which a person answers approvals, as state and rules.
 *
 * A key counts for what was on the screen when the person reached for it: where the selection has moved by itself (the
 * approval was answered elsewhere, or expired), keys have no effect for `guardMs`.
 */
import type { Answer, Approval } from "./Approvals.ts"
import { countdown } from "./ApprovalReport.ts"
import { oneLine, printable } from "./Report.ts"

/** Longer than a person needs to see that something has moved. */
export const guardMs = 700

/** An hour is what a person has in mind who does not want to be asked again for now. */
export const hourMs = 3_600_000

export interface Board {
  /** Pending, oldest first. */
  readonly open: ReadonlyArray<Approval>
  readonly selected: string | null
  /** Before this time (epoch milliseconds) an answer is not taken. */
  readonly guardedUntil: number
  /** The last thing to say. */
  readonly message: string
}

export const emptyBoard: Board = { open: [], selected: null, guardedUntil: 0, message: "" }

export type BoardKey = "up" | "down" | "once" | "session" | "hour" | "deny" | "quit"

export type BoardAction =
  { readonly _tag: "Answer"; readonly id: string; readonly answer: Answer } | { readonly _tag: "Quit" }

const keys: Readonly<Record<string, BoardKey>> = {
  "\u001b[A": "up",
  "\u001bOA": "up",
  k: "up",
  "\u001b[B": "down",
  "\u001bOB": "down",
  j: "down",
  y: "once",
  s: "session",
  h: "hour",
  n: "deny",
  q: "quit",
  "\u0003": "quit"
}

/** What was typed; of what is unknown nothing. */
export const boardKeys = (typed: string): ReadonlyArray<BoardKey> =>
  // oxlint-disable-next-line no-control-regex -- keys of a terminal are control characters
  (typed.match(/\u001b[[O][A-Z]|[\s\S]/g) ?? []).flatMap((key) => keys[key] ?? [])

const answers = {
  once: { _tag: "allow-once" },
  session: { _tag: "allow-session" },
  hour: { _tag: "allow-for", ms: hourMs },
  deny: { _tag: "deny" }
} as const satisfies Partial<Record<BoardKey, Answer>>

/** The selection after the list has changed by itself. */
const reselected = (board: Board, open: ReadonlyArray<Approval>, now: number): Board => {
  if (open.some(({ id }) => id === board.selected)) return { ...board, open }
  const at = board.open.findIndex(({ id }) => id === board.selected)
  const next = open[Math.min(Math.max(at, 0), open.length - 1)]
  return { ...board, open, selected: next?.id ?? null, guardedUntil: now + guardMs }
}

export const onChange = (board: Board, approval: Approval, now: number): Board => {
  const others = board.open.filter(({ id }) => id !== approval.id)
  return reselected(
    board,
    approval.state._tag === "pending"
      ? [...others, approval].toSorted((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1))
      : others,
    now
  )
}

const moved = (board: Board, by: number): Board => {
  const at = board.open.findIndex(({ id }) => id === board.selected)
  const next = board.open[Math.min(Math.max(at + by, 0), board.open.length - 1)]
  return { ...board, selected: next?.id ?? null, message: "" }
}

export const onKey = (board: Board, key: BoardKey, now: number): readonly [Board, BoardAction | null] => {
  if (key === "quit") return [board, { _tag: "Quit" }]
  if (key === "up" || key === "down") return [moved(board, key === "up" ? -1 : 1), null]
  const chosen = board.open.find(({ id }) => id === board.selected)
  if (chosen === undefined) return [{ ...board, message: "nothing waits" }, null]
  if (now < board.guardedUntil)
    return [{ ...board, message: "the list has just changed; look again before you answer" }, null]
  return [board, { _tag: "Answer", id: chosen.id, answer: answers[key] }]
}

const help = "Up/Down choose   y allow once   s for its session   h for an hour   n deny   q quit"

/** Lines of the screen, none wider than `cols`, at most `rows`. */
export const render = (
  board: Board,
  now: number,
  { cols, rows }: { readonly cols: number; readonly rows: number }
): ReadonlyArray<string> => {
  const { open, selected } = board
  const chosen = open.find(({ id }) => id === selected)
  const title = open.length === 0 ? "No call waits for an approval." : `${open.length} waiting.  ${help}`
  const details =
    chosen === undefined
      ? []
      : [
          `${printable(chosen.policy)} asks: ${printable(chosen.reason)}`,
          `${printable(chosen.call.tool)} in ${printable(chosen.call.cwd ?? "an unknown directory")}, run ${printable(chosen.requester.runId)}`,
          ...printable(chosen.call.subject)
            .split("\n")
            .map((line) => `  ${line}`)
        ]
  // The chosen one is always among those that are shown, and its details have at least half of the screen.
  const listed = Math.max(1, Math.min(open.length, Math.floor((rows - 4) / 2)))
  const at = Math.max(
    0,
    open.findIndex(({ id }) => id === selected)
  )
  const first = Math.max(0, Math.min(at - Math.floor(listed / 2), open.length - listed))
  const list = open
    .slice(first, first + listed)
    .map(
      ({ id, call, expiresAt }) =>
        `${id === selected ? ">" : " "} ${id}  ${countdown(expiresAt - now).padStart(6)}  ${oneLine(call.tool, 16)}  ${oneLine(call.subject, 200)}`
    )
  const room = Math.max(0, rows - list.length - 4)
  const shownDetails =
    details.length > room
      ? [...details.slice(0, Math.max(0, room - 1)), "  … (holdfast approvals show has all of it)"]
      : details
  return [title, "", ...list, "", ...shownDetails, ...(board.message === "" ? [] : [board.message])]
    .slice(0, rows)
    .map((line) => line.slice(0, cols))
}
