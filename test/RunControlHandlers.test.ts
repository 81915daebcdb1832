/** RunControl's answers: who is a run's writer, and what a caller hears when that ends, the log goes or a reader is slow. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { make } from "../src/layers/RunControlHandlers.ts"
import { ClaudeDriver } from "../src/services/ClaudeDriver.ts"
import { AgentDriver } from "../src/services/AgentDriver.ts"
import {
  findRun,
  PtySupervisor,
  type RunInfo,
  RunInputRefused,
  RunNotFound
} from "../src/services/PtySupervisor.ts"
import type { RunSpec, WindowSize } from "../src/services/Run.ts"
import { type AttachEvent, pieceBytes, type Typed } from "../src/services/RunControl.ts"
import {
  type LogChunk,
  LogReaderSlow,
  RunLog,
  RunLogMissing,
  type RunLogReadError
} from "../src/services/RunLog.ts"
import { Screen, type ScreenSnapshot } from "../src/services/Screen.ts"
import { runInfo, runSpec } from "./support/runInfo.ts"

const utf8 = (bytes: Uint8Array): string => Buffer.from(bytes).toString()
const chunk = (cursor: number, text: string): LogChunk => ({
  _tag: "chunk",
  cursor,
  bytes: Buffer.from(text),
  missing: 0
})

const shown: ScreenSnapshot = {
  cursor: 5,
  size: { cols: 80, rows: 24 },
  bytes: Buffer.from("screen"),
  rows: ["screen"],
  at: { x: 6, y: 0 },
  modes: {
    alternate: false,
    applicationCursor: true,
    applicationKeypad: false,
    bracketedPaste: true,
    mouse: "none",
    sendFocus: false,
    cursorVisible: true
  },
  missing: 0
}

/** Runs as they are said to be, what was asked of them, and the output that follows what is on their screens. */
const worldOf = Effect.fnUntraced(function* (
  runs: ReadonlyArray<RunInfo>,
  options: {
    readonly screen?: ScreenSnapshot
    readonly read?: RunLog["Service"]["read"]
    readonly watched?: Stream.Stream<RunInfo>
    readonly refuses?: boolean
  } = {}
) {
  const asked: Array<unknown> = []
  const note = (what: unknown) => Effect.sync(() => void asked.push(what))
  const live = yield* Queue.unbounded<LogChunk, RunLogReadError>()
  const known = (runId: string) =>
    Effect.flatMap(
      Effect.sync(() => findRun(runs, runId)),
      Effect.fromResult
    )
  const handlers = yield* Effect.provide(make, [
    Layer.mock(PtySupervisor, {
      reconciled: [],
      start: (spec: RunSpec, variables) => Effect.as(note([spec, variables]), runs[0]!),
      list: Effect.succeed(runs),
      find: known,
      watch: (runId) =>
        options.watched ?? Stream.fromEffect(Effect.catchTag(known(runId), "RunAmbiguous", Effect.die)),
      write: (runId, bytes) =>
        options.refuses === true
          ? Effect.fail(new RunInputRefused({ runId, problem: "full" }))
          : note(utf8(bytes)),
      resize: (_, size: WindowSize) => note(size),
      end: (runId, how) => Effect.as(note([runId, how]), runs[0]!)
    }),
    Layer.mock(RunLog, {
      read: options.read ?? (() => Stream.fromQueue(live)),
      replay: (_, from) => Stream.unwrap(Effect.as(note(from), Stream.fromQueue(live)))
    }),
    Layer.mock(Screen, {
      snapshot: () => Effect.succeed(options.screen ?? shown),
      modes: () => Effect.succeed(shown.modes)
    }),
    Layer.mock(ClaudeDriver, {}),
    Layer.mock(AgentDriver, { active: Effect.succeed([]) })
  ])
  const attach = (
    over: { readonly readOnly?: boolean; readonly cursor?: number; readonly size?: WindowSize } = {}
  ) =>
    handlers.AttachRun({
      runId: runs[0]!.id,
      readOnly: over.readOnly ?? false,
      size: over.size ?? null,
      cursor: over.cursor ?? null
    })
  /** A caller that stays: its first event, and how to let it go. */
  const attached = Effect.fnUntraced(function* (over?: Parameters<typeof attach>[0]) {
    const first = yield* Deferred.make<Extract<AttachEvent, { _tag: "attached" }>>()
    const fiber = yield* attach(over).pipe(
      Stream.runForEach((event) =>
        event._tag === "attached" ? Deferred.succeed(first, event) : Effect.void
      ),
      Effect.forkScoped
    )
    const { attachment, writer } = yield* Deferred.await(first)
    return { attachment, writer, leave: Fiber.interrupt(fiber), fiber }
  })
  const type = (...typed: ReadonlyArray<Typed>) => handlers.TypeRun({ runId: runs[0]!.id, typed })
  return { handlers, asked, live, attach, attached, type, run: runs[0]! }
})

const tagOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.match(effect, { onFailure: ({ _tag }) => _tag, onSuccess: () => "done" })

const ids = {
  over: runInfo({ id: "r-over", state: "Exited", endedAt: 1, leader: null }),
  pipes: runInfo({ id: "r-pipes", spec: runSpec() })
}
const size = { cols: 100, rows: 30 }

describe("who attaches", () => {
  it.effect("is shown who they are, the screen, and then the output from its cursor on", () =>
    Effect.gen(function* () {
      const { attach, live, asked } = yield* worldOf([runInfo()])
      yield* Queue.offer(live, chunk(5, "more"))
      const events = yield* attach().pipe(Stream.take(4), Stream.runCollect)
      assert.deepStrictEqual(
        events.map((event) =>
          event._tag === "draw" || event._tag === "output" ? utf8(event.bytes) : event._tag
        ),
        ["attached", "screen", "screen", "more"]
      )
      assert.deepStrictEqual(asked, [{ _tag: "cursor", cursor: 5 }])
    })
  )

  it.effect("is the writer when there is none, and its window the terminal's size", () =>
    Effect.gen(function* () {
      const { attached, asked } = yield* worldOf([runInfo()])
      const first = yield* attached({ size })
      const second = yield* attached({ size: { cols: 1, rows: 1 } })
      const third = yield* attached({ readOnly: true })
      assert.deepStrictEqual([first.writer, second.writer, third.writer], [true, false, false])
      assert.deepStrictEqual(
        asked.filter((one) => "cols" in (one as object)),
        [size]
      )
    })
  )

  it.effect("only the writer's keys and sizes count, and those of nobody in particular", () =>
    Effect.gen(function* () {
      const { attached, handlers, run, asked } = yield* worldOf([runInfo()])
      const writer = yield* attached()
      const reader = yield* attached()
      const write = (text: string, attachment: number | null) =>
        tagOf(handlers.WriteRun({ runId: run.id, bytes: Buffer.from(text), attachment }))
      const resize = (attachment: number) => tagOf(handlers.ResizeRun({ runId: run.id, size, attachment }))
      assert.deepStrictEqual(
        [
          yield* write("w", writer.attachment),
          yield* write("r", reader.attachment),
          yield* write("n", null),
          yield* resize(reader.attachment),
          yield* resize(writer.attachment)
        ],
        ["done", "NotTheWriter", "done", "NotTheWriter", "done"]
      )
      assert.deepStrictEqual(
        asked.filter((one) => typeof one === "string" || "cols" in (one as object)),
        ["w", "n", size]
      )
    })
  )

  it.effect("a writer that leaves makes room for the next, and is none any more", () =>
    Effect.gen(function* () {
      const { attached, handlers, run } = yield* worldOf([runInfo()])
      const first = yield* attached()
      const reader = yield* attached()
      yield* first.leave
      const next = yield* attached()
      assert.deepStrictEqual([first.writer, reader.writer, next.writer], [true, false, true])
      const write = (attachment: number) =>
        tagOf(handlers.WriteRun({ runId: run.id, bytes: Buffer.from("x"), attachment }))
      assert.deepStrictEqual(
        [yield* write(first.attachment), yield* write(reader.attachment), yield* write(next.attachment)],
        ["NotTheWriter", "NotTheWriter", "done"]
      )
      yield* reader.leave
      assert.strictEqual(yield* write(next.attachment), "done")
    })
  )

  it.effect("a writer that is too slow is dropped, and is the writer no more", () =>
    Effect.gen(function* () {
      const { attached, live, run } = yield* worldOf([runInfo()])
      const slow = yield* attached()
      yield* Queue.fail(live, new LogReaderSlow({ runId: run.id, cursor: 5, behind: 9 }))
      assert.strictEqual(yield* tagOf(Fiber.join(slow.fiber)), "LogReaderSlow")
      assert.isTrue((yield* attached()).writer)
    })
  )

  it.effect(
    "who comes back has no screen drawn but what follows their cursor, of a run that is over too",
    () =>
      Effect.gen(function* () {
        const { attach, live } = yield* worldOf([ids.over])
        yield* Queue.offer(live, chunk(7, "tail"))
        const events = yield* attach({ cursor: 7 }).pipe(Stream.take(2), Stream.runCollect)
        assert.deepStrictEqual(
          events.map((event) => (event._tag === "output" ? [event.cursor, utf8(event.bytes)] : event._tag)),
          ["attached", [7, "tail"]]
        )
      })
  )

  it.effect("a large screen comes in pieces that a message carries", () =>
    Effect.gen(function* () {
      const bytes = Buffer.alloc(2 * pieceBytes + 1, "x")
      const { attach } = yield* worldOf([runInfo()], { screen: { ...shown, bytes } })
      const events = yield* attach().pipe(Stream.take(5), Stream.runCollect)
      assert.deepStrictEqual(
        events.flatMap((event) => (event._tag === "draw" ? [event.bytes.length] : [])),
        [pieceBytes, pieceBytes, 1]
      )
    })
  )

  for (const [run, tag] of [
    [ids.over, "RunIsOver"],
    [ids.pipes, "RunHasNoTerminal"]
  ] as const)
    it.effect(`${tag}: is told so, and keeps no place`, () =>
      Effect.gen(function* () {
        const { attach } = yield* worldOf([run])
        assert.strictEqual(yield* tagOf(Stream.runDrain(attach())), tag)
      })
    )
})

describe("what is typed into a run", () => {
  it.effect("is encoded as its terminal wants it now, in order, and handed over as one", () =>
    Effect.gen(function* () {
      const { type, asked } = yield* worldOf([runInfo()])
      yield* type(
        { _tag: "text", text: "a\n" },
        { _tag: "paste", text: "b" },
        { _tag: "keys", keys: ["Up", "C-c"] }
      )
      assert.deepStrictEqual(asked, ["a\n\x1b[200~b\x1b[201~\x1bOA\x03"])
    })
  )

  it.effect("into pipes it is text as it is; keys need a terminal", () =>
    Effect.gen(function* () {
      const { type, asked } = yield* worldOf([ids.pipes])
      yield* type({ _tag: "paste", text: "b\n" })
      assert.strictEqual(yield* tagOf(type({ _tag: "keys", keys: ["Enter"] })), "RunHasNoTerminal")
      assert.deepStrictEqual(asked, ["b\n"])
    })
  )

  it.effect("nothing of it arrives where a part of it is refused", () =>
    Effect.gen(function* () {
      const { type, asked } = yield* worldOf([runInfo()])
      assert.strictEqual(
        yield* tagOf(type({ _tag: "text", text: "a" }, { _tag: "keys", keys: ["Frob"] })),
        "UnknownKey"
      )
      const over = yield* worldOf([ids.over])
      assert.strictEqual(yield* tagOf(over.type({ _tag: "text", text: "a" })), "RunInputRefused")
      const full = yield* worldOf([runInfo()], { refuses: true })
      assert.strictEqual(yield* tagOf(full.type({ _tag: "text", text: "a" })), "RunInputRefused")
      assert.deepStrictEqual([asked, over.asked], [[], []])
    })
  )
})

describe("the output of a run", () => {
  const from = { _tag: "start" } as const

  it.effect("a follower waits for a run that has not begun, and reads it from its beginning", () =>
    Effect.gen(function* () {
      let reads = 0
      const waiting = runInfo({ state: "Requested", leader: null })
      const { handlers, run } = yield* worldOf([waiting], {
        watched: Stream.make(waiting, runInfo()),
        read: (runId) =>
          reads++ === 0 ? Stream.fail(new RunLogMissing({ runId })) : Stream.make(chunk(0, "first"))
      })
      const pieces = yield* Stream.runCollect(handlers.ReadRun({ runId: run.id, from, follow: true }))
      assert.deepStrictEqual([pieces.map(({ bytes }) => utf8(bytes)), reads], [["first"], 2])
    })
  )

  it.effect("who does not follow, or asks for a run that is over, is told that there is none", () =>
    Effect.gen(function* () {
      const missing = { read: (runId: string) => Stream.fail(new RunLogMissing({ runId })) }
      const live = yield* worldOf([runInfo()], missing)
      const over = yield* worldOf([ids.over], missing)
      const read = ({ handlers }: typeof live, runId: string, follow: boolean) =>
        tagOf(Stream.runDrain(handlers.ReadRun({ runId, from, follow })))
      assert.deepStrictEqual(
        [
          yield* read(live, live.run.id, false),
          yield* read(over, "r-over", true),
          yield* read(live, "r-unknown", true)
        ],
        ["RunLogMissing", "RunLogMissing", new RunNotFound({ ref: "" })._tag]
      )
    })
  )
})

describe("starting, listing and ending", () => {
  it.effect("codex is started without the daemon that would outlive it", () =>
    Effect.gen(function* () {
      const { handlers, asked } = yield* worldOf([runInfo()])
      yield* handlers.StartRun({
        spec: runSpec({ command: "codex", args: ["x"] }),
        variables: { PATH: "/p" }
      })
      const [spec, variables] = asked[0] as [RunSpec, object]
      assert.include(spec.args.join(" "), "features.daemon_auto_start=false")
      assert.deepStrictEqual(variables, { PATH: "/p" })
    })
  )

  it.effect("ended runs are listed on demand; a short id is told apart from all that are kept", () =>
    Effect.gen(function* () {
      const [a, b] = ["r-01J0000000ABBBBBBBBBBBBBBB", "r-01J0000000ABCBBBBBBBBBBBBB"] as const
      const { handlers } = yield* worldOf([
        runInfo({ id: a }),
        runInfo({ id: b, state: "Exited", endedAt: 1 })
      ])
      const listed = (ended: boolean) =>
        Effect.map(handlers.ListRuns({ ended }), ({ runs }) => runs.map(({ short }) => short))
      assert.deepStrictEqual(yield* listed(false), [a.slice(0, 15)])
      assert.deepStrictEqual(yield* listed(true), [a.slice(0, 15), b.slice(0, 15)])
    })
  )

  it.effect("an end says who wants it", () =>
    Effect.gen(function* () {
      const { handlers, asked, run } = yield* worldOf([runInfo()])
      yield* handlers.EndRun({ runId: run.id, graceMs: 0 })
      assert.deepStrictEqual(asked, [[run.id, { by: "operator", graceMs: 0 }]])
    })
  )
})
