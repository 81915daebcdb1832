/** A program that is told one line of JSON at a time and answers each by one. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ChildProcessWithoutNullStreams } from "node:child_process"
import { createInterface } from "node:readline"

export interface Talker<Ask> {
  readonly child: ChildProcessWithoutNullStreams
  readonly stderr: () => string
  readonly hearLine: Effect.Effect<string>
  /** Its next line. */
  readonly hear: Effect.Effect<unknown>
  readonly ask: (ask: Ask) => Effect.Effect<unknown>
}

/** Its input ends with the scope. */
export const talker = <Ask>(
  start: () => ChildProcessWithoutNullStreams
): Effect.Effect<Talker<Ask>, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(Effect.sync(start), (child) => Effect.sync(() => child.stdin.end())),
    (child) => {
      let stderr = ""
      child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
      // A program that was killed is told nothing more.
      child.stdin.on("error", () => undefined)
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      const hearLine = Effect.promise(async () => {
        const { value, done } = await lines.next()
        if (done) throw new Error(`the program ended without an answer: ${stderr}`)
        return value
      })
      const hear = Effect.map(hearLine, (line): unknown => JSON.parse(line))
      return {
        child,
        stderr: () => stderr,
        hearLine,
        hear,
        ask: (ask) =>
          Effect.andThen(
            Effect.sync(() => child.stdin.write(`${JSON.stringify(ask)}\n`)),
            hear
          )
      }
    }
  )
