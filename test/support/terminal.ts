/** A program in a terminal of its own, as a person sits at one: what they see is told by an xterm, not by raw bytes. */
import xterm from "@xterm/headless"
import * as Effect from "effect/Effect"
import * as path from "node:path"
import * as pty from "node-pty"
import { dist, eventually, type Place } from "./gateway.ts"

/** `holdfast ...`, or with `program` another one. */
export const terminal = Effect.fnUntraced(function* (
  place: Place,
  args: ReadonlyArray<string>,
  options: { readonly cols?: number; readonly rows?: number; readonly program?: string } = {}
) {
  const { cols = 80, rows = 24, program } = options
  const screen = new xterm.Terminal({ cols, rows, allowProposedApi: true })
  let shown = ""
  let ended: number | null = null
  const term = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const line =
        program === undefined ? ["/bin/sh", path.join(dist, "holdfast.sh"), ...args] : [program, ...args]
      const term = pty.spawn(line[0]!, line.slice(1), { cwd: place.workspace, env: place.env, cols, rows })
      term.onData((text) => {
        shown += text
        screen.write(text)
      })
      term.onExit(({ exitCode }) => (ended = exitCode))
      return term
    }),
    (term) =>
      Effect.sync(() => {
        // Only our own child while it has not ended: afterwards the number may be somebody else's.
        if (ended === null) term.kill("SIGKILL")
        screen.dispose()
      })
  )
  const lines = (): ReadonlyArray<string> =>
    Array.from({ length: screen.rows }, (_, row) =>
      (
        screen.buffer.active.getLine(screen.buffer.active.baseY + row)?.translateToString(true) ?? ""
      ).trimEnd()
    )
  return {
    /** All that was ever written to it. */
    written: () => shown,
    /** What is on it now. */
    lines,
    alternate: () => screen.buffer.active.type === "alternate",
    modes: () => screen.modes,
    shows: (text: string) => eventually(`the terminal shows ${text}`, () => shown.includes(text)),
    /** It is on the screen now. */
    displays: (text: string) =>
      eventually(`${text} is on the screen`, () => lines().join("\n").includes(text), 30_000),
    type: (text: string) => Effect.sync(() => term.write(text)),
    resize: (cols: number, rows: number) =>
      Effect.sync(() => {
        term.resize(cols, rows)
        screen.resize(cols, rows)
      }),
    exit: Effect.map(
      eventually("the program ends", () => ended !== null, 30_000),
      () => ended
    )
  }
})
