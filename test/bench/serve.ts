/**
 * The child's end of a bench helper: a small process that answers one named question after the other over its IPC
 * channel, and ends with its parent. It imports nothing, because what starts a process pays for the size of the starter.
 */
export type Handlers = Readonly<Record<string, (input: never) => unknown>>

interface Question {
  readonly name: string
  readonly input: unknown
}

export type Answer = { readonly value: unknown } | { readonly problem: string }

/** `atEnd` runs when the parent is gone, whatever was being measured. */
export const serve = (handlers: Handlers, atEnd: () => void = () => undefined): void => {
  const answerTo = async ({ name, input }: Question): Promise<Answer> => {
    try {
      return { value: await handlers[name]!(input as never) }
    } catch (error) {
      return { problem: error instanceof Error ? (error.stack ?? error.message) : String(error) }
    }
  }
  process.on("message", (question: Question) => {
    void answerTo(question).then((answer) => process.send?.(answer))
  })
  process.on("disconnect", () => {
    atEnd()
    process.exit()
  })
}
