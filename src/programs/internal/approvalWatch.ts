/** The board of approvals on the operator's terminal: keys in, answers out, drawn anew at each change and each second. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import type { ControlClient } from "../../layers/ControlClient.ts"
import { type Board, boardKeys, emptyBoard, onChange, onKey, render } from "../../services/ApprovalBoard.ts"
import type { Approval } from "../../services/Approvals.ts"
import { input, rawTerminal, windowSize, windowSizes, writeOut } from "./device.ts"
import { answered } from "./operator.ts"

/** A countdown in seconds. */
const tickMs = 1_000

const enter = "\u001b[?1049h\u001b[?25l"
const leave = "\u001b[?25h\u001b[?1049l"
const home = "\u001b[H"
const restOfLine = "\u001b[K"
const restOfScreen = "\u001b[J"

const put = (text: string) => writeOut(Buffer.from(text, "utf8"))

type Event =
  | { readonly _tag: "Changed"; readonly approval: Approval }
  | { readonly _tag: "Typed"; readonly text: string }
  | { readonly _tag: "Tick" }
  | { readonly _tag: "Closed" }

export const watchOnTerminal = Effect.fnUntraced(function* (client: ControlClient["Service"]) {
  yield* rawTerminal({ feed: () => undefined, undo: () => leave })
  const board = yield* Ref.make<Board>(emptyBoard)

  const draw = Effect.gen(function* () {
    const lines = render(yield* Ref.get(board), yield* Clock.currentTimeMillis, windowSize())
    yield* put(`${home}${lines.map((line) => `${line}${restOfLine}`).join("\r\n")}${restOfScreen}`)
  })

  const say = (message: string) => Ref.update(board, (known) => ({ ...known, message }))

  /** Whether to go on. */
  const press = Effect.fnUntraced(function* (text: string) {
    for (const key of boardKeys(text)) {
      const [next, action] = onKey(yield* Ref.get(board), key, yield* Clock.currentTimeMillis)
      yield* Ref.set(board, next)
      if (action?._tag === "Quit") return false
      if (action?._tag === "Answer")
        // The change comes back on the stream like everybody's.
        yield* answered(client.AnswerApproval({ ref: action.id, answer: action.answer, note: null })).pipe(
          Effect.flatMap(({ id, state }) => say(`${id}: ${state._tag}`)),
          Effect.catch((error) => say(error.message))
        )
    }
    return true
  })

  const events = Stream.mergeAll(
    [
      Stream.map(client.WatchApprovals(), (approval): Event => ({ _tag: "Changed", approval })),
      Stream.concat(
        Stream.map(yield* input, (bytes): Event => ({
          _tag: "Typed",
          text: Buffer.from(bytes).toString("utf8")
        })),
        Stream.succeed<Event>({ _tag: "Closed" })
      ),
      Stream.map(windowSizes, (): Event => ({ _tag: "Tick" })),
      Stream.map(Stream.tick(tickMs), (): Event => ({ _tag: "Tick" }))
    ],
    { concurrency: "unbounded" }
  )

  const on = Effect.fnUntraced(function* (event: Event) {
    if (event._tag === "Closed") return false
    if (event._tag === "Typed") return yield* press(event.text)
    if (event._tag === "Changed") {
      const now = yield* Clock.currentTimeMillis
      yield* Ref.update(board, (known) => onChange(known, event.approval, now))
    }
    return true
  })

  yield* put(enter)
  yield* draw
  yield* events.pipe(
    Stream.mapEffect((event) => Effect.tap(on(event), draw)),
    Stream.takeWhile((goesOn) => goesOn),
    Stream.runDrain,
    Effect.catchTag("OutputClosed", () => Effect.void)
  )
}, Effect.scoped)
