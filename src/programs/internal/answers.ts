/** How a verb prints what it learned: as JSON where that is asked for, else as text. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Flag from "effect/cli/Flag"
import * as GlobalFlag from "effect/cli/GlobalFlag"
import { print } from "./terminal.ts"

export const Json = GlobalFlag.Setting("json")({
  flag: Flag.Boolean("json").pipe(
    Flag.withDefault(false),
    Flag.withDescription("Print JSON: one document, or one line per event where it follows")
  )
})

/** One answer: as JSON, or as text. */
export const show = Effect.fnUntraced(function* <A>(value: A, text: (value: A) => string) {
  yield* print((yield* Json) ? JSON.stringify(value) : text(value))
})

/** Many answers, as they come: JSON lines, or lines of text. */
export const follow = <A, E, R>(stream: Stream.Stream<A, E, R>, text: (value: A) => string | null) =>
  Effect.gen(function* () {
    const json = yield* Json
    yield* Stream.runForEach(stream, (value) => {
      const line = json ? JSON.stringify(value) : text(value)
      return line === null ? Effect.void : print(line)
    })
  })
